"""The fakes are known by name in these tests, and nowhere else."""

import contextlib

import fakes
import pytest

from nsbench.registry import AUXILIARIES, FUSIONS, SAMPLERS
from nsbench.testing.rules import registered

NAMES = {
    SAMPLERS: {
        "stateless": fakes.Stateless,
        "cache": fakes.Cache,
        "reinforce": fakes.Reinforce,
        "straight_through": fakes.StraightThrough,
        "generated": fakes.Generated,
        "two_blocks": fakes.TwoBlocks,
        "alternating": fakes.Alternating,
        "memory": fakes.Memory,
        "fake_one_vs_all": fakes.OneVsAll,
    },
    FUSIONS: {"fake_slots": fakes.Slots},
    AUXILIARIES: {"shrinking": fakes.Shrinking},
}


@pytest.fixture(autouse=True)
def _fakes_are_registered():
    with contextlib.ExitStack() as stack:
        for registry, components in NAMES.items():
            for name, component in components.items():
                stack.enter_context(registered(registry, name, component))
        yield

"""RotatE's phases: where they start, and that they come back from a saved model."""

import math

import pytest
import torch

from nsbench.kge.models.rotate import RotatE
from nsbench.options import build_options


def model(seed, phase, width=30, margin=3.0):
    options = build_options(RotatE.Options, {"phase": phase}, "kge")
    return RotatE(9, 40, width, margin, options, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("phase", ["scaled", "radians"])
def test_phases_start_all_around_the_circle(phase):
    radians = model(0, phase).export()["relation"]
    assert radians.abs().max() <= math.pi * (1 + 1e-5)
    counts = torch.histc(radians, 6, -math.pi, math.pi)
    assert (counts - 200).abs().max() < 5 * 200**0.5


@pytest.mark.parametrize("phase", ["scaled", "radians"])
def test_a_saved_model_comes_back_as_it_was(phase):
    saved, other = model(0, phase), model(1, phase)
    assert not torch.allclose(saved.relation, other.relation)
    other.restore(saved.export())
    assert torch.allclose(saved.relation, other.relation)
    assert torch.equal(saved.entity, other.entity)

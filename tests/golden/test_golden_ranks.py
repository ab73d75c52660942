"""Run ids and ranks are those of ranks.npz, which make.py wrote: moving and renaming code must change neither."""

import functools

import numpy as np
import pytest
from make import FILE, carried_out, cases, run_id

GOLDEN = dict(np.load(FILE))
NAMES = GOLDEN["names"].tolist()
RANKS = dict(zip(NAMES, GOLDEN["ranks"].astype(int)))
QUICK = {name.split()[0]: name for name in reversed(NAMES)}.values()  # the first case of each sampler
configs = functools.cache(cases)


def by_speed(name: str) -> object:
    """Every sampler once, and uniform with all models and fusions, are in the default tests."""
    quick = name in QUICK or (name.startswith("uniform") and name.count(" ") == 3)
    return pytest.param(name, marks=() if quick else pytest.mark.slow)


def mrr(ranks: np.ndarray) -> float:
    return (1 / ranks.mean(-1)).mean()


def test_no_case_has_gone_or_come() -> None:
    assert sorted(configs()) == sorted(NAMES)


def test_run_ids() -> None:
    assert {name: run_id(config) for name, config in configs().items()} == dict(zip(NAMES, GOLDEN["ids"].tolist()))


@pytest.mark.parametrize("name", [by_speed(name) for name in NAMES])
def test_ranks(name: str) -> None:
    """Exactly, on the machine of the file. Elsewhere rounding may turn a draw, and what is drawn after it.

    Measured, with eager kernels and with ATEN_CPU_CAPABILITY=default: MRR moved by at most 0.0006, and 74 % of the ranks
    (igan) or more stayed within a tenth. Another stream of draws leaves 45 % there, or 69 % (igan with two_view).
    """
    ranks, machine = carried_out(configs()[name])
    golden = RANKS[name]
    near = (np.abs(ranks - golden) <= 0.1 * golden).mean()
    found = f"MRR is {mrr(ranks):.4f} and was {mrr(golden):.4f}; {near:.1%} of the ranks are within a tenth of theirs"
    if machine == GOLDEN["machine"]:
        assert np.array_equal(ranks, golden), found
    else:
        assert abs(mrr(ranks) - mrr(golden)) < 0.002, f"{found} (another machine: {machine})"
        assert near >= 0.6, f"{found} (another machine: {machine})"

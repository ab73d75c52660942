"""Per-triple scores of runs that are compared, read from their ranks, and the parts of the test triples."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nsbench.errors import Misuse
from nsbench.metrics import reciprocal
from nsbench.results.stats.ties import tie_gap
from nsbench.results.store.run import Run

SAME_DATA = ("dataset", "split", "fingerprint")  # of runs that rank the same triples, among the same candidates


class Scores(NamedTuple):
    """The S runs of a cell on T triples: reciprocal ranks [S, T], means of both sides; triples [T, 3].

    `ties`: the largest difference in a run's MRR between the best and the worst order of ties.
    """

    values: NDArray[np.float64]
    triples: NDArray[np.int64]
    ties: float


def scores(cell: Sequence[Run], like: Run) -> Scores:
    """Scores of a cell's runs. Misuse unless they rank the triples of `like`, in its order, and none is another's copy."""
    reference = like.ranks()
    stored = [reference if run.path == like.path else run.ranks() for run in cell]
    values = np.stack([reciprocal(own.ranks) for own in stored])
    for run, own, mean in zip(cell, stored, values.mean(axis=1)):
        pairs = ((own.triples, reference.triples), (own.candidates, reference.candidates))
        if not all(one is other or np.array_equal(one, other) for one, other in pairs):
            raise Misuse(f"{run.name} and {like.name} rank different triples; move one of them away")
        if not math.isclose(mean, run["mrr"], rel_tol=1e-6):
            raise Misuse(f"ranks.npz of {run.name} does not give its MRR; delete the folder and run it again")
    for i, run in enumerate(cell):
        for j in range(i):
            if np.array_equal(stored[i].ranks, stored[j].ranks):
                pair = f"{cell[j].name} and {run.name}"
                raise Misuse(f"{pair} have different seeds and identical ranks, as copies have; move one of them away")
    return Scores(values, reference.triples, max(tie_gap(own.ranks) for own in stored))


class Part(NamedTuple):
    """A part of the test triples that claims are repeated on: those of which runs record `value` as `array`."""

    array: str
    value: bool
    short: str
    words: str


PARTS = {
    "seen": Part("seen", True, "seen entities only", "whose entities both occur in train"),
    "untwinned": Part("twin", False, "no twins", "whose pair of entities train has under no other relation"),
}


def parts(like: Run, runs: Iterable[Run]) -> dict[str, NDArray[np.bool_]]:
    """Which test triples of `like` are in each of PARTS, [T], without those that no run of its data recorded."""
    found: dict[str, NDArray[np.bool_]] = {}
    for run in (like, *(run for run in runs if all(run[name] == like[name] for name in SAME_DATA))):
        with contextlib.suppress(Misuse):  # damaged, which concerns nobody who does not ask about its ranks
            stored = run.ranks()
            for name, part in PARTS.items():
                if name not in found and (recorded := getattr(stored, part.array)) is not None:
                    found[name] = recorded == part.value
        if len(found) == len(PARTS):
            break
    return found

"""Tests of a table's cells against their baseline rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nsbench.errors import Misuse
from nsbench.results import statistics, store
from nsbench.results.grid import Grid, Identity, Key, Run, listed
from nsbench.results.metrics import reciprocal

ALPHA = 0.05
BASELINE = "uniform"


@dataclass(frozen=True)
class Contrast:
    """A cell's two-way t against its baseline, for MRR."""

    baseline: str
    test: statistics.TwoWayT
    p_holm: float = 1.0
    family: int = 0

    @property
    def mark(self) -> tuple[str, ...]:
        if self.p_holm >= ALPHA:
            return ()
        return ("▲",) if self.test.difference > 0 else ("▼",)


def contrasts(grid: Grid, baseline: str) -> dict[Key, Contrast]:
    """Every cell with enough seeds against its baseline, Holm over all of them at once."""
    named = {*grid.labels.values(), *(dict(identity)["sampler"] for identity in grid.labels)}
    if baseline not in named and baseline != BASELINE:
        raise Misuse(f"no row is the baseline '{baseline}'; the rows are {', '.join(sorted(grid.labels.values()))}")
    found: dict[Key, Contrast] = {}
    scores: dict[Key, np.ndarray] = {}
    for key, cell in grid.cells.items():
        group, identity, dataset = key
        against = _baseline_row(grid, key, baseline)
        if against is None or against == identity:
            continue
        other_key = (group, against, dataset)
        other = grid.cells[other_key]
        if min(len(cell), len(other)) < statistics.TEST_SEEDS:
            continue
        _refuse_unequal_seeds(grid, key, other_key)
        for each in (key, other_key):
            if each not in scores:
                scores[each] = _scores(grid.cells[each], like=grid.cells[other_key][0])
        found[key] = Contrast(grid.labels[against], statistics.two_way_t(scores[key], scores[other_key]))
    adjusted = statistics.holm([contrast.test.p for contrast in found.values()])
    for (key, contrast), p in zip(list(found.items()), adjusted):
        found[key] = replace(contrast, p_holm=float(p), family=len(found))
    return found


def _baseline_row(grid: Grid, key: Key, wanted: str) -> Identity | None:
    """The row that this cell is compared with: same model and dataset, then as much else alike as there is."""
    group, identity, dataset = key
    present = [row for g, row, d in grid.cells if (g, d) == (group, dataset)]
    candidates = [row for row in present if dict(row)["sampler"] == wanted]
    candidates = candidates or [row for row in present if grid.labels[row] == wanted]
    for factor in ("fusion", "features", "aux"):
        alike = [row for row in candidates if _part(row, factor) == _part(identity, factor)]
        candidates = alike or candidates
    plain = [row for row in candidates if ("variant", "recommended") in row and not _part(row, "sampler")[1:]]
    candidates = plain or candidates
    if len(candidates) > 1 and len(grid.cells[key]) >= statistics.TEST_SEEDS:
        labels = ", ".join(sorted(f"'{grid.labels[row]}'" for row in candidates))
        raise Misuse(f"the baseline '{wanted}' fits several rows of {group}, {dataset}; name one of {labels}")
    return candidates[0] if len(candidates) == 1 else None


def _part(identity: Identity, factor: str) -> Identity:
    """What a row says about one factor: the value and its options."""
    return tuple((name, value) for name, value in identity if name == factor or name.startswith(f"{factor}."))


def _refuse_unequal_seeds(grid: Grid, key: Key, other: Key) -> None:
    ours, theirs = ([run["seed"] for run in grid.cells[k]] for k in (key, other))
    if ours == theirs:
        return
    common = sorted(set(ours) & set(theirs))
    enough = len(common) >= statistics.TEST_SEEDS
    fix = f"keep the common ones with the filter seed={listed(common)}" if enough else "run the missing ones"
    raise Misuse(
        f"{grid.labels[key[1]]} has seeds {listed(ours)} on {key[0]}, {key[2]} and its baseline "
        f"{grid.labels[other[1]]} has {listed(theirs)}, so they cannot be tested; {fix}"
    )


def _scores(cell: Sequence[Run], like: Run) -> np.ndarray:
    """Per-triple reciprocal ranks [seeds, T] of a cell. Misuse unless they rank the triples of `like`, in its order."""
    reference = store.ranks(like)
    stored = [store.ranks(run) for run in cell]
    for run, own in zip(cell, stored):
        same = np.array_equal(own.triples, reference.triples) and np.array_equal(own.candidates, reference.candidates)
        if not same:
            raise Misuse(f"{run['path'].name} and {like['path'].name} rank different triples; move one of them away")
        if not np.isclose(reciprocal(own.ranks).mean(), run["mrr"], rtol=1e-6, atol=0):
            raise Misuse(f"ranks.npz of {run['path'].name} does not give its MRR; delete the folder and run it again")
    for i, run in enumerate(cell):
        for j in range(i):
            if np.array_equal(stored[i].ranks, stored[j].ranks):
                pair = f"{cell[j]['path'].name} and {run['path'].name}"
                raise Misuse(f"{pair} have different seeds and identical ranks, as copies have; move one of them away")
    return np.stack([reciprocal(own.ranks) for own in stored])

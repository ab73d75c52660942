"""Tests of a table's cells against their baseline rows, and what they allow to be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nsbench.errors import Misuse
from nsbench.results.stats import statistics
from nsbench.results.stats.clusters import labels
from nsbench.results.stats.multiplicity import holm
from nsbench.results.stats.verdicts import Verdict, verdict
from nsbench.results.store import Run
from nsbench.results.store.scores import PARTS, Scores, parts, scores
from nsbench.results.tables import fields
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.labels import Identity

BASELINE = "uniform"
MARKS = {"better": "▲", "worse": "▼"}
EQUAL = "≈"
BOOTSTRAP_SEED = 0

Name = TypeVar("Name")
Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Contrast:
    """A cell's two-way t against its baseline, for MRR.

    `again`: the same on each of PARTS that is recorded; `ties`: how far the order of ties could move one of the MRRs.
    Where claims are made: `drawn`, the bootstrap's interval, and `arms`, the MRRs of the runs and of the baseline's.
    """

    baseline: str
    test: statistics.TwoWayT
    p_holm: float = 1.0
    family: int = 0
    again: Mapping[str, Contrast] = field(default_factory=dict)
    ties: float = 0.0
    drawn: tuple[float, float] | None = None
    arms: tuple[list[float], list[float]] | None = None

    @property
    def verdict(self) -> Verdict:
        return verdict(self.test.difference, self.test.interval, self.p_holm)

    @property
    def detectable(self) -> float:
        """The true difference that its test would have seen, whatever the other rows show."""
        return statistics.detectable(self.test, max(self.family, 1))

    @property
    def mark(self) -> tuple[str, ...]:
        word, negligible = self.verdict
        return tuple(mark for mark in (MARKS.get(word), EQUAL if negligible else None) if mark)

    def changed(self, part: str) -> bool:
        """Is the verdict another on this part of the test triples?"""
        return part in self.again and self.again[part].verdict.word != self.verdict.word

    @property
    def near(self) -> tuple[str, ...]:
        """The sign of near-equality, where the verdict's word does not say it already."""
        word, negligible = self.verdict
        return (EQUAL,) if negligible and word in MARKS else ()

    @property
    def record(self) -> dict[str, Any]:
        return fields.record(self)


def contrasts(
    grid: Grid, baseline: str, full: Identity | None = None, bootstrap: bool = False, progress: Progress | None = None
) -> dict[Key, Contrast]:
    """Every cell with enough seeds against its baseline, Holm over all of them at once.

    The baseline is the row of that name that is otherwise most alike, or the row `full` for all. `bootstrap` adds what
    claims show, a second each. `progress` hears how many are done.
    """
    pairs = _pairs(grid, baseline, full)
    found = _computed(grid, pairs, bootstrap, progress or (lambda done, total: None))
    return adjusted({key: replace(found[key], baseline=grid.labels[other[1]]) for key, other in pairs.items()})


def _pairs(grid: Grid, baseline: str, full: Identity | None) -> dict[Key, Key]:
    """The cells that can be tested, each with the cell that it is tested against."""
    named = {*grid.labels.values(), *(dict(identity)["sampler"] for identity in grid.labels)}
    if baseline not in named and baseline != BASELINE:
        raise Misuse(f"no row is the baseline '{baseline}'; the rows are {', '.join(sorted(grid.labels.values()))}")
    found = {}
    for key, cell in grid.cells.items():
        group, identity, dataset = key
        against = baseline_row(grid, key, baseline) if full is None else full
        if against is None or against == identity or (group, against, dataset) not in grid.cells:
            continue
        other = (group, against, dataset)
        if key in grid.failed or other in grid.failed:
            continue  # the survivors are a choice by outcome
        seeds = [run["seed"] for run in cell]
        if len(seeds) >= statistics.TEST_SEEDS and seeds == [run["seed"] for run in grid.cells[other]]:
            found[key] = other  # others have too few seeds in common: grid
    return found


def _computed(grid: Grid, pairs: Mapping[Key, Key], bootstrap: bool, progress: Progress) -> dict[Key, Contrast]:
    """The contrasts of these cells, not yet adjusted."""
    found: dict[Key, Contrast] = {}
    theirs: dict[Key, Scores] = {}  # of the baselines, which several cells share
    known: dict[str, Any] = {}  # dataset -> cluster labels of its test triples, and their parts
    for done, (key, other) in enumerate(pairs.items()):
        progress(done, len(pairs))
        like, dataset = grid.cells[other][0], key[2]
        if other not in theirs:
            theirs[other] = scores(grid.cells[other], like)
        ours = scores(grid.cells[key], like)
        if dataset not in known:
            known[dataset] = labels(ours.triples), parts(like, (run for cell in grid.cells.values() for run in cell))
        hubs, apart = known[dataset]
        found[key] = contrast_of(grid.labels[other[1]], ours, theirs[other], hubs, apart)
        if bootstrap:
            clusters = hubs if found[key].test.inflation > 1 else None
            rng = np.random.default_rng(BOOTSTRAP_SEED)
            drawn = statistics.crossed_bootstrap(ours.values, theirs[other].values, rng, clusters)
            arms = [run["mrr"] for run in grid.cells[key]], [run["mrr"] for run in grid.cells[other]]
            found[key] = replace(found[key], drawn=statistics.percentile_interval(drawn), arms=arms)
    return found


# One contrast


def contrast_of(
    baseline: str, ours: Scores, theirs: Scores, hubs: NDArray[np.int64], apart: Mapping[str, NDArray[np.bool_]]
) -> Contrast:
    """One contrast, not yet adjusted: hubs [T] label the triples' clusters, `apart` [T] those of each part."""
    test = statistics.two_way_t(ours.values, theirs.values, clusters=hubs)
    again = {
        name: Contrast(baseline, statistics.two_way_t(ours.values[:, kept], theirs.values[:, kept], clusters=hubs[kept]))
        for name, kept in apart.items()
        if len(np.unique(hubs[kept])) > 1
    }
    return Contrast(baseline, test, again=again, ties=max(ours.ties, theirs.ties))


def adjusted(found: Mapping[Name, Contrast]) -> dict[Name, Contrast]:
    """Holm over all contrasts, and over their repetitions on a part of the triples, which are a family of their own."""
    after = dict(found)
    for part in PARTS:
        repeated = {key: contrast.again[part] for key, contrast in found.items() if part in contrast.again}
        for p, (key, one) in zip(holm([one.test.p for one in repeated.values()]), repeated.items()):
            again = {**after[key].again, part: replace(one, p_holm=float(p), family=len(repeated))}
            after[key] = replace(after[key], again=again)
    for p, key in zip(holm([contrast.test.p for contrast in found.values()]), found):
        after[key] = replace(after[key], p_holm=float(p), family=len(found))
    return after


def baseline_row(grid: Grid, key: Key, wanted: str) -> Identity | None:
    """The row that this cell is compared with: same model and dataset, then as much else alike as there is."""
    group, identity, dataset = key
    present = grid.present[group, dataset]
    candidates = [row for row in present if dict(row)["sampler"] == wanted]
    candidates = candidates or [row for row in present if grid.labels[row] == wanted]
    for factor in ("fusion", "features", "aux"):
        alike = [row for row in candidates if _part(row, factor) == _part(identity, factor)]
        candidates = alike or candidates
    plain = [row for row in candidates if ("variant", "recommended") in row and not _part(row, "sampler")[1:]]
    candidates = plain or candidates
    if len(candidates) > 1 and len(grid.cells[key]) >= statistics.TEST_SEEDS:
        names = ", ".join(sorted(f"'{grid.labels[row]}'" for row in candidates))
        raise Misuse(f"the baseline '{wanted}' fits several rows of {group}, {dataset}; name one of {names}")
    return candidates[0] if len(candidates) == 1 else None


def plain_difference(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """The difference of mean MRRs, where there is no test."""
    return float(np.mean([run["mrr"] for run in ours]) - np.mean([run["mrr"] for run in theirs]))


def _part(identity: Identity, factor: str) -> Identity:
    """What a row says about one factor: the value and its options."""
    return tuple((name, value) for name, value in identity if name == factor or name.startswith(f"{factor}."))

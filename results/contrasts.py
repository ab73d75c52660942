"""Tests of a table's cells against their baseline rows, and what they allow to be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nsbench.errors import Misuse
from nsbench.results import drawn, statistics
from nsbench.results.clusters import labels
from nsbench.results.grid import Grid, Identity, Key, listed
from nsbench.results.multiplicity import holm
from nsbench.results.scores import Scores, scores, seen
from nsbench.results.verdicts import Verdict, verdict

BASELINE = "uniform"
MARKS = {"better": "▲", "worse": "▼"}
EQUAL = "≈"

Name = TypeVar("Name")


@dataclass(frozen=True)
class Contrast:
    """A cell's two-way t against its baseline, for MRR.

    `seen`: the same on the test triples whose entities both occur in train, None where that is not recorded; `ties`:
    how far the order of ties could move one of the MRRs; `drawn`: the bootstrap's interval, where it was asked for.
    """

    baseline: str
    test: statistics.TwoWayT
    p_holm: float = 1.0
    family: int = 0
    seen: Contrast | None = None
    ties: float = 0.0
    drawn: tuple[float, float] | None = None

    @property
    def verdict(self) -> Verdict:
        return verdict(self.test.difference, self.test.interval, self.p_holm)

    @property
    def mark(self) -> tuple[str, ...]:
        word, negligible = self.verdict
        return tuple(mark for mark in (MARKS.get(word), EQUAL if negligible else None) if mark)

    @property
    def changed(self) -> bool:
        """Is the verdict another on triples of seen entities?"""
        return self.seen is not None and self.seen.verdict.word != self.verdict.word

    @property
    def record(self) -> dict[str, Any]:
        """Its figures, unrounded, for csv."""
        test = self.test
        found: dict[str, Any] = {"baseline": self.baseline, "difference": test.difference, "df": test.df}
        found |= {"p": test.p, "p_holm": self.p_holm, "standard_error": test.standard_error, "family": self.family}
        found |= {"difference_low": test.interval[0], "difference_high": test.interval[1], "inflation": test.inflation}
        found["verdict"] = self.verdict.word
        if self.drawn is not None:
            found |= {"bootstrap_low": self.drawn[0], "bootstrap_high": self.drawn[1]}
        if self.seen is not None:
            found |= {"seen_difference": self.seen.test.difference, "seen_p_holm": self.seen.p_holm}
            found["seen_verdict"] = self.seen.verdict.word
        return found


def contrasts(grid: Grid, baseline: str, full: Identity | None = None, bootstrap: bool = False) -> dict[Key, Contrast]:
    """Every cell with enough seeds against its baseline, Holm over all of them at once.

    The baseline is the row of that name that is otherwise most alike, or the row `full` for all. `bootstrap` adds its
    intervals, a second each the first time.
    """
    named = {*grid.labels.values(), *(dict(identity)["sampler"] for identity in grid.labels)}
    if baseline not in named and baseline != BASELINE:
        raise Misuse(f"no row is the baseline '{baseline}'; the rows are {', '.join(sorted(grid.labels.values()))}")
    found: dict[Key, Contrast] = {}
    theirs: dict[Key, Scores] = {}  # of the baselines, which several cells share
    known: dict[str, Any] = {}  # dataset -> cluster labels of its test triples, and which have seen entities only
    for key, cell in grid.cells.items():
        group, identity, dataset = key
        against = baseline_row(grid, key, baseline) if full is None else full
        other_key = None if against is None else (group, against, dataset)
        if against is None or against == identity or other_key not in grid.cells:
            continue
        other = grid.cells[other_key]
        if min(len(cell), len(other)) < statistics.TEST_SEEDS:
            continue
        _refuse_unequal_seeds(grid, key, other_key)
        if other_key not in theirs:
            theirs[other_key] = scores(other, like=other[0])
        ours = scores(cell, like=other[0])
        if dataset not in known:
            first = [runs[0] for (_, _, of), runs in grid.cells.items() if of == dataset]
            known[dataset] = labels(ours.triples), seen(first, len(ours.triples))
        contrast = contrast_of(grid.labels[against], ours, theirs[other_key], *known[dataset])
        if bootstrap:
            hubs = known[dataset][0] if contrast.test.inflation > 1 else None
            contrast = replace(contrast, drawn=drawn.interval(ours.values, theirs[other_key].values, hubs))
        found[key] = contrast
    return adjusted(found)


def contrast_of(
    baseline: str, ours: Scores, theirs: Scores, hubs: NDArray[np.int64], both_seen: NDArray[np.bool_] | None
) -> Contrast:
    """One contrast, not yet adjusted: hubs [T] label the triples' clusters, both_seen [T] those of seen entities."""
    test = statistics.two_way_t(ours.values, theirs.values, clusters=hubs)
    repeated = None
    if both_seen is not None and len(np.unique(hubs[both_seen])) > 1:
        kept = ours.values[:, both_seen], theirs.values[:, both_seen]
        repeated = Contrast(baseline, statistics.two_way_t(*kept, clusters=hubs[both_seen]))
    return Contrast(baseline, test, seen=repeated, ties=max(ours.ties, theirs.ties))


def adjusted(found: Mapping[Name, Contrast]) -> dict[Name, Contrast]:
    """Holm over all contrasts, and over their repetitions on seen triples, which are a family of their own."""
    after = dict(found)
    repeated = {key: contrast.seen for key, contrast in found.items() if contrast.seen is not None}
    for p, (key, again) in zip(holm([again.test.p for again in repeated.values()]), repeated.items()):
        after[key] = replace(after[key], seen=replace(again, p_holm=float(p), family=len(repeated)))
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

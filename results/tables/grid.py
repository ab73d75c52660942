"""The cells of a table: runs by scoring model, row and dataset, in the order of the papers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from nsbench.errors import Misuse
from nsbench.results import store
from nsbench.results.stats import statistics
from nsbench.results.store import Run
from nsbench.results.tables import papers
from nsbench.results.tables.labels import Identity, called, group_of, identity_of, labels_of

Key = tuple[str, Identity, str]  # a cell: group, row, dataset


class Grid:
    """The runs of each cell (group, row identity, dataset), by seed, and the names of rows and groups.

    Of the runs that were `begun` and came to no result, those under the same protocol and on the same data make `failed`
    (of a cell: seed -> reason), rows of which may have no other run, and `unfinished`, cells. `chosen_by`: by which
    filters, in words. `called`: of rows that are less than their paper's method, what they are called. Rows of one model and
    dataset with enough seeds for a test stand on the seeds in common; `left_out` are the other runs of these, and where they
    have too few in common for a test, the pair is in `apart`.
    """

    def __init__(self, runs: Sequence[Run], begun: Iterable[tuple[Run, str]] = (), chosen_by: str = "") -> None:
        self.runs, self.chosen_by = runs, chosen_by
        self.cells: dict[Key, list[Run]] = {}
        self.kge: dict[str, str] = {}  # group -> scoring model
        for run in sorted(runs, key=lambda run: run["seed"]):
            key = key_of(run)
            self.kge[key[0]] = run["kge"]
            cell = self.cells.setdefault(key, [])
            if cell and cell[-1]["seed"] == run["seed"]:
                folders = f"{cell[-1].name} and {run.name}"
                raise Misuse(f"{folders} are two runs of one seed that no option tells apart; move one of them away")
            cell.append(run)
        self.present: dict[tuple[str, str], list[Identity]] = {}  # group, dataset -> rows that have runs there
        for group, identity, dataset in self.cells:
            self.present.setdefault((group, dataset), []).append(identity)
        self.unfinished: set[Key] = set()
        self.failed: dict[Key, dict[int, str]] = {}
        alike = {_origin(run) for run in runs}
        stopped = []
        for run, reason in begun:
            key = key_of(run)
            if _origin(run) not in alike or run["seed"] in [other["seed"] for other in self.cells.get(key, [])]:
                continue
            stopped.append(run)
            if reason.startswith(store.FAILED):
                self.failed.setdefault(key, {})[run["seed"]] = reason.removeprefix(store.FAILED)
                self.kge[key[0]] = run["kge"]
            else:
                self.unfinished.add(key)
        self.left_out: dict[tuple[str, str], list[Run]] = {}  # group, dataset -> runs
        self.apart: set[tuple[str, str]] = set()
        for group, dataset in self.present:
            self._keep_common(group, dataset)
        # Not part of a row's identity, from which it follows: runs of earlier versions do not say it, and are the same row.
        self.called: dict[Identity, str] = {identity_of(run): name for run in (*runs, *stopped) if (name := called(run))}
        self.labels = labels_of({identity for _, identity, _ in (*self.cells, *self.failed)}, self.called)
        order = papers.print_order("kge")
        self.groups = sorted(self.kge, key=lambda group: (order.get(self.kge[group], len(order)), group))
        order = papers.print_order("dataset")
        self.datasets = sorted({run["dataset"] for run in runs}, key=lambda name: (order.get(name, len(order)), name))

    def _keep_common(self, group: str, dataset: str) -> None:
        """Leave rows that could be tested the seeds that all of them have, if these are enough for a test."""
        keys = [(group, identity, dataset) for identity in self.present[group, dataset]]
        keys = [key for key in keys if len(self.cells[key]) >= statistics.TEST_SEEDS and key not in self.failed]
        seeds = [{run["seed"] for run in self.cells[key]} for key in keys]
        common = set.intersection(*seeds) if seeds else set()
        if len(common) < statistics.TEST_SEEDS:
            self.apart |= {(group, dataset)} if any(some != seeds[0] for some in seeds) else set()
            return
        for key in keys:
            if lost := [run for run in self.cells[key] if run["seed"] not in common]:
                self.left_out.setdefault((group, dataset), []).extend(lost)
                self.cells[key] = [run for run in self.cells[key] if run["seed"] in common]

    def identities(self, group: str) -> list[Identity]:
        """Rows of a group: samplers in the papers' order, others after them by name."""
        order = papers.print_order("sampler")

        def position(identity: Identity) -> tuple[int, str]:
            return order.get(dict(identity)["sampler"], len(order)), self.labels[identity]

        return sorted({identity for g, identity, _ in (*self.cells, *self.failed) if g == group}, key=position)

    @functools.cached_property
    def seed_lists(self) -> set[tuple[int, ...]]:
        return {tuple(run["seed"] for run in cell) for cell in self.cells.values()}


def _origin(run: Run) -> str:
    """Protocol and data, which the runs of a column share."""
    names = ("protocol", "protocol_version", "dataset", "split", "fingerprint")
    return str([*(run[name] for name in names), run.config.get("changed", {})])


def key_of(run: Run) -> Key:
    return group_of(run), identity_of(run), run["dataset"]

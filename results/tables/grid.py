"""Which runs may stand in one table, and its cells: runs by scoring model, row and dataset, with the rows' names."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from nsbench.errors import Misuse
from nsbench.results import store
from nsbench.results.store import Run
from nsbench.results.tables import papers

PER_CELL = (  # what a protocol sets per model and dataset (nsbench.config.run)
    "margin",
    "regularizer",
    "temperature",
    "width",
    "batch",
    "negatives",
    "learning_rate",
    "steps",
    "validate_every",
)

TUNED_ALIKE = (  # of a tuned protocol; the rest is a study's own
    "base",
    "budget",
    "backbone",
    "search",
    "seed",
    "fusion",
    "split",
    "features",
)

Identity = tuple[tuple[str, str], ...]  # every factor of a row apart from the scoring model: sorted (name, value) pairs
Key = tuple[str, Identity, str]  # a cell: group, row, dataset


def refuse_mixtures(runs: Sequence[Run], timed: bool) -> None:
    """Raise Misuse at the first thing that the runs must share and do not; `timed` adds the hardware."""
    kinds: dict[str, list[Run]] = {}  # alike but for their seeds; one of them speaks for all, as there may be thousands
    for run in runs:
        hardware = [run[name] for name in store.ENV] if timed else []
        kinds.setdefault(f"{_but_for_seed(run)} {hardware}", []).append(run)
    size = {id(members[0]): len(members) for members in kinds.values()}
    runs = [members[0] for members in kinds.values()]

    def check(name: str, value: Callable[[Run], Any], scope: str = "", of: Sequence[Run] = runs) -> None:
        if len({store.comparable(name, value(run)) for run in of}) > 1:
            counts: Counter[str] = Counter()
            for run in of:
                counts[store.comparable(name, value(run))] += size[id(run)]
            number = ", ".join(f"{value} in {n} runs" for value, n in sorted(counts.items()))
            example = f"{name}{'@' if scope else ''}{scope}={counts.most_common(1)[0][0]}"
            beside = f" of {scope}" if scope else ""
            raise Misuse(f"the runs differ in {name}{beside} ({number}); keep one with the filter {example}")

    def check_value(name: str, scope: str = "", of: Sequence[Run] = runs) -> None:
        check(name, lambda run: store.config_value(run.config, name), scope, of)

    check("protocol", itemgetter("protocol"))
    check("protocol_version", itemgetter("protocol_version"))
    configs = [run.config for run in runs]
    for name in sorted({key for config in configs for key in config.get("changed", {})}):
        check_value(f"changed.{name}")
    for name in TUNED_ALIKE:
        check_value(f"tuning.{name}")
    names = sorted({key for config in configs for key in config["protocol"]})
    for name in names:
        if name not in PER_CELL:
            check_value(f"protocol.{name}")
    for dataset, members in _by(runs, "dataset").items():
        check_value("split", dataset, members)
        check_value("fingerprint", dataset, members)
        for alike in _by(members, "features").values():
            check_value("feature_fingerprint", dataset, alike)
        for same in _by(members, "kge").values():
            for name in PER_CELL:
                check(f"protocol.{name}", functools.partial(_backbone, name), dataset, same)
            check_value("tuning.steps", dataset, [run for run in same if trials(run)])
    for part in ("sampler", "kge", "fusion"):
        for name, members in _by(runs, part).items():
            check_value(f"versions.{part}", name, members)
            check_value(f"sources.{part}", name, members)  # a plugin's file may have been edited between two runs
    for name in sorted({key for config in configs for key in config.get("aux", {})}):
        check_value(f"versions.aux.{name}", name, [run for run in runs if name in run.config.get("aux", {})])
    for name in store.ENV if timed else ():
        check(name, itemgetter(name))


def _but_for_seed(run: Run) -> str:
    return str({**run.config, "seed": 0, "id": ""})


def chosen_by(where: Mapping[str, Any], runs: Iterable[Run], kept: Sequence[Run]) -> str:
    """The filters in words, and how many of the `runs` they keep from rows that are shown; empty without filters."""
    if not where:
        return ""
    given = (f"{name}={value if isinstance(value, str | int) else listed(value)}" for name, value in where.items())
    shown, paths = {_but_for_seed(run) for run in kept}, {run.path for run in kept}
    fewer = sum(run.path not in paths and _but_for_seed(run) in shown for run in runs)
    left_out = f" (left out: {fewer} that differ from those shown by their seed alone)" if fewer else ""
    return f"Runs chosen by {listed(given, ', ')}{left_out}"


def trials(run: Run) -> int:
    """By which the run's sampler was tuned; none in a protocol that is not, or not for that sampler (nsbench.config.run)."""
    return store.config_value(run.config, "tuning.trials") or 0


def chosen(run: Run) -> dict[str, Any]:
    """What they chose, by the names of --set."""
    return store.config_value(run.config, "tuning.chosen") or {}


def proposed(run: Run) -> Mapping[str, Any]:
    """The options that the run's protocol set for its sampler; none in runs that do not say so."""
    return run.config.get("proposed", {})


def _backbone(name: str, run: Run) -> Any:
    """A value of the protocol, or that the sampler was tuned for one of its own (backbone `alike`)."""
    value = store.config_value(run.config, f"protocol.{name}")
    return "tuned per sampler" if chosen(run).get(f"protocol.{name}") == value is not None else value


def _by(runs: Iterable[Run], name: str) -> dict[str, list[Run]]:
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(run[name], []).append(run)
    return parts


class Grid:
    """The runs of each cell (group, row identity, dataset), by seed, and the names of rows and groups.

    Of the runs that were `begun` and came to no result, those under the same protocol and on the same data make `failed`
    (of a cell: seed -> reason), rows of which may have no other run, and `unfinished`, cells. `chosen_by`: by which
    filters, in words.
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
        for run, reason in begun:
            key = key_of(run)
            if _origin(run) not in alike or run["seed"] in [other["seed"] for other in self.cells.get(key, [])]:
                continue
            if reason.startswith(store.FAILED):
                self.failed.setdefault(key, {})[run["seed"]] = reason.removeprefix(store.FAILED)
                self.kge[key[0]] = run["kge"]
            else:
                self.unfinished.add(key)
        self.labels = _labels({identity for _, identity, _ in (*self.cells, *self.failed)})
        order = papers.print_order("kge")
        self.groups = sorted(self.kge, key=lambda group: (order.get(self.kge[group], len(order)), group))
        order = papers.print_order("dataset")
        self.datasets = sorted({run["dataset"] for run in runs}, key=lambda name: (order.get(name, len(order)), name))

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
    return _group(run), _identity(run), run["dataset"]


def _group(run: Run) -> str:
    """The scoring model with its non-default options: `transe` or `transe (norm=2)`."""
    options = flat(run.config["options"].get("kge", {}))
    return run["kge"] + (f" ({', '.join(f'{name}={value}' for name, value in options.items())})" if options else "")


def _identity(run: Run) -> Identity:
    """Every factor that makes a row, apart from the scoring model."""
    config = run.config
    modalities = "+".join(config.get("modalities", ()))
    factors = {"sampler": run["sampler"], "variant": run["variant"], "fusion": run["fusion"]}
    factors["features"] = f"{run['features']}:{modalities}" if modalities else run["features"]
    if config.get("own_loss"):
        factors["own_loss"] = "true"
    factors |= flat(config.get("aux", {}), "aux.")
    for part in ("sampler", "fusion", "aux"):
        factors |= flat(config["options"].get(part, {}), f"{part}.")
    for name in chosen(run):  # the protocol's doing, as the steps are
        factors.pop(name, None)
    for name, value in flat(proposed(run), "sampler.").items():
        if factors.setdefault(name, "default") == value:
            del factors[name]
    return tuple(sorted(factors.items()))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested options as `name.inner -> text`, sorted."""
    found: dict[str, str] = {}
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _labels(identities: Iterable[Identity]) -> dict[Identity, str]:
    """`uniform`, `uniform (k=40)`, `dhns (released, fusion=adamf)`: whatever differs between two rows shows.

    Options in the store are the non-default ones. What a variant other than recommended sets, and what all rows share,
    stands in the caption and the notes (nsbench.results.tables.comparison).
    """
    rows = {identity: dict(identity) for identity in identities}
    labels = {}
    for identity, row in rows.items():
        peers = [other for other in rows.values() if preset(other) == preset(row)]
        parts = [] if row["variant"] == "recommended" else [row["variant"]]
        parts += ["own loss"] if "own_loss" in row else []
        for name, value in row.items():
            if name.startswith("sampler."):
                if row["variant"] == "recommended" or differs(name, peers):
                    parts.append(f"{name.removeprefix('sampler.')}={value}")
            elif name not in ("sampler", "variant", "own_loss") and value != "none" and differs(name, rows.values()):
                parts.append(f"{name}={value}")
        labels[identity] = row["sampler"] + (f" ({', '.join(parts)})" if parts else "")
    return labels


def preset(row: Mapping[str, str]) -> tuple[str, str]:
    return row["sampler"], row["variant"]


def implied(row: Mapping[str, str], rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The sampler's options that all rows of this row's variant share."""
    peers = [other for other in rows if preset(other) == preset(row)]
    return [name for name in row if name.startswith("sampler.") and not differs(name, peers)]


def cited(rows: Iterable[Identity]) -> set[Identity]:
    """Of each sampler the row that a paper's figures stand beside: as the paper has it or recommended, with least added."""
    known = [dict(row) for row in rows]

    def place(row: Mapping[str, str]) -> tuple[bool, int, bool]:
        variant, same = row["variant"], {"sampler", "variant", *implied(row, known)}
        added = [name for name, value in row.items() if name not in same and value != "none"]
        return variant not in ("paper", "recommended"), len(added), variant != "paper"

    first: dict[str, Mapping[str, str]] = {}
    for row in sorted(known, key=place):
        first.setdefault(row["sampler"], row)
    return {tuple(row.items()) for row in first.values()}


def differs(name: str, rows: Iterable[Mapping[str, str]]) -> bool:
    return len({row.get(name) for row in rows}) > 1


def listed(values: Iterable[Any], separator: str = ",") -> str:
    return separator.join(map(str, values))

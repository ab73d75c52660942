"""Which runs may stand in one table: what they must share, and the filters that choose among them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from nsbench.errors import Misuse
from nsbench.results import store
from nsbench.results.store import Run
from nsbench.results.tables.labels import chosen, listed, trials

PER_PAIR = (  # what a protocol sets per model and dataset (nsbench.config)
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


def refuse_mixtures(runs: Sequence[Run], timed: bool) -> None:
    """Raise Misuse at the first thing that the runs must share and do not; `timed` adds the hardware."""

    def check(name: str, value: Callable[[Run], Any], scope: str = "", of: Sequence[Run] = runs) -> None:
        counts = Counter(store.comparable(name, value(run)) for run in of)
        if len(counts) > 1:
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
        if name not in (*PER_PAIR, "name"):  # which is a label
            check_value(f"protocol.{name}")
    for dataset, members in _by(runs, "dataset").items():
        check_value("split", dataset, members)
        check_value("fingerprint", dataset, members)
        for alike in _by(members, "features").values():
            check_value("feature_fingerprint", dataset, alike)
        for same in _by(members, "kge").values():
            for name in PER_PAIR:
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
    return str({**run.config, "seed": 0, "id": "", "feature_bytes": ""})


def chosen_by(where: Mapping[str, Any], runs: Iterable[Run], kept: Sequence[Run]) -> str:
    """The filters in words, and how many of the `runs` they keep from rows that are shown; empty without filters."""
    if not where:
        return ""
    given = (f"{name}={value if isinstance(value, str | int) else listed(value)}" for name, value in where.items())
    shown, paths = {_but_for_seed(run) for run in kept}, {run.path for run in kept}
    fewer = sum(run.path not in paths and _but_for_seed(run) in shown for run in runs)
    left_out = f" (left out: {fewer} that differ from those shown by their seed alone)" if fewer else ""
    return f"Runs chosen by {listed(given, ', ')}{left_out}"


def _backbone(name: str, run: Run) -> Any:
    """A value of the protocol, or that the sampler was tuned for one of its own (backbone `alike`)."""
    value = store.config_value(run.config, f"protocol.{name}")
    return "tuned per sampler" if chosen(run).get(f"protocol.{name}") == value is not None else value


def _by(runs: Iterable[Run], name: str) -> dict[str, list[Run]]:
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(run[name], []).append(run)
    return parts

"""A numeric option: test MRR against the values of each one that alone tells runs apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nsbench.errors import Misuse
from nsbench.results import store
from nsbench.results.plots import drawing
from nsbench.results.plots.plot import Asked, Default, Kind, Plot, Shown
from nsbench.results.store import Run
from nsbench.results.tables.labels import proposed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def make(asked: Asked) -> Iterator[Plot]:
    """Test MRR of each run that has a twin with another value, one plot for each option and dataset."""
    varied = {option: _varied_alone(asked.runs, option, asked.default) for option in _numeric_options(asked.runs)}
    if not any(varied.values()):
        raise Misuse("no numeric option differs between otherwise equal runs; vary one with --set, as protocol.negatives=5")
    for option, alone in varied.items():
        shown, name = Shown(alone), option.removeprefix("options.")
        for dataset in shown.datasets:
            rows = []
            for about, run in shown.of(dataset):
                value, seed = run["seed"]
                rows.append(about | {"seed": seed, "value": value, "mrr": run["mrr"]})
            caption = f"Test MRR against {name}, all else equal. Small markers: single seeds; line: their means."
            yield shown.plot(f"sensitivity-{name}-{dataset}", [dataset], caption, rows, partial(draw, name=name))


def _numeric_options(records: Sequence[Run]) -> list[str]:
    """Numbers of the protocol, and options of the samplers, that are not the same in all runs."""
    paths = {f"protocol.{name}" for run in records for name in run.config["protocol"]}
    paths |= {f"options.sampler.{name}" for run in records for name in run.config["options"].get("sampler", {})}
    values = {path: [store.config_value(run.config, path) for run in records] for path in sorted(paths)}
    return [path for path, v in values.items() if len(set(map(str, v))) > 1 and any(map(_is_number, v))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _varied_alone(records: Sequence[Run], option: str, default: Default) -> list[Run]:
    """The runs that have a twin with another value of the option, less the option; value and seed make their `seed`."""
    part, _, name = option.rpartition(".")
    families: dict[str, list[Run]] = {}
    for run in records:
        value = store.config_value(run.config, option)
        value = default(run, option) if value is None else value
        if not _is_number(value):
            continue
        config = json.loads(json.dumps(run.config))
        options = store.config_value(config, part)
        options.pop(name, None)
        if part == "options.sampler" and name in proposed(run):
            options[name] = proposed(run)[name]  # which no label names
        if part == "protocol":
            config.get("changed", {}).pop(name, None)
        rest = {key: value for key, value in config.items() if key not in ("seed", "id")}
        changed = replace(run, config=config, values={**run.values, "seed": (value, run["seed"])})
        families.setdefault(json.dumps(rest, sort_keys=True), []).append(changed)
    return [run for family in families.values() if len({run["seed"][0] for run in family}) > 1 for run in family]


def draw(data: pd.DataFrame, labels: Sequence[str], width: float, name: str) -> Figure:
    """Seeds as points, means as a line, a panel for each model."""
    figure, panels = drawing.models(data, labels, width, name, "test MRR ×100")
    values = np.sort(data["value"].unique())
    for ax, panel in panels:
        for row, look, runs in drawing.rows(panel, labels):
            means = runs.groupby("value")["mrr"].mean()
            ax.plot(means.index, means, label=row, **look)
            points = {**look, "linestyle": "none", "markersize": 2, "alpha": 0.6, "markeredgewidth": 0}
            ax.plot(runs["value"], runs["mrr"], label=f"seeds: {row}", **points)
        if values[0] > 0 and values[-1] / values[0] >= 4:
            ax.set_xscale("log", base=2)
        if len(values) <= 10:
            ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    return figure


KINDS = (
    Kind("sensitivity", "test MRR against a number that --set changed, as protocol.negatives", make, place=5, apart=True),
)

"""The kinds of plots and what they share: the runs that may stand in one, captions, provenance, and the files.

A kind is one module beside this one, found by being there: its `KINDS` say how the command line, its help and the report
call it, and what makes it. A `Plot` holds the figures of single runs (or of single blocks), unrounded; means, bands and
intervals are made of them where they are drawn.
"""

from __future__ import annotations

import functools
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsbench.errors import Misuse
from nsbench.files import replacing
from nsbench.identity import plugin_label
from nsbench.results import store
from nsbench.results.plots import drawing
from nsbench.results.store import Run, Store
from nsbench.results.store.inventory import no_formula
from nsbench.results.tables.build import FIRST_RUN
from nsbench.results.tables.captions import count
from nsbench.results.tables.contrasts import BASELINE
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.labels import listed
from nsbench.results.tables.mixtures import chosen_by, refuse_mixtures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    Draw = Callable[[pd.DataFrame, Sequence[str], float], Figure]  # data, labels of all rows, width in inches

WIDTHS = {"": drawing.ONE_COLUMN, "-wide": drawing.TWO_COLUMNS}  # endings of file names -> inches
FORMS = ("pdf", "svg", "png")

Default = Callable[[Run, str], Any]  # run, "options.sampler.k" -> the default, which runs do not record; None: unknown


class Plot(NamedTuple):
    """`draw` makes the figure for a width in inches; `caption` says what is shown, of which runs, and how."""

    name: str  # of its files
    caption: str
    data: pd.DataFrame
    draw: Callable[[float], Figure]


@dataclass(frozen=True)
class Asked:
    """What a kind makes its plots of: `begun` are runs without a result, with the reasons.

    `posthoc` is the test of critical differences, wilcoxon or nemenyi; `baseline` the row that others are tested against.
    """

    runs: Sequence[Run]
    begun: Sequence[tuple[Run, str]]
    posthoc: str
    baseline: str
    default: Default


@dataclass(frozen=True)
class Kind:
    name: str
    help: str
    make: Callable[[Asked], Iterator[Plot]]  # Misuse where the runs do not allow any
    place: int = 9  # among the kinds, in files, help and report
    apart: bool = False  # stands in the report once, of the runs of all sections, which may differ by what it shows
    first: bool = False  # stands in the report above the tables


@functools.cache
def kinds() -> dict[str, Kind]:
    """Those of the modules of this package, by name."""
    names = [module.name for module in pkgutil.iter_modules(import_module(__package__).__path__, f"{__package__}.")]
    found = [kind for name in names for kind in getattr(import_module(name), "KINDS", ())]
    for name, n in Counter(kind.name for kind in found).items():
        if n > 1:
            raise Misuse(f"{n} kinds of plots are called '{name}'; rename one")
    return {kind.name: kind for kind in sorted(found, key=lambda kind: (kind.place, kind.name))}


def plots(
    runs: Store | str | Path | None = None,
    names: Sequence[str] = (),
    *,
    where: Mapping[str, Any] | None = None,
    posthoc: str = "wilcoxon",
    baseline: str = BASELINE,
    default: Default | None = None,
) -> tuple[list[Plot], dict[str, str]]:
    """Plots of a store that was read, or is to be read, and of other kinds why there is none.

    Without `names` of kinds, whatever the runs allow; Misuse if a kind that was asked for cannot be drawn, or none can.
    """
    drawing.require()
    for name in names:
        if name not in kinds():
            raise Misuse(f"unknown kind of plot '{name}'; there are {', '.join(kinds())}")
    found = runs if isinstance(runs, Store) else store.read(runs)
    if not found.runs:
        raise Misuse(f"no complete run in {found.folder}; start with `{FIRST_RUN}`")
    where = dict(where or {})
    passing = store.select([*found.runs, *found.begun], where)
    begun = [(run, found.skipped[run.name]) for run in passing if not run.record]
    complete = [run for run in passing if run.record]
    asked = Asked(complete, begun, posthoc, plugin_label(baseline), default or (lambda run, option: None))
    if not asked.runs:
        raise Misuse(f"no run passes the filters {where}; ask for at least one value of each")
    words = f" {said}." if (said := chosen_by(where, found.runs, asked.runs)) else ""
    made: list[Plot] = []
    refused: dict[str, str] = {}
    for name in names or kinds():
        try:
            made += [plot._replace(caption=plot.caption + words) for plot in kinds()[name].make(asked)]
        except Misuse as reason:
            if names:
                raise Misuse(f"{name}: {reason}") from None
            refused[name] = str(reason)
    if not made:
        raise Misuse(Counter(refused.values()).most_common(1)[0][0])
    return made, refused


class Shown(Grid):
    """Runs that may stand in one table, and so in one plot; `timed`, because it shows seconds: on one hardware."""

    def __init__(self, runs: Sequence[Run], timed: bool = False, begun: Iterable[tuple[Run, str]] = ()) -> None:
        refuse_mixtures(runs, timed)
        super().__init__(runs, begun)
        self.timed = timed

    def in_order(self) -> Iterator[tuple[Key, list[Run]]]:
        """Cells in the order of tables."""
        for group in self.groups:
            for key in product([group], self.identities(group), self.datasets):
                if key in self.cells:
                    yield key, self.cells[key]

    def of(self, dataset: str) -> Iterator[tuple[dict[str, Any], Run]]:
        """Each run of a dataset with the first columns of its rows of data."""
        for (group, identity, name), cell in self.in_order():
            for run in cell if name == dataset else ():
                yield {"model": group, "dataset": dataset, "row": self.labels[identity], "seed": run["seed"]}, run

    def rows(self) -> list[str]:
        """Labels of all rows in order: a label's place decides how it looks, in every plot alike."""
        return list(dict.fromkeys(self.labels[identity] for (_, identity, _), _ in self.in_order()))

    def plot(self, name: str, datasets: Iterable[str], caption: str, data: Sequence[Mapping[str, Any]], draw: Draw) -> Plot:
        """A plot of these `datasets`, of whose runs the caption tells the rest."""
        import pandas as pd

        frame, rows = pd.DataFrame(data), self.rows()
        words = " ".join([caption, *map(self.provenance, datasets)])
        styled = drawing.style()(lambda width: draw(frame, rows, width))
        return Plot(re.sub(r"[^\w.-]+", "_", name), words, frame, styled)

    def provenance(self, dataset: str) -> str:
        """Data, protocol, seeds, what had not converged, and for seconds the hardware."""
        runs = [run for run in self.runs if run["dataset"] == dataset]
        config = runs[0].config
        changed = ", ".join(f"{name}={value}" for name, value in sorted(config.get("changed", {}).items()))
        seeds = sorted({run["seed"][-1] if isinstance(run["seed"], tuple) else run["seed"] for run in runs})
        of = f"{dataset} ({runs[0]['split']} split, {runs[0]['fingerprint'][:8]})"
        words = [
            f"{of}: {len(runs)} runs, seeds {listed(seeds, ', ')}",
            f"protocol {runs[0]['protocol']}, version {config['protocol']['version']}",
        ]
        words += [f"changed: {changed}"] if changed else []
        late = sum(not run["converged"] for run in runs)
        words += [f"{late} not converged (best validation in the last tenth of the steps)"] if late else []
        dead = sum(bool(run.dead) for run in runs)
        words += [f"{dead} with a dead generator (see the notes of a table)"] if dead else []
        if self.timed:
            words.append(f"on {runs[0]['device']}, {count(runs[0]['threads'], 'thread')}, {runs[0]['kernels']} kernels")
        return "; ".join(words) + "."


def write(plot: Plot, folder: Path) -> list[Path]:
    """The plot in every form at both widths, its data (csv) and its caption (txt); each file whole or not at all.

    The same runs give the same bytes under one version of matplotlib.
    """
    files: dict[str, bytes] = {}
    for ending, width in WIDTHS.items():
        figure = plot.draw(width)
        files |= {f"{plot.name}{ending}.{form}": drawing.save(figure, form, plot.caption) for form in FORMS}
    files[f"{plot.name}.csv"] = plot.data.map(no_formula).to_csv(index=False, lineterminator="\n").encode()
    files[f"{plot.name}.txt"] = f"{plot.caption}\n".encode()
    for name, content in files.items():
        with replacing(folder / name, "choose another folder with -o") as file:
            file.write(content)
    return [folder / name for name in files]

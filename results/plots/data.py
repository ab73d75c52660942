"""Plots of runs: what each one shows, its data, and its files. How it is drawn: nsbench.results.plots.drawing.

A `Plot` holds the figures of single runs (or of single blocks), unrounded; means, bands and intervals are made of them
where they are drawn. Runs of one plot must be able to stand in one table (nsbench.results.tables.grid.refuse_mixtures).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nsbench.errors import Misuse
from nsbench.files import replacing
from nsbench.results import store
from nsbench.results.plots import drawing
from nsbench.results.stats import statistics
from nsbench.results.store import Run, Store
from nsbench.results.tables import papers
from nsbench.results.tables.beside import half_digit
from nsbench.results.tables.build import FIRST_RUN
from nsbench.results.tables.grid import Grid
from nsbench.results.tables.labels import cited, listed, proposed
from nsbench.results.tables.mixtures import chosen_by, refuse_mixtures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = ("cd", "epochs", "seconds", "cost", "sensitivity", "relations", "published")
WIDTHS = {"": drawing.ONE_COLUMN, "-wide": drawing.TWO_COLUMNS}  # endings of file names -> inches
FORMS = ("pdf", "svg", "png")

# Training triples of the public datasets, by fingerprint: runs made before result.json said so lack them.
TRAIN_TRIPLES = {
    "c09af6629d73767fb3f4e8d9da380219daeaa3a356d4ffe44400c7238d0d24ea": 21_310,  # mkg_y
    "df7b01925ad18547b1590a3b0f8ec22f7028beb312554bc4e6025f738dff0aab": 34_196,  # mkg_w
    "52c97da0296915a8fb863d4a125da9770116d5acd7ae120b14126f2292db47dc": 77_241,  # db15k, clean split
    "ee95e8305f860e242158882af1cd6a2f78bb4d3ad2eec076405333ad4de274b7": 79_222,  # db15k, released split
}

Default = Callable[[Run, str], Any]  # run, "options.sampler.k" -> the default, which runs do not record; None: unknown


class Plot(NamedTuple):
    """`draw` makes the figure for a width in inches; `caption` says what is shown, of which runs, and how."""

    name: str  # of its files
    caption: str
    data: pd.DataFrame
    draw: Callable[[float], Figure]


def plots(
    runs: Store | str | Path | None = None,
    kinds: Sequence[str] = (),
    *,
    where: Mapping[str, Any] | None = None,
    posthoc: str = "wilcoxon",
    default: Default | None = None,
) -> tuple[list[Plot], dict[str, str]]:
    """Plots of a store that was read, or is to be read, and of other kinds why there is none.

    Without `kinds`, whatever the runs allow; Misuse if a kind that was asked for cannot be drawn, or none can.
    `posthoc` is the test of the critical-difference diagram, wilcoxon or nemenyi.
    """
    drawing.require()
    makers: dict[str, Callable[[Sequence[Run]], Iterator[Plot]]] = {
        "cd": partial(_cd, posthoc=posthoc),
        "epochs": partial(_curves, against="epoch"),
        "seconds": partial(_curves, against="seconds"),
        "cost": _cost,
        "sensitivity": partial(_sensitivity, default=default or (lambda run, option: None)),
        "relations": _relations,
        "published": _published,
    }
    unknown = [kind for kind in kinds if kind not in makers]
    if unknown:
        raise Misuse(f"unknown kind of plot '{unknown[0]}'; there are {', '.join(KINDS)}")
    found = runs if isinstance(runs, Store) else store.read(runs)
    if not found.runs:
        raise Misuse(f"no complete run in {found.folder}; start with `{FIRST_RUN}`")
    where = dict(where or {})
    records = store.select(found.runs, where)
    if not records:
        raise Misuse(f"no run passes the filters {where}; ask for at least one value of each")
    words = f" {said}." if (said := chosen_by(where, found.runs, records)) else ""
    made: list[Plot] = []
    refused: dict[str, str] = {}
    for kind in kinds or KINDS:
        try:
            made += [plot._replace(caption=plot.caption + words) for plot in makers[kind](records)]
        except Misuse as reason:
            refused[kind] = str(reason)
    if refused and kinds:
        kind = next(iter(refused))
        raise Misuse(f"{kind}: {refused[kind]}")
    if not made:
        raise Misuse(Counter(refused.values()).most_common(1)[0][0])
    return made, refused


# Learning curves


def _curves(records: Sequence[Run], against: str) -> Iterator[Plot]:
    """Validation MRR after each validation of each run, one plot for each dataset."""
    timed = against == "seconds"
    refuse_mixtures(records, timed=timed)
    grid = Grid(records)
    for dataset in grid.datasets:
        sizes = [_train_triples(run) for run in grid.runs if run["dataset"] == dataset]
        x = "step" if against == "epoch" and None in sizes else against
        rows = [about | event for about, run in _runs(grid, dataset) for event in _events(run)]
        shown = {
            "epoch": "passes over the training triples",
            "step": "training steps (the runs do not say how many steps make an epoch)",
            "seconds": "seconds of training, without validation, each at its mean over the seeds",
        }[x]
        yield Plot(
            f"{against if timed else 'epochs'}-{_file_name(dataset)}",
            f"Validation MRR against {shown}. Line: mean over seeds, unsmoothed; band: lowest and highest seed; filled "
            "markers: the validation that each seed's model was taken from, at its own time. "
            f"{_provenance(grid, dataset, timed)}",
            _frame(rows),
            partial(drawing.curves, _frame(rows), x, _styles(grid)),
        )


def _train_triples(run: Run) -> int | None:
    return run.record.get("train_triples") or TRAIN_TRIPLES.get(run["fingerprint"])


def _events(run: Run) -> Iterator[dict[str, Any]]:
    """One row for each validation of a run."""
    size, batch = _train_triples(run), run.config["protocol"].get("batch")
    path = run.path / "events.jsonl"
    try:
        for event in store.events(path.parent):
            yield {
                "step": int(event["step"]),
                "epoch": event["step"] * batch / size if size and batch else None,
                "seconds": float(event["train_seconds"]),
                "mrr": float(event["valid"]["mrr"]),
                "selected": event["step"] == run["selected_at"],
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise Misuse(f"cannot read {path} ({reason}); leave its curve out, or delete the folder and run it again") from None


# Quality and what it costs


def _cost(records: Sequence[Run]) -> Iterator[Plot]:
    """Test MRR and seconds of training of each run, one plot for each dataset."""
    refuse_mixtures(records, timed=True)
    grid = Grid(records)
    for dataset in grid.datasets:
        rows = [about | {"seconds": run["train_seconds"], "mrr": run["mrr"]} for about, run in _runs(grid, dataset)]
        yield Plot(
            f"cost-{_file_name(dataset)}",
            "Test MRR against seconds of training, validation excluded (log scale). Markers: means over seeds; upright "
            "bars: 95 % t interval over seeds, from three seeds on; level bars: quickest and slowest seed. Filled, on the "
            f"grey line: no other row is both better and quicker. {_provenance(grid, dataset, timed=True)}",
            _frame(rows),
            partial(drawing.cost, _frame(rows), _styles(grid)),
        )


# A numeric option


def _sensitivity(records: Sequence[Run], default: Default) -> Iterator[Plot]:
    """Test MRR against every numeric option that alone tells runs apart, one plot for each option and dataset."""
    found = False
    for option in _numeric_options(records):
        alone = _varied_alone(records, option, default)
        if not alone:
            continue
        found = True
        refuse_mixtures(alone, timed=False)
        grid = Grid(alone)
        name = option.removeprefix("options.")
        for dataset in grid.datasets:
            rows = [
                about | {"seed": run["seed"][1], "value": run["seed"][0], "mrr": run["mrr"]}
                for about, run in _runs(grid, dataset)
            ]
            yield Plot(
                f"sensitivity-{_file_name(name)}-{_file_name(dataset)}",
                f"Test MRR against {name}, all else equal. Small markers: single seeds; line: their means. "
                f"{_provenance(grid, dataset)}",
                _frame(rows),
                partial(drawing.sensitivity, _frame(rows), name, _styles(grid)),
            )
    if not found:
        raise Misuse("no numeric option differs between otherwise equal runs; vary one with --set, as protocol.negatives=5")


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


# Parts of the test set


def _relations(records: Sequence[Run]) -> Iterator[Plot]:
    """Test MRR by relation category and by whether both entities occur in train, one plot for each dataset."""
    refuse_mixtures(records, timed=False)
    grid = Grid(records)
    for dataset in grid.datasets:
        rows = []
        for about, run in _runs(grid, dataset):
            for by in drawing.PARTS:
                parts = run.record.get("breakdown", {}).get(by)
                if not parts:
                    raise Misuse(f"{run.name} has no figures by {by}; leave it out with a filter")
                for part, found in parts.items():
                    rows.append(about | {"by": by, "part": part, "queries": found["queries"], "mrr": found["mrr"]})
        yield Plot(
            f"relations-{_file_name(dataset)}",
            "Test MRR by category of the relation (heads per tail and tails per head in train, threshold 1.5), and of test "
            "triples with both entities in train or not; below, the number of queries, two for each triple. Bars: 95 % t "
            f"interval over seeds, from three seeds on. Pale: fewer than {drawing.FEW_QUERIES} queries. "
            f"{_provenance(grid, dataset)}",
            _frame(rows),
            partial(drawing.relations, _frame(rows), _styles(grid)),
        )


# Published figures


def _published(records: Sequence[Run]) -> Iterator[Plot]:
    """Our mean test MRR beside each MRR that a paper prints for the same sampler, model and dataset."""
    refuse_mixtures(records, timed=False)
    grid = Grid(records)
    printed: dict[tuple[str, str, str], list[papers.Figure]] = {}
    for figure in papers.figures():
        if figure.metric == "mrr":
            printed.setdefault((figure.sampler, figure.kge, figure.dataset), []).append(figure)
    rows, shown = [], []
    for (group, identity, dataset), cell in _cells(grid):
        if identity not in cited(grid.present[group, dataset], grid.called):
            continue
        ours = [run["mrr"] for run in cell]
        for figure in printed.get((cell[0]["sampler"], cell[0]["kge"], dataset), []):
            row: dict[str, Any] = {"model": group, "dataset": dataset, "row": grid.labels[identity]}
            row |= {"source": figure.source, "published": figure.value, "note": figure.note}
            row |= {"mean": float(np.mean(ours)), "n": len(ours)}
            if len(ours) >= statistics.SPREAD_SEEDS:
                row["low"], row["high"] = statistics.prediction_interval(ours)
                row["outside"] = not row["low"] - half_digit(figure) <= figure.value <= row["high"] + half_digit(figure)
            rows.append(row)
            shown.append(figure)
    if not rows:
        raise Misuse("no paper prints an MRR for these samplers, models and datasets; see nsbench table --published")
    notes = [f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys(figure.note for figure in shown) if note]
    for dataset, split in sorted({(run["dataset"], run["split"]) for run in records}):
        if split != "released" and any(figure.dataset == dataset for figure in shown):
            notes.append(f"{dataset}: ours is the {split} split, the papers trained on the released one.")
    caveats = " ".join([*papers.caveats(shown), *notes])
    yield Plot(
        "published",
        "Our mean test MRR against the published one; on the diagonal they agree. Bars: where one more run of ours would "
        "fall with 95 % chance, from three seeds on; thin lines join what two papers print for one cell. "
        f"{caveats} {' '.join(_provenance(grid, dataset) for dataset in grid.datasets)}",
        _frame(rows).reindex(columns=PUBLISHED),
        partial(drawing.published, _frame(rows).reindex(columns=PUBLISHED), _styles(grid)),
    )


PUBLISHED = ("model", "dataset", "row", "source", "published", "mean", "low", "high", "outside", "n", "note")


# Critical differences


def _cd(records: Sequence[Run], posthoc: str) -> Iterator[Plot]:
    """Average ranks over blocks (model, dataset), with bars over what the post-hoc test does not separate."""
    from nsbench.results.stats import blocks as tests
    from nsbench.results.stats import posthoc as tests_of_pairs

    if posthoc not in ("wilcoxon", "nemenyi"):
        raise Misuse(f"unknown post-hoc test '{posthoc}'; there are wilcoxon, nemenyi")
    refuse_mixtures(records, timed=False)
    grid = Grid(records)
    rows = list(dict.fromkeys(identity for group in grid.groups for identity in grid.identities(group)))
    cells = [(group, dataset) for group in grid.groups for dataset in grid.datasets]
    started = [block for block in cells if any((block[0], row, block[1]) in grid.cells for row in rows)]
    blocks = [block for block in started if all((block[0], row, block[1]) in grid.cells for row in rows)]
    k, n = len(rows), len(blocks)
    if k < 2:
        raise Misuse("one row has nothing to be ranked against; run a second sampler")
    needed = max(statistics.FEWEST_BLOCKS, tests_of_pairs.blocks_needed(k * (k - 1) // 2) if posthoc == "wilcoxon" else 0)
    if n < needed:
        block = "blocks, each a model and a dataset with runs of every row"
        always = [grid.labels[row] for row in rows if all((group, row, dataset) in grid.cells for group, dataset in started)]
        without = f" ({len(started)} of {listed(always, ', ')} alone)" if 1 < len(always) < k else ""
        there = f"there {'is' if n == 1 else 'are'} {n}{without}"
        raise Misuse(f"ranking {k} rows takes {needed} {block}, and {there}; run more models or datasets")
    if len(started) - n > tests.LACKING * len(started):
        raise Misuse(f"{len(started) - n} of {len(started)} blocks lack a row, so the complete ones are a choice; run them")
    members = {(group, row, dataset): grid.cells[group, row, dataset] for group, dataset in blocks for row in rows}
    seeds = {tuple(run["seed"] for run in cell) for cell in members.values()}
    if min(map(len, seeds)) < 2:
        raise Misuse("a rank from one seed is luck; run at least two seeds of every cell")
    if len(seeds) > 1:
        raise Misuse("the cells have different seeds; run the missing ones, or keep the common ones by a filter as seed=0,1")

    values = np.array([[np.mean([run["mrr"] for run in members[g, row, d]]) for row in rows] for g, d in blocks])
    ranks = tests.block_ranks(values)
    gate = tests.friedman_permutation(values, np.random.default_rng(0))
    found = tests.friedman(values)
    p = np.ones((k, k))
    if gate.p < statistics.ALPHA:  # else nothing is separated
        if posthoc == "nemenyi":
            p = tests_of_pairs.nemenyi_p(ranks.mean(axis=0), n)
        else:
            for pair in tests_of_pairs.wilcoxon_holm(values):
                p[pair.first, pair.second] = p[pair.second, pair.first] = pair.p_adjusted
    ruler = tests_of_pairs.critical_difference(k, n, statistics.ALPHA) if posthoc == "nemenyi" else None
    labels = [grid.labels[row] for row in rows]
    data = _frame(
        {"model": group, "dataset": dataset, "row": label, "mrr": value, "rank": rank}
        for (group, dataset), mrr, ranked in zip(blocks, values, ranks)
        for label, value, rank in zip(labels, mrr, ranked)
    )
    friedman = f"; Iman-Davenport F {found.f:.4g}, Kendall's W {found.w:.3f}" if found else ""
    pairs = {"wilcoxon": f"Wilcoxon's signed-rank test with Holm over {k * (k - 1) // 2} pairs", "nemenyi": "Nemenyi's test"}
    unsure = "" if gate.p < statistics.ALPHA else ", which found no difference, so no pair was tested"
    yield Plot(
        "cd",
        f"Average ranks of {k} rows by mean test MRR over {n} blocks (model and dataset), 1 the best, at the left. Bars "
        f"join what {pairs[posthoc]} does not separate (adjusted p >= {statistics.ALPHA}); dotted where a bar passes over a "
        f"row that it does not join. Friedman's test, ranks relabelled inside blocks: p {gate.p:.2g}{friedman}{unsure}. "
        "Blocks that share a dataset or a model are not independent. "
        f"{' '.join(_provenance(grid, dataset) for dataset in grid.datasets)}",
        data,
        partial(drawing.critical_differences, labels, ranks.mean(axis=0), tests_of_pairs.cliques(p), ruler),
    )


# What all have in common


def _cells(grid: Grid) -> Iterator[tuple[tuple[str, Any, str], list[Run]]]:
    """Cells in the order of tables."""
    for group in grid.groups:
        for identity in grid.identities(group):
            for dataset in grid.datasets:
                if (group, identity, dataset) in grid.cells:
                    yield (group, identity, dataset), grid.cells[group, identity, dataset]


def _runs(grid: Grid, dataset: str) -> Iterator[tuple[dict[str, Any], Run]]:
    """Each run of a dataset with the first columns of its rows of data."""
    for (group, identity, of), cell in _cells(grid):
        for run in cell if of == dataset else ():
            yield {"model": group, "dataset": dataset, "row": grid.labels[identity], "seed": run["seed"]}, run


def _styles(grid: Grid) -> list[str]:
    """Labels of all rows in order: a label's place decides how it looks, in every plot alike."""
    return list(dict.fromkeys(grid.labels[identity] for (_, identity, _), _ in _cells(grid)))


def _provenance(grid: Grid, dataset: str, timed: bool = False) -> str:
    """Data, protocol, seeds, what had not converged, and for seconds the hardware."""
    runs = [run for run in grid.runs if run["dataset"] == dataset]
    config = runs[0].config
    changed = ", ".join(f"{name}={value}" for name, value in sorted(config.get("changed", {}).items()))
    seeds = sorted({run["seed"][-1] if isinstance(run["seed"], tuple) else run["seed"] for run in runs})
    words = [
        f"{dataset} ({runs[0]['split']} split, {runs[0]['fingerprint'][:8]}): {len(runs)} runs, seeds {listed(seeds, ', ')}",
        f"protocol {config['protocol']['name']}, version {config['protocol']['version']}",
    ]
    words += [f"changed: {changed}"] if changed else []
    late = sum(not run["converged"] for run in runs)
    words += [f"{late} not converged (best validation in the last tenth of the steps)"] if late else []
    dead = sum(bool(run.dead) for run in runs)
    words += [f"{dead} with a dead generator (see the notes of a table)"] if dead else []
    if timed:
        words.append(f"on {runs[0]['device']}, {runs[0]['threads']} threads, {runs[0]['kernels']} kernels")
    return "; ".join(words) + "."


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


# Files


def write(plot: Plot, folder: Path) -> list[Path]:
    """The plot in every form at both widths, its data (csv) and its caption (txt); each file whole or not at all.

    The same runs give the same bytes under one version of matplotlib.
    """
    files: dict[str, bytes] = {}
    for ending, width in WIDTHS.items():
        figure = plot.draw(width)
        files |= {f"{plot.name}{ending}.{form}": drawing.save(figure, form, plot.caption) for form in FORMS}
    files[f"{plot.name}.csv"] = plot.data.to_csv(index=False, lineterminator="\n").encode()
    files[f"{plot.name}.txt"] = f"{plot.caption}\n".encode()
    for name, content in files.items():
        with replacing(folder / name, "choose another folder with -o") as file:
            file.write(content)
    return [folder / name for name in files]

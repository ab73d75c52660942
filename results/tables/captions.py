"""What stands below a table, generated from what was done: data, protocol, seeds, test, and what to beware of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from nsbench.results import store
from nsbench.results.stats import statistics
from nsbench.results.stats.clusters import INFLATED
from nsbench.results.stats.ties import TIE_WARNING
from nsbench.results.stats.verdicts import ROPE
from nsbench.results.store import Run
from nsbench.results.store.run import flat
from nsbench.results.store.scores import PARTS
from nsbench.results.tables.contrasts import EQUAL, Contrast
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.labels import chosen, differs, identity_of, implied, listed, proposed, reads, trials
from nsbench.results.tables.metrics import METRICS, READS, Metric


def caption(grid: Grid, shown: Sequence[Metric], test: str | None = None, means: bool = True) -> str:
    """What a reader needs to judge the table, generated from what was done.

    `test` is the sentence on tests, if any; `means`: whether cells are means over seeds.
    """
    quality = any(metric.part == "test" for metric in shown)
    sentences = []
    if quality:
        sentences.append(
            "Each test triple is ranked twice, with its head and with its tail hidden, among all entities except the other "
            "known facts of all splits; a tie counts as the mean of its best and its worst rank"
        )
    if any(metric.part == "diagnostics" for metric in shown):
        sentences.append(
            "Measured on the negatives of 2,048 training triples. FN: share that are facts of train, of any split, of the "
            "whole world. Hardness: share of candidates that score lower, under the finished uniform run of seed 0 (start, "
            "middle and end of training) and under the run's own model. Margin gap: score of the positive minus that of the "
            "negative. Active: share with a gradient. Type-valid: share seen in that place of the relation. Unseen: share "
            "never seen in train. Entropy of the drawn entities, divided by log N. Coverage: share of the N entities drawn. "
            "Distinct: different entities per draw. Generated: vectors, each judged as the entity nearest to it; truth: "
            "share of candidates that score below the replaced entity in the form of such a vector, 50 for a uniform one; "
            "gradient: its norm for the generated negatives over that for the sampled ones, without the weight of either. "
            "Noise loss: of the denoiser, by quarters of the chain, 1 for what predicts none"
        )
    scaled = [metric.header for metric in shown if metric.scale == 100]
    sentences += [f"{', '.join(scaled)} x100"] if scaled else []
    data = []
    for dataset in grid.datasets:
        runs = [run for run in grid.runs if run["dataset"] == dataset]
        digits = runs[0]["fingerprint"][:8]
        data.append(f"{dataset}{_also(runs, 'dataset')} ({runs[0]['split']} split, {digits})")
    sentences.append(f"Data: {', '.join(data)}")
    sentences += [grid.chosen_by] if grid.chosen_by else []
    config = grid.runs[0].config
    changed = ", ".join(f"{name}={value}" for name, value in flat(config.get("changed", {})).items())
    protocol = f"Protocol {grid.runs[0]['protocol']}{_also(grid.runs, 'protocol')}, version {config['protocol']['version']}"
    sentences.append(protocol + (f", changed: {changed}" if changed else ""))
    sizes = {f"{name}={value} of {run['sampler']}" for run in grid.runs for name, value in flat(proposed(run)).items()}
    sentences += [f"The protocol sets {listed(sorted(sizes), ', ')}"] if sizes else []
    selection = {"best": "The model is chosen by validation MRR", "last": "The last model is tested, validated or not"}
    sentences.append(selection[config["protocol"].get("selection", "best")])
    sentences.append(_budget(grid))
    sentences += [f"All rows: {_shared(grid)}"] if _shared(grid) else []
    sentences += [_read(grid)] if READS not in shown and any(map(reads, grid.runs)) else []
    sentences.append(_seeds(grid) if means else f"Seeds: {listed((listed(s) for s in sorted(grid.seed_lists)), ' or ')}")
    sentences += [test] if test else []
    machines = {(run["device"], count(run["threads"], "thread"), f"{run['kernels']} kernels") for run in grid.runs}
    sentences.append(f"Ran on {' and '.join(sorted(map(', '.join, machines)))}")
    return ". ".join(sentences) + "."


def _also(runs: Sequence[Run], what: str) -> str:
    """Other names of one graph or protocol, which is known by its content."""
    names = {str(store.config_value(run.config, store.CONFIG[what])) for run in runs}
    others = sorted(name for name in names - {runs[0][what]} if not runs[0][what].startswith(f"{name}@"))
    return f", also called {listed(others, ', ')}" if others else ""


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _shared(grid: Grid) -> str:
    """Fusion, features and auxiliary losses that all rows have in common, unless there are none."""
    rows = [dict(identity) for identity in grid.labels]
    names = [name for name in rows[0] if name not in ("sampler", "variant", "own_loss") and not name.startswith("sampler.")]
    return ", ".join(f"{n}={rows[0][n]}" for n in names if rows[0][n] != "none" and not differs(n, rows))


def _read(grid: Grid) -> str:
    """What the negatives of each row come from, where its runs say so."""
    found: dict[str, dict[str, list[str]]] = {}  # label -> what is read -> datasets
    for (_, identity, dataset), runs in sorted(grid.cells.items(), key=lambda item: grid.datasets.index(item[0][2])):
        for text in filter(None, map(reads, runs)):
            where = found.setdefault(grid.labels[identity], {}).setdefault(text, [])
            where += [dataset] if dataset not in where else []
    said = []
    for label, texts in sorted(found.items()):
        parts = (f"{text} on {listed(where, ', ')}" if len(texts) > 1 else text for text, where in texts.items())
        said.append(f"{label} reads {listed(parts, ' and ')}")
    return f"What negatives come from: {listed(said, '; ')}"


def _budget(grid: Grid) -> str:
    """What was spent on the choice of options (nsbench.tuning.tune)."""
    tuned = [run for run in grid.runs if trials(run)]
    if not tuned:
        return "Tuning budget: none"
    tuning = tuned[0].config["tuning"]
    length = listed((f"{n:,}" for n in sorted({run.config["tuning"]["steps"] for run in tuned})), " or ")
    what = {
        "frozen": f"its own options, on the backbone that {tuning['budget']} such trials with uniform had chosen for all",
        "alike": "its own options and the backbone's together",
    }
    used = {run["sampler"]: trials(run) for run in tuned if trials(run) < tuning["budget"]}
    fewer = "; where that exhausts the choice, fewer: " + listed((f"{s} {n}" for s, n in sorted(used.items())), ", ")
    return (
        f"Tuning budget: for each sampler {tuning['budget']} trials of {length} steps under protocol {tuning['base']}, by "
        f"validation MRR without the test split ({tuning['search']}, seed {tuning['seed']}), of {what[tuning['backbone']]}"
        + (fewer if used else "")
    )


def _seeds(grid: Grid) -> str:
    if len(grid.seed_lists) > 1:
        return (
            "Mean over n seeds, from 3 seeds on ± standard deviation (ddof 1); best and second best are chosen among the "
            "rows with the largest n of a column"
        )
    (seeds,) = grid.seed_lists
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}), so no spread is known"
    if len(seeds) < statistics.SPREAD_SEEDS:
        return f"Mean of {len(seeds)} seeds ({listed(seeds, ', ')}), too few for a standard deviation"
    return f"Mean ± standard deviation (ddof 1) over {len(seeds)} seeds ({listed(seeds, ', ')})"


TEST = "two-way t over seeds and test triples"
METHOD = (
    f"{TEST}, on the mean reciprocal rank of a triple's two sides; seeds are not paired; the interaction of seeds and "
    "triples counts once, as in an analysis of variance; triples clustered by hub entity where that makes the error larger"
)


SURELY = f"{statistics.POWER:.0%} power".replace("%", " %")


def _would_see(tested: Mapping[Key, Contrast]) -> str:
    """How small a true difference the table's tests find, from the surest row to the least sure."""
    text, found = METRICS["mrr"].text, [contrast.detectable for contrast in tested.values()]
    ends = dict.fromkeys((text(min(found)), text(max(found))))
    return f"With {SURELY} this table would have seen a difference of {listed(ends, ' to ')} points, by row"


def testing(tested: Mapping[Key, Contrast], baseline: str) -> str:
    """What the marks of a table of means say, and by which test."""
    if not tested:
        return f"No test: that takes {statistics.TEST_SEEDS} seeds of a row and of its baseline {baseline}"
    baselines = " or ".join(sorted({contrast.baseline for contrast in tested.values()}))
    return (
        f"▲ ▼ MRR above or below {baselines}{_equal(tested)}: {TEST}; "
        f"Holm over all {len(tested)} of this table, adjusted p < {statistics.ALPHA}. {_would_see(tested)}"
    )


def ablated(tested: Mapping[Key, Contrast], full: str) -> str:
    """As `testing`, for differences from the full method."""
    about = "Δ: MRR minus that of the full method"
    if not tested:
        return f"{about}. No test: that takes {statistics.TEST_SEEDS} seeds of a row and of {full}"
    return (
        f"{about}, with its 95 % interval, not adjusted for the other rows; ▲ ▼ above or below it{_equal(tested)}: {TEST}; "
        f"Holm over all {len(tested)} of this table, adjusted p < {statistics.ALPHA}. {_would_see(tested)}"
    )


def claimed(tested: Mapping[Key, Contrast], baseline: str) -> str:
    """What the words of a verdict mean, and by which test they are chosen."""
    if not tested:
        return f"No test: that takes {statistics.TEST_SEEDS} seeds of a row and of its baseline {baseline}"
    rope = METRICS["mrr"].text(ROPE)
    return (
        f"Δ: MRR minus the baseline's. Test: {METHOD}. The 95 % intervals are not adjusted for the other rows; p is, by "
        f"Holm over all {len(tested)}, so an interval without 0 may stand beside inconclusive. Better or worse: "
        f"adjusted p < {statistics.ALPHA}, and {EQUAL} where the interval lies within ±{rope} all the same; practically "
        "equal: the interval lies there; inconclusive: neither, which is no evidence of equality; not testable: fewer than "
        f"{statistics.TEST_SEEDS} seeds, or some that failed. Would see: the true difference that the row's test finds with "
        f"{SURELY}, whatever the others show (noncentral t, p < {statistics.ALPHA}/{len(tested)}). Bootstrap: "
        f"percentile interval of {statistics.BOOTSTRAP_DRAWS:,} draws of seeds and triples, which counts the interaction of "
        "the two more than once; no verdict uses it. "
        f"P(equal): mass of the difference's t distribution within ±{rope}. Cliff's δ: how often a run beats one of the "
        "baseline, minus how often it loses. Seen entities only: the same on the test triples whose entities both occur in "
        "train, with Holm over those tests"
    )


def _equal(tested: Mapping[Key, Contrast]) -> str:
    if not any(contrast.verdict.negligible for contrast in tested.values()):
        return ""
    return f", {EQUAL} with a 95 % interval of the difference within ±{METRICS['mrr'].text(ROPE)}"


def notes(grid: Grid, skipped: Mapping[str, str], judged: bool, tested: Mapping[Key, Contrast]) -> list[str]:
    """What must not be overlooked: budgets that ended too soon, doubts about a test, verdicts that depend on triples."""
    notes = []
    if judged and not all(run["converged"] for run in grid.runs):
        notes.append("† Not converged at this budget: the best validation came in the last tenth of the steps.")
    for identity, label in sorted(grid.labels.items(), key=lambda item: item[1]):
        row = dict(identity)
        options = implied(row, map(dict, grid.labels))
        if options and row["variant"] != "recommended":  # whose options are all in the label
            values = (f"{name.removeprefix('sampler.')}={row[name]}" for name in options)
            notes.append(f"{label} sets {', '.join(values)}.")
    if any("own_loss" in dict(identity) for identity in grid.labels):
        notes.append("Own loss: the row replaces the loss as well as the sampling, so it is not ranked.")
    if any("captions" in run.config.get("modalities", ()) for run in grid.runs):
        notes.append(
            "captions: a vision-language model wrote them, from the images and the entities' names, with what it knew."
        )
    notes += _on_common_seeds(grid)
    notes += _dead(grid)
    notes += _tuned(grid)
    codes = sorted({str(run["code"]) for run in grid.runs})
    if len(codes) > 1:
        notes.append(f"The runs come from {len(codes)} states of the code ({listed(codes, ', ')}).")
    for key, reasons in sorted(grid.failed.items(), key=lambda item: (item[0][0], grid.labels[item[0][1]], item[0][2])):
        n, why = len(grid.cells.get(key, [])), listed(dict.fromkeys(reasons.values()), "; ")
        unjudged = ", so these are neither ranked nor tested" if n else ""
        notes.append(f"{n} of {n + len(reasons)} runs of {_named(grid, key)}: {len(reasons)} failed ({why}){unjudged}.")
    other = len(skipped) - sum(map(len, grid.failed.values()))
    if other:
        notes.append(f"Unfinished or damaged run folders, left out: {other}.")
    late = [run["seed"] for run in grid.runs if run["seed"] >= run.config["protocol"].get("seeds", run["seed"] + 1)]
    if late and tested:
        notes.append(
            f"Seeds beyond those that the protocol plans: {listed(sorted(set(late)), ', ')}. Adding seeds "
            "until p is small finds differences that are not there."
        )
    return notes + _doubts(grid, tested)


def _named(grid: Grid, key: Key) -> str:
    return f"{grid.labels[key[1]]} ({key[0]}, {key[2]})"


def _on_common_seeds(grid: Grid) -> list[str]:
    """Which runs a table in the middle of a sweep leaves out."""
    notes = []
    for (group, dataset), runs in sorted(grid.left_out.items()):
        fewer = Counter(grid.labels[identity_of(run)] for run in runs)
        lost = listed((f"{count(n, 'run')} of {label}" for label, n in sorted(fewer.items())), ", ")
        notes.append(f"{group} on {dataset} stands on the seeds that its rows have in common; left out: {lost}.")
    return notes + [
        f"Rows of {group} on {dataset} have fewer than {statistics.TEST_SEEDS} seeds in common, so none is tested that has "
        "other seeds than its baseline."
        for group, dataset in sorted(grid.apart)
    ]


def _dead(grid: Grid) -> list[str]:
    """Rows under whose name a generator ran that taught the model nothing, and how that shows."""
    notes = []
    for key, runs in sorted(grid.cells.items(), key=lambda item: (item[0][0], grid.labels[item[0][1]], item[0][2])):
        if lost := [run for run in runs if run.dead]:
            notes.append(
                f"The generator of {_named(grid, key)} is dead in {len(lost)} of {count(len(runs), 'run')}; in that of "
                f"seed {lost[0]['seed']}, {listed(lost[0].dead, ', and ')}."
            )
    return notes


def _tuned(grid: Grid) -> list[str]:
    """What the trials chose and how many failed, and rows that had none beside rows that had."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for key, runs in grid.cells.items():
        tuning = runs[0].config.get("tuning", {"trials": 0})
        named = _named(grid, key)
        values = ", ".join(f"{name.partition('.')[2]}={value}" for name, value in flat(chosen(runs[0])).items())
        failed = f", {tuning['failed']} of its trials failed" if tuning.get("failed") else ""
        if tuning["trials"] and values:
            found[True].append(f"{named} {values}{failed}")
        elif not tuning["trials"]:
            found[False].append(named)
    notes = [f"Chosen by tuning: {listed(found[True], '; ')}."] if found[True] else []
    if found[False] and any(trials(run) for run in grid.runs):
        notes.append(f"Not tuned, unlike the other rows: {listed(found[False], ', ')}.")
    return notes


def _doubts(grid: Grid, tested: Mapping[Key, Contrast]) -> list[str]:
    """About single tests: hubs, ties, and triples with entities that train does not have."""
    notes = []
    text = METRICS["mrr"].text
    named = {key: _named(grid, key) for key in tested}
    inflated = {named[key]: c.test.inflation for key, c in tested.items() if c.test.inflation > INFLATED}
    if inflated:
        notes.append(
            "Test triples around one hub entity move together: over triples the clustered standard error is "
            f"{_largest(inflated, '{:.2f} times the plain one for {}'.format)}."
        )
    tied = {named[key]: c.ties for key, c in tested.items() if c.ties > TIE_WARNING}
    if tied:
        said = _largest(tied, lambda gap, name: f"{text(gap)} for {name} or its baseline")
        notes.append(f"Ties: their order could move the MRR by up to {said}.")
    if not tested:
        return notes
    for name, part in PARTS.items():
        if datasets := sorted({key[2] for key, c in tested.items() if name not in c.again}):
            where = listed(datasets, ", ")
            notes.append(f"Not repeated on test triples {part.words}: the runs of {where} do not record which those are.")
        for key, c in tested.items():
            if c.changed(name):
                again = c.again[name]
                notes.append(
                    f"{named[key]} is {c.verdict.word}, but {again.verdict.word} on the test triples {part.words} "
                    f"({text(again.test.difference, sign=True)})."
                )
    return notes


def _largest(values: Mapping[str, float], words: Callable[[float, str], str], most: int = 3) -> str:
    """The largest of the named values in words, and how many more there are."""
    order = sorted(values, key=lambda name: -values[name])
    more = [f"less for {len(order) - most} more"] if len(order) > most else []
    return ", ".join([*(words(values[name], name) for name in order[:most]), *more])

"""What stands below a table, generated from what was done: data, protocol, seeds, test, and what to beware of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nsbench.results import store
from nsbench.results.stats import statistics
from nsbench.results.stats.clusters import INFLATED
from nsbench.results.stats.ties import TIE_WARNING
from nsbench.results.stats.verdicts import ROPE
from nsbench.results.store import Run
from nsbench.results.store.run import flat
from nsbench.results.store.scores import PARTS
from nsbench.results.tables.cells import Caption, Row
from nsbench.results.tables.contrasts import EQUAL, Contrast
from nsbench.results.tables.grid import Grid, Key
from nsbench.results.tables.labels import chosen, differs, identity_of, implied, listed, proposed, reads, trials
from nsbench.results.tables.metrics import METRICS, READS, Metric


class Said(NamedTuple):
    """What one part of a table adds to its caption: sentences, and for each sign what it says where it occurs."""

    what: Sequence[str] = ()
    how: Sequence[str] = ()
    signs: Mapping[str, str] = {}


RANKED = (
    "Each test triple is ranked twice, with its head and with its tail hidden, among all entities",
    "The other known facts of all splits are left out",
    "A tie counts as the mean of its best and its worst rank",
)
DRAWN = {  # by the names of diagnostics, without the time of their measurement
    "": "Measured on the negatives of 2,048 training triples",
    "false_negatives_train": "FN train: share that are facts of train",
    "false_negatives_known": "FN known: of any split",
    "false_negatives_world": "FN world: of the whole world",
    "hardness": "Hardness: share of candidates that score lower, under the finished uniform run of seed 0 (start, middle "
    "and end of training)",
    "hardness_now": "Own model: the same under the run's own",
    "margin_gap": "Margin gap: score of the positive minus that of the negative",
    "active": "Active: share with a gradient",
    "type_valid": "Type-valid: share seen in that place of the relation",
    "unseen": "Unseen: share never seen in train",
    "entropy": "Entropy of the drawn entities, divided by log N",
    "coverage": "Coverage: share of the N entities drawn",
    "distinct": "Distinct: different entities per draw",
    "generated_false_negatives_known": "Generated: vectors, each judged as the entity nearest to it",
    "generated_truth": "Truth: share of candidates that score below the replaced entity in the form of such a vector, 50 "
    "for a uniform one",
    "generated_gradient": "Gradient: its norm for the generated negatives over that for the sampled ones, without the "
    "weight of either",
    "noise_loss_quarter1": "Noise loss: of the denoiser, by quarters of the chain, 1 for what predicts none",
}


def caption(grid: Grid, shown: Sequence[Metric], rows: Sequence[Row], *said: Said, means: bool = True) -> Caption:
    """What a reader needs to judge the table, generated from what was done.

    `means`: whether cells are means over seeds; `said`: what the table's parts add.
    """
    parts = {metric.part for metric in shown}
    scaled = [metric.header for metric in shown if metric.scale == 100]
    what = [_seeds(grid) if means else f"Seeds: {listed((listed(s) for s in sorted(grid.seed_lists)), ' or ')}"]
    what += [f"{'Fractions' if 'diagnostics' in parts else ', '.join(scaled)} x100"] if scaled else []
    data = []
    for dataset in grid.datasets:
        runs = [run for run in grid.runs if run["dataset"] == dataset]
        digits = runs[0]["fingerprint"][:8]
        data.append(f"{dataset}{_also(runs, 'dataset')} ({runs[0]['split']} split, {digits})")
    what.append(f"Data: {', '.join(data)}")
    what += [grid.chosen_by] if grid.chosen_by else []
    what += [f"All rows: {_shared(grid)}"] if _shared(grid) else []
    what += [_read(grid)] if READS not in shown and any(map(reads, grid.runs)) else []
    names = {"", *(metric.name.partition(".")[2] for metric in shown)}
    what += [text for name, text in DRAWN.items() if name in names] if "diagnostics" in parts else []
    what += [text for each in said for text in each.what]
    how = [*RANKED] if "test" in parts else []
    config = grid.runs[0].config
    changed = ", ".join(f"{name}={value}" for name, value in flat(config.get("changed", {})).items())
    protocol = f"Protocol {grid.runs[0]['protocol']}{_also(grid.runs, 'protocol')}, version {config['protocol']['version']}"
    how.append(protocol + (f", changed: {changed}" if changed else ""))
    sizes = {f"{name}={value} of {run['sampler']}" for run in grid.runs for name, value in flat(proposed(run)).items()}
    how += [f"The protocol sets {listed(sorted(sizes), ', ')}"] if sizes else []
    selection = {"best": "The model is chosen by validation MRR", "last": "The last model is tested, validated or not"}
    how += [selection[config["protocol"].get("selection", "best")], _budget(grid)]
    how += [text for each in said for text in each.how]
    machines = {(run["device"], count(run["threads"], "thread"), f"{run['kernels']} kernels") for run in grid.runs}
    ran = f"Ran on {' and '.join(sorted(map(', '.join, machines)))}"
    signs = {sign: text for each in said for sign, text in each.signs.items()}
    signs["†"] = "† Not converged at this budget: the best validation came in the last tenth of the steps"
    signs["-"] = f'"-" {signs.pop("-", "No run" if "test" in parts else "Not measured")}'
    return Caption(sentences(*what), sentences(*how, ran), signed(rows, signs))


def sentences(*said: str) -> str:
    return "".join(f"{text}. " for text in said).rstrip()


def signed(rows: Sequence[Row], signs: Mapping[str, str]) -> str:
    """What the signs that occur in these rows say; a sign is a mark, a word, a whole value, or a test's verdict."""
    there: set[str] = set()
    for cell in (cell for row in rows for cell in row.cells):
        there |= {cell.value, cell.spread, *cell.marks, *cell.spread.split(), str(cell.record.get("verdict"))}
    return sentences(*(text for sign, text in signs.items() if sign in there))


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
            f"Mean over n seeds, from {statistics.SPREAD_SEEDS} seeds on ± standard deviation (ddof 1). Best and second "
            "best are chosen among the rows with the largest n of a column"
        )
    (seeds,) = grid.seed_lists
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}), so no spread is known"
    if len(seeds) < statistics.SPREAD_SEEDS:
        return f"Mean of {len(seeds)} seeds ({listed(seeds, ', ')}), too few for a standard deviation"
    return f"Mean ± standard deviation (ddof 1) over {len(seeds)} seeds ({listed(seeds, ', ')})"


TEST = "two-way t over seeds and test triples"
METHOD = (
    f"Test: {TEST}, on the mean reciprocal rank of a triple's two sides",
    "Seeds are not paired",
    "The interaction of seeds and triples counts once, as in an analysis of variance",
    "Triples are clustered by hub entity where that makes the error larger",
)
SURELY = f"{statistics.POWER:.0%} power".replace("%", " %")
WITHIN = f"within ±{METRICS['mrr'].text(ROPE)}"


def _would_see(tested: Mapping[Key, Contrast]) -> str:
    """How small a true difference the table's tests find, from the surest row to the least sure."""
    text, found = METRICS["mrr"].text, [contrast.detectable for contrast in tested.values()]
    ends = dict.fromkeys((text(min(found)), text(max(found))))
    return f"With {SURELY} this table would have seen a difference of {listed(ends, ' to ')} points, by row"


def _tests(tested: Mapping[Key, Contrast], baseline: str) -> Said:
    """By which test the marks of a table stand, and what they say."""
    if not tested:
        return Said(how=[f"No test: that takes {statistics.TEST_SEEDS} seeds of a row and of {baseline}"])
    over = f"Test of MRR: {TEST}; Holm over all {len(tested)} of this table, adjusted p < {statistics.ALPHA}"
    signs = {mark: f"{mark} MRR {word} {baseline}" for mark, word in (("▲", "above"), ("▼", "below"))}
    signs["inconclusive"] = "No ▲ ▼: no difference shown, which is no evidence of equality"
    signs[EQUAL] = f"{EQUAL} Practically equal: the 95 % interval of the difference lies {WITHIN}"
    return Said(how=[over, _would_see(tested)], signs=signs)


def testing(tested: Mapping[Key, Contrast], baseline: str) -> Said:
    """Of a table of means."""
    baselines = " or ".join(sorted({contrast.baseline for contrast in tested.values()}))
    return _tests(tested, baselines or f"its baseline {baseline}")


def ablated(tested: Mapping[Key, Contrast], full: str) -> Said:
    """Of differences from the full method."""
    about = [f"Δ: MRR minus that of {full}, the full method"]
    about += ["In brackets its 95 % interval, not adjusted for the other rows"] if tested else []
    said = _tests(tested, full)
    return Said(about, said.how, {**said.signs, "-": "No run; at Δ, the full method itself"})


def claimed(tested: Mapping[Key, Contrast], baseline: str) -> Said:
    """What the columns of claims hold, what the words of a verdict mean, and by which test they are chosen."""
    about, signs = "Δ: MRR minus the baseline's", {"not testable": UNTESTED, "-": "No test"}
    if not tested:
        return Said([about], _tests(tested, f"its baseline {baseline}").how, signs)
    what = [
        about,
        "The 95 % intervals are not adjusted for the other rows",
        f"Would see: the true difference that the row's test finds with {SURELY}, whatever the others show (noncentral t, "
        f"p < {statistics.ALPHA}/{len(tested)})",
        f"Bootstrap: percentile interval of {statistics.BOOTSTRAP_DRAWS:,} draws of seeds and triples. It counts the "
        "interaction of the two more than once, and no verdict uses it",
        "Cliff's δ: how often a run beats one of the baseline, minus how often it loses",
        f"P(equal): mass of the difference's t distribution {WITHIN}",
        *(f"{part.short.capitalize()}: the same on the test triples {part.words}" for part in PARTS.values()),
    ]
    how = [*METHOD, f"p is adjusted by Holm over all {len(tested)}, so an interval without 0 may stand beside inconclusive"]
    signs |= {word: f"{word.capitalize()}: adjusted p < {statistics.ALPHA}" for word in ("better", "worse")}
    signs[EQUAL] = f"{EQUAL} The interval lies {WITHIN} all the same"
    signs["practically equal"] = f"Practically equal: the interval lies {WITHIN}"
    signs["inconclusive"] = "Inconclusive: neither, which is no evidence of equality"
    signs["at this budget"] = "At this budget: the best validation of some run came in the last tenth of its steps"
    signs["(changed)"] = "(changed) Another verdict than on all test triples"
    return Said(what, how, signs)


UNTESTED = f"Not testable: fewer than {statistics.TEST_SEEDS} seeds, or some that failed"


def notes(grid: Grid, skipped: Mapping[str, str], tested: Mapping[Key, Contrast]) -> list[str]:
    """What must not be overlooked: runs that failed, doubts about a test, verdicts that depend on triples."""
    notes = []
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

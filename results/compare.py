"""Two groups of runs in one paragraph: what differs, by how much, with what certainty, and what may not be said.

What is constant in each group and not the same in both is what is compared. Whatever varies within the groups (models,
datasets, ...), apart from seeds, sorts their runs into blocks; a block holds runs of both groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nsbench.errors import Misuse
from nsbench.files import expanded
from nsbench.metrics import realistic
from nsbench.results import store
from nsbench.results.stats import paired, statistics
from nsbench.results.stats.clusters import INFLATED, labels
from nsbench.results.stats.verdicts import ROPE
from nsbench.results.store import Run
from nsbench.results.store.run import PLUGINS, flat, labelled
from nsbench.results.store.scores import PARTS, SAME_DATA, parts, scores
from nsbench.results.tables.captions import SURELY
from nsbench.results.tables.contrasts import Contrast, adjusted, contrast_of
from nsbench.results.tables.fields import p_text
from nsbench.results.tables.labels import listed
from nsbench.results.tables.metrics import METRICS

APART = (
    "seed",
    "id",
    "changed",
    "own_loss",
    "proposed",
    "replayed",
    "reads",
    "called",
    "feature_fingerprint",
    "feature_bytes",
    "protocol_digest",
)  # a run's own, implied, or refused
AGREE = 0.01  # p of the randomisation and of the t test on thousands of triples, but for a broken tail
NAMING = ("sampler", "kge", "fusion", "dataset")  # what a block is called by, where that tells blocks apart

Factors = Mapping[str, str]
Block = tuple[tuple[str, str], ...]  # factors that vary within the groups: (name, value)


@dataclass(frozen=True)
class Compared:
    """The runs of both groups in a block, and as much of a test as their seeds allow."""

    name: str
    a: list[Run]
    b: list[Run]
    triples: int
    contrast: Contrast | None = None  # from five seeds a side on
    single: tuple[paired.PairedT, float] | None = None  # of one run against one other, with the randomisation's p

    @property
    def difference(self) -> float:
        return _mean(self.a) - _mean(self.b)


def compare(first: str, second: str, runs: str | Path | None = None, where: Mapping[str, Any] | None = None) -> str:
    """The paragraph. A group is a folder of runs, a run's folder or name, or filters as sampler=dhns,kge=transe.

    `where` filters both groups. Misuse where the two cannot be compared.
    """
    if first == second:
        raise Misuse(f"both groups are '{first}'; name two that differ")
    groups, stores = zip(*(_group(text, runs, where or {}) for text in (first, second)))
    together = labelled([run for group in groups for run in group])  # they may come from two stores
    groups = together[: len(groups[0])], together[len(groups[0]) :]
    _refuse_mixed_features([run for group in groups for run in group])
    factors = [[_factors(run) for run in group] for group in groups]
    varying = _varying(factors)
    blocks = [_blocks(group, found, varying) for group, found in zip(groups, factors)]
    differing = _differing(factors, varying)
    if other := [name for name in SAME_DATA if name in differing]:
        values = " and ".join(differing[other[0]])
        raise Misuse(f"the groups differ in {other[0]} ({values}), so they answer different questions; keep one {other[0]}")
    if not differing:
        raise Misuse(f"'{first}' and '{second}' differ in nothing but what varies within them; narrow them with --where")
    common = [block for block in blocks[0] if block in blocks[1]]
    if not common:
        ours, theirs = ("; ".join(map(_full_name, found)) for found in blocks)
        raise Misuse(f"the groups have no cell in common: the first has {ours}, the second {theirs}; filter with --where")
    names = _names(common)
    stored = [run for runs_of in stores for run in runs_of]
    found = {block: _compared(names[block], blocks[0][block], blocks[1][block], stored) for block in common}
    tests = adjusted({block: each.contrast for block, each in found.items() if each.contrast is not None})
    compared = [replace(each, contrast=tests.get(block)) for block, each in found.items()]
    left_out = [_full_name(block) for group in blocks for block in group if block not in common]
    return " ".join(_sentences(compared, differing, left_out))


def _group(text: str, runs: str | Path | None, where: Mapping[str, Any]) -> tuple[list[Run], list[Run]]:
    """The runs that an argument means, and those of the store that they are in."""
    path, filters, name = expanded(text), {}, ""
    if "=" in text:
        stored, filters = store.read(runs).runs, _filters(text)
    elif path.is_file() or (path.is_dir() and not (path / "result.json").exists()):
        stored = store.read(path).runs
    else:
        stored, name = store.read(path.resolve().parent if path.is_dir() else runs).runs, path.resolve().name
    found = [run for run in stored if name in run.name]
    if not found:
        raise Misuse(f"'{text}' means no complete run; give a folder of runs, a run's name, or filters as sampler=dhns")
    return store.select(store.select(found, where), filters), stored  # never the one for the other


def _filters(text: str) -> dict[str, str]:
    """`sampler=dhns,seed=0,1` as {"sampler": "dhns", "seed": "0,1"}: a word without = is one more value."""
    found: dict[str, str] = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if name in found and equals:
            raise Misuse(f"'{text}' names {name} twice; give it once: {name}={found[name]},{value} passes both")
        if equals:
            found[name] = value
        elif found:
            last = list(found)[-1]
            found[last] += f",{word}"
        else:
            raise Misuse(f"a filter is NAME=VALUE, not '{word}'")
    return found


def _refuse_mixed_features(runs: Sequence[Run]) -> None:
    """As tables do: of one dataset, features of one name are the same."""
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        here = run.config.get("feature_fingerprint", "")
        if found.setdefault((run["dataset"], run["features"]), here) != here:
            raise Misuse(
                f"the features '{run['features']}' of {run['dataset']} are not the same in all runs; "
                f"keep one kind with the filter feature_fingerprint@{run['dataset']}={here[:8]}"
            )


def _factors(run: Run) -> Factors:
    """Everything that the configuration fixes, flat, apart from the seed and what follows from the rest."""
    names = {part: run[part] for part in ("dataset", *PLUGINS)}
    config = {**run.config, **names, "protocol": {**run.config["protocol"], "name": run["protocol"]}}
    return flat({name: value for name, value in config.items() if name not in APART})


def _varying(groups: Sequence[Sequence[Factors]]) -> list[str]:
    """Factors of which a group holds several values."""
    names = sorted({name for group in groups for factors in group for name in factors})
    return [name for name in names if any(len({factors.get(name) for factors in group}) > 1 for group in groups)]


def _differing(groups: Sequence[Sequence[Factors]], varying: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Factors that each group holds one value of, and not the same: name -> the two values."""
    ours, theirs = (group[0] for group in groups)
    names = [name for name in sorted({*ours, *theirs}) if name not in varying and ours.get(name) != theirs.get(name)]
    other = {name for name in names if name in ("sampler", "kge", "fusion")}  # whose versions say nothing then
    kept = [name for name in names if not (name.startswith(("versions.", "sources.")) and name.partition(".")[2] in other)]
    kept = [name for name in kept if name != "modalities" or "features" not in kept]
    return {name: (ours.get(name, "default"), theirs.get(name, "default")) for name in kept}


def _blocks(runs: Sequence[Run], factors: Sequence[Factors], varying: Sequence[str]) -> dict[Block, list[Run]]:
    found: dict[Block, list[Run]] = {}
    for run, known in sorted(zip(runs, factors), key=lambda pair: pair[0]["seed"]):
        members = found.setdefault(tuple((name, known.get(name, "default")) for name in varying), [])
        if members and members[-1]["seed"] == run["seed"]:
            pair = f"{members[-1].name} and {run.name}"
            raise Misuse(f"{pair} are two runs of one seed; move one of them away")
        members.append(run)
    return found


def _full_name(block: Block) -> str:
    return ", ".join(f"{name}={value}" for name, value in block) or "one cell"


def _names(blocks: Sequence[Block]) -> dict[Block, str]:
    short = {block: " ".join(dict(block)[name] for name in NAMING if name in dict(block)) for block in blocks}
    return short if len(set(short.values())) == len(blocks) else {block: _full_name(block) for block in blocks}


def _compared(name: str, a: list[Run], b: list[Run], stored: Sequence[Run]) -> Compared:
    """A block's runs; any of the `stored` ones tells the parts of its test triples."""
    ours, theirs = scores(a, like=b[0]), scores(b, like=b[0])
    found = Compared(name, a, b, len(theirs.triples))
    hubs = labels(theirs.triples)
    few, many = sorted((len(a), len(b)))
    if few >= statistics.TEST_SEEDS:
        _refuse_unequal_seeds(a, b, name or "this cell")
        return replace(found, contrast=contrast_of("B", ours, theirs, hubs, parts(b[0], stored)))
    if many == 1:
        x, y = (1 / realistic(run.ranks().ranks) for run in (a[0], b[0]))  # [T, 2 sides]
        p = paired.randomisation(x, y, np.random.default_rng(0), hubs)
        return replace(found, single=(paired.paired_t(x, y, clusters=hubs), p))
    return found


def _refuse_unequal_seeds(a: Sequence[Run], b: Sequence[Run], where: str) -> None:
    """Misuse unless the two arms of a test have the same seeds."""
    ours, theirs = ([run["seed"] for run in arm] for arm in (a, b))
    if ours == theirs:
        return
    common = sorted(set(ours) & set(theirs))
    enough = len(common) >= statistics.TEST_SEEDS
    fix = f"keep the common ones with the filter seed={listed(common)}" if enough else "run the missing ones"
    raise Misuse(
        f"the first group has seeds {listed(ours)} on {where} and the second has {listed(theirs)}, "
        f"so they cannot be tested; {fix}"
    )


# Words


def _sentences(compared: Sequence[Compared], differing: Mapping[str, tuple[str, str]], left_out: Sequence[str]) -> list[str]:
    what = listed((f"{name} ({one} and {other})" for name, (one, other) in differing.items()), ", ")
    runs = [run for each in compared for run in (*each.a, *each.b)]
    protocol = f"protocol {runs[0]['protocol']}, version {runs[0]['protocol_version']}"
    said = [f"A and B differ in {what}; MRR x100, {_constants(runs)}, {protocol}."]
    said += [_finding(each, len(compared)) for each in compared]
    if len(compared) > 1:
        said.append(_overall(compared, len(left_out)))
    if left_out:
        said.append(f"Left out, with runs of one group only: {listed(left_out, '; ')}.")
    return [*said, f"What may not be said: {listed(_limits(compared, differing, runs), '; ')}."]


def _constants(runs: Sequence[Run]) -> str:
    values = (listed(dict.fromkeys(run[name] for run in runs), ", ") for name in ("kge", "dataset", "split"))
    return "{} on {} ({} split)".format(*values)


def _finding(each: Compared, blocks: int) -> str:
    text = METRICS["mrr"].text
    where = f"{each.name}: " if blocks > 1 else ""
    figures = f"{where}A has {_arm(each.a)} and B {_arm(each.b)}"
    if each.single is not None:
        t, randomised = each.single
        p = max(t.p, randomised)  # one of two that must agree is broken where they do not: the one that claims more, say
        doubt = "; they should agree, and the larger decides" if abs(t.p - randomised) > AGREE else ""
        surely = f"model A ranks this test set {'better' if t.difference > 0 else 'worse'} than model B"
        word = surely if p < statistics.ALPHA else "the two models cannot be told apart on this test set"
        return (
            f"{figures}; {word}: {text(t.difference, sign=True)}, 95 % interval {_interval(t.interval)} (paired over "
            f"{each.triples:,} test triples{_clustered(t.inflation)}, randomisation p {p_text(randomised)}, "
            f"t p {p_text(t.p)}{doubt})."
        )
    if each.contrast is None:
        fewest = min(len(each.a), len(each.b))
        return f"{figures}; A minus B is {text(each.difference, sign=True)}, not testable with {fewest} seeds on a side."
    seen = f"With {SURELY} it would have seen a difference of {text(each.contrast.detectable)} points."
    return f"{figures}; {_verdict(each, blocks)}. {seen} {_effect(each)}{_on_parts(each)}"


def _verdict(each: Compared, blocks: int) -> str:
    assert each.contrast is not None
    test, (word, negligible) = each.contrast.test, each.contrast.verdict
    rope = METRICS["mrr"].text(ROPE)
    words = {
        "better": "A is better",
        "worse": "A is worse",
        "practically equal": f"they are practically equal, the interval lying within ±{rope}",
        "inconclusive": "which is better, or whether they are equal, is open",
    }
    slight = f", if by no more than ±{rope}" if negligible and word in ("better", "worse") else ""
    p = f"p {p_text(test.p)}" if blocks == 1 else f"p {p_text(each.contrast.p_holm)} after Holm over {each.contrast.family}"
    difference = METRICS["mrr"].text(test.difference, sign=True)
    return (
        f"{words[word]}{slight}: {difference}, 95 % interval {_interval(test.interval)} "
        f"(two-way t over seeds and {each.triples:,} test triples{_clustered(test.inflation)}, {p})"
    )


def _clustered(inflation: float) -> str:
    """Which standard error over the triples was used, the larger one: nothing for the plain one."""
    if inflation <= 1:
        return ""
    times = f", which makes the error {inflation:.2f} times the plain one" if inflation > INFLATED else ""
    return f", clustered by hub entity{times}"


def _effect(each: Compared) -> str:
    ours, theirs = (np.array([run["mrr"] for run in arm]) for arm in (each.a, each.b))
    wins = int((ours[:, None] > theirs).sum())
    return f"A run of A beats a run of B in {wins} of {len(ours) * len(theirs)} pairs."


def _on_parts(each: Compared) -> str:
    assert each.contrast is not None
    said = ""
    for name, part in PARTS.items():
        again = each.contrast.again.get(name)
        if again is None:
            said += f" Whether that holds on the test triples {part.words} these runs do not record."
            continue
        text = METRICS["mrr"].text(again.test.difference, sign=True)
        same = f"the verdict changes to {again.verdict.word}" if each.contrast.changed(name) else "the verdict stays"
        said += f" On the test triples {part.words} {same} ({text}, {_interval(again.test.interval)})."
    return said


def _overall(compared: Sequence[Compared], lacking: int) -> str:
    differences = [each.difference for each in compared]
    said = f"A is above B in {sum(d > 0 for d in differences)} of {len(compared)} blocks"
    if len(compared) < statistics.FEWEST_BLOCKS:
        return f"{said}, too few for a test over blocks."
    from nsbench.results.stats.blocks import LACKING

    if lacking > LACKING * (len(compared) + lacking):
        return f"{said}; {lacking} more have runs of one group only, so these are a choice and there is no test over blocks."
    from nsbench.results.stats.posthoc import wilcoxon

    p = p_text(wilcoxon(differences))
    return f"{said} (signed-rank p {p}; blocks that share a dataset or a model are not independent)."


def _limits(compared: Sequence[Compared], differing: Mapping[str, tuple[str, str]], runs: Sequence[Run]) -> list[str]:
    """What the data in hand do not carry, first what the reader is likeliest to say."""
    said = []
    words = {each.contrast.verdict.word for each in compared if each.contrast}
    rope = METRICS["mrr"].text(ROPE)
    if any(each.single for each in compared):
        factor = " or ".join(differing)
        said.append(f"that {factor} made the difference, for a test of one run each does not see what other seeds would do")
    if any(each.contrast is None and each.single is None for each in compared):
        said.append("that either is better, or that they are equal, where there was no test")
    if "inconclusive" in words:
        said.append("that they are equal because no difference was found")
    if words & {"better", "worse"} and any(_may_be_small(each) for each in compared):
        said.append(f"that the difference matters, for its interval reaches into ±{rope}")
    if len(differing) > 1:
        said.append(f"which of {listed(differing, ', ')} made it")
    if any(run.config.get("own_loss") for run in runs):
        said.append("that the sampler made it, for a group replaces the loss as well")
    if dead := sum(bool(run.dead) for run in runs):
        said.append(f"what generated negatives are worth, for the generators of {dead} of {len(runs)} runs are dead")
    late = sum(not run["converged"] for run in runs)
    if late:
        said.append(f"anything beyond this budget, at which {late} of {len(runs)} runs had not converged")
    return [*said, "anything about other models, datasets, protocols or budgets"]


def _may_be_small(each: Compared) -> bool:
    if each.contrast is None or each.contrast.verdict.word not in ("better", "worse"):
        return False
    low, high = each.contrast.test.interval
    return low < ROPE and high > -ROPE


def _arm(runs: Sequence[Run]) -> str:
    text, values = METRICS["mrr"].text, [run["mrr"] for run in runs]
    if len(values) == 1:
        return f"{text(values[0])} (one run, seed {runs[0]['seed']})"
    spread = f" ± {text(statistics.sd(values))}" if len(values) >= statistics.SPREAD_SEEDS else ""
    return f"{text(float(np.mean(values)))}{spread} (seeds {listed((run['seed'] for run in runs), ', ')})"


def _interval(ends: Iterable[float]) -> str:
    low, high = (METRICS["mrr"].text(end, sign=True) for end in ends)
    return f"{low} to {high}"


def _mean(runs: Sequence[Run]) -> float:
    return float(np.mean([run["mrr"] for run in runs]))

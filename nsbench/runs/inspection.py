"""`nsbench inspect`: by name, what the sampler of a finished run draws for one query, and what the model thinks of it.

The model is the one that was tested, the sampler's state that of the last step; both come from a run with --save-model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nsbench.config.run import from_record
from nsbench.contracts import Dataset, Positives, Sampler
from nsbench.datasets.loading import is_folder, load_dataset
from nsbench.datasets.questions import folded
from nsbench.errors import Misuse, suggest
from nsbench.files import expanded
from nsbench.registry import DATASETS
from nsbench.runs.folder import RunFolder
from nsbench.training.diagnostics import nearest
from nsbench.training.seeds import generator
from nsbench.training.trainer import Trainer

TOP = 10  # of the two lists that --overlap compares


@dataclass(frozen=True)
class Line:
    """One entity of the answer."""

    name: str
    share: float  # of the draws
    score: float
    rank: int  # of the score among all entities, 1 is the highest
    fact: str  # the split that has it as an answer, or nothing


@dataclass(frozen=True)
class Inspection:
    """What is drawn for one query."""

    query: str
    draws: int
    generated: bool  # the sampler makes vectors; an entity stands for those that lie nearest to it
    drawn: list[Line]  # most often drawn first
    hardest: list[Line]  # the TOP entities of the highest score that do not answer the query in train


def inspect(folder: Path, *, head: str | None, relation: str, tail: str | None, dataset: str | None = None) -> Inspection:
    """Draw for the query (head, relation, ?) or (?, relation, tail): a batch of the run's size, K each.

    `dataset` names the data where the run's own name for them does not (a folder). Raises Misuse for a run without saved
    model, an unknown name, and a query that train does not answer.
    """
    if (head is None) == (tail is None):
        raise Misuse("give --head or --tail, one of them: the other is what the sampler replaces")
    trainer, data = _restored(folder, dataset)
    kept = _index(head if head is not None else str(tail), data.entities, "entity")
    r = _index(relation, data.relations, "relation")
    asks_head = head is None
    positives = _positives(trainer, data, kept, r, asks_head)
    scoring = trainer.scoring()
    with torch.no_grad():
        scores = scoring.all(torch.tensor([kept]), torch.tensor([r]), torch.tensor([asks_head]))[0]
    counts, generated = torch.zeros(data.num_entities), False
    for block in trainer.draw(positives, generator(0, "inspection")):
        counted = torch.ones(block.shape, dtype=torch.bool) if block.valid is None else block.valid
        if block.weight is not None:
            counted = counted & (block.weight > 0)
        if block.generated is not None:
            generated = True
            drawn = [(nearest(scoring, block.generated, slice(None)), counted)]
        else:
            drawn = [(ids, here & counted) for ids, here in block.replacements(positives)]
        for ids, here in drawn:
            counts.index_add_(0, ids.reshape(-1), here.reshape(-1).float())
    split = _facts(data, kept, r, asks_head)
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(1, len(order) + 1))

    def line(entity: int) -> Line:
        share = (counts[entity] / counts.sum().clamp(min=1)).item()
        return Line(data.entities[entity], share, scores[entity].item(), int(rank[entity]), split.get(entity, ""))

    often = [e for e in counts.argsort(descending=True, stable=True).tolist() if counts[e] > 0]
    hardest = [e for e in order[: TOP + len(split)].tolist() if split.get(e) != "train"][:TOP]
    ends = ("?", data.entities[kept]) if asks_head else (data.entities[kept], "?")
    query = f"({ends[0]}, {data.relations[r]}, {ends[1]})"
    return Inspection(query, int(counts.sum()), generated, [line(e) for e in often], [line(e) for e in hardest])


def text(found: Inspection, top: int, overlap: bool) -> str:
    """For people: the `top` entities most often drawn; with `overlap` the hardest too."""
    what = "generated vectors, each as the entity nearest to it" if found.generated else "draws"
    parts = [f"{found.query}: {found.draws:,} {what}, {len(found.drawn):,} different entities", _grid(found.drawn[:top])]
    if overlap:
        likeliest = found.drawn[:TOP]
        shared = sum(line in likeliest for line in found.hardest)
        parts.append(
            f"\nThe {TOP} entities of the highest score that do not answer in train; {shared} of them (*) are among the "
            f"{TOP} likeliest draws\n{_grid(found.hardest, likeliest)}"
        )
    return "\n".join(parts)


def _grid(lines: list[Line], marked: list[Line] | None = None) -> str:
    """A row per entity; those that are in `marked` get a star."""
    from tabulate import tabulate

    rows = []
    for line in lines:
        star = "* " if marked and line in marked else ""
        fact = f"true ({line.fact})" if line.fact else ""
        rows.append([star + line.name, f"{100 * line.share:.2f} %", f"{line.score:.3f}", line.rank, fact])
    header = ["entity", "of the draws", "score", "rank", "fact"]
    return tabulate(rows, header, disable_numparse=True, colalign=("left", "right", "right", "right", "left"))


def find_run(store: Path, name: str) -> Path:
    """A run's folder by path, by name, or by any part of its name that only it has."""
    if ((folder := expanded(name)) / "result.json").exists():
        return folder
    runs = sorted(path.parent for path in store.glob("*/result.json"))
    found = [path for path in runs if path.name == name] or [path for path in runs if name in path.name]
    if len(found) == 1:
        return found[0]
    if found:
        raise Misuse(f"{len(found)} runs in {store} are called like '{name}'; name one, such as {found[0].name}")
    raise Misuse(f"no finished run in {store} is called like '{name}'{suggest(name, [path.name for path in runs])}")


def _restored(folder: Path, name: str | None) -> tuple[Trainer, Dataset]:
    """The trainer of a finished run as it was tested, and its data."""
    with _read(folder / "config.json"):
        record: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = from_record(record)
    if config.replayed is not None:
        raise Misuse(f"{folder} drew nothing itself; inspect the run that it replays, {config.replayed['id']}")
    if not (folder / "model.safetensors").exists():
        raise Misuse(f"{folder} has no saved model; run it again into another store with --save-model")
    label = config.dataset  # of a folder, which may be anywhere
    if name is None and not is_folder(label) and label.partition(":")[0] not in DATASETS.names():
        raise Misuse(f"{folder} was trained on a graph called {label}; name its folder with --dataset")
    data = load_dataset(name or label, split=config.split, features=config.features)
    check_same(folder, config.record(data), record)
    trainer = Trainer(config, data)
    if not isinstance(trainer.sampler, Sampler):
        raise Misuse(f"{config.sampler} is an objective and draws no negatives; inspect the run of a sampler")
    with _read(folder / "model.safetensors"):
        tensors = load_file(folder / "model.safetensors")
        trainer.kge.restore({key: x for key, x in tensors.items() if not key.startswith("fusion.")})
        trainer.fusion.load_state_dict({key[7:]: x for key, x in tensors.items() if key.startswith("fusion.")})
    with _read(folder / "sampler.safetensors"):
        trainer.sampler.load_state_dict(load_file(folder / "sampler.safetensors"), strict=False)
    with _read(folder / "result.json"):
        trainer.step_count = RunFolder(folder).result()["cost"]["steps"]
    return trainer, data


def check_same(folder: Path, here: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Misuse where the configuration `here` has other data or code than the run in the folder, whose config is `record`."""
    if here["fingerprint"] != record.get("fingerprint"):
        raise Misuse(f"{folder} was trained on other data than {here['dataset']} is here; give --dataset")
    for part, what in (("feature_fingerprint", "features"), ("versions", "versions of its parts"), ("sources", "code")):
        if here[part] != record.get(part):
            raise Misuse(f"{folder} was made with other {what} than are here; run it again into another store")


@contextlib.contextmanager
def _read(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the content of a file of the run is the file's fault. Misuse that names it."""
    try:
        yield
    except Misuse:
        raise
    except Exception:
        raise Misuse(f"{path} is damaged or missing; run it again into another store with --save-model") from None


def _positives(trainer: Trainer, data: Dataset, kept: int, r: int, asks_head: bool) -> Positives:
    """A batch of the training triples that answer the query, each as often as the others."""
    graph = trainer.graph
    column = 2 if asks_head else 0
    rows = ((graph.triples[:, column] == kept) & (graph.triples[:, 1] == r)).nonzero().squeeze(1)
    if not len(rows):
        known = graph.triples[graph.triples[:, column] == kept, 1].unique().tolist()
        names = ", ".join(data.relations[i] for i in known[:8]) or "none"
        raise Misuse(f"train has no answer to this query, so nothing is drawn for it; relations that have one: {names}")
    batch = trainer.protocol.batch
    side = torch.full((batch,), asks_head)
    return graph.positives(rows.repeat(-(-batch // len(rows)))[:batch], side)


def _facts(data: Dataset, kept: int, r: int, asks_head: bool) -> dict[int, str]:
    """Answer -> the first of the splits (then other known facts, then the complete world) that has it."""
    parts: list[tuple[str, Tensor | None]] = [
        ("train", data.train),
        ("valid", data.valid),
        ("test", data.test),
        ("known", data.known),
        ("world", data.world),
    ]
    column, other = (2, 0) if asks_head else (0, 2)
    found: dict[int, str] = {}
    for name, triples in parts:
        if triples is not None:
            chosen = triples[(triples[:, column] == kept) & (triples[:, 1] == r), other]
            for entity in chosen.tolist():
                found.setdefault(entity, name)
    return found


def _index(name: str, names: Sequence[str], kind: str) -> int:
    """The id of a name; `#7` is number 7. A relation may go by what follows its last / or #."""
    if name.startswith("#") and name[1:].isdecimal():
        if int(name[1:]) < len(names):
            return int(name[1:])
        raise Misuse(f"there is no {kind} {name}; they are numbered from #0 to #{len(names) - 1}")
    for form in (str, folded, lambda text: folded(text.replace("#", "/").rpartition("/")[2])):
        found = [i for i, known in enumerate(names) if form(known) == form(name)]
        if len(found) == 1:
            return found[0]
        if found:
            many = ", ".join(f"#{i}" for i in found[:5])
            raise Misuse(f"{len(found)} of kind {kind} are called '{name}'; name one by its number: {many}")
    raise Misuse(f"no {kind} is called '{name}'{suggest(name, names)}")

"""One run as tables see it: its settings and figures by name, what it recorded, and the ranks of its test triples."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsbench.errors import Misuse
from nsbench.identity import graph_label, marked, plugin_label
from nsbench.results.store.packed import packed, unzipped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Settings that come from config.json, and where they are in it.
CONFIG = {name: name for name in ("sampler", "variant", "kge", "fusion", "dataset", "split", "features", "seed", "id")}
CONFIG |= {"fingerprint": "fingerprint", "protocol": "protocol.name", "protocol_version": "protocol.version"}
PLUGINS = ("sampler", "kge", "fusion")  # of these, which may be files
METRICS = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "amri")
COST = ("seconds", "train_seconds", "sampler_seconds", "evaluation_seconds", "peak_memory")
ENV = ("device", "threads", "kernels")
SETTINGS = (*CONFIG, "aux", *ENV, "code")
FIGURES = (*METRICS, *(f"valid_{name}" for name in METRICS), *COST, "sampler_state", "steps", "selected_at", "converged")
UNKNOWN = "unknown"  # what a run that came to no result does not say, and every filter lets pass

# Where values are in result.json, and what they are. Most tables read a few of them, and only when they are written.
KINDS: dict[str, type] = {f"config.{where}": str for where in CONFIG.values()}
KINDS |= {"config.seed": int, "config.protocol.version": int, "code": str | None}  # type: ignore[dict-item]
KINDS |= {"config.aux": dict, "config.changed": dict, "config.options": dict, "cost.steps": int, "selected_at": int}
KINDS |= {"env.device": str, "env.threads": int, "env.kernels": str, **{f"cost.{name}": float for name in COST}}
KINDS |= {f"config.options.{part}": dict for part in ("sampler", "kge", "fusion", "aux")}
KINDS |= {"config.tuning": dict, "config.tuning.trials": int, "config.tuning.chosen": dict, "config.modalities": list}
KINDS |= {"breakdown": dict, **{f"breakdown.{by}": dict for by in ("category", "seen", "twin", "side", "frequency")}}
KINDS |= {"diagnostics": dict, **{f"diagnostics.{moment}": dict for moment in ("sampler", "start", "middle", "end")}}
KINDS |= {"config.sources": dict, "config.protocol_digest": str}
KINDS |= {"config.proposed": dict, "config.reads": list, "config.called": str, "dead": list}


class Damaged(Exception):
    """Why something in a store is no complete run."""


class Ranks(NamedTuple):
    """T test triples: ranks [T, 2 (head, tail), 2 (optimistic, pessimistic)], candidates [T, 2], triples [T, 3].

    `seen` [T]: whether both entities of the triple occur in train; `twin` [T]: whether train joins them by another relation.
    None where the run did not record it.
    """

    ranks: NDArray[np.integer]
    candidates: NDArray[np.integer]
    triples: NDArray[np.int64]
    seen: NDArray[np.bool_] | None
    twin: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Run:
    """A complete run, or one that was begun: that has a `config`, its settings in `values`, and an empty `record`.

    `path` is its folder, or STORE.nsb/NAME in a packed store. `record` is result.json. `run["mrr"]` is one of `values`:
    SETTINGS and FIGURES, by name.
    """

    path: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def dead(self) -> list[str]:
        """Why the run counts its sampler's generator as dead, a sentence each; empty where it does not, or has none."""
        return list(map(str, self.record.get("dead", ())))

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def ranks(self) -> Ranks:
        """Read from disk on each call. Misuse if they are damaged."""
        path, pack = self.path, packed(self.path.parent)
        file = path / "ranks.npz"
        try:
            arrays = pack.arrays(path.name) if pack else unzipped(file, file.read_bytes())
            stored = Ranks(*(arrays.get(name) for name in Ranks._fields))  # type: ignore[arg-type]
            count = len(stored.triples)
            shapes = [array.shape for array in stored[:3]]
        except (OSError, TypeError, AttributeError) as error:
            raise Misuse(f"{file} is damaged ({error}); delete {path} and run it again") from None
        if shapes != [(count, 2, 2), (count, 2), (count, 3)]:
            raise Misuse(f"{file} has arrays of shapes {', '.join(map(str, shapes))}; delete {path} and run it again")
        parts = (stored.seen, stored.twin)
        seen, twin = (None if part is None or part.shape != (count,) else part.astype(bool) for part in parts)
        return stored._replace(seen=seen, twin=twin)


def complete(path: Path, record: Mapping[str, Any]) -> Run:
    """The run of a result.json; Damaged with the reason if that lacks something that tables need."""
    try:
        row = _settings(record["config"])
        row |= {name: record["env"][name] for name in ENV} | {"code": record.get("code")}
        row |= {name: float(record["test"][name]) for name in METRICS}
        row |= {f"valid_{name}": float(record["valid"][name]) for name in METRICS}
        row |= {name: record["cost"][name] for name in (*COST, "steps")} | {"selected_at": record["selected_at"]}
        row["sampler_state"] = record["cost"].get("sampler_state")  # bytes; runs of earlier versions do not say
        row["converged"] = bool(record["converged"])
        for where, kind in KINDS.items():
            with contextlib.suppress(KeyError):  # what tables cannot do without is in the lines above
                if not _is(_field(record, where), kind):
                    raise TypeError(f"{where} is not what it should be")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"result.json lacks what a table needs ({error})") from None
    # Comparisons with nan are false, so this refuses it too; and it catches a figure in percent.
    if not (0 <= row["mrr"] <= 1 and row["mr"] >= 1 and all(0 <= row[f"hits@{k}"] <= 1 for k in (1, 3, 10))):
        raise Damaged("result.json holds metrics that cannot be")
    return Run(path, record["config"], record, row)


def begun(path: Path, config: Mapping[str, Any]) -> Run:
    """The run of a config.json without a result. KeyError, TypeError or AttributeError if it is none."""
    return Run(path, config, {}, _settings(config) | dict.fromkeys((*ENV, "code"), UNKNOWN))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    row = {column: _field(config, where) for column, where in CONFIG.items()}
    row["dataset"] = graph_label(row["dataset"], row["fingerprint"])
    row |= {part: plugin_label(row[part]) for part in PLUGINS if isinstance(row[part], str)}  # others are damage
    return row | {"aux": "+".join(sorted(config["aux"])) or "none"}


def labelled(runs: Sequence[Run]) -> list[Run]:
    """The same runs, where one thing has one name: the first that it goes by, of a graph, a protocol or a plugin's file.

    Two files that go by one name are told apart: `mine.py:Mine@3f9a1c2b`.
    """
    first: dict[tuple[str, str], str] = {}  # what it is, by content -> its name
    files: dict[str, set[str]] = {}  # name of a plugin -> SHA-256 of its files
    for run in runs:
        for what, content in _contents(run).items():
            first.setdefault((what, content), run[what])
            if what in PLUGINS:
                files.setdefault(run[what], set()).add(content)
    found = []
    for run in runs:
        names = {what: first[what, content] for what, content in _contents(run).items()}
        for part in PLUGINS:
            if part in names and len(files[run[part]]) > 1:
                names[part] = marked(run[part], run.config["sources"][part])
        found.append(
            run if all(run[what] == name for what, name in names.items()) else replace(run, values={**run.values, **names})
        )
    return found


def _contents(run: Run) -> dict[str, str]:
    """What the run's names stand for, where names are the user's."""
    found = {"dataset": f"{run['fingerprint']} {run['split']}"}
    if digest := run.config.get("protocol_digest"):
        found["protocol"] = f"{digest} {run['protocol_version']}"
    sources = run.config.get("sources", {})
    return found | {
        part: f"{sources[part]} {run[part].rpartition(':')[2]}"
        for part in PLUGINS
        if ".py:" in run[part] and part in sources
    }


def _is(value: Any, kind: type) -> bool:
    """As JSON has it: a whole number is a number, true is none."""
    return isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)


def _field(record: Mapping[str, Any], path: str) -> Any:
    """record["a"]["b"] for "a.b", where a key may itself hold dots; KeyError where it ends."""
    if path in record:
        return record[path]
    first, _, rest = path.partition(".")
    return _field(record[first], rest)


def config_value(config: Mapping[str, Any], name: str) -> Any:
    """config["protocol"]["steps"] for "protocol.steps"; None where there is no such value."""
    try:
        return _field(config, name)
    except (KeyError, TypeError):
        return None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested options as `name.inner -> text`, sorted."""
    found: dict[str, str] = {}
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def content(path: Path, name: str) -> bytes:
    """A file of the run at `path`, in a folder or in a packed store. FileNotFoundError where there is none."""
    pack = packed(path.parent)
    return pack.content(path.name, name) if pack else (path / name).read_bytes()


def events(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's events.jsonl. OSError or ValueError where there is none that can be read."""
    return [json.loads(line) for line in content(path, "events.jsonl").splitlines()]

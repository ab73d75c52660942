"""The run store: a folder of run folders, read into one frame. A run is complete when its result.json is there.

What was read once is remembered (nsbench.results.cache) for as long as the files stay what they were.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsbench.errors import Misuse
from nsbench.results import cache

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Columns of the frame that come from config.json, and where they are in it.
CONFIG = {name: name for name in ("sampler", "variant", "kge", "fusion", "dataset", "split", "features", "seed", "id")}
CONFIG |= {"fingerprint": "fingerprint", "protocol": "protocol.name", "protocol_version": "protocol.version"}
METRICS = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "amri")
COST = ("seconds", "train_seconds", "sampler_seconds", "evaluation_seconds", "peak_memory")
ENV = ("device", "threads", "kernels")
SETTINGS = (*CONFIG, "aux", *ENV, "code")
FIGURES = (*METRICS, *(f"valid_{name}" for name in METRICS), *COST, "sampler_state", "steps", "selected_at", "converged")
COLUMNS = ("path", *SETTINGS, *FIGURES, "config", "result")
CACHED = tuple(name for name in COLUMNS if name not in ("path", "result"))
FAILED = "failed: "  # begins why a folder was skipped, where the run says so itself
UNKNOWN = "unknown"  # what a run that came to no result does not say, and every filter lets pass
WORTH_CACHING = 100  # runs; fewer are read as fast as a cache of them


class Ranks(NamedTuple):
    """Of T test triples: ranks [T, 2 (head, tail), 2 (optimistic, pessimistic)], candidates [T, 2], triples [T, 3].

    The arrays are read-only: runs on the same triples share them.
    """

    ranks: np.ndarray
    candidates: np.ndarray
    triples: np.ndarray


class _Damaged(Exception):
    """Why a folder is no complete run."""


def default_folder() -> Path:
    """NSBENCH_RUNS, or ./runs."""
    return Path(os.environ.get("NSBENCH_RUNS") or "runs")


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which takes a third of the time to find that none of these records is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@uncollected()
def load(folder: str | Path | None = None) -> pd.DataFrame:
    """One row per complete run, by folder name; no folder given: `default_folder`. Figures are fractions.

    Unfinished and damaged run folders never stop the reading: `frame.attrs["skipped"]` maps each to the reason.
    `frame.attrs["folder"]` is the store. A store that does not exist is an empty one.
    """
    import pandas as pd

    store = default_folder() if folder is None else Path(folder)
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    first: dict[str, list[dict[str, Any]]] = {}  # id -> rows
    before, entries = cache.read("runs", store), {}
    for name in folders(store):
        path = store / name
        identity = cache.identity(str(path))  # before reading: a later change must show
        known, values = before.get(name, (None, ()))
        try:
            if values and known == identity:
                row = {"path": path, **dict(zip(CACHED, values)), "result": Record(path, identity)}
            else:
                result = _read(path)
                row = {"path": path, **_row(result), "result": Record(path, identity, result)}
            twins = first.setdefault(str(row["id"]), [])
            if twin := next((other for other in twins if other["config"] == row["config"]), None):
                raise _Damaged(f"the same run as {twin['path'].name}")
        except _Damaged as reason:
            skipped[name] = str(reason)
        else:
            twins.append(row)
            rows.append(row)
            if identity and cache.settled(identity):
                entries[name] = [identity, [row[column] for column in CACHED]]
    if len(entries) >= WORTH_CACHING and entries != before:
        cache.keep("runs", store, entries)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs.update(folder=str(store), skipped=skipped)
    return frame


def begun(frame: pd.DataFrame) -> pd.DataFrame:
    """The skipped folders of a frame of `load` that have a config.json: its settings, the rest UNKNOWN or empty."""
    import pandas as pd

    rows = []
    for name in frame.attrs.get("skipped", {}):
        path = Path(frame.attrs["folder"]) / name
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            rows.append({"path": path, **_settings(config), **dict.fromkeys((*ENV, "code"), UNKNOWN), "config": config})
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def records(frame: pd.DataFrame) -> list[Mapping[str, Any]]:
    """The rows, by column: as frame.to_dict("records"), in a fifth of the time."""
    columns = {str(name): frame[name].tolist() for name in frame}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def folders(store: Path) -> list[str]:
    """Names of the folders in the store, sorted; none if it does not exist."""
    try:
        with os.scandir(store) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


class Record(Mapping[str, Any]):
    """result.json of a run, read when it is first looked into: most tables do with the frame's other columns.

    `identity` is that of the run's files when they were listed (nsbench.results.cache).
    """

    def __init__(self, path: Path, identity: list[int] | None, content: dict[str, Any] | None = None) -> None:
        self._path, self.identity = path, identity
        if content is not None:
            self._content = content

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        try:
            return _read(self._path)
        except _Damaged as reason:
            raise Misuse(f"{self._path} has changed just now ({reason}); give the command again") from None

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def _read(path: Path) -> dict[str, Any]:
    """result.json of a folder that seems complete; _Damaged with the reason if it is not."""
    try:
        text = (path / "result.json").read_bytes()
    except FileNotFoundError:
        raise _Damaged(_why_unfinished(path)) from None
    except OSError as error:
        raise _Damaged(f"result.json cannot be read: {error.strerror}") from None
    if not zipfile.is_zipfile(path / "ranks.npz"):  # looks at the end of the file only, which a cut file lacks
        raise _Damaged("ranks.npz is missing or cut off")
    try:
        return json.loads(text.decode("utf-8"))
    except ValueError:
        raise _Damaged("result.json is not JSON") from None


def _why_unfinished(path: Path) -> str:
    """Of a folder without result.json."""
    if (path / "failed.json").exists():
        try:
            return f"{FAILED}{json.loads((path / 'failed.json').read_bytes())['reason']}"
        except (OSError, ValueError, TypeError, KeyError):
            return f"{FAILED}failed.json is damaged"
    return "not finished" if (path / "config.json").exists() else "no run: no config.json and no result.json"


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    row = {column: _field(config, where) for column, where in CONFIG.items()}
    return row | {"aux": "+".join(sorted(config["aux"])) or "none"}


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """The CACHED columns of the frame; _Damaged with the reason if result.json lacks something for them."""
    try:
        row = _settings(result["config"])
        row |= {name: float(result["test"][name]) for name in METRICS}
        row |= {f"valid_{name}": float(result["valid"][name]) for name in METRICS}
        row |= {name: result["cost"][name] for name in COST}
        row |= {name: result["env"][name] for name in ENV}
        row["sampler_state"] = result["cost"].get("sampler_state")  # bytes; runs of earlier versions do not say
        row |= {"steps": result["cost"]["steps"], "selected_at": result["selected_at"], "code": result.get("code")}
        row |= {"converged": bool(result["converged"]), "config": result["config"]}
        for where, kind in KINDS.items():
            with contextlib.suppress(KeyError):  # what tables cannot do without is in the lines above
                if not _is(_field(result, where), kind):
                    raise TypeError(f"{where} is not what it should be")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _Damaged(f"result.json lacks what a table needs ({error})") from None
    # Comparisons with nan are false, so this refuses it too; and it catches a figure in percent.
    if not (0 <= row["mrr"] <= 1 and row["mr"] >= 1 and all(0 <= row[f"hits@{k}"] <= 1 for k in (1, 3, 10))):
        raise _Damaged("result.json holds metrics that cannot be")
    return row


# Where values are in result.json, and what they are. Most tables read a few of them, and only when they are written.
KINDS: dict[str, type] = {f"config.{where}": str for where in CONFIG.values()}
KINDS |= {"config.seed": int, "config.protocol.version": int, "code": str | None}  # type: ignore[dict-item]
KINDS |= {"config.aux": dict, "config.changed": dict, "config.options": dict, "cost.steps": int, "selected_at": int}
KINDS |= {"env.device": str, "env.threads": int, "env.kernels": str, **{f"cost.{name}": float for name in COST}}
KINDS |= {f"config.options.{part}": dict for part in ("sampler", "kge", "fusion", "aux")}
KINDS |= {"config.tuning": dict, "config.tuning.trials": int, "config.tuning.chosen": dict, "config.modalities": list}
KINDS |= {"breakdown": dict, **{f"breakdown.{by}": dict for by in ("category", "seen", "side", "frequency")}}
KINDS |= {"diagnostics": dict, **{f"diagnostics.{moment}": dict for moment in ("sampler", "start", "middle", "end")}}


def _is(value: Any, kind: type) -> bool:
    """As JSON has it: a whole number is a number, true is none."""
    return isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)


def _field(record: Mapping[str, Any], path: str) -> Any:
    """record["a"]["b"] for "a.b", where a key may itself hold dots; KeyError where it ends."""
    if path in record:
        return record[path]
    first, _, rest = path.partition(".")
    return _field(record[first], rest)


def ranks(run: Mapping[str, Any] | pd.Series | str | Path) -> Ranks:
    """The stored ranks of a row of the frame, or of a run folder; read from disk on each call."""
    from nsbench.results import npz

    path = Path(run if isinstance(run, str | Path) else run["path"])
    try:
        stored = Ranks(*npz.read(path / "ranks.npz", Ranks._fields, shared=("candidates", "triples")))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise Misuse(f"{path / 'ranks.npz'} is damaged ({error}); delete {path} and run it again") from None
    count = len(stored.triples)
    if [x.shape for x in stored] != [(count, 2, 2), (count, 2), (count, 3)]:
        shapes = ", ".join(str(list(x.shape)) for x in stored)
        raise Misuse(f"{path / 'ranks.npz'} has arrays of shapes {shapes}; delete {path} and run it again")
    return stored


def select(frame: pd.DataFrame, filters: Mapping[str, Any]) -> pd.DataFrame:
    """The runs that pass every filter: `{"dataset": "mkg_y", "protocol.steps": [2000, 6000], "split@db15k": "clean"}`.

    A filter names one of SETTINGS or, with dots, a value of config.json; after an @, it applies only to the runs of that
    dataset, sampler, model, fusion or auxiliary loss. It passes one value or any of a list, compared as text: "0,1" is as
    good as [0, 1], "none" is a value that is not there, eight digits of a fingerprint are enough.
    Misuse for one of FIGURES or an unknown name, and for a value that no run has.
    """
    for filter_name, wanted in filters.items():
        name, _, scope = filter_name.partition("@")
        if figure := next((each for each in (filter_name, name) if each in FIGURES), None):
            raise Misuse(f"runs cannot be chosen by {figure}, a result: that biases every figure; choose by a setting")
        values = wanted.split(",") if isinstance(wanted, str) else wanted
        chosen = {comparable(name, value) for value in (values if isinstance(values, Iterable) else [values])}
        held = [comparable(name, value) for value in _values(frame, name)]
        concerned = [not scope or scope in parts for parts in zip(*(frame[part] for part in SCOPES))]
        there = {value for value, applies in zip(held, concerned) if applies and value != UNKNOWN}
        if not chosen <= there:
            missing = ", ".join(sorted(chosen - there))
            raise Misuse(f"no run has {filter_name}={missing}; there is {', '.join(sorted(there)) or 'no such run'}")
        chosen.add(UNKNOWN)
        frame = frame.loc[[value in chosen or not applies for value, applies in zip(held, concerned)]]
    return frame


SCOPES = ("dataset", "sampler", "kge", "fusion", "aux")


def _values(frame: pd.DataFrame, name: str) -> list[Any]:
    if name in SETTINGS:
        return list(frame[name])
    values = [config_value(config, name) for config in frame["config"]]
    if values and all(value is None for value in values):
        there = ", ".join(SETTINGS)
        raise Misuse(f"cannot filter by '{name}'; filter by {there}, or by a value of config.json as protocol.steps")
    return values


def comparable(name: str, value: Any) -> str:
    """A value as filters compare it: text, and of a fingerprint the first eight digits."""
    text = "none" if value is None else str(value)
    return text[:8] if name.endswith("fingerprint") else text


def config_value(config: Mapping[str, Any], name: str) -> Any:
    """config["protocol"]["steps"] for "protocol.steps"; None where there is no such value."""
    try:
        return _field(config, name)
    except (KeyError, TypeError):
        return None

"""Reading a run store: a folder of run folders, of which those with a result.json are complete, or a packed store."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nsbench.files import store_folder
from nsbench.results.store.packed import packed
from nsbench.results.store.run import PLUGINS, Damaged, Run, begun, complete, content, labelled

FAILED = "failed: "  # begins why something was skipped, where the run says so itself


@dataclass(frozen=True)
class Store:
    """The complete runs of a store, by name, and what was skipped: name -> reason, of which `begun` have a config.json."""

    folder: Path
    runs: list[Run]
    skipped: dict[str, str]
    begun: list[Run]


def folders(store: Path) -> list[str]:
    """Names of the runs of a packed store, or of the folders in a folder, sorted; none if it does not exist."""
    if pack := packed(store):
        return list(pack.runs)
    try:
        with os.scandir(store) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def read(store: str | Path | None = None) -> Store:
    """The runs of a store, or of the default one. Unfinished and damaged ones never stop the reading.

    A store that does not exist is an empty one.
    """
    folder = store_folder(store)
    found = Store(folder, [], {}, [])
    first: dict[str, list[Run]] = {}  # id -> runs
    for name in folders(folder):
        try:
            run = complete(folder / name, _record(folder / name))
            twins = first.setdefault(str(run["id"]), [])
            if twin := next((other for other in twins if but_for_names(other) == but_for_names(run)), None):
                raise Damaged(f"the same run as {twin.name}")
        except Damaged as reason:
            found.skipped[name] = str(reason)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                config = json.loads(content(folder / name, "config.json"))
                found.begun.append(begun(folder / name, config))
        else:
            twins.append(run)
            found.runs.append(run)
    together = labelled([*found.runs, *found.begun])
    count = len(found.runs)
    return replace(found, runs=together[:count], begun=together[count:])


def but_for_names(run: Run) -> dict[str, Any]:
    """What the run is: copies of it may have been begun under other names of its data, protocol or plugins."""
    protocol = {**run.config["protocol"], "name": ""}
    return {**run.config, "protocol": protocol, **dict.fromkeys(("dataset", *PLUGINS), ""), "feature_bytes": ""}


def _record(path: Path) -> dict[str, Any]:
    """result.json of a folder that seems complete; Damaged with the reason if it is not."""
    try:
        text = content(path, "result.json")
    except FileNotFoundError:
        raise Damaged(_why_unfinished(path)) from None
    except OSError as error:
        raise Damaged(f"result.json cannot be read: {error.strerror}") from None
    # It looks at the end of the file only, which a cut file lacks.
    if not packed(path.parent) and not zipfile.is_zipfile(path / "ranks.npz"):
        raise Damaged("ranks.npz is missing or cut off")
    try:
        return json.loads(text.decode("utf-8"))
    except ValueError:
        raise Damaged("result.json is not JSON") from None


def _why_unfinished(path: Path) -> str:
    """Why a folder has no result.json."""
    if (path / "failed.json").exists():
        try:
            return f"{FAILED}{json.loads((path / 'failed.json').read_bytes())['reason']}"
        except (OSError, ValueError, TypeError, KeyError):
            return f"{FAILED}failed.json is damaged"
    return "not finished" if (path / "config.json").exists() else "no run: no config.json and no result.json"

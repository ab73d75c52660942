"""How to be rid of runs: of whole folders that hold nothing but what runs write, and that no process works on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsbench.errors import Misuse
from nsbench.files import unfinished
from nsbench.results.store import folders, read, select
from nsbench.results.store.packed import KEPT
from nsbench.runs.folder import RunFolder

OWN = (*KEPT, "checkpoint.pt", "failed.json", "lock")  # files that a run writes, or wrote in earlier versions
MADE_BY_A_RUN = {"config.json", "result.json", "checkpoint.pt", "failed.json"}  # a folder with none of them is no run's


def chosen(folder: Path, names: Sequence[str], where: Mapping[str, Any]) -> list[Path]:
    """The run folders of these names that pass the filters; without names, the complete runs that do.

    Misuse unless each of them is a folder of the store with nothing in it but what runs write.
    """
    if not names and not where:
        raise Misuse("say which runs: their folders' names, or --where NAME=VALUE (nsbench runs list)")
    there = folders(folder)
    passing = [run.name for run in select(read(folder).runs, where)] if where else there
    given = [Path(name).name if Path(name).parent in (folder, Path()) else name for name in names]
    missing = [name for name in given if name not in there]
    if missing:
        raise Misuse(f"there is no folder {missing[0]} in {folder}; nsbench runs list shows those there are")
    paths = [folder / name for name in (dict.fromkeys(given) if names else passing) if name in passing]
    for path in paths:
        refuse_strangers(path)
    return paths


def refuse_strangers(path: Path) -> None:
    """Misuse unless the folder is a run's, and holds nothing else."""
    if path.is_symlink():
        raise Misuse(f"{path} is a link to a folder elsewhere; remove the link by hand")
    with os.scandir(path) as entries:
        held = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    strange = sorted(name for name, file in held.items() if not (file and _own(name)))
    if not MADE_BY_A_RUN & held.keys():
        raise Misuse(f"{path} is no run folder: it holds neither config.json nor result.json")
    if strange:
        raise Misuse(f"{path} holds {strange[0]}, which no run writes; move that away first")


def _own(name: str) -> bool:
    """Whether a run writes files of this name; of one that was killed in the middle of it, too."""
    earlier = name.endswith(".tmp") and any(name.startswith(f"{own}.") for own in OWN)  # of earlier versions
    return name in OWN or unfinished(name) in OWN or earlier or name == "claim" or name.startswith("claim.")


def remove(path: Path) -> None:
    """Delete a run's folder. Busy while another process works on it; Misuse as `refuse_strangers`."""
    refuse_strangers(path)
    folder = RunFolder(path)
    with folder.claimed():
        folder.remove("result.json")  # first what makes it complete
        for entry in list(path.iterdir()):
            if _own(entry.name) and not entry.name.startswith("claim"):
                folder.remove(entry.name)
    path.rmdir()  # refuses where something has come since

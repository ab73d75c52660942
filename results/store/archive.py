"""A run store as one file, to carry it from machine to machine: `nsbench runs pack` and `nsbench runs merge`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbench.errors import Misuse, RunFailed
from nsbench.files import explained, replacing
from nsbench.results.store.packed import KEPT, packed, write
from nsbench.results.store.reading import but_for_names, read
from nsbench.results.store.run import content


class Merged(NamedTuple):
    """Folder names: what came, what was there already, and what could not be used, with the reason."""

    added: list[str]
    present: list[str]
    refused: dict[str, str]


def pack(folder: Path, archive: Path) -> list[str]:
    """Write the complete runs of the store to a file; returns their names. Unfinished and damaged ones stay behind."""
    paths = [run.path for run in read(folder).runs]
    if not paths:
        raise Misuse(f"no complete run in {folder}; there is nothing to pack")
    if packed(folder):
        raise Misuse(f"{folder} is packed already; copy it")
    with replacing(archive) as file:
        write(file, paths)
    return [path.name for path in paths]


def merge(archive: Path, folder: Path) -> Merged:
    """Add the runs of a packed store, or of another store's folder; a run that is there already stays as it is.

    Nothing but the known files of a run is taken, and only into folders of the store; a run that cannot be read is refused.
    """
    with _made(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".merge-") as scratch:
        found = read(archive)
        refused = dict(found.skipped)
        if not found.runs and not refused:
            raise Misuse(f"{archive} holds no run; give an archive of `nsbench runs pack`, or a store's folder")
        added, present = [], []
        here = read(folder).runs
        names, contents = {run.name for run in here}, {run["id"]: but_for_names(run) for run in here}
        for run in found.runs:
            path = run.path
            if path.name in names or contents.get(run["id"]) == but_for_names(run):
                present.append(path.name)
                continue
            if (folder / path.name).exists():  # begun here, not finished: the finished one is worth more
                refused[path.name] = f"an unfinished run of that name is in {folder}; delete it to take the finished one"
                continue
            ready = Path(scratch) / f"ready-{path.name}"
            ready.mkdir()
            for name in KEPT:
                with contextlib.suppress(FileNotFoundError):
                    held = content(path, name)
                    with explained(folder / path.name, "free some space or choose another store with --runs"):
                        (ready / name).write_bytes(held)
            os.replace(ready, folder / path.name)  # whole or not at all
            added.append(path.name)
    return Merged(added, present, refused)


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder; one in which a refusal leaves nothing goes again."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(f"cannot write {folder}: {error.strerror}; choose another store with --runs") from None
    try:
        yield
    except Misuse:
        if made:
            folder.rmdir()
        raise

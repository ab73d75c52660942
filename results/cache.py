"""What a store's result.json files said last time, in the user's cache folder: a shortcut, never a source of figures.

One file per store, replaced whole. Its first line is {"format", "store", "checksum" of what follows}; the second names
the runs, each with the identity of the files it was read from; then comes the text of each result.json, a line each. A
run whose files are others now is read again; so is everything if the cache is damaged, of another format or cannot be
read. Nothing is cached in the store itself, which may be read-only, under version control or copied about.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FORMAT = 1
FILES = ("result.json", "ranks.npz")
SMALLEST = 100  # runs; fewer are read as fast as a cache of them
SETTLED = 2 * 10**9  # nanoseconds; a younger file may change again without its times changing


class Entry(NamedTuple):
    identity: list[int]
    text: bytes  # of result.json, in one line


def identity(folder: str) -> list[int] | None:
    """Times, sizes and inodes of the files that a row depends on; None where one is missing."""
    found = []
    try:
        for name in FILES:
            status = os.stat(f"{folder}/{name}")
            found += [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]
    except OSError:
        return None
    return found


def read(store: Path) -> dict[str, Entry]:
    """The runs of the store as they were when last kept, by folder name; empty where there is no sound cache."""
    try:
        first, _, rest = _file(store).read_bytes().partition(b"\n")
        if json.loads(first) != _head(store, rest):
            return {}
        runs, *texts = rest.split(b"\n")
        return {name: Entry(known, text) for (name, known), text in zip(json.loads(runs), texts, strict=True)}
    except (OSError, ValueError, TypeError, RuntimeError):  # RuntimeError: there is no home, or a nest too deep for json
        return {}


def keep(store: Path, entries: Mapping[str, Entry], before: Mapping[str, Entry]) -> None:
    """Write the entries if they are worth it and differ from those of `before`. Silent where that is impossible."""
    latest = time.time_ns() - SETTLED
    settled = {name: entry for name, entry in entries.items() if max(*entry.identity[:2], *entry.identity[4:6]) < latest}
    if len(settled) < SMALLEST or settled == before:
        return
    runs = json.dumps([[name, entry.identity] for name, entry in settled.items()], separators=(",", ":"))
    rest = b"\n".join([runs.encode(), *(entry.text for entry in settled.values())])
    with contextlib.suppress(OSError, RuntimeError):
        final = _file(store)
        final.parent.mkdir(parents=True, exist_ok=True)
        _forget_lost_stores(final.parent)
        temporary = final.with_name(f"{final.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(json.dumps(_head(store, rest)).encode() + b"\n" + rest)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


def _file(store: Path) -> Path:
    """Raises RuntimeError where there is no home folder."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsbench" / "stores"
    return folder / hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:16]


def _head(store: Path, rest: bytes) -> dict[str, object]:
    return {"format": FORMAT, "store": str(store.resolve()), "checksum": zlib.crc32(rest)}


def _forget_lost_stores(folder: Path) -> None:
    """Caches of stores that are gone, such as unpacked archives, would stay for ever."""
    for path in folder.iterdir():
        try:
            with path.open("rb") as file:
                lost = not Path(json.loads(file.readline(2**16))["store"]).is_dir()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            continue  # damaged, or another process is writing it or has removed it
        if lost:
            path.unlink(missing_ok=True)

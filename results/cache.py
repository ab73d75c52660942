"""What was read and computed before, in the user's cache folder: a shortcut, never a source of figures.

One file per store and kind of content, replaced whole: a line {"code", "store", "checksum" of what follows}, then JSON.
It counts for nothing if it is damaged or other code wrote it. What it says of a run holds for as long as the run's files
are what they were. Nothing is kept in the store itself, which may be read-only, under version control or copied about.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

FILES = ("result.json", "ranks.npz")
SETTLED = 2 * 10**9  # nanoseconds; a younger file may change again without its times changing


def identity(folder: str) -> list[int] | None:
    """Times, sizes and inodes of the files that a run's figures depend on; None where one is missing."""
    found = []
    try:
        for name in FILES:
            status = os.stat(f"{folder}/{name}")
            found += [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]
    except OSError:
        return None
    return found


def settled(known: list[int]) -> bool:
    """Would any later change of the files show in their identity?"""
    return max(*known[:2], *known[4:6]) < time.time_ns() - SETTLED


def read(kind: str, store: Path) -> dict[str, Any]:
    """What `keep` was last given; empty where there is nothing sound."""
    try:
        first, _, rest = _file(kind, store).read_bytes().partition(b"\n")
        return json.loads(rest) if json.loads(first) == _head(store, rest) else {}
    except (OSError, ValueError, TypeError, RuntimeError):  # RuntimeError: there is no home, or a nest too deep for json
        return {}


def keep(kind: str, store: Path, content: Mapping[str, Any]) -> None:
    """Silent where that is impossible."""
    rest = json.dumps(content, separators=(",", ":")).encode()
    with contextlib.suppress(OSError, RuntimeError):
        final = _file(kind, store)
        final.parent.mkdir(parents=True, exist_ok=True)
        _forget_lost_stores(final.parent)
        temporary = final.with_name(f"{final.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(json.dumps(_head(store, rest)).encode() + b"\n" + rest)
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


def _file(kind: str, store: Path) -> Path:
    """Raises RuntimeError where there is no home folder."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsbench" / kind
    return folder / hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:16]


def _head(store: Path, rest: bytes) -> dict[str, object]:
    return {"code": _code(), "store": str(store.resolve()), "checksum": zlib.crc32(rest)}


@functools.cache
def _code() -> str:
    """Changes with whatever decides what is read and computed: this package's files, and the libraries underneath."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(f"{metadata.version('numpy')} {metadata.version('scipy')}".encode())
    return digest.hexdigest()[:16]


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

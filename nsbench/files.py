"""Files that are there as a whole or not at all; where runs lie, and what can be had again."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from nsbench.errors import RunFailed

REMEDY = "free some space or choose another place"


def cache_folder() -> Path:
    """The user's own cache of nsbench, which may not be there yet: downloads and compiled kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsbench"


def store_folder(given: str | Path | None = None) -> Path:
    """Where runs lie: as given, else NSBENCH_RUNS, else ./runs."""
    return Path(given or os.environ.get("NSBENCH_RUNS") or "runs")


@contextlib.contextmanager
def replacing(
    path: Path, remedy: str = REMEDY, error: type[Exception] = RunFailed, check: Callable[[], object] = lambda: None
) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well; after any error nothing of it is left.

    It is written under a temporary name, flushed to disk and renamed, and its folder is flushed too. `check` may raise
    between writing and renaming. Raises `error`, with the `remedy`, where the system refuses.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with explained(path, remedy, error):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            check()
            try:
                os.replace(part, path)
            except FileNotFoundError:  # swept away since by another owner of the folder, which `check` tells
                check()
                raise
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # already renamed, or never made
            part.unlink()


@contextlib.contextmanager
def explained(path: Path, remedy: str = REMEDY, error: type[Exception] = RunFailed) -> Iterator[None]:
    """Turn what the system refuses while `path` is written into `error`: one sentence that ends in the `remedy`."""
    try:
        yield
    except OSError as reason:
        raise error(f"cannot write {path} ({reason.strerror or reason}); {remedy}") from reason
    except RuntimeError as reason:  # torch.save reports a full disk so
        if "unexpected pos" in str(reason) or "write" in str(reason):
            raise error(f"cannot write {path} (no space left); {remedy}") from reason
        raise


def _sync_folder(path: Path) -> None:
    """A rename is safe against power loss only when its folder is flushed."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

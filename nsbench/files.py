"""Files that are there as a whole or not at all: the one way in which nsbench writes what must not be half there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nsbench.errors import RunFailed


@contextlib.contextmanager
def replacing(
    path: Path,
    remedy: str = "free some space or choose another place",
    error: type[Exception] = RunFailed,
) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well; after any error nothing of it is left.

    It is written under a temporary name, flushed to disk and renamed. Raises `error`, with the `remedy`, where the system
    refuses: a full disk, a folder that cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as reason:
        raise error(f"cannot write {path} ({reason.strerror or reason}); {remedy}") from reason
    finally:
        with contextlib.suppress(OSError):  # already renamed, or never made
            part.unlink()

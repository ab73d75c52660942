"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nsbench.errors import Misuse


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well; after any error nothing of it is left.

    Raises Misuse where the disk is full or the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise Misuse(
            f"cannot write {path} ({error.strerror or error}); make room, or set NSBENCH_DATA to a folder that you may "
            "write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # already renamed, or never made
            part.unlink()

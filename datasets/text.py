"""Text files of a dataset, UTF-8, as they are or compressed (NAME.gz)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from nsbench.errors import Misuse
from nsbench.files import read_text


def read(file: Path) -> str:
    """The file as text with plain line ends; whoever splits it does so at line ends alone (names may hold other breaks)."""
    compressed = file.suffix.lower() == ".gz"
    if not compressed and not file.is_file() and (other := file.with_name(file.name + ".gz")).is_file():
        return read(other)
    try:
        return read_text(file, gzip.decompress if compressed else bytes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Misuse(f"{file} is no whole gzip file ({error}); get it again") from None

"""Text files of a dataset, UTF-8, as they are or compressed (NAME.gz)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from nsbench.errors import Misuse


def read(file: Path) -> str:
    """The file as text with plain line ends; whoever splits it does so at line ends alone (names may hold other breaks)."""
    compressed = file.suffix.lower() == ".gz"
    if not compressed and not file.is_file() and (other := file.with_name(file.name + ".gz")).is_file():
        return read(other)
    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if compressed else data).decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise Misuse(f"{file} is missing; put it there or give another folder") from None
    except UnicodeDecodeError as error:
        raise Misuse(f"{file} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Misuse(f"{file} is no whole gzip file ({error}); get it again") from None
    except OSError as error:
        raise Misuse(f"cannot read {file} ({error.strerror}); check its permissions") from None

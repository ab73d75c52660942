"""Standard output and error that take every sign and outlive their readers: no work is lost over how something is shown."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

SIGNS = str.maketrans(
    {"±": "+-", "×": "x", "−": "-", "–": "-", "≈": "~", "Δ": "d", "δ": "d", "▲": "^", "▼": "v", "↑": "^", "↓": "v"}
    | {"†": "+", "‡": "++", "↳": ">", "○": "o", "§": "section ", "─": "-", "│": "|", "━": "-", "…": "...", "’": "'"}
)
UNREAD = (errno.EPIPE, errno.ECONNRESET)  # of a pipe that nobody reads any more, as in `nsbench list | head -1`


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """Error handler: plainer signs in place of those that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end].translate(SIGNS)
    return "".join(sign if sign.isascii() else "?" for sign in signs), error.end


codecs.register_error("nsbench.plainer", _plainer)


class _Outlet(io.RawIOBase):
    """The bytes of a stream. When they can no longer be written, what follows is let go, and `trouble` says why."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.trouble: OSError | None = None
        self.name = getattr(stream, "name", "<stream>")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def write(self, data: Any) -> int:
        if self.trouble is None:
            try:
                self.stream.write(data)
                self.stream.flush()
            except OSError as error:
                self.trouble = error
                with contextlib.suppress(OSError):  # what is still in the buffer, and what child processes write, goes there
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(data)


class Lasting(io.TextIOWrapper):
    """A standard stream of which no write raises."""

    buffer = None  # type: ignore[assignment]  # else click writes UTF-8 past this one wherever the encoding is ASCII

    def __init__(self, stream: TextIO) -> None:
        self.outlet = _Outlet(stream.buffer)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        super().__init__(self.outlet, encoding, "nsbench.plainer", write_through=True)

    @property
    def lost(self) -> OSError | None:
        """Why it could not take all, if somebody was there to read it."""
        trouble = self.outlet.trouble
        return None if trouble is None or trouble.errno in UNREAD else trouble


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Have both standard streams last, for the time of a command or of a worker process.

    A descriptor that the caller has closed is opened on nothing: else the next file would get its number, and whatever a
    library or a child process prints.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Lasting(stream) if hasattr(stream, "buffer") else stream for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def lost() -> OSError | None:
    """Why standard output is not whole, though it was to be kept."""
    return sys.stdout.lost if isinstance(sys.stdout, Lasting) else None

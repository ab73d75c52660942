"""How nsbench says no: Misuse and RunFailed, of whatever kind, carry one sentence that names the fix."""

import difflib
import errno
from collections.abc import Iterable

FULL = "free some space or choose another place"


class Misuse(Exception):
    """The command, the configuration or an input file is wrong. Exit code 2."""


class Busy(Misuse):
    """Another process is at it."""


class RunFailed(Exception):
    """A run that was well configured could not be carried to its end. Exit code 1."""


class FailedBefore(RunFailed):
    """So says failed.json, and nobody asked to run it again."""


class Diverged(RunFailed):
    """Its scores stopped being finite: the configuration's doing, not the machine's."""


class StoreFailed(RunFailed):
    """The run store cannot be written: every further run would fail too."""


class OutOfMemory(RunFailed):
    """Of the machine or of its GPU, in a place that can say what would take less."""


SYSTEM = {  # what helps where the system refuses, and names no file
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EROFS: "choose a place that can be written",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, or raise the limit of open files",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
}


def foreseen(error: BaseException) -> str | None:
    """What is said of an error that is no fault of nsbench or a plugin: a sentence with the fix; None for any other."""
    if isinstance(error, Misuse | RunFailed):
        return str(error)
    if out_of_memory(error):
        return "out of memory; use a smaller protocol.batch, protocol.width or protocol.negatives"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if isinstance(error, OSError) and error.errno in SYSTEM:
        return f"the system refuses: {error.strerror}; {SYSTEM[error.errno]}"
    return None


def sentence(error: BaseException, hint: str) -> str:
    """What is said of an error; `hint` tells where to read more of one that nobody foresaw."""
    return foreseen(error) or f"{type(error).__name__}: {error} ({hint})"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, that of the machine or that of its GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = "allocate memory" in str(error) or "bad_alloc" in str(error)
    return isinstance(error, MemoryError | OutOfMemory) or told or type(error).__name__ == "OutOfMemoryError"


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'dhns'?` when a near name exists, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""

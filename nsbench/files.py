"""Files that are there as a whole or not at all; where runs lie, and what can be had again."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from nsbench.errors import FULL, Misuse, RunFailed

REMEDY = FULL
LONGEST = 200  # bytes of a file's name in a temporary one, which is longer and must not be too long


def expanded(path: str | Path) -> Path:
    """With the home folder in place of ~ or ~user, wherever a path is given: a shell does it for whole words alone."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise Misuse(f"nobody's home folder is known for {path}; write the path without ~, or set HOME") from None


def cache_folder() -> Path:
    """The user's own cache of nsbench, which may not be there yet: downloads and compiled kernels."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return expanded(given) / "nsbench"
    try:
        return Path.home() / ".cache" / "nsbench"
    except RuntimeError:  # neither HOME nor an entry in the password file, as in a container
        return _private(Path(tempfile.gettempdir()) / f"nsbench-cache-{os.getuid()}")


def _private(folder: Path) -> Path:
    """A folder of this user alone, where everybody may write: compiled kernels are loaded from it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Misuse(f"{folder} is not this user's own; set HOME or XDG_CACHE_HOME to a folder that is")
    return folder


def store_folder(given: str | Path | None = None) -> Path:
    """Where runs lie: as given, else NSBENCH_RUNS, else ./runs."""
    return expanded(given or os.environ.get("NSBENCH_RUNS") or "runs")


def read_text(path: Path, decode: Callable[[bytes], bytes] = bytes) -> str:
    """A text file that a user wrote, with plain line ends and without a byte-order mark; `decode` may decompress it."""
    try:
        return decode(path.read_bytes()).decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise Misuse(f"{path} is missing; put it there or give another folder") from None
    except UnicodeDecodeError as error:
        raise Misuse(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except OSError as error:
        if error.errno is None:  # of `decode`: not the system's
            raise
        raise Misuse(f"cannot read {path} ({error.strerror}); check its permissions") from None


def write_text(path: Path, text: str, remedy: str = REMEDY) -> None:
    """The whole text, in UTF-8, or none of it; a name that is no text (of a folder, say) has question marks there."""
    with replacing(path, remedy) as file:
        file.write(text.encode("utf-8", "replace"))


@contextlib.contextmanager
def replacing(
    path: Path, remedy: str = REMEDY, error: type[Exception] = RunFailed, check: Callable[[], object] = lambda: None
) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well; after any error nothing of it is left.

    It is written under a temporary name, flushed to disk and renamed, and its folder is flushed too. `check` may raise
    between writing and renaming. Raises `error`, with the `remedy`, where the system refuses. A link stays one, to the new
    file, and who may read the old one may read the new one. What is no file (a pipe, /dev/stdout) is written to as it is.
    """
    with explained(path, remedy, error):
        there = path.stat() if path.exists() else None
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise error(f"{path} is a folder; name a file in it")
        if there is not None and not stat.S_ISREG(there.st_mode):
            with path.open("wb") as file:
                yield file
            return
        whole = Path(os.path.realpath(path))
    part = whole.with_name(f".{os.fsdecode(os.fsencode(whole.name)[:LONGEST])}.{secrets.token_hex(6)}.tmp")
    try:
        with explained(path, remedy, error):
            whole.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                if there is not None:
                    with contextlib.suppress(OSError):  # a file system without such a thing
                        os.chmod(part, stat.S_IMODE(there.st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            check()
            try:
                os.replace(part, whole)
            except FileNotFoundError:  # swept away since by another owner of the folder, which `check` tells
                check()
                raise
            _sync_folder(whole.parent)
    finally:
        with contextlib.suppress(OSError):  # already renamed, or never made
            part.unlink()


def unfinished(name: str) -> str | None:
    """The file that was being written under this temporary name when its process was killed; None for any other name."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{12}\.tmp", name)
    return found and found[1]


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

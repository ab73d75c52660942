"""A run's folder. Every file is written whole or not at all: to a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from nsbench.errors import Busy, Misuse, RunFailed

try:
    import fcntl
except ImportError:  # Windows: two processes on one run are not kept apart there
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """config.json, events.jsonl, checkpoint.pt while it runs; ranks.npz and, last of all, result.json."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def complete(self) -> bool:
        return (self.path / "result.json").exists()

    def result(self) -> dict[str, Any]:
        try:
            return json.loads((self.path / "result.json").read_text())
        except ValueError:
            raise Misuse(f"{self.path / 'result.json'} is damaged; delete {self.path} and repeat the command") from None

    def tidy(self) -> None:
        """Remove what a process left that was killed after it had written the result."""
        for name in ("checkpoint.pt", "lock"):
            if (self.path / name).exists():
                with contextlib.suppress(OSError):  # a store that is read-only keeps it
                    self.remove(name)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder: a second process on the same run is refused. The lock goes with the process, however it ends."""
        made = not self.path.exists()
        with _explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "lock", "w")  # noqa: SIM115 (held below)
        with lock:
            if fcntl is not None and not self._locked(lock):
                raise Busy(f"another process is working on {self.path}; wait for it or stop it")
            for leftover in self.path.glob("*.tmp"):  # of a process that was killed while writing
                leftover.unlink()
            try:
                yield
            except Misuse:  # refused while it was being set up: a refusal leaves nothing behind
                if made:
                    self.remove("config.json")
                raise
            finally:
                with contextlib.suppress(OSError):
                    self.remove("lock")
                    if made:
                        self.path.rmdir()  # refuses where there is something to keep

    def _locked(self, lock: IO[str]) -> bool:
        """Take the lock, unless another process has it, or had it and has removed the file that we opened."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(lock.fileno()), os.stat(self.path / "lock"))
        except OSError:
            return False

    def write(self, name: str, save: Callable[[IO[bytes]], Any]) -> None:
        """Call `save` with a binary file; afterwards the folder has the old file or the new one, never half of it."""
        final, temporary = self.path / name, self.path / f"{name}.tmp"
        try:
            with _explained(final):
                with open(temporary, "wb") as file:
                    save(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, final)
                _sync_folder(self.path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
        self.write(name, lambda file: file.write(text.encode()))

    def write_events(self, events: list[dict[str, Any]]) -> None:
        """The whole of events.jsonl: after a resume, nothing later than the checkpoint may stand in it."""
        lines = "".join(json.dumps(event) + "\n" for event in events)
        self.write("events.jsonl", lambda file: file.write(lines.encode()))

    def append_event(self, event: dict[str, Any]) -> None:
        with _explained(self.path / "events.jsonl"), open(self.path / "events.jsonl", "a") as file:
            file.write(json.dumps(event) + "\n")

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence; what was on disk before stays as it was."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RunFailed(f"no space left for {path}; free some and repeat the command, it goes on from here") from None
        raise RunFailed(f"cannot write {path}: {error.strerror}; choose another store with --runs") from None
    except RuntimeError as error:  # torch.save reports a failed write so
        if "unexpected pos" in str(error) or "write" in str(error):
            raise RunFailed(f"no space left for {path}; free some and repeat the command, it goes on from here") from None
        raise


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # a rename is safe against power loss only when its folder is flushed
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Who works on a run folder: a file that one process alone can create, kept fresh by a heartbeat.

A store may be shared by machines, where locks of the kernel do not reach. So a claim rests on one operation that every
file system offers: creating a file that must not exist yet.

    claim             the first holder: who it is, and how far its run has come
    claim.<token>     the successor of the holder with that token, who was found dead

Whoever stands at the end of this chain holds the folder. A token is never used twice, and a name is never freed before
`claim` itself is gone, so a holder has one successor, however many processes find it dead at once. A holder can be slow
and be succeeded alive: it must ask `ours` between writing a file under a temporary name of its own and renaming it. The
successor deletes all temporary files first; either the rename comes before that, or it fails.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nsbench import machine
from nsbench.errors import Busy

BEAT_SECONDS = 3.0
DEAD_SECONDS = 60.0  # without a heartbeat; on the holder's own machine it is dead as soon as its process is
PROGRESS = ("stage", "step", "steps", "seconds_left")
ROOM = 200  # bytes for the line that says how far the run is, which is overwritten in place


class Holder(NamedTuple):
    """What a claim file says."""

    token: str
    host: str
    machine: str  # one boot of one machine, and one process table on it: where `pid` means something
    pid: int
    started: str  # of the process; a pid is used again
    progress: dict[str, Any]  # stage, step, steps, seconds_left: as far as known
    beat: float  # the last heartbeat, seconds, by the clock of the file system

    def dead(self, now: float) -> bool:
        if now - self.beat > DEAD_SECONDS:
            return True
        if self.machine != machine.boot():
            return False
        return machine.started(self.pid) != self.started or (self.pid == os.getpid() and self.token not in _held)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


_held: set[str] = set()  # tokens of this process: a store that turned read-only keeps claims that were given up


def holder(folder: Path) -> Holder | None:
    """Who works on the run now; None if nobody does."""
    standing = chain(folder)
    return None if not standing or standing[-1].dead(_now(folder, standing[-1].beat)) else standing[-1]


def _now(folder: Path, beat: float) -> float:
    """By the clock that stamps heartbeats, the file system's: it is asked where by our own this one were old, or to come."""
    now = time.time()
    if 0 <= now - beat <= DEAD_SECONDS:
        return now
    probe = folder / f"clock.{secrets.token_hex(6)}.tmp"
    try:
        probe.write_bytes(b"?")
        return probe.stat().st_mtime
    except OSError:  # read-only: our clock is all there is
        return now
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def chain(folder: Path) -> list[Holder]:
    """The first holder and its successors; empty where the folder is free."""
    found: list[Holder] = []
    while (held := _read(_name(folder, found))) is not None:
        found.append(held)
    return found


class Claim:
    """A folder held by this process, from its creation to `release`. Busy if another process has it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(6)
        self._who = _line(
            {
                "token": self.token,
                "host": socket.gethostname(),
                "machine": machine.boot(),
                "pid": os.getpid(),
                "started": machine.started(os.getpid()),
            }
        )
        self._progress: Mapping[str, Any] = {}
        self._released = threading.Event()
        self.path = self._take()
        _held.add(self.token)
        try:
            self._sweep()
        except OSError:
            self.release()
            raise
        threading.Thread(target=self._beat, name=f"heartbeat {folder.name}", daemon=True).start()

    def _take(self) -> Path:
        busy = Busy(f"another process is working on {self.folder}; wait for it or stop it")
        own = self.folder / f"claim.{self.token}.tmp"
        own.write_bytes(self._who + _line({}, ROOM))
        try:
            standing = chain(self.folder)
            if standing and not standing[-1].dead(own.stat().st_mtime):
                raise busy
            path = _name(self.folder, standing)
            try:
                _create(own, path)
            except (FileExistsError, FileNotFoundError):  # another process came first, and may have swept our file away
                raise busy from None
        finally:
            own.unlink(missing_ok=True)
        if not self.ours():  # whom we meant to succeed was succeeded, and that successor is gone
            _remove(path)
            raise busy
        return path

    def ours(self) -> bool:
        return [held.token for held in chain(self.folder)[-1:]] == [self.token]

    def check(self) -> None:
        """Busy if another process has taken the folder over, or somebody has deleted it."""
        if not self.ours():
            raise Busy(f"{self.folder} was taken over by another process, which goes on from the last checkpoint")

    def note(self, progress: Mapping[str, Any]) -> None:
        """What the next heartbeats say of the run; an event of nsbench.runs.runner."""
        self._progress = progress

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            said = {name: self._progress[name] for name in PROGRESS if name in self._progress}
            with contextlib.suppress(OSError), open(self.path, "r+b") as file:  # the run's own writes meet the trouble
                if file.readline() == self._who:
                    file.write(_line(said, ROOM))

    def release(self) -> None:
        self._released.set()
        _held.discard(self.token)
        standing = chain(self.folder)
        if standing and standing[-1].token == self.token:
            for i in range(len(standing)):  # `claim` first
                _remove(_name(self.folder, standing[:i]))

    def _sweep(self) -> None:
        """Remove what dead processes have left: unfinished writes, and claims that the chain does not reach."""
        standing = chain(self.folder)
        reached = [_name(self.folder, standing[:i]) for i in range(len(standing) + 1)]  # the last: whoever succeeds us
        for path in {*self.folder.glob("*.tmp"), *self.folder.glob("claim.*")}.difference(reached):
            _remove(path)


def _name(folder: Path, standing: list[Holder]) -> Path:
    """The file that names whoever comes after these."""
    return folder / (f"claim.{standing[-1].token}" if standing else "claim")


def _read(path: Path) -> Holder | None:
    try:
        with open(path, "rb") as file:
            beat = os.fstat(file.fileno()).st_mtime
            first, second = file.readline(), file.readline()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):  # the second: removed on another machine
            raise
        return None
    progress: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # just being overwritten
        progress = json.loads(second)
    try:
        return Holder(**json.loads(first), progress=progress, beat=beat)
    except (ValueError, TypeError):  # `_create` without hard links is being watched, or was killed
        return Holder("unwritten", "", "", 0, "", progress, beat)


def _create(own: Path, path: Path) -> None:
    """Make `path` with the content of `own`, whole; FileExistsError if it is there."""
    try:
        os.link(own, path)
    except FileExistsError:
        if own.stat().st_nlink < 2:  # else it was made, and only the answer of the server was lost
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        with open(path, "xb") as file:  # no hard links here
            file.write(own.read_bytes())


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _line(value: Mapping[str, Any], size: int = 0) -> bytes:
    return json.dumps(value).encode().ljust(size - 1) + b"\n"

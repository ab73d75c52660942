"""Carries a plan out: what is missing, each run once, whatever happens to the processes.

An *engine* is where runs take place: in this process (`Here`), in worker processes (local_engine), or as tasks of a Ray
cluster (ray_engine). All of them write to one run store, where a claim keeps every run with one process
(nsbench.runs.claim); so several drivers, with whatever engines, may share it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nsbench.campaign.estimates import group_of
from nsbench.campaign.plan import attempt, dataset_of
from nsbench.config.run import Config
from nsbench.errors import Busy, RunFailed, StoreFailed
from nsbench.runs import claim
from nsbench.runs.folder import RunFolder
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted, RunOptions, Stopping, reference_of

POLL_SECONDS = 0.5
LOOK_SECONDS = 1.0  # between looks at heartbeats
LOSSES = 3  # of the worker that has a run, after which it counts as failed
PATIENCE = 2 * claim.BEAT_SECONDS  # with a run of another process, until it is seen to go on


class Job(NamedTuple):
    """A run of the plan."""

    number: int  # its place there
    config: Config
    folder: RunFolder
    group: str  # what it shares with other seeds; see nsbench.campaign.estimates
    reference: Path | None = None  # folder of another run, whose model its hardness will be measured by

    @classmethod
    def of(cls, number: int, config: Config, store: Path) -> Job:
        dataset = dataset_of(config)
        folder, reference = RunFolder(store / config.folder_name(dataset)), reference_of(config, dataset, store).path
        group = group_of(config.record(dataset))
        return cls(number, config, folder, group, None if reference == folder.path else reference)


Ending = Result | Exception


class Lost(RunFailed):
    """The worker that had the run is gone; its checkpoint is not."""


class Engine(Protocol):
    slots: int  # runs at a time, at most; for the time left
    apart: bool  # runs take place in other processes, of which heartbeats tell

    def room(self, job: Job) -> bool:
        """Whether the run can begin now."""

    def start(self, job: Job) -> None: ...

    def ended(self, seconds: float) -> list[tuple[Job, Ending]]:
        """What has ended since the last call; waits for something, not longer than this."""

    def stop(self) -> None:
        """Let every run write a checkpoint and end with Interrupted."""

    def close(self) -> None: ...


class Listener(Protocol):
    """Whom `conduct` tells what happens."""

    def begin(self, job: Job) -> None: ...
    def hear(self, job: Job, event: Mapping[str, Any]) -> None: ...
    def end(self, job: Job, ending: Ending, again: bool) -> None:
        """`again`: the run will be tried once more."""


@dataclasses.dataclass
class Tally:
    """How a plan went."""

    done: list[Job] = dataclasses.field(default_factory=list)
    failed: list[tuple[Job, Exception]] = dataclasses.field(default_factory=list)
    elsewhere: list[Job] = dataclasses.field(default_factory=list)  # other processes are at it
    interrupted: list[Job] = dataclasses.field(default_factory=list)
    store: StoreFailed | None = None  # why nothing can be written any more


class Here:
    """One run at a time, in this process."""

    slots = 1
    apart = False

    def __init__(self, store: Path, listener: Listener, options: RunOptions, stopping: Stopping) -> None:
        self.store, self.listener, self.options, self.stopping = store, listener, options, stopping
        self.last: tuple[Job, Ending] | None = None

    def room(self, job: Job) -> bool:
        return self.last is None

    def start(self, job: Job) -> None:
        def notify(event: Mapping[str, Any]) -> None:
            self.listener.hear(job, event)

        self.last = job, attempt(job.config, self.store, self.options, notify, self.stopping)

    def ended(self, seconds: float) -> list[tuple[Job, Ending]]:
        ended, self.last = self.last, None
        return [] if ended is None else [ended]

    def stop(self) -> None:
        """The run asks `stopping` itself."""

    def close(self) -> None:
        pass


def conduct(
    jobs: Iterable[Job],
    engine: Engine,
    listener: Listener,
    stopping: Callable[[], bool],
    patient: bool = True,
    diagnose: bool = True,
) -> Tally:
    """Carry out the jobs. Ends when each is done or failed, or goes on in another process; or soon after `stopping`.

    A run that another process has is looked at again when all else is done, if `patient`: that process may be gone by then.
    With `diagnose`, a run waits for its reference where that is one of these jobs, so that it has what it would have had if
    all had been carried out one after another.
    """
    tally = Tally()
    waiting, running = collections.deque(jobs), dict[int, Job]()
    foreign: dict[int, _Foreign] = {}
    losses: collections.Counter[int] = collections.Counter()
    begun: set[int] = set()
    stopped, looked = False, 0.0

    def ready() -> list[Job]:
        ahead = {job.folder.path for job in (*waiting, *running.values(), *(other.job for other in foreign.values()))}
        return [job for job in waiting if not diagnose or job.reference not in ahead]

    while waiting or running or foreign:
        if (stopping() or tally.store) and not stopped:
            stopped = True
            engine.stop()
        if stopped:
            tally.interrupted += waiting
            tally.elsewhere += [other.job for other in foreign.values()]
            waiting.clear()
            foreign.clear()
        for job in ready():
            if engine.room(job):
                waiting.remove(job)
                running[job.number] = job
                if not engine.apart:
                    listener.begin(job)
                    begun.add(job.number)
                engine.start(job)
        for job, ending in engine.ended(POLL_SECONDS):
            del running[job.number]
            if job.number not in begun:  # it was short
                listener.begin(job)
            begun.discard(job.number)
            losses[job.number] += isinstance(ending, Lost | Interrupted)  # the second: somebody stopped its worker alone
            again = not stopped and isinstance(ending, Lost | Interrupted) and losses[job.number] < LOSSES
            if again:
                waiting.appendleft(job)
            elif isinstance(ending, Busy) and patient and not stopped:
                foreign[job.number] = _Foreign(job)
            else:
                _enter(tally, job, ending)
            listener.end(job, ending, again)
        if time.monotonic() - looked > LOOK_SECONDS and engine.apart:
            looked = time.monotonic()
            _look(running.values(), begun, listener)
        if foreign and not running and not ready():
            needed = {job.reference for job in waiting}
            for number, other in list(foreign.items()):
                state = other.look()
                if state != "waiting" and not (state == "alive" and other.job.folder.path in needed):
                    del foreign[number]
                    {"free": waiting, "done": tally.done, "alive": tally.elsewhere}[state].append(other.job)
            if foreign and not ready():
                time.sleep(POLL_SECONDS)
    return tally


def _look(running: Iterable[Job], begun: set[int], listener: Listener) -> None:
    """Runs that take place elsewhere tell by their heartbeats that they have begun, and how far they are."""
    for job in running:
        held = None
        with contextlib.suppress(OSError):  # of the network: the next look will tell
            held = claim.holder(job.folder.path)
        if held is not None and job.number not in begun:
            begun.add(job.number)
            listener.begin(job)
        if held is not None and "stage" in held.progress:
            listener.hear(job, held.progress)


def _enter(tally: Tally, job: Job, ending: Ending) -> None:
    if isinstance(ending, Result):
        tally.done.append(job)
    elif isinstance(ending, Interrupted):
        tally.interrupted.append(job)
    elif isinstance(ending, Busy):
        tally.elsewhere.append(job)
    elif isinstance(ending, StoreFailed):
        tally.store = ending
        tally.interrupted.append(job)
    else:
        tally.failed.append((job, ending))
        if isinstance(ending, Lost):
            with contextlib.suppress(Busy, StoreFailed):
                job.folder.record_failure(ending)


class _Foreign:
    """A run that was found with another process. Is it alive? No clock of another machine is asked."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.since: float | None = None
        self.first = 0.0  # heartbeat

    def look(self) -> str:
        """done, free (to be tried again), alive (it goes on there), or waiting."""
        if self.job.folder.complete:
            return "done"
        standing = claim.chain(self.job.folder.path)
        if not standing or standing[-1].dead(standing[-1].beat):
            return "free"
        now, beat = time.monotonic(), standing[-1].beat
        beaten = beat != self.first
        if self.since is None or (beaten and now - self.since > claim.DEAD_SECONDS):  # nobody has looked for so long
            self.since, self.first, beaten = now, beat, False
        if beaten:
            return "alive" if now - self.since > PATIENCE else "waiting"
        return "free" if now - self.since > claim.DEAD_SECONDS else "waiting"

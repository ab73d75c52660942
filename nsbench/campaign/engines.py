"""Where runs take place: in this process (`Here`), in worker processes (local_engine), or on a Ray cluster (ray_engine).

All engines write to one run store, where a claim keeps every run with one process (nsbench.runs.claim); so several drivers,
with whatever engines, may share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nsbench.campaign.attempt import attempt
from nsbench.campaign.estimates import group_of
from nsbench.campaign.plan import dataset_of
from nsbench.config.run import Config
from nsbench.errors import RunFailed
from nsbench.runs.folder import RunFolder
from nsbench.runs.result import Result
from nsbench.runs.runner import RunOptions, Stopping, reference_of


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
        folder, reference = RunFolder(config.folder(store, dataset)), reference_of(config, dataset, store).path
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
        """The runs that have ended since the last call; waits for one, not longer than this."""

    def stop(self) -> None:
        """Let every run write a checkpoint and end with Interrupted."""

    def close(self) -> None: ...


class Listener(Protocol):
    """Whom nsbench.campaign.conduct tells what happens."""

    def begin(self, job: Job) -> None: ...
    def hear(self, job: Job, event: Mapping[str, Any]) -> None: ...
    def end(self, job: Job, ending: Ending, again: bool) -> None:
        """`again`: the run will be tried once more."""


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

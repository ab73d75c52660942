"""Tells a display what happens to the runs of a campaign, and learns what they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nsbench.campaign.estimates import Costs, duration, together
from nsbench.campaign.plan import dataset_of
from nsbench.commands.display import Display
from nsbench.errors import Busy
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted

if TYPE_CHECKING:
    from nsbench.campaign.engines import Ending, Job
    from nsbench.config.run import Config


class Reporter:
    """The listener of nsbench.campaign.conduct. An only run is `alone`: the command raises why it failed."""

    def __init__(self, jobs: list[Job], costs: Costs | None, where: str) -> None:
        self.todo = {job.number: job for job in jobs}
        self.began: dict[int, float] = {}
        self.training: dict[int, float] = {}  # seconds of training left
        self.costs, self.where = costs, where
        self.slots, self.alone = 1, len(jobs) == 1
        self.display = Display(len(jobs), self.ahead if costs else None)
        self.introduced: set[int] = set()  # numbers of runs ...
        self.said: set[str] = set()  # ... and the introductions, one for all runs that are alike

    def begin(self, job: Job) -> None:
        self.todo[job.number] = job  # again, where another process has given it up
        self.began[job.number] = time.monotonic()
        self.display.begin(job.config.name, len(self.todo), job.number)

    def hear(self, job: Job, event: Mapping[str, Any]) -> None:
        if job.number not in self.introduced:  # here and not in `begin`: a run that is refused says why and nothing else
            self.introduced.add(job.number)
            self._introduce(job.config)
        self.training[job.number] = event.get("seconds_left", 0.0)
        self.display.hear(event, job.number)

    def end(self, job: Job, ending: Ending, again: bool) -> None:
        del self.began[job.number]
        if not again:
            del self.todo[job.number]
        if self.costs and isinstance(ending, Result):
            self.costs.learn(ending.record)
        if again or isinstance(ending, Result) or not self.alone:
            self.display.end(f"{job.config.name}: {_outcome(ending, again)}", job.number, again)

    def _introduce(self, config: Config) -> None:
        line = f"{described(config)}; on {self.where}"
        if line not in self.said:
            self.said.add(line)
            self.display.say(line)

    def memory(self, job: Job) -> int | None:
        """Bytes that the run will take, as far as known."""
        cost = self.costs.of(job.group) if self.costs else None
        return None if cost is None else cost.memory

    def ahead(self) -> float | None:
        """Seconds left for all runs together."""
        assert self.costs is not None
        whole = self.costs.seconds([job.group for job in self.todo.values()])
        now = time.monotonic()
        left = [
            max(seconds - (now - self.began.get(number, now)), self.training.get(number, 0.0))
            for number, seconds in zip(self.todo, whole)
        ]
        return together(left, self.slots) if left else None


def _outcome(ending: Ending, again: bool) -> str:
    if isinstance(ending, Result):
        lost = ", with a dead generator" if ending.dead else ""
        return f"test MRR {100 * ending.test['mrr']:.2f} after {duration(ending.record['cost']['seconds'])}{lost}"
    if isinstance(ending, Busy):
        return "another process is working on it"
    if isinstance(ending, Interrupted):
        return "stopped, with a checkpoint"
    return f"{ending}; it will go on from its checkpoint" if again else f"failed: {ending}"


def described(config: Config) -> str:
    """Which data, features and protocol a run uses, and where the data come from."""
    dataset = dataset_of(config)
    split = ", ".join(filter(None, (f"{dataset.split} split", dataset.origin)))
    features = f"features {', '.join(dataset.modalities)}" if dataset.features else "no features"
    return (
        f"{dataset.name} ({split}): {dataset.num_entities} entities, {dataset.num_relations} relations, "
        f"{len(dataset.train)}/{len(dataset.valid)}/{len(dataset.test)} triples; "
        f"{features}; fusion {config.fusion}; protocol {config.protocol.name}"
    )

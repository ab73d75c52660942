"""Tells a display what happens to the runs of a campaign, and learns what they cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nsbench.campaign.estimates import Costs, duration, together
from nsbench.campaign.plan import dataset_of
from nsbench.commands.display import Display
from nsbench.errors import Busy
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted

if TYPE_CHECKING:
    from nsbench.campaign.engines import Ending, Job
    from nsbench.config.run import Config


NEARLY_DONE = 0.9  # share of the steps, after which what is left says little of the whole


class Left(NamedTuple):
    """What a run has said of the time that it still takes."""

    when: float
    seconds: float
    share: float  # of its steps, done
    elapsed: float  # since it began, or went on

    @property
    def whole(self) -> float:
        """What all of it takes: a sampler's preparation too; of a run that went on, as its steps alone say."""
        return max(self.elapsed + self.seconds, self.seconds / (1 - self.share))

    def at(self, now: float) -> float:
        return max(0.0, self.seconds - (now - self.when))


class Reporter:
    """The listener of nsbench.campaign.conduct. An only run is `alone`: the command raises why it failed.

    `reasons` are what was chosen for the user and why; they are said once work has begun.
    """

    def __init__(self, jobs: list[Job], costs: Costs | None, where: str, reasons: Sequence[str] = ()) -> None:
        self.todo = {job.number: job for job in jobs}
        self.began: dict[int, float] = {}
        self.said_left: dict[int, Left] = {}  # by the runs that are under way
        self.costs, self.where = costs, where
        self.slots, self.alone = 1, len(jobs) == 1
        self.display = Display(len(jobs), self.ahead if costs else None)
        self.reasons = list(reasons)
        self.introduced: set[int] = set()  # numbers of runs ...
        self.said: set[str] = set()  # ... and the introductions, one for all runs that are alike

    def begin(self, job: Job) -> None:
        self.todo[job.number] = job  # again, where another process has given it up
        self.began[job.number] = time.monotonic()
        self.said_left.pop(job.number, None)
        self.display.begin(job.config.name, len(self.todo), job.number)

    def hear(self, job: Job, event: Mapping[str, Any]) -> None:
        self._introduce(job)
        if event.get("step") and "seconds_left" in event:
            now, share = time.monotonic(), event["step"] / event["steps"]
            self.said_left[job.number] = Left(now, event["seconds_left"], share, now - self.began[job.number])
        self.display.hear(event, job.number)

    def end(self, job: Job, ending: Ending, again: bool) -> None:
        if isinstance(ending, Result):
            self._introduce(job)  # a short run of a worker may have said nothing before
        del self.began[job.number]
        if not again:
            del self.todo[job.number]
        if self.costs and isinstance(ending, Result):
            self.costs.learn(ending.record)
        if again or isinstance(ending, Result) or not self.alone:
            self.display.end(f"{job.config.name}: {_outcome(ending, again)}", job.number, again)

    def _introduce(self, job: Job) -> None:
        """Not when it begins: a run that is refused says why and nothing else."""
        if job.number in self.introduced:
            return
        self.introduced.add(job.number)
        line = f"{described(job.config)}; on {self.where}"
        for text in [line, *self.reasons]:
            if text not in self.said:
                self.said.add(text)
                self.display.say(text)

    def memory(self, job: Job) -> int | None:
        """Bytes that the run will take, as far as known."""
        cost = self.costs.of(job.group) if self.costs else None
        return None if cost is None else cost.memory

    def ahead(self) -> float | None:
        """Seconds left for all runs together: of one under way what it says, of others what they took, at today's pace."""
        assert self.costs is not None
        now, groups = time.monotonic(), {job.group for job in self.todo.values()}
        under_way = {number: said for number, said in self.said_left.items() if number in self.began}
        wholes = {self.todo[number].group: said.whole for number, said in under_way.items() if said.share < NEARLY_DONE}
        known = {group: cost.seconds for group in groups if (cost := self.costs.of(group))}
        both = wholes.keys() & known.keys()
        pace = sum(wholes[group] for group in both) / sum(known[group] for group in both) if both else 1.0
        known = wholes | {group: pace * seconds for group, seconds in known.items()}
        if not known and not (known := dict(zip(groups, self.costs.seconds(list(groups))))):
            return None
        others = statistics.mean(known.values())  # of a group that nothing is known of
        left = [
            said.at(now)
            if (said := under_way.get(number))
            else max(0.0, known.get(job.group, others) - (now - self.began.get(number, now)))
            for number, job in self.todo.items()
        ]
        return together(left, self.slots)


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

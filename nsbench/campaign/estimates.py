"""What runs will cost in time and memory: from runs of the same group in the store, or from a short calibration.

A *group* is what runs that differ in their seed alone share. Costs are of one kind of device and one number of threads.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nsbench.config import BESIDE
from nsbench.errors import Misuse
from nsbench.runs.folder import run_folders

if TYPE_CHECKING:
    import torch

    from nsbench.config.run import Config
    from nsbench.contracts import Dataset

SPAN = 0.5  # seconds of steps at each of three places of a run
SHARE = 256  # triples that stand for a whole evaluation


class Cost(NamedTuple):
    """What one run takes."""

    seconds: float
    memory: int  # peak bytes: of the process on a CPU, allocated on a GPU
    source: str  # recorded or measured


def group_of(record: Mapping[str, Any]) -> str:
    """What the runs of a group have in common, from config.json."""
    return json.dumps({n: value for n, value in record.items() if n not in ("seed", *BESIDE)}, sort_keys=True)


class Costs:
    """What runs of each group take, as far as known."""

    def __init__(self, store: Path, device: str | None = None, threads: int | None = None) -> None:
        """Reads what the store has recorded on this `device` (as in `env` of result.json; None: any) with these threads."""
        self._seconds: dict[str, list[float]] = {}
        self._memory: dict[str, list[int]] = {}
        self._measured: dict[str, Cost] = {}
        for folder in run_folders(store):
            if folder.complete:
                with contextlib.suppress(Misuse, KeyError, TypeError, AttributeError):  # damaged: `status` says so
                    result = folder.result()
                    env = result["env"]
                    alike = threads in (None, env["threads"]) or not env["device"].startswith("cpu")
                    if device in (None, env["device"]) and alike:
                        self.learn(result)

    def learn(self, result: Mapping[str, Any]) -> None:
        """Take in what a result.json says."""
        group, cost = group_of(result["config"]), result["cost"]
        self._seconds.setdefault(group, []).append(cost["seconds"] + cost.get("diagnosis_seconds", 0.0))
        self._memory.setdefault(group, []).append(cost["peak_memory"])

    def measured(self, group: str, cost: Cost) -> None:
        self._measured[group] = cost

    def of(self, group: str) -> Cost | None:
        if group in self._seconds:
            return Cost(statistics.mean(self._seconds[group]), max(self._memory[group]), "recorded")
        return self._measured.get(group)

    def seconds(self, groups: Sequence[str]) -> list[float]:
        """What a run of each group takes; an unknown group takes the mean of the known ones. Empty where none is known."""
        known = [self.of(group) for group in groups]
        sure = [*map(statistics.mean, self._seconds.values()), *(cost.seconds for cost in self._measured.values())]
        return [cost.seconds if cost else statistics.mean(sure) for cost in known] if sure else []


def together(seconds: Sequence[float], slots: int) -> float:
    """How long runs take of which so many go on at a time, at least."""
    return max(sum(seconds) / slots, max(seconds, default=0.0))


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def calibrate(config: Config, dataset: Dataset, device: torch.device, diagnose: bool) -> Cost:
    """Time steps at the beginning, in the middle and at the end (a sampler may change its work), and some of the ranking."""
    from nsbench.contracts import Sampler
    from nsbench.runs.device import peak_memory, reset_peak_memory
    from nsbench.training.diagnostics import Diagnosis
    from nsbench.training.evaluation import Ranking
    from nsbench.training.trainer import Trainer

    def timed(call: Any) -> float:
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        return time.perf_counter() - began

    reset_peak_memory(device)
    trainer = Trainer(config, dataset, device)
    protocol = config.protocol
    seconds = timed(trainer.pretrain)
    diagnosed = diagnose and isinstance(trainer.sampler, Sampler)
    seconds += 3 * timed(Diagnosis(trainer, dataset).measure) if diagnosed else 0.0
    trainer.step()  # compiles, fills caches
    per_step = []
    for place in (0, protocol.steps // 2, protocol.steps - 1):
        trainer.step_count = place
        steps = [timed(trainer.step), timed(trainer.step)]  # two: sampler and model may take turns
        while sum(steps) < SPAN and len(steps) < 100:
            steps += [timed(trainer.step), timed(trainer.step)]
        per_step.append(statistics.mean(steps))
    seconds += statistics.mean(per_step) * protocol.steps
    validations = -(-protocol.steps // protocol.validate_every)
    for triples, known, times in (
        (dataset.valid, dataset.known_untested, validations),
        (dataset.test, dataset.known, 1),
    ):
        part = triples[:: max(1, len(triples) // SHARE)]
        ranking = Ranking(part, known, dataset.num_entities, dataset.num_relations, device)
        ranking.ranks(trainer.scoring())
        seconds += times * timed(lambda: ranking.ranks(trainer.scoring())) * len(triples) / len(part)  # noqa: B023
    best = sum(x.numel() * x.element_size() for x in trainer.model_state().values() if hasattr(x, "numel"))
    return Cost(seconds, peak_memory(device) + best, "measured")

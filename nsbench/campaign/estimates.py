"""What runs will cost in time and memory: from runs of the same cell in the store, or from a short calibration.

A *cell* is a run without its seed. Costs are of one kind of device and one number of threads.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from nsbench.config.run import Config
    from nsbench.contracts import Dataset

SPAN = 0.5  # seconds of steps at each of three places of a run
SHARE = 256  # triples that stand for a whole evaluation


class Cost(NamedTuple):
    """Of one run."""

    seconds: float
    memory: int  # peak bytes: of the process on a CPU, allocated on a GPU
    source: str  # recorded or measured


def cell_of(record: Mapping[str, Any]) -> str:
    """What the runs of a cell have in common, from config.json."""
    return json.dumps({name: value for name, value in record.items() if name not in ("seed", "id")}, sort_keys=True)


class Costs:
    """Of the cells of a plan, as far as known."""

    def __init__(self, store: Path, device: str | None = None, threads: int | None = None) -> None:
        """Reads what the store has recorded on this `device` (as in `env` of result.json; None: any) with these threads."""
        from nsbench.results.store import read

        self._seconds: dict[str, list[float]] = {}
        self._memory: dict[str, list[int]] = {}
        self._measured: dict[str, Cost] = {}
        for result in (run.record for run in read(store).runs):
            env = result["env"]
            alike = threads in (None, env["threads"]) or not env["device"].startswith("cpu")
            if device in (None, env["device"]) and alike:
                self.learn(result)

    def learn(self, result: Mapping[str, Any]) -> None:
        """From a result.json."""
        cell, cost = cell_of(result["config"]), result["cost"]
        self._seconds.setdefault(cell, []).append(cost["seconds"] + cost.get("diagnosis_seconds", 0.0))
        self._memory.setdefault(cell, []).append(cost["peak_memory"])

    def measured(self, cell: str, cost: Cost) -> None:
        self._measured[cell] = cost

    def of(self, cell: str) -> Cost | None:
        if cell in self._seconds:
            return Cost(statistics.mean(self._seconds[cell]), max(self._memory[cell]), "recorded")
        return self._measured.get(cell)

    def seconds(self, cells: Sequence[str]) -> list[float]:
        """Of a run of each cell; one that is not known takes as long as the known ones on average. Empty if none is."""
        known = [self.of(cell) for cell in cells]
        sure = [*map(statistics.mean, self._seconds.values()), *(cost.seconds for cost in self._measured.values())]
        return [cost.seconds if cost else statistics.mean(sure) for cost in known] if sure else []


def together(seconds: Sequence[float], slots: int) -> float:
    """How long runs take of which so many go on at a time, at least."""
    return max(sum(seconds) / slots, max(seconds, default=0.0))


def calibrate(config: Config, dataset: Dataset, device: torch.device, diagnose: bool) -> Cost:
    """From steps at the beginning, in the middle and at the end (a sampler may change its work), and some of the ranking."""
    from nsbench.bench import costs
    from nsbench.contracts import Sampler
    from nsbench.runs.runner import peak_memory, reset_peak_memory
    from nsbench.training.diagnostics import Diagnosis
    from nsbench.training.evaluation import Ranking
    from nsbench.training.trainer import Trainer

    def timed(call: Any) -> float:
        costs.wait(device)
        began = time.perf_counter()
        call()
        costs.wait(device)
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
    evaluations = {"valid": -(-protocol.steps // protocol.validate_every), "test": 1}
    for split, times in evaluations.items():
        triples = getattr(dataset, split)
        part = triples[:: max(1, len(triples) // SHARE)]
        ranking = Ranking(part, dataset.known, dataset.num_entities, dataset.num_relations, device)
        ranking.ranks(trainer.scoring())
        seconds += times * timed(lambda: ranking.ranks(trainer.scoring())) * len(triples) / len(part)  # noqa: B023
    best = sum(x.numel() * x.element_size() for x in trainer.model_state().values() if hasattr(x, "numel"))
    return Cost(seconds, peak_memory(device) + best, "measured")

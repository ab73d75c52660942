"""How fast: seconds per epoch, evaluation time and peak memory, interleaved with what they are compared with.

The machine is never quiet, so every comparison alternates its two sides within one process and reports ratios.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.special import stdtrit

from nsbench.campaign.estimates import wait
from nsbench.config.run import Config
from nsbench.contracts import Dataset, Sampler
from nsbench.registry import SAMPLERS
from nsbench.runs.device import peak_memory, reset_peak_memory
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer

EPOCHS = 3  # in a round, of which the median counts
PASS = 10.0  # seconds; of a longer pass some of the steps speak for all


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of repeated measurements of one thing."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.3f} s ({min(self.seconds):.3f}-{max(self.seconds):.3f})"


def warm(config: Config, dataset: Dataset, device: torch.device) -> Trainer:
    """A trainer with its first epoch, in which caches fill and kernels are chosen, behind it."""
    trainer = Trainer(config, dataset, device)
    trainer.pretrain()
    next(epochs(trainer, 1))
    return trainer


def epochs(trainer: Trainer, count: int) -> Iterator[float]:
    """Seconds per pass over the training triples, `count` times; a mean of two passes where sampler and model take turns."""
    sampler = getattr(trainer.sampler, "base", trainer.sampler)  # dhns takes the turns of the sampler that it is put on
    takes_turns = getattr(type(sampler), "phase", Sampler.phase) is not Sampler.phase
    steps = max(1, round((1 + takes_turns) * len(trainer.graph) / trainer.protocol.batch))
    for _ in range(count):
        taken, began = 0, time.perf_counter()
        while taken < steps and (takes_turns or time.perf_counter() - began < PASS):
            trainer.step()
            taken += 1
        wait(trainer.device)
        yield (time.perf_counter() - began) * len(trainer.graph) / (taken * trainer.protocol.batch)


def evaluation(trainer: Trainer, dataset: Dataset) -> Callable[[], float]:
    """A function that ranks the whole test split, both sides, filtered, and returns its seconds, preparation included."""

    def measure() -> float:
        began = time.perf_counter()
        ranking = Ranking(dataset.test, dataset.known, dataset.num_entities, dataset.num_relations, trainer.device)
        ranking.ranks(trainer.scoring())
        return time.perf_counter() - began

    return measure


def measure(config: Config, dataset: Dataset, device: torch.device, rounds: int) -> dict[str, str]:
    """Training, evaluation and memory of one configuration; the first epoch is dropped."""
    reset_peak_memory(device)
    before = peak_memory(device)
    trainer = warm(config, dataset, device)
    train = Timing(tuple(statistics.median(epochs(trainer, EPOCHS)) for _ in range(rounds)))
    rank = evaluation(trainer, dataset)
    rank()
    evaluate = Timing(tuple(rank() for _ in range(rounds)))
    triples, protocol = len(dataset.train), config.protocol
    return {
        "epoch": str(train),
        "evaluation": str(evaluate),
        "negatives/s": f"{triples * protocol.negatives / train.median:,.0f}",
        "step": f"{1000 * train.median * protocol.batch / triples:.2f} ms",
        "peak memory": f"{peak_memory(device) / 2**20:.0f} MiB ({before / 2**20:.0f} before the run)",
        "sampler's state": f"{trainer.sampler_bytes():,} bytes",
    }


def against(config: Config, baseline: str, dataset: Dataset, device: torch.device, pairs: int) -> dict[str, str]:
    """How long an epoch takes beside one of the baseline sampler."""
    plain = {"sampler": baseline, "variant": "recommended", "sampler_options": SAMPLERS.get(baseline).Options()}
    one, other = warm(config, dataset, device), warm(dataclasses.replace(config, **plain), dataset, device)
    mean, low, high = ratio(one, other, pairs)
    return {"ratio": f"{mean:.3f} x {baseline} (95 % {low:.3f}-{high:.3f}, {pairs} pairs)"}


def ratio(one: Trainer, other: Trainer, pairs: int) -> tuple[float, float, float]:
    """Geometric mean of (epoch of one / epoch of other) over interleaved pairs, with its 95 % t interval."""
    logs = []
    for turn in range(pairs):
        order = (one, other) if turn % 2 == 0 else (other, one)  # whoever goes second finds warmer caches
        seconds = {id(trainer): next(epochs(trainer, 1)) for trainer in order}
        logs.append(np.log(seconds[id(one)] / seconds[id(other)]))
    mean, half = np.mean(logs), stdtrit(pairs - 1, 0.975) * np.std(logs, ddof=1) / pairs**0.5
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))

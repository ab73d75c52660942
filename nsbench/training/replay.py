"""Trains a fresh model on the negatives of another run, which is made again beside it (`--sampler replay:RUN`).

Runs are deterministic, so nothing of the other run is stored: a trainer of its own, the source, steps in time with the
fresh one. A replay costs twice: two models in memory, two steps each time. `sampler_seconds` are those of the source's
sampler, `train_seconds` hold both models. The source is the other run bit for bit under that run's threads, kernels and
device, and up to rounding under others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nsbench.config.run import Config, from_record
from nsbench.contracts import Dataset, Negatives, Positives, Sampler, View
from nsbench.errors import RunFailed
from nsbench.training.trainer import Trainer


class Source(Trainer):
    """The run that is replayed; `last` is what its last step trained on: positives, blocks, and who learned."""

    last: tuple[Positives, list[Negatives], str]

    def __init__(self, config: Config, dataset: Dataset, device: torch.device | str = "cpu") -> None:
        super().__init__(config, dataset, device)
        self.captured = None  # a graph would not set `last`

    def _drawn(self, sampler: Sampler, positives: Positives, view: View) -> tuple[list[Negatives], str]:
        blocks, phase = super()._drawn(sampler, positives, view)
        self.last = positives, self.constants(blocks), phase
        return blocks, phase

    def constants(self, blocks: list[Negatives]) -> list[Negatives]:
        """Copies of the blocks, free of the source's model. RunFailed for generated vectors."""
        if any(block.generated is not None for block in blocks):
            raise RunFailed(
                f"{self.config.name} cannot be replayed: {self.config.sampler} generates vectors in the space of its own "
                "model, which mean nothing to another; replay the run of a sampler that draws entities"
            )
        return [constant(block) for block in blocks]


class Replay(Trainer):
    """A trainer whose batches and negatives are those of its source; the sampler learns from the source's model alone."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device | str = "cpu") -> None:
        super().__init__(config, dataset, device)
        assert config.replayed is not None
        self.captured = None
        self.source = Source(from_record(config.replayed), dataset, device)
        self.sampler_clock = self.source.sampler_clock
        self.sampler.source = self.source.sampler  # a module of it, so that diagnostics put its state back

    def pretrain(self) -> None:
        self.source.pretrain()

    def step(self) -> None:
        self.source.step()
        super().step()

    def draw(self, positives: Positives, rng: torch.Generator) -> list[Negatives]:
        return self.source.constants(self.source.draw(positives, rng))

    def _next_positives(self) -> Positives:
        return self.source.last[0]

    def _drawn(self, sampler: Sampler, positives: Positives, view: View) -> tuple[list[Negatives], str]:
        _, blocks, phase = self.source.last
        return blocks, "sampler" if phase == "sampler" else "model"  # never feedback: that was the source's

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.source.load_state_dict(state["source"])
        self.sampler_clock = self.source.sampler_clock

    def sampler_bytes(self) -> int:
        return self.source.sampler_bytes()


def constant(block: Negatives) -> Negatives:
    """A copy that the source's next step cannot change, and no gradient leaves: no delta, no tape, all else detached."""
    given = {field.name: _copied(getattr(block, field.name)) for field in dataclasses.fields(block)}
    return Negatives(**{**given, "delta": None, "tape": None})


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {name: x.clone() for name, x in value.items()} if isinstance(value, Mapping) else value

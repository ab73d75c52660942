"""What a sampler costs, before it is timed: its counted work times what a unit of each kind takes on this machine.

A sampler's `work` counts its units per step; `prices` times the same kernels on the run's own graph, model and sizes, in
turns with steps of the baseline. A price is a share of that step: like the ratios of nsbench.bench.speed, it survives a busy
machine. The counts are those of specs/classic_samplers.md, sections 0.3 and 4 to 10.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from nsbench.contracts import Scoring
from nsbench.training.trainer import Trainer, adam

KINDS = {
    "draws": "random entities found by a search: exact filtered draws, steps of a walk, tests whether a triple is known",
    "scores": "candidates that the model scores, without gradient",
    "trained": "candidates scored forward and backward; those of a model of another width count by their width",
    "choices": "elements of rows that compete to be drawn: sorted, perturbed by noise, the largest taken",
    "parameters": "numbers with a dense gradient, stepped by Adam",
    "products": "multiply-adds of dense matrix products",
    "pairs": "(query, entity) pairs of the model, every entity for each query, scored forward and backward",
    "logits": "elements of [B, N] without the known answers, through a softmax forward and backward",
}
ROW = 100  # candidates per row of a probe: long enough that what a call costs in itself does not count
ROUNDS = 5
SPAN = 0.2  # seconds that each side of a comparison takes: as long as the other, or a busy machine would favour the shorter


def ratio(work: Mapping[str, float], baseline: Mapping[str, float], price: Mapping[str, float]) -> float:
    """Step of a sampler over step of the baseline, for the work of both and prices in steps of the baseline."""
    return 1.0 + sum(price[kind] * units for kind, units in beyond(work, baseline).items())


def beyond(work: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Units of each kind that `work` has more than the baseline, or fewer; kinds that are equal are left out."""
    if unknown := {*work, *baseline} - set(KINDS):
        raise ValueError(f"unknown kinds of work: {', '.join(sorted(unknown))}; nsbench.bench.costs.KINDS lists them")
    more = {kind: work.get(kind, 0.0) - baseline.get(kind, 0.0) for kind in KINDS}
    return {kind: units for kind, units in more.items() if units != 0}


def predicted(trainer: Trainer, baseline: Trainer) -> float | None:
    """The cost of a step of `trainer` in steps of the baseline; None where one of the samplers does not state its work."""
    works = [t.sampler.work(t.protocol.batch, t.setting) for t in (trainer, baseline)]
    if works[0] is None or works[1] is None:
        return None
    return ratio(works[0], works[1], prices(baseline, beyond(works[0], works[1])))


def prices(trainer: Trainer, kinds: Iterable[str]) -> dict[str, float]:
    """What a unit of each kind takes, as a share of a step of `trainer`: medians over rounds. Steps the trainer."""
    probes = {kind: PROBES[kind](trainer) for kind in kinds}
    timers = {kind: _timer(run, trainer.device) for kind, (_, run) in probes.items()}
    step = _timer(trainer.step, trainer.device)
    found: dict[str, list[float]] = {kind: [] for kind in probes}
    for _ in range(ROUNDS):
        for kind, (units, _) in probes.items():
            found[kind].append(timers[kind]() / units / step())
    return {kind: statistics.median(shares) for kind, shares in found.items()}


def _timer(run: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Seconds of a call, from as many as take SPAN seconds."""

    def seconds(calls: int) -> float:
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            run()
        wait(device)
        return (time.perf_counter() - began) / calls

    seconds(1)  # for caches and allocators
    calls = max(1, math.ceil(SPAN / seconds(1)))
    return lambda: seconds(calls)


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Probe = tuple[int, Callable[[], object]]  # how many units a call is, and the call


class _Batch:
    """A batch of the run with sides and candidates, from a generator of its own."""

    def __init__(self, trainer: Trainer) -> None:
        graph, size, device = trainer.graph, trainer.protocol.batch, trainer.device
        self.rng = torch.Generator(device).manual_seed(0)
        self.positives = graph.positives(torch.randint(len(graph), (size,), generator=self.rng, device=device))
        self.side = torch.rand(size, generator=self.rng, device=device) < 0.5
        self.key = self.positives.key(self.side)
        self.query = (self.positives.anchor(self.side), self.positives.r, self.side)

    def candidates(self, trainer: Trainer) -> Tensor:
        return trainer.graph.draw(self.key, ROW, self.rng)


def _draws(trainer: Trainer) -> Probe:
    batch, k = _Batch(trainer), trainer.protocol.negatives
    return trainer.protocol.batch * k, lambda: trainer.graph.draw(batch.key, k, batch.rng)


def _scores(trainer: Trainer) -> Probe:
    batch = _Batch(trainer)
    ids = batch.candidates(trainer)
    return ids.numel(), lambda: trainer.scoring().ids(*batch.query, ids)


def _trained(trainer: Trainer) -> Probe:
    batch = _Batch(trainer)
    ids = batch.candidates(trainer)
    return ids.numel(), lambda: _learn(trainer, lambda scoring: scoring.ids(*batch.query, ids))


def _pairs(trainer: Trainer) -> Probe:
    """Of an eighth of the batch: distances of all pairs take seconds for a whole one."""
    queries = [x[: -(-len(x) // 8)] for x in _Batch(trainer).query]
    units = len(queries[0]) * trainer.graph.num_entities
    return units, lambda: _learn(trainer, lambda scoring: scoring.all(*queries))


def _learn(trainer: Trainer, scores: Callable[[Scoring], Tensor]) -> None:
    """Forward and backward; the gradients are dropped."""
    score = scores(Scoring(trainer.kge, trainer.fusion, trainer.graph))
    score.backward(torch.full_like(score, 1e-3))
    trainer.model_adam.zero_grad(set_to_none=True)


def _choices(trainer: Trainer) -> Probe:
    batch = _Batch(trainer)
    ids = batch.candidates(trainer).int()
    score = torch.rand(ids.shape, generator=batch.rng, device=trainer.device)

    def run() -> Tensor:
        row = ids.sort(dim=1).values
        noise = torch.empty_like(score).exponential_(generator=batch.rng).log_()
        return row.gather(1, (score - noise).topk(ROW // 2, dim=1, sorted=False).indices)

    return ids.numel(), run


def _parameters(trainer: Trainer) -> Probe:
    table = nn.Parameter(trainer.kge.entity.detach().clone())
    optimiser = adam([{"params": [table], "lr": 1e-3}])

    def run() -> None:
        table.grad = torch.zeros_like(table)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return table.numel(), run


def _products(trainer: Trainer) -> Probe:
    """A linear layer onto all entities and its two gradients."""
    table = trainer.kge.entity.detach().clone()
    x = table[torch.arange(trainer.protocol.batch, device=trainer.device) % len(table)]

    def run() -> tuple[Tensor, Tensor]:
        logits = x @ table.T
        return logits.T @ x, logits @ table

    return 3 * len(x) * table.numel(), run


def _logits(trainer: Trainer) -> Probe:
    batch = _Batch(trainer)
    size = (trainer.protocol.batch, trainer.graph.num_entities)
    logits = torch.rand(size, generator=batch.rng, device=trainer.device).requires_grad_()

    def run() -> None:
        p = logits.masked_fill(trainer.graph.answers(batch.key), -torch.inf).softmax(1)
        p.backward(p.detach())
        logits.grad = None

    return logits.numel(), run


PROBES: dict[str, Callable[[Trainer], Probe]] = {
    "draws": _draws,
    "scores": _scores,
    "trained": _trained,
    "choices": _choices,
    "parameters": _parameters,
    "products": _products,
    "pairs": _pairs,
    "logits": _logits,
}

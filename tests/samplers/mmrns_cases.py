"""Trainers whose sampler is MMRNS, and the parts of a step."""

import torch

from nsbench.config.run import configure
from nsbench.contracts.scoring import Scoring
from nsbench.samplers.parts.contrast import Component, Others, Tape
from nsbench.training.trainer import Trainer

SIZES = ("width=6", "batch=16", "negatives=3")


def trainer_on(dataset, *settings, kge="distmult", protocol=SIZES):
    own = "sampler.candidates=0"  # the default; protocol quick has a size of its own
    values = [*(f"protocol.{x}" for x in protocol), own, *settings]
    return Trainer(configure("mmrns", kge, dataset.name, protocol="quick", settings=values), dataset)


def step_of(trainer, rows=range(16)):
    """Scoring, view, positives, block, and scores of one step."""
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    view = trainer._view(scoring, live=trainer.live)
    positives = trainer.graph.positives(torch.tensor(list(rows)))
    block = trainer.sampler.sample(positives, view)
    return scoring, view, positives, block, scoring.block(positives, block)


def reached(trainer):
    """Names of the sampler's parameters that have a gradient."""
    return {name for name, p in trainer.sampler.named_parameters() if p.grad is not None and p.grad.any()}


def no_others():
    return Others(*(torch.zeros(0, dtype=torch.int64) for _ in range(2)), torch.zeros(0, dtype=torch.bool))


def components_of(rows, candidates, number, rng):
    return [
        Component(2 * torch.rand(rows, candidates, generator=rng) - 1, torch.ones(rows), torch.zeros(0))
        for _ in range(number)
    ]


def tape_of(near, index, known=None, others=None):
    near = torch.tensor(near)
    known = torch.zeros_like(near, dtype=torch.bool) if known is None else torch.tensor(known)
    component = Component(near, torch.ones(len(near)), torch.zeros(0))
    return Tape([component], known, torch.tensor(index), others or no_others())


def similarities(trainer, candidates, rows=range(16), side=None):
    """What the sampler finds for given candidates, and the parts that went in."""
    trainer.sampler.candidates = len(candidates)
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    view = trainer._view(scoring, live=True)
    positives = trainer.graph.positives(torch.tensor(list(rows)))
    side = torch.arange(len(positives)) % 2 == 0 if side is None else side
    answer = positives.answer(side)
    others = trainer.sampler.answers.others(positives.key(side), answer, 4, torch.Generator().manual_seed(3))
    ids = torch.cat([candidates, answer, others.entity])
    found = trainer.sampler.components(ids, view.vectors(ids), positives.r, others, view)
    return found, positives.r, answer, others, view

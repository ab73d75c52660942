"""Trainers on the toy graph whose sampler is DHNS, and what they draw."""

import warnings

import torch

from nsbench.config.run import configure
from nsbench.contracts.scoring import Scoring
from nsbench.samplers.dhns import DHNS
from nsbench.testing.rules import toy
from nsbench.training.trainer import Trainer

KGES = ["transe", "distmult", "rotate"]
VARIANTS = ["recommended", *DHNS.variants]


def make(kge="distmult", *settings, fusion="adamf", batch=16, width=8, sampler="dhns", dataset=None):
    """After the pass over train that is DHNS's warm-up, though without having made its steps."""
    values = [f"protocol.batch={batch}", f"protocol.width={width}", "protocol.negatives=4"]
    if sampler.startswith("dhns"):
        values += ["sampler.timesteps=20"]
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, settings=[*values, *settings])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # T = 20 is short for the released levels
        made = Trainer(config, dataset or toy(features=fusion != "none"))
    made.pretrain()
    made.step_count = -(-len(made.graph) // batch)
    return made


def drawn(made, rows=range(0, 48, 3)):
    """Positives, the view that sample was given, and its blocks."""
    positives = made.graph.positives(torch.tensor(list(rows)))
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=made.live)
    return positives, view, made.sampler.sample(positives, view)


def trained(made, number):
    for _ in range(number):
        made.step()
    return made


def generated(made, positives):
    scoring = Scoring(made.kge, made.fusion, made.graph)
    view = made._view(scoring, live=made.live)
    blocks = [block for block in made.sampler.sample(positives, view) if block.generated is not None]
    return scoring, blocks


class Scripted:
    """Noise tensors in place of a generator's, in a known order."""

    def __init__(self, seed=0):
        self.rng = torch.Generator().manual_seed(seed)
        self.given = []

    def __call__(self, shape):
        self.given.append(torch.randn(shape, generator=self.rng))
        return self.given[-1]


def conditions(slots=3, batch=5, width=8):
    """[2, B, S, D], of nothing in particular."""
    return torch.randn(2, batch, slots, width, generator=torch.Generator().manual_seed(9))


def one_triple(made):
    """A positive with both features on either end, so that nothing is masked."""
    mask = made.fusion.slot_mask(made.graph.triples[:, [0, 2]]).all(2).all(1)
    mask &= made.graph.triples[:, 0] != made.graph.triples[:, 2]
    return made.graph.positives(mask.nonzero()[:1, 0])


def pulled(made):
    """Which of the model's parts hold a gradient."""
    entity = made.kge.entity.grad
    parts = {"entity": entity, "relation": made.kge.relation.grad, "attention": getattr(made.fusion, "q", None)}
    found = {name: x is not None and (x if name != "attention" else x.grad) is not None for name, x in parts.items()}
    projections = [p.grad for p in made.fusion.project.parameters()] if hasattr(made.fusion, "project") else []
    found["projections"] = any(g is not None and bool(g.abs().sum() > 0) for g in projections)
    theta = [p.grad for p in made.sampler.parameters()]
    return {name for name, has in found.items() if has} | ({"theta"} if any(g is not None for g in theta) else set())


def rows_pulled(made):
    grad = made.kge.entity.grad
    return set() if grad is None else set(grad.abs().sum(1).nonzero().squeeze(1).tolist())

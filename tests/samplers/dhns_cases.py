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
    values = [f"protocol.batch={batch}", f"protocol.width={width}", "protocol.negatives=4"]
    if sampler == "dhns":
        values += ["sampler.warmup=0", "sampler.timesteps=20"]
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, settings=[*values, *settings])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # T = 20 is short for the released levels
        made = Trainer(config, dataset or toy(features=fusion != "none"))
    made.pretrain()
    return made


def drawn(made, rows=range(0, 48, 3)):
    """Positives, the view that sample was given, and its blocks."""
    positives = made.graph.positives(torch.tensor(list(rows)))
    view = made._view(Scoring(made.kge, made.fusion, made.graph), live=made.sampler.options.leak)
    return positives, view, made.sampler.sample(positives, view)


def trained(made, number):
    for _ in range(number):
        made.step()
    return made


def generated(made, positives):
    scoring = Scoring(made.kge, made.fusion, made.graph)
    view = made._view(scoring, live=made.sampler.options.leak)
    blocks = [block for block in made.sampler.sample(positives, view) if block.generated is not None]
    return scoring, blocks

"""What the tests of several fusions need: small trainers, features of one's own, comparison of states."""

from __future__ import annotations

import dataclasses

import torch

from nsbench.config.run import configure
from nsbench.contracts import Setting
from nsbench.contracts.graph import TrainGraph
from nsbench.options import build_options
from nsbench.testing.rules import toy
from nsbench.training.trainer import Trainer

SMALL = ("width=6", "batch=16", "negatives=4", "steps=60", "learning_rate=0.02")


def trainer_of(*settings, fusion, sampler="uniform", kge="transe", seed=0, data=None, device="cpu"):
    values = [*(f"protocol.{x}" for x in SMALL), *settings]
    config = configure(sampler, kge, "toy", protocol="quick", fusion=fusion, seed=seed, settings=values)
    return Trainer(config, toy(features=True) if data is None else data, device)


def made(component, data, width=5, seed=0, **options):
    """The fusion alone, for vectors of `width`."""
    torch.manual_seed(seed)
    graph = TrainGraph(data.train, data.num_entities, data.num_relations)
    setting = Setting(graph, 4, 3.0, width, width, data.features, data.present)
    return component(setting, build_options(component.Options, options, "fusion"))


def with_features(features, present):
    return dataclasses.replace(toy(), features=features, present=present)


def steps(trainer, number):
    for _ in range(number):
        trainer.step()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

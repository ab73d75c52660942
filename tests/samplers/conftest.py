"""Draws, in number, from one sampler on a graph of one's own."""

import dataclasses

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Dataset
from nsbench.testing import toy
from nsbench.training.trainer import Trainer
from tests.samplers.mmrns_cases import trainer_on as mmrns_on


@pytest.fixture
def trainer_on():
    """trainer_on(sampler, triples, entities, relations, K, *settings, kge=...): a trainer that has not taken a step."""

    def make(sampler, triples, entities, relations, negatives, *settings, kge="distmult"):
        train = torch.tensor(triples)
        names = [str(i) for i in range(max(entities, relations))]
        dataset = Dataset("mine", train, train[:1], train[:1], names[:entities], names[:relations])
        values = [f"protocol.negatives={negatives}", f"protocol.batch={len(train)}", "protocol.width=2", *settings]
        return Trainer(configure(sampler, kge, "mine", protocol="quick", settings=values), dataset)

    return make


@pytest.fixture
def draw():
    """draw(trainer, rows): one block for the training triples at `rows`."""

    def one(trainer, rows):
        positives = trainer.graph.positives(torch.as_tensor(rows))
        return positives, trainer.sampler.sample(positives, trainer.view)

    return one


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(1)


@pytest.fixture
def on_toy():
    """MMRNS's trainer on the toy graph with both modalities, its entities spread out so that no two draws are alike."""

    def make(*settings, features=("image", "text"), **how):
        data = toy(features=True)
        chosen = {"features": {m: data.features[m] for m in features}, "present": {m: data.present[m] for m in features}}
        trainer = mmrns_on(dataclasses.replace(data, **chosen), *settings, **how)
        with torch.no_grad():
            trainer.kge.entity.mul_(3)
            trainer.kge.relation.mul_(3)
        return trainer

    return make

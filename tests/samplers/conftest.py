"""Draws, in number, from one sampler on a graph of one's own."""

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Dataset
from nsbench.training.trainer import Trainer


@pytest.fixture
def trainer_on():
    """trainer_on(sampler, triples, entities, relations, K, *settings): a trainer that has not taken a step."""

    def make(sampler, triples, entities, relations, negatives, *settings):
        train = torch.tensor(triples)
        names = [str(i) for i in range(max(entities, relations))]
        dataset = Dataset("mine", train, train[:1], train[:1], names[:entities], names[:relations])
        values = [f"protocol.negatives={negatives}", f"protocol.batch={len(train)}", "protocol.width=2", *settings]
        return Trainer(configure(sampler, "distmult", "mine", protocol="quick", settings=values), dataset)

    return make


@pytest.fixture
def draw():
    """draw(trainer, rows): one block for the training triples at `rows`."""

    def one(trainer, rows):
        positives = trainer.graph.positives(torch.as_tensor(rows))
        return positives, trainer.sampler.sample(positives, trainer.view)

    return one

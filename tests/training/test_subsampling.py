"""The weight of a triple reaches the loss of that triple, wherever it stands in the batch."""

import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.testing.rules import toy
from nsbench.training.trainer import Trainer


def test_the_loss_of_a_step_is_the_mean_by_the_weights_of_the_batchs_own_triples():
    settings = ["protocol.subsampling=true", "protocol.batch=32", "protocol.negatives=3", "protocol.width=6"]
    trainer = Trainer(configure("uniform", "distmult", "toy", protocol="quick", settings=settings), toy())
    with torch.no_grad():
        trainer.kge.entity.mul_(5)  # losses that differ
        trainer.kge.relation.mul_(5)
    e, r = (x.detach().double().clone() for x in (trainer.kge.entity, trainer.kge.relation))
    seen, sample = [], trainer.sampler.sample
    trainer.sampler.sample = lambda *x: seen.append((x[0], sample(*x))) or seen[-1][1]
    trainer.step()
    ((positives, block),) = seen

    train = toy().train.tolist()
    total = weights = 0.0
    for i, (h, rel, t) in enumerate(positives.hrt.tolist()):
        count = sum((a, q) == (h, rel) for a, q, _ in train) + sum((q, b) == (rel, t) for _, q, b in train)
        weight = 1 / math.sqrt(count + 6)  # both counters start at 4, at the first occurrence
        kept = e[t if block.side[i] else h] * r[rel]
        good, bad = (kept * e[h if block.side[i] else t]).sum(), e[block.ids[i]] @ kept
        total += weight * (-good.sigmoid().log() - (-bad).sigmoid().log().mean()).item() / 2
        weights += weight
    assert trainer.loss_sum.item() == pytest.approx(total / weights, rel=1e-5)
    assert positives.rows.tolist() != list(range(32))

"""Where learnt and balanced samplers start from, by independent formulas."""

import numpy as np
import pytest
import torch

from nsbench.samplers.igan import Generator
from nsbench.samplers.parts.reinforce import Advantage


@pytest.mark.parametrize("head", [True, False])
def test_the_generator_of_igan_is_a_network_with_one_rectified_layer(head):
    torch.manual_seed(3)
    generator = Generator(6, 2, 4)
    weights = {name: x.detach().double().numpy() for name, x in generator.named_parameters()}
    x = np.concatenate([weights["entity.weight"][5], weights["relation.weight"][1 if head else 3]])
    hidden = np.maximum(weights["hidden.weight"] @ x + weights["hidden.bias"], 0)
    assert 0 < (hidden > 0).sum() < 4  # the rectifier matters
    wanted = weights["out.weight"] @ hidden + weights["out.bias"]
    found = generator(torch.tensor([5]), torch.tensor([1]), torch.tensor([head]))
    np.testing.assert_allclose(found[0].detach().numpy(), wanted, atol=1e-6)


def test_normalised_advantages_are_right_from_the_first_batches_on():
    advantage = Advantage("running", normalise=True)
    for _ in range(5):  # the mean is 7, the deviation from it 2
        assert advantage(torch.tensor([[5.0, 9.0]]), None).tolist() == [[pytest.approx(-1.0), pytest.approx(1.0)]]


def test_an_unfiltered_cache_starts_with_known_answers_too(trainer_on):
    triples = [(0, 0, t) for t in range(60)] + [(1, 1, 2)]
    for variant, some in (("paper", True), ("recommended", False)):
        trainer = trainer_on("nscaching", triples, 120, 2, 4, f"sampler.variant={variant}")
        trainer.pretrain()
        row = trainer.sampler.cache[trainer.graph.key_tail[0]]  # of (0, 0, ?)
        assert bool((row < 60).any()) is some
        assert len(set(row.tolist())) == 50


def test_the_balance_of_ns_kge_counts_a_fact_once(trainer_on):
    facts = [(0, 0, 1), (1, 0, 2), (2, 1, 0)]
    for copies in (1, 4):
        assert trainer_on("ns_kge", facts * copies, 5, 2, 4).sampler.c_negative == pytest.approx(3 / (5 * 2 * 5))

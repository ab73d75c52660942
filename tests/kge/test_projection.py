"""How fast slots of features move, next to the table's rows."""

import pytest
import torch

from nsbench.kge.fusions.projection import Projection
from tests.kge.fusions import trainer_of

RATE = 1e-2


@pytest.mark.parametrize("features", [7, 384])
def test_a_step_of_adam_moves_a_slot_as_far_as_a_row_of_the_table(features):
    """The first step of Adam moves each number by its rate, whatever the gradient's size."""
    rng = torch.Generator().manual_seed(0)
    phi = torch.randn(50, features, generator=rng)
    phi /= phi.norm(dim=1, keepdim=True)
    present = torch.arange(50) < 40
    projection = Projection(phi.masked_fill(~present.unsqueeze(1), 0), present, 6)
    before = projection(phi[:1])
    adam = torch.optim.Adam([projection.param_group(RATE)])
    projection(phi[:1]).sum().backward()
    adam.step()
    moved = (projection(phi[:1]) - before).abs()
    norm = phi[0].abs().sum() / phi[:40].abs().sum(1).mean()
    bias = RATE / phi[:40].abs().sum(1).mean()
    torch.testing.assert_close(moved, torch.full_like(moved, RATE * norm + bias), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("fusion", "slow"), [("adamf", 2), ("two_view", 1), ("none", 0)])
def test_the_model_takes_every_parameter_of_a_fusion_once(fusion, slow):
    trainer = trainer_of(kge="distmult", fusion=fusion)
    groups = trainer.model_adam.param_groups
    taken = [id(x) for group in groups for x in group["params"]]
    assert sorted(taken) == sorted(id(x) for x in (*trainer.kge.parameters(), *trainer.fusion.parameters()))
    rates = [group["lr"] for group in groups]
    assert rates[0] == trainer.protocol.learning_rate
    assert sum(rate != rates[0] for rate in rates) == slow
    trainer.step_count = trainer.protocol.steps  # after the decay
    trainer._set_learning_rate()
    after = [group["lr"] for group in groups]
    assert after == pytest.approx([rate * trainer.protocol.decay_factor for rate in rates])


def test_the_projections_of_adamf_are_ten_times_slower_still():
    trainer = trainer_of(kge="distmult", fusion="adamf")
    rates = {id(x): group["lr"] for group in trainer.model_adam.param_groups for x in group["params"]}
    for name, projection in zip(trainer.fusion.modalities, trainer.fusion.project, strict=True):
        phi = getattr(trainer.fusion, f"phi_{name}")
        reach = phi[phi.abs().sum(1) > 0].abs().sum(1).mean().item()
        for parameter in projection.parameters():
            assert rates[id(parameter)] == pytest.approx(trainer.protocol.learning_rate / (10 * reach))


def test_an_entity_set_without_the_modality_is_no_division_by_zero():
    projection = Projection(torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool), 2)
    assert projection.param_group(RATE)["lr"] == RATE

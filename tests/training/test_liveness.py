"""Whether a generator is alive: figures and verdict against counting and formulas that stand here."""

import math

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Generated, Negatives, Sampler
from nsbench.registry import FUSIONS, SAMPLERS
from nsbench.testing.rules import registered, toy
from nsbench.training.diagnostics import RANKED, Diagnosis
from nsbench.training.liveness import dead
from nsbench.training.trainer import Trainer
from tests.testing import fakes

SETTINGS = [
    *("protocol.steps=400", "protocol.width=8", "protocol.batch=32", "protocol.negatives=4"),
    *("protocol.temperature=0", "protocol.subsampling=false", "protocol.sides=per_row"),
]
FIGURES = {"generated_truth", "generated_gradient"}


class Alive(Sampler):
    """Four fixed entities as tails, and two vectors near the tail that is replaced, of next to no weight in the loss."""

    filtered = False
    drawn = torch.tensor([0, 20, 39, 7])
    weight = 1e-3

    def sample(self, positives, view):
        tails = torch.zeros(len(positives), dtype=torch.bool)
        answer = view.vectors(positives.t)
        made = Generated(self.vectors(answer), truth=self.truth(answer))
        ids = self.drawn.expand(len(positives), -1).contiguous()
        return [Negatives(tails, ids=ids), Negatives(tails, generated=made, coef=self.weight)]

    def vectors(self, answer):
        return torch.stack([answer + 0.1, answer - 0.2], dim=1)

    def truth(self, answer):
        return answer


class WrongForm(Alive):
    """Holds the opposite of every entity for the entity."""

    def truth(self, answer):
        return -answer


class Remote(Alive):
    """So far away that no score of them has a gradient."""

    weight = 1.0

    def vectors(self, answer):
        return super().vectors(answer) + 1e4


def trained(sampler, steps=200, fusion="none", features=False):
    """A run of TransE on the toy graph, some steps on, and what measures it."""
    with registered(SAMPLERS, "subject", sampler):
        config = configure("subject", "transe", "toy", protocol="quick", settings=SETTINGS, fusion=fusion)
        diagnosis = Diagnosis(Trainer(config, toy(features)), toy(features))
    for _ in range(steps):
        diagnosis.trainer.step()
    return diagnosis


def share_below(diagnosis, truth):
    """Mean share of the tails not in train that score below `truth` [N, D], the rows of which stand for the entities."""
    entity, relation, margin = (x.detach() for x in _model(diagnosis))
    facts, shares = set(map(tuple, toy().train.tolist())), []
    for h, r, t in toy().train[torch.cat(diagnosis.batches)[:RANKED]].tolist():
        scores = [(margin - (entity[h] + relation[r] - x).abs().sum()).item() for x in (*entity, truth[t])]
        others = [scores[e] for e in range(len(entity)) if (h, r, e) not in facts]
        shares.append(sum((x < scores[-1]) + 0.5 * (x == scores[-1]) for x in others) / len(others))
    return sum(shares) / len(shares)


def gradient_norm(diagnosis, vectors):
    """Of mean softplus(score) over the last batch, tails replaced by vectors(entity, tails) [B, K, D]."""
    entity, relation, margin = _model(diagnosis)
    h, r, t = toy().train[diagnosis.batches[-1]].unbind(1)
    x = vectors(entity, t)
    score = margin - ((entity[h] + relation[r]).unsqueeze(1) - x).abs().sum(2)
    (score.exp() + 1).log().mean().backward()
    return math.sqrt(sum(x.grad.square().sum().item() for x in (entity, relation)))


def _model(diagnosis):
    kge = diagnosis.trainer.kge
    return *(x.detach().double().requires_grad_() for x in (kge.entity, kge.relation)), torch.tensor(float(kge.margin))


def test_a_live_generator():
    diagnosis = trained(Alive)
    found = diagnosis.measure()["figures"]
    entity = diagnosis.trainer.kge.entity.detach()
    assert found["generated_truth"] == pytest.approx(share_below(diagnosis, entity), abs=2e-3)
    sampled = gradient_norm(diagnosis, lambda e, t: e[Alive.drawn].expand(len(t), -1, -1))
    made = gradient_norm(diagnosis, lambda e, t: Alive.vectors(None, e[t].detach()))
    assert found["generated_gradient"] == pytest.approx(made / sampled, rel=1e-3)
    assert found["generated_truth"] > 0.8
    assert 0.5 < found["generated_gradient"] < 20
    assert abs(made / sampled - sampled / made) > 0.2  # which is over which shows
    assert found["pull_generated"] < 0.01  # the weight of the experiment, which the ratio has not
    assert dead({"end": found, "sampler": {}}) == []


def test_a_generator_that_takes_something_else_for_the_entity():
    diagnosis = trained(WrongForm)
    found = diagnosis.measure()["figures"]
    expected = share_below(diagnosis, -diagnosis.trainer.kge.entity.detach())
    assert found["generated_truth"] == pytest.approx(expected, abs=2e-3)
    assert expected < 0.45
    (reason,) = dead({"end": found, "sampler": {}})
    assert f"({expected:.2f})" in reason


def test_a_generator_whose_negatives_have_no_gradient():
    found = trained(Remote).measure()["figures"]
    assert found["generated_truth"] > 0.8
    assert found["generated_gradient"] == 0  # exp(-8e4)
    (reason,) = dead({"end": found, "sampler": {}})
    assert "gradient" in reason
    assert "(0)" in reason


class Slotted(Alive):
    """All slots of the tail; what it lacks is nan."""

    def sample(self, positives, view):
        mask = view.slot_mask(positives.t)
        truth = view.slots(positives.t)
        vectors = torch.where(mask.unsqueeze(2), truth, 0.0).unsqueeze(1).repeat(1, 4, 1, 1)
        return Negatives(
            torch.zeros(len(positives), dtype=torch.bool),
            generated=Generated(vectors, mask, truth=truth, anchors=torch.ones_like(vectors) if self.both else None),
        )

    both = False


def test_slots_of_the_truth_are_scored_as_the_blocks_are():
    with registered(FUSIONS, "slots", fakes.Slots):
        diagnosis = trained(Slotted, steps=3, fusion="slots", features=True)
        trainer = diagnosis.trainer
        found = diagnosis.measure()["figures"]
    fused, relation = trainer.scoring().tables["fused"], trainer.kge.relation.detach()
    slots, mask = trainer.fusion.slots(trainer.kge.entity, torch.arange(40)).detach(), trainer.fusion.mask
    facts, shares = set(map(tuple, toy().train.tolist())), []
    for h, r, t in toy().train[torch.cat(diagnosis.batches)[:RANKED]].tolist():
        query = fused[h] + relation[r]
        every = -(query - fused).abs().sum(1)
        own = -(query - slots[t][mask[t]]).abs().sum(1).mean()
        others = torch.tensor([(h, r, e) not in facts for e in range(40)])
        shares.append((every[others] < own).double().mean().item())
    assert found["generated_truth"] == pytest.approx(sum(shares) / len(shares), abs=1e-3)
    assert "generated_gradient" not in found  # nothing beside them to compare with


def test_where_there_is_no_such_figure():
    class BothEnds(Slotted):
        both = True

    class Untold(Alive):
        def truth(self, answer):
            return None

    with registered(FUSIONS, "slots", fakes.Slots):
        found = trained(BothEnds, steps=1, fusion="slots", features=True).measure()["figures"]
    assert not FIGURES & set(found)
    assert set(trained(Untold, steps=1).measure()["figures"]) & FIGURES == {"generated_gradient"}
    assert not FIGURES & set(trained(fakes.Stateless, steps=1).measure()["figures"])


def test_a_truth_without_a_score_counts_for_nothing():
    class Nan(Alive):
        def truth(self, answer):
            return answer * torch.nan

    assert "generated_truth" not in trained(Nan, steps=1).measure()["figures"]


def test_a_truth_of_another_shape_is_refused():
    vectors, mask = torch.zeros(3, 2, 5, 4), torch.ones(3, 5, dtype=torch.bool)
    Generated(vectors, mask, truth=torch.zeros(3, 5, 4)).check()
    for truth in (torch.zeros(3, 4), torch.zeros(3, 2, 5, 4)):
        with pytest.raises(ValueError, match="truth"):
            Generated(vectors, mask, truth=truth).check()


LIVE, DEAD = {"generated_truth": 0.97, "generated_gradient": 0.8}, {"generated_truth": 0.31, "generated_gradient": 0.001}


@pytest.mark.parametrize(
    ("diagnostics", "figures"),
    [
        ({"start": DEAD, "middle": DEAD, "end": LIVE, "sampler": {}}, []),
        ({"start": LIVE, "middle": LIVE, "end": DEAD, "sampler": {}}, ["(0.31)", "(0.001)"]),
        ({"start": LIVE, "middle": DEAD, "sampler": {}}, ["(0.31)", "(0.001)"]),  # the last there is
        ({"start": DEAD, "end": {"hardness": 0.5}, "sampler": {}}, []),
        ({"end": {**LIVE, "generated_truth": 0.5}}, ["(0.50)"]),
        ({"end": {**LIVE, "generated_truth": 0.5001}}, []),
        ({"end": {**LIVE, "generated_gradient": 0.01}}, []),
        ({"end": {**LIVE, "generated_gradient": 0.0099}}, ["(0.0099)"]),
        (
            {"end": LIVE, "sampler": {f"noise_loss_quarter{i}": x for i, x in enumerate((0.999, 1.0, 0.6, 1.1), 1)}},
            ["1.00, 1.10"],
        ),
        ({"sampler": {"noise_loss_quarter1": 0.9, "rms_slot0": 2.0}}, []),
        ({}, []),
    ],
)
def test_the_verdict(diagnostics, figures):
    reasons = dead(diagnostics)
    assert len(reasons) == len(figures)
    assert all(figure in reason for figure, reason in zip(figures, reasons))
    if "1.00, 1.10" in figures:
        assert "quarters 2 and 4" in reasons[0]

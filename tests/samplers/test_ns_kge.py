"""notes/classic_samplers.md, section 8, Tests: the closed form against enumeration, E = 12, R = 5, d = 7, in float64."""

import itertools

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Need, Scoring
from nsbench.errors import Misuse
from nsbench.kge.models.distmult import DistMult
from nsbench.registry import FUSIONS
from nsbench.testing.rules import registered

E, R, D = 12, 5, 7
TRIPLES = [(0, 0, 1), (0, 0, 2), (0, 0, 3), (5, 1, 1), (11, 1, 0), (7, 2, 7), (3, 3, 4), (6, 3, 4)]


@pytest.fixture
def objective(trainer_on):
    """objective(*settings): a trainer of width 7 in float64."""

    def make(*settings, triples=TRIPLES):
        trainer = trainer_on("ns_kge", triples, E, R, 4, *settings, f"protocol.width={D}")
        trainer.kge.double()
        return trainer

    return make


def loss_of(trainer, rows, fusion=None):
    scoring = Scoring(trainer.kge, fusion or trainer.fusion, trainer.graph)
    return trainer.sampler.loss(trainer.graph.positives(torch.as_tensor(rows)), scoring, trainer.view)


def score(entity, relation, h, r, t):
    return sum(entity[h, i] * relation[r, i] * entity[t, i] for i in range(entity.shape[1]))


def enumerated(entity, relation, c_positive, c_negative):
    """The paper's sum: every triple, facts towards 1 with weight c+, all others towards 0 with weight c-."""
    total = torch.zeros((), dtype=torch.float64)
    for triple in itertools.product(range(E), range(R), range(E)):
        f = score(entity, relation, *triple)
        total = total + (c_positive * (1 - f) ** 2 if triple in set(TRIPLES) else c_negative * f**2)
    return total


def assert_same(ours, expected, parameters):
    assert ours.item() == pytest.approx(expected.item(), rel=1e-11)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters)):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-13)


def test_sum_of_squares_is_the_enumerated_one():
    rng = torch.Generator().manual_seed(0)
    entity = torch.randn(E, D, generator=rng, dtype=torch.float64, requires_grad=True)
    relation = torch.randn(R, D, generator=rng, dtype=torch.float64, requires_grad=True)
    expected = sum(score(entity, relation, *x) ** 2 for x in itertools.product(range(E), range(R), range(E)))
    assert_same(DistMult.sum_of_squares(None, entity, relation), expected, [entity, relation])  # needs no state


def test_one_pass_adds_up_to_the_papers_objective(objective):
    trainer = objective("sampler.c_positive=1.5", "sampler.c_negative=0.02")
    batches = [[0, 3], [1, 2], [6, 7], [5, 4]]
    ours = 2 * sum(loss_of(trainer, rows) for rows in batches)  # each step is divided by its batch of 2
    assert_same(ours, enumerated(trainer.kge.entity, trainer.kge.relation, 1.5, 0.02), list(trainer.kge.parameters()))


def test_a_triple_that_train_lists_twice_counts_once(objective):
    trainer = objective("sampler.c_positive=1.5", "sampler.c_negative=0.02", triples=[*TRIPLES, TRIPLES[2], TRIPLES[2]])
    ours = 5 * (loss_of(trainer, range(5)) + loss_of(trainer, range(5, 10)))
    assert_same(ours, enumerated(trainer.kge.entity, trainer.kge.relation, 1.5, 0.02), list(trainer.kge.parameters()))


def test_several_views_of_an_entity_score_in_all_pairs(objective):
    """A score is the sum over pairs of views; so is the score of which every square is summed."""

    class Two(FUSIONS.get("none")):
        def views(self, entity):
            return {"plain": entity, "bent": 0.5 * entity + 0.1}

    trainer = objective("sampler.c_negative=0.02")
    both = 1.5 * trainer.kge.entity + 0.1
    expected = enumerated(both, trainer.kge.relation, 1.0, 0.02)
    assert_same(8 * loss_of(trainer, range(8), Two(trainer.setting, None)), expected, list(trainer.kge.parameters()))


def test_the_default_weight_balances_facts_and_all_triples(objective):
    balanced = len(TRIPLES) / (E * R * E)
    assert objective().sampler.c_negative == pytest.approx(balanced)
    assert objective("sampler.balance=10").sampler.c_negative == pytest.approx(10 * balanced)


def test_paper_fixes_the_weight_of_the_unknown(objective):
    recommended, paper = objective(), objective("sampler.variant=paper")
    assert paper.sampler.c_negative == 1e-4
    assert loss_of(paper, range(8)).item() != pytest.approx(loss_of(recommended, range(8)).item(), rel=1e-6)


@pytest.mark.parametrize("kge", ["transe", "rotate"])
def test_models_without_the_closed_form_are_refused_before_any_work(kge):
    with pytest.raises(Misuse, match="squared scores sum in closed form"):
        configure("ns_kge", kge, "mkg_y")


def test_a_score_that_is_not_one_of_sums_of_views_is_refused():
    class Part(FUSIONS.get("none")):
        @classmethod
        def provided(cls, options):
            return super().provided(options) - {Need.SQUARE}

    with registered(FUSIONS, "part", Part), pytest.raises(Misuse, match="all pairs of views alike, which 'part' has not"):
        configure("ns_kge", "distmult", "mkg_y", fusion="part")


def test_the_balance_of_ns_kge_counts_a_fact_once(trainer_on):
    facts = [(0, 0, 1), (1, 0, 2), (2, 1, 0)]
    for copies in (1, 4):
        assert trainer_on("ns_kge", facts * copies, 5, 2, 4).sampler.c_negative == pytest.approx(3 / (5 * 2 * 5))

"""docs/notes/classic_samplers.md, section 1, Tests."""

import pytest
import scipy
import torch

TRIPLES = [(0, 0, 1), (0, 0, 2), (0, 0, 3), (5, 0, 1), (19, 0, 0), (7, 0, 19), (0, 1, 0)]  # 20 entities


@pytest.mark.parametrize("row", [0, 3, 4, 6])
def test_every_other_entity_is_drawn_equally_often(trainer_on, draw, row):
    trainer = trainer_on("uniform", TRIPLES, 20, 2, 20_000)
    h, r, t = TRIPLES[row]
    _, block = draw(trainer, [row] * 16)
    assert len(set(block.side.tolist())) == 2  # both ends are looked at
    for head in (False, True):
        known = {a for a, q, b in TRIPLES if (q, b) == (r, t)} if head else {b for a, q, b in TRIPLES if (a, q) == (h, r)}
        ids = block.ids[block.side == head]
        counts = torch.bincount(ids.flatten(), minlength=20)
        legal = [e for e in range(20) if e not in known]
        assert {e for e in range(20) if counts[e] == 0} == known
        assert scipy.stats.chisquare(counts[legal].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("sides", ["per_row", "per_slot"])
def test_sides_are_a_fair_coin(trainer_on, draw, sides):
    trainer = trainer_on("uniform", TRIPLES, 20, 2, 4, f"protocol.sides={sides}")
    _, block = draw(trainer, [0] * 40_000)
    assert block.side.shape == ((40_000,) if sides == "per_row" else (40_000, 4))
    n = block.side.numel()
    assert abs(block.side.sum().item() - n / 2) < 4 * (n / 4) ** 0.5


def test_a_query_that_every_entity_answers_is_reported_invalid(trainer_on, draw):
    triples = [(0, 0, e) for e in range(4)] + [(1, 1, 2)]
    trainer = trainer_on("uniform", triples, 4, 2, 6, "protocol.sides=alternate")
    for head in (True, False):
        positives = trainer.graph.positives(torch.arange(5), torch.full((5,), head))
        block = trainer.sampler.sample(positives, trainer.view)
        block.check(5)
        full = torch.tensor([not head] * 4 + [False])  # (0, 0, ?) is full, the others are not
        assert torch.equal(block.valid, ~full.unsqueeze(1).expand(5, 6))
        assert ((block.ids >= 0) & (block.ids < 4)).all()

"""Facts of notes/statistics_and_reporting.md, section 5, that lie on both sides of the line between training and results."""

import numpy as np
import pytest
import torch

from nsbench.errors import RunFailed
from nsbench.metrics import metrics
from nsbench.training.diagnostics import _Tally
from nsbench.training.evaluation import Ranking


class Nonsense:
    """Scores of five entities, of which entity 3, the true tail, has none."""

    def all(self, anchor, relation, side):
        return torch.tensor([0.9, 0.1, 0.4, torch.nan, 0.2]).repeat(len(anchor), 1)


@pytest.mark.fact(35, oracle="brute force")
def test_a_true_triple_without_a_score():
    """Every comparison with nan is false, so that counting gives ranks 1 and 0 and a reciprocal rank of 2."""
    scores, truth = np.array([0.9, 0.1, 0.4, np.nan, 0.2]), 3
    optimistic, pessimistic = 1 + int((scores > scores[truth]).sum()), int((scores >= scores[truth]).sum())
    realistic = (optimistic + pessimistic) / 2
    assert (optimistic, pessimistic, realistic, 1 / realistic) == (1, 0, 0.5, 2)
    with pytest.raises(ValueError, match="1 <= optimistic <= pessimistic"):
        metrics([[optimistic, pessimistic]], [5])
    ranking = Ranking(torch.tensor([[0, 0, truth]]), torch.empty(0, 3, dtype=torch.int64), 5, 1)
    with pytest.raises(RunFailed, match="not finite"):
        ranking.ranks(Nonsense())


@pytest.mark.fact(51, oracle="brute force")
@pytest.mark.parametrize("draws", [1000, 200_000])
def test_uniform_draws_of_a_thousand_entities(draws):
    """Those never drawn are (1 - 1/E)^n on average; the entropy of what is drawn tends to its bound."""
    assert pytest.approx(632.3046, abs=1e-4) == 1000 * (1 - (1 - 1 / 1000) ** 1000)
    rng, distinct, entropy = np.random.default_rng(0), [], []
    for _ in range(50):
        ids = rng.integers(0, 1000, (1, draws))
        tally = _Tally(1000, torch.device("cpu"))
        tally.drew(torch.from_numpy(ids), torch.ones(1, draws, dtype=torch.bool))
        found = tally.figures()
        counts = np.unique(ids, return_counts=True)[1]
        assert found["coverage"] == pytest.approx(len(counts) / 1000)
        assert found["entropy"] == pytest.approx(-np.sum(counts / draws * np.log(counts / draws)) / np.log(1000), rel=1e-6)
        distinct.append(len(counts))
        entropy.append(found["entropy"])
    expected = 1000 * (1 - (1 - 1 / 1000) ** draws)
    assert np.mean(distinct) == pytest.approx(expected, abs=4 * 9.9 / 50**0.5)  # sd of one count: 9.9 for 1,000 draws
    assert (np.mean(entropy) > 0.999) == (draws == 200_000)

"""Facts of notes/statistics_and_reporting.md, section 5, that lie on both sides of the line between training and results."""

import numpy as np
import pytest
import torch

from nsbench.training.diagnostics import _Tally


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

"""The interquartile mean of scores that lie to one side, of which every one that is cut shows."""

import numpy as np
import pytest

from nsbench.results.aggregates import interquartile_mean


@pytest.mark.parametrize("number", range(1, 14))
def test_a_quarter_is_cut_at_either_end_rounded_down(number):
    scores = [2.0**i for i in range(number)]  # no two sets of them have one sum
    cut = number // 4
    kept = sorted(scores)[cut:][: number - 2 * cut]
    assert interquartile_mean(np.random.default_rng(number).permutation(scores)) == pytest.approx(sum(kept) / len(kept))

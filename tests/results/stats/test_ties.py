import numpy as np
import pytest

from nsbench.results.stats.ties import tie_gap


def test_gap_between_the_best_and_the_worst_order_of_ties():
    assert tie_gap(np.array([[[1, 1], [2, 4]], [[3, 3], [5, 5]]])) == pytest.approx((1 / 2 - 1 / 4) / 4)
    assert tie_gap(np.ones((3, 2, 2), np.int32)) == 0
    assert tie_gap(np.array([[1, 3]])) == pytest.approx(2 / 3)

"""Facts are those of specs/statistics_and_reporting.md, section 5; closed forms and baycomp's printed output are oracles."""

import numpy as np
import pytest
import scipy.stats

from nsbench.results.bayes import bayesian_signed_rank
from tests.results.examples import DEMSAR


def rng():
    return np.random.default_rng(0)


@pytest.mark.fact(24, oracle="closed form")
@pytest.mark.parametrize("blocks", [5, 10])
def test_equal_differences_have_closed_forms(blocks):
    """G5: W ~ Beta(1/2, N) is the weight of the pseudo-observation at 0."""
    weight = scipy.stats.beta(0.5, blocks)
    d = np.full(blocks, 0.03)
    assert bayesian_signed_rank(d, 0.01, rng()).right == pytest.approx(weight.cdf(0.5**0.5), abs=0.005)
    assert bayesian_signed_rank(d, 0.02, rng()).right == pytest.approx(weight.cdf(1 - 0.5**0.5), abs=0.005)
    assert bayesian_signed_rank(d, 0.04, rng()) == (0, pytest.approx(1), 0)
    assert bayesian_signed_rank(d, 0.03, rng()).rope == pytest.approx(1)  # on the edge is inside
    assert bayesian_signed_rank(d, 0, rng()).right == pytest.approx(1)


@pytest.mark.fact(24, oracle="scipy")
def test_printed_values_of_the_closed_forms():
    """The figures of G5 themselves."""
    for blocks, wide, narrow in ((5, 0.999389, 0.930802), (10, 0.99999904, 0.990706)):
        weight = scipy.stats.beta(0.5, blocks)
        assert (weight.cdf(0.70711), weight.cdf(0.29289)) == pytest.approx((wide, narrow), abs=2e-5)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (0, (0.001, 0, 0.999)),
        (0.005 - 1e-9, (0, 0.038, 0.962)),
        (0.01, (0, 0.330, 0.670)),
    ],
)
def test_demsars_example_against_baycomp(rope, expected):
    """F1, first two columns: what baycomp returned, with its draw noise of 0.003 (ours has as much).

    The first difference is 0.005 and 4e-18 of round-off, which baycomp takes for more than a rope of 0.005: 0.038 where
    the edge belongs to the rope is 0.050.
    """
    assert bayesian_signed_rank(DEMSAR[:, 1] - DEMSAR[:, 0], rope, rng()) == pytest.approx(expected, abs=0.006)
    on_the_edge = bayesian_signed_rank(DEMSAR[:, 1] - DEMSAR[:, 0], 0.005, rng())
    assert on_the_edge.rope == pytest.approx(0.050, abs=0.004)


@pytest.mark.fact(24)
def test_probabilities_sum_to_one_and_swap_with_the_inputs():
    """From the same draws the swap is exact."""
    d = rng().normal(0.01, 0.02, 12)
    forth, back = bayesian_signed_rank(d, 0.005, rng()), bayesian_signed_rank(-d, 0.005, rng())
    assert sum(forth) == pytest.approx(1)
    assert (back.left, back.rope, back.right) == (forth.right, forth.rope, forth.left)
    assert bayesian_signed_rank(d, 0.005, rng()) == forth


def test_a_draw_against_the_definition():
    """One draw, its mass summed in a double loop."""
    d, rope = rng().normal(0.01, 0.02, 6), 0.01
    z = np.concatenate([[0], d])
    for seed in range(30):
        weights = np.random.default_rng(seed).dirichlet([0.5, *[1] * 6])
        mass = [0.0, 0.0, 0.0]
        for i in range(7):
            for j in range(7):
                total = z[i] + z[j]
                mass[0 if total < -2 * rope else 2 if total > 2 * rope else 1] += weights[i] * weights[j]
        found = bayesian_signed_rank(d, rope, np.random.default_rng(seed), draws=1)
        assert np.argmax(found) == np.argmax(mass)


def test_what_makes_no_posterior_is_refused():
    for d, rope in (([], 0.01), ([np.nan], 0.01), ([[0.1]], 0.01), ([0.1], -1)):
        with pytest.raises(ValueError, match="finite numbers, and the rope"):
            bayesian_signed_rank(d, rope, rng())

"""How often the default test sees the difference that it is said to see in 80 of 100 cases."""

import numpy as np
import pytest
import scipy

from nsbench.results.stats.statistics import TwoWayT, detectable, two_way_t
from tests.results.stats.test_size import MEASURED, SPECIFIED, equals, hubs_of

PILOT, REPETITIONS = 300, 2_000


@pytest.mark.parametrize("df", [2.5, 8, 41.7, 2661])
@pytest.mark.parametrize("family", [1, 10, 200])
def test_at_the_detectable_difference_the_noncentral_t_has_that_power(df, family):
    """By the distribution of scipy.stats, both tails, which the function has not from there."""
    found = detectable(TwoWayT(0.3, 0.002, df, 0.01, (0.2, 0.4)), family)
    critical = scipy.stats.t.isf(0.025 / family, df)
    rng = np.random.default_rng(0)
    t = (rng.normal(found / 0.002, 1, 200_000)) / np.sqrt(rng.chisquare(df, 200_000) / df)
    assert (np.abs(t) > critical).mean() == pytest.approx(0.8, abs=0.004)


def test_what_is_found_has_no_part_in_it_and_certainty_sees_everything():
    small, large = (TwoWayT(difference, 0.002, 8.0, 0.5, (0.0, 0.0)) for difference in (0.0, 0.4))
    assert detectable(small) == detectable(large) > 0.002
    assert detectable(small, 10) > detectable(small)
    assert detectable(TwoWayT(0.1, 0.0, np.inf, 0.0, (0.1, 0.1))) == 0


def power(spread, triples=300, hub_sd=None, shared=0.0, family=1):
    """The median detectable difference of equal samplers, and how often the test sees it in other ones that differ by it."""
    rng = np.random.default_rng(12)
    hubs = None if hub_sd is None else hubs_of(triples, rng)

    def tests(n, difference=0.0):
        for _ in range(n):
            a, b = equals(rng, spread, triples, hubs, hub_sd or 0.0, shared)
            yield two_way_t(a + difference, b, clusters=hubs)

    effect = float(np.median([detectable(test, family) for test in tests(PILOT)]))
    return effect, np.mean([test.p < 0.05 / family for test in tests(REPETITIONS, effect)])


@pytest.mark.slow
@pytest.mark.parametrize("family", [1, 10])
@pytest.mark.parametrize(
    "how",
    [
        {"spread": SPECIFIED},
        {"spread": MEASURED},
        {"spread": MEASURED, "shared": 0.5},
        {"spread": SPECIFIED, "hub_sd": 0.04},
    ],
    ids=["specified", "measured", "shared", "hubs"],
)
def test_the_test_sees_it_as_often_as_it_says(how, family):
    effect, seen = power(family=family, **how)
    print(f"effect {effect:.4f}, seen {seen:.3f}")
    assert seen == pytest.approx(0.8, abs=0.05)

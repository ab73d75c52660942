import pytest

from nsbench.results.stats.verdicts import verdict


@pytest.mark.parametrize(
    ("difference", "interval", "p", "expected"),
    [
        (0.02, (0.01, 0.03), 0.001, ("better", False)),
        (-0.02, (-0.03, -0.01), 0.049, ("worse", False)),
        (0.02, (-0.01, 0.05), 0.05, ("inconclusive", False)),  # p < alpha, not <=
        (0.003, (0.001, 0.005), 0.001, ("better", True)),  # sure and negligible at once
        (0.001, (-0.003, 0.005), 0.4, ("practically equal", True)),
        (0.001, (-0.003, 0.0051), 0.4, ("inconclusive", False)),
        (-0.004, (-0.006, -0.002), 0.2, ("inconclusive", False)),
        (0.0, (0.0, 0.0), 1.0, ("practically equal", True)),
    ],
)
def test_verdicts(difference, interval, p, expected):
    assert verdict(difference, interval, p) == expected

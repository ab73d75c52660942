import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from nsbench.results.stats.clusters import cluster_totals, clustered_error, labels, mean_error


def drawn(sizes, effect, seed=0):
    """Values with a common effect in each cluster, and the clusters' labels, in random order."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = rng.normal(0, effect, len(sizes))[clusters] + rng.normal(size=len(clusters))
    order = rng.permutation(len(clusters))
    return values[order], clusters[order]


def test_clusters_of_one_are_the_plain_error():
    values = np.random.default_rng(0).normal(size=30)
    found = clustered_error(values, np.arange(30))
    assert found.variance == pytest.approx(scipy.stats.sem(values) ** 2)
    assert (found.df, found.inflation) == pytest.approx((29, 1))
    assert mean_error(values) == pytest.approx((scipy.stats.sem(values) ** 2, 29, 1, False))


@pytest.mark.parametrize("effect", [0, 0.5, 3])
def test_equal_clusters_against_statsmodels(effect):
    """Then the scale is G/(G - 1) and the degrees are G - 1, whatever the correlation inside."""
    import statsmodels.api as sm

    values, clusters = drawn([6] * 15, effect)
    fit = sm.OLS(values, np.ones(90)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "df_correction": True})
    found = clustered_error(values, clusters)
    assert found.variance == pytest.approx(fit.cov_params()[0, 0])
    assert found.df == pytest.approx(14)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=7), st.floats(0, 3))
def test_scale_and_degrees_against_the_full_covariance(sizes, effect):
    """The clusters' residual totals are linear in the values: their covariance, multiplied out [T, T]."""
    values, clusters = drawn(sizes, effect)
    total, member = len(values), np.equal.outer(np.arange(len(sizes)), clusters).astype(float)
    residuals = values - values.mean()
    if total == len(sizes):
        rho = 0.0
    else:
        groups = [values[clusters == g] for g in range(len(sizes))]
        between = sum(len(x) * (x.mean() - values.mean()) ** 2 for x in groups) / (len(groups) - 1)
        within = sum(((x - x.mean()) ** 2).sum() for x in groups) / (total - len(groups))
        typical = (total - sum(len(x) ** 2 for x in groups) / total) / (len(groups) - 1)
        rho = min(max((between - within) / (between + (typical - 1) * within), 0), 1)
    model = np.where(np.equal.outer(clusters, clusters), rho, 0) + (1 - rho) * np.eye(total)
    totals = member @ (np.eye(total) - 1 / total)
    covariance = totals @ model @ totals.T
    scale = np.ones(total) @ model @ np.ones(total) / np.trace(covariance)
    found = clustered_error(values, clusters)
    assert found.variance == pytest.approx(scale * ((member @ residuals) ** 2).sum() / total**2)
    assert found.df == pytest.approx(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))


def test_the_larger_error_is_used():
    values, clusters = drawn([8] * 20, 2)
    assert mean_error(values, clusters) == clustered_error(values, clusters)
    assert mean_error(values, clusters).inflation > 2
    alternating = np.tile([1.0, -1.0], 40) + np.repeat(np.arange(40), 2) / 1e3  # the clusters' totals hardly vary
    found = mean_error(alternating, np.repeat(np.arange(40), 2))
    assert not found.clustered
    assert found.inflation < 1
    assert found.variance == mean_error(alternating).variance
    assert mean_error(np.ones(6), np.arange(6) // 2) == (0, 5, 1, False)


def test_a_few_large_clusters_leave_few_degrees():
    values, clusters = drawn([200, 150, 100] + [1] * 150, 1)
    assert clustered_error(values, clusters).df < 5


def test_totals_of_clusters():
    totals, sizes = cluster_totals([[1, 2, 4], [8, 16, 32]], [7, 3, 7])
    assert totals.tolist() == [[2, 5], [16, 40]]
    assert sizes.tolist() == [1, 2]


def test_labels_of_triples():
    triples = np.array([[0, 0, 9], [1, 0, 9], [2, 1, 9], [2, 1, 3], [5, 0, 6]])
    assert labels(triples).tolist() == [9, 9, 9, 2, 5]  # 9 is in three triples, 2 in two; of equals the head


def test_what_makes_no_clusters_is_refused():
    with pytest.raises(ValueError, match="one cluster"):
        clustered_error([1.0, 2.0, 3.0], [0, 0, 0])
    with pytest.raises(ValueError, match="each of the 3"):
        mean_error([1.0, 2.0, 3.0], [0, 1])
    with pytest.raises(ValueError, match=r"\[T, 3\]"):
        labels([[0, 1]])
    with pytest.raises(ValueError, match="two values"):
        mean_error([1.0])

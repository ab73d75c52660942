"""`nsbench compare`: one paragraph, whose figures are those of the tests and whose limits are those of the data."""

import re

import numpy as np
import pytest
import scipy
from click.testing import CliRunner

from nsbench.cli import cli
from nsbench.errors import Misuse
from nsbench.metrics import realistic, reciprocal
from nsbench.results.compare import _clustered, compare
from nsbench.results.stats import paired, statistics
from nsbench.results.stats.clusters import labels
from nsbench.results.store import read
from tests.results.conftest import make_ranks


def scores(store, sampler):
    return np.stack([reciprocal(run.ranks().ranks) for run in read(store).runs if run["sampler"] == sampler])


def sides_of(store, sampler, seed):
    """Reciprocal ranks [T, 2 sides] of one run."""
    (run,) = [run for run in read(store).runs if (run["sampler"], run["seed"]) == (sampler, seed)]
    return 1 / realistic(run.ranks().ranks)


def percent(value):
    return f"{100 * value:+.2f}"


def test_two_samplers_over_seeds(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2.5)
    text = compare("sampler=dhns", "sampler=uniform", store)
    test = statistics.two_way_t(scores(store, "dhns"), scores(store, "uniform"))
    assert text.startswith("A and B differ in sampler (dhns and uniform); MRR x100, transe on mkg_y (released split)")
    low, high = map(percent, test.interval)
    assert f"A is better: {percent(test.difference)}, 95 % interval {low} to {high}" in text
    (seen,) = re.findall(r"With 80 % power it would have seen a difference of ([\d.]+) points\.", text)
    spread = scipy.stats.nct(test.df, float(seen) / 100 / test.standard_error)
    assert spread.sf(scipy.stats.t.isf(0.025, test.df)) == pytest.approx(0.8, abs=0.005)  # two decimals
    assert "A run of A beats a run of B in 25 of 25 pairs." in text
    assert "60 test triples" in text
    assert "two-way t over seeds" in text
    assert "equal because" not in text
    assert text.endswith("anything about other models, datasets, protocols or budgets.")
    assert "\n" not in text


def test_the_order_of_the_groups_turns_the_sign(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2.5)
    forth, back = compare("sampler=dhns", "sampler=uniform", store), compare("sampler=uniform", "sampler=dhns", store)
    numbers = [re.search(r"A is (better|worse): ([+-][\d.]+), .* (p [^)]*)\)", text).groups() for text in (forth, back)]
    assert numbers[0][0::2] == ("better", numbers[1][2])
    assert numbers[1][0] == "worse"
    assert float(numbers[0][1]) == -float(numbers[1][1])


def test_no_difference_found_is_not_equality(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=1.01)
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert "which is better, or whether they are equal, is open" in text
    assert "that they are equal because no difference was found" in text


def test_single_runs_compare_models_and_not_samplers(store, run):
    run("uniform", seed=0)
    run("dhns", seed=0, quality=2.5)
    text = compare("sampler=dhns", "sampler=uniform", store)
    sides = [sides_of(store, name, seed=0) for name in ("dhns", "uniform")]
    low, high = map(percent, paired.paired_t(*sides).interval)
    assert f"model A ranks this test set better than model B: {percent((sides[0] - sides[1]).mean())}" in text
    assert f"95 % interval {low} to {high}" in text
    assert "randomisation p 0.0001" in text  # the smallest of 9,999 flips
    assert "that sampler made the difference, for a test of one run each does not see what other seeds would do" in text
    assert "±" not in text.split("What may not be said")[0]


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (3, 3), (1, 5), (4, 6)])
def test_too_few_seeds_get_no_p(store, run, ours, theirs):
    run("dhns", seeds=range(ours), quality=2.5)
    run("uniform", seeds=range(theirs))
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert f"not testable with {min(ours, theirs)} seeds on a side" in text
    assert not re.search(r"\bp [\d<]", text)
    assert "where there was no test" in text


@pytest.mark.parametrize("more", [6, 11])
def test_unequal_seeds_are_refused_as_in_tables(store, run, more):
    run("dhns", seeds=range(5), quality=2.5)
    run("uniform", seeds=range(more))
    with pytest.raises(Misuse, match=r"the first group has seeds 0,1,2,3,4 on this cell .* with the filter seed=0,1,2,3,4$"):
        compare("sampler=dhns", "sampler=uniform", store)
    assert "A is better" in compare("sampler=dhns", "sampler=uniform", store, {"seed": "0,1,2,3,4"})


def test_features_of_one_name_must_be_the_same(store, run):
    run("uniform")
    run("dhns", features="names", modalities=["textual"], feature_fingerprint="1" * 64)
    assert "differ in features (none and names), sampler" in compare("sampler=uniform", "sampler=dhns", store)
    run("sans", features="names", modalities=["textual"], feature_fingerprint="2" * 64)
    with pytest.raises(Misuse, match=r"the features 'names' of mkg_y are not the same.*fingerprint@mkg_y=11111111$"):
        compare("sampler=sans", "sampler=dhns", store)
    run("kbgan", features="names", modalities=["visual"], feature_fingerprint="1" * 64)
    assert 'modalities (["visual"] and ["textual"])' in compare("sampler=kbgan", "sampler=dhns", store)


def test_features_that_differ_in_the_last_bit_are_one_block(store, run):
    for sampler, content in (("uniform", "1"), ("dhns", "2")):
        run(sampler, features="captions", modalities=["captions"], feature_bytes=content * 64)
    assert "differ in sampler " in compare("sampler=dhns,features=captions", "sampler=uniform", store)


def test_blocks_that_only_one_group_has_forbid_a_test_over_the_others(store, run):
    for dataset in "abcdef":
        run("uniform", dataset=dataset)
        run("dhns", dataset=dataset, quality=2)
    run("uniform", dataset="g")
    assert "signed-rank p" in compare("sampler=dhns", "sampler=uniform", store)  # 1 of 7
    run("dhns", dataset="h")
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert "signed-rank" not in text
    assert "A is above B in 6 of 6 blocks; 2 more have runs of one group only, so these are a choice" in text


def test_the_larger_p_decides_between_single_runs(store, run, monkeypatch):
    run("uniform", seed=0)
    run("dhns", seed=0, quality=2.5)
    monkeypatch.setattr(paired, "randomisation", lambda *given: 0.2)
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert "the two models cannot be told apart on this test set" in text
    assert re.search(r"randomisation p 0.2000, t p (< )?0.0\d+; they should agree, and the larger decides", text)
    monkeypatch.setattr(paired, "randomisation", lambda *given: 0.0001)
    t = paired.paired_t(*(np.ones((60, 2)) * x for x in (1, 2)))._replace(p=0.0105, inflation=1.0)
    monkeypatch.setattr(paired, "paired_t", lambda *arms, **how: t)
    assert "they should agree" in compare("sampler=dhns", "sampler=uniform", store)
    monkeypatch.setattr(paired, "paired_t", lambda *arms, **how: t._replace(p=0.0095))
    assert "they should agree" not in compare("sampler=dhns", "sampler=uniform", store)
    monkeypatch.setattr(paired, "paired_t", lambda *arms, **how: t._replace(p=0.06))
    assert "cannot be told apart" in compare("sampler=dhns", "sampler=uniform", store)


@pytest.mark.parametrize(("interval", "small"), [((0.0049, 0.02), True), ((-0.001, 0.02), True), ((0.0051, 0.02), False)])
def test_an_interval_that_reaches_into_the_rope_is_a_limit(store, run, monkeypatch, interval, small):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2.5)
    made = statistics.two_way_t
    monkeypatch.setattr(statistics, "two_way_t", lambda *arms, **how: made(*arms, **how)._replace(interval=interval))
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert ("that the difference matters, for its interval reaches into ±0.50" in text) == small


def test_several_blocks_get_holm_and_a_count(small_store):
    text = compare("sampler=dhns", "sampler=uniform", small_store)
    assert "rotate mkg_y: A has" in text
    assert "transe db15k: A has" in text
    assert text.count("after Holm over 3") == 3
    assert "A is above B in 2 of 3 blocks, too few for a test over blocks." in text
    assert "Left out, with runs of one group only: dataset=db15k" in text
    assert "kge=rotate" in text.split("Left out")[1]
    assert "anything beyond this budget, at which 5 of 30 runs had not converged" in text


def test_from_six_blocks_on_there_is_a_test_over_blocks(store, run):
    for i, dataset in enumerate(("a", "b", "c", "d", "e", "f")):
        run("uniform", dataset=dataset)
        run("dhns", dataset=dataset, quality=2 + 0.1 * i)
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert "A is above B in 6 of 6 blocks (signed-rank p 0.0313" in text  # 2 / 2^6


def test_what_else_differs_is_said(store, run):
    run("uniform", seeds=range(5), protocol={"margin": 6.0})
    run("dhns", seeds=range(5), quality=2.5)
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert "differ in protocol.margin (3.0 and 6.0), sampler (dhns and uniform)" in text
    assert "which of protocol.margin, sampler made it" in text
    run("uniform", seeds=range(5), quality=2.4)
    one = compare("sampler=uniform,protocol.margin=3.0", "sampler=uniform,protocol.margin=6.0", store)
    assert one.startswith("A and B differ in protocol.margin (3.0 and 6.0);")


def test_versions_of_one_sampler_are_a_difference_and_those_of_two_are_not(store, run):
    run("dhns", seeds=range(5), versions={"sampler": 2})
    run("dhns", seeds=range(5), quality=2.5)
    run("uniform", seeds=range(5))
    assert "versions.sampler (2 and 1)" in compare("versions.sampler=2", "sampler=dhns,versions.sampler=1", store)
    assert "versions" not in compare("versions.sampler=2", "sampler=uniform", store)


def test_own_loss_and_small_differences_are_limits(store, run):
    run("uniform", seeds=range(5))
    run("ns_kge", seeds=range(5), quality=2.5, own_loss=True)
    assert "for a group replaces the loss as well" in compare("sampler=ns_kge", "sampler=uniform", store)


def test_twins(store, run):
    twin = np.arange(60) % 4 == 0
    run("uniform", seeds=range(5), arrays={"twin": twin})
    run("dhns", seeds=range(5), quality=2.5, arrays={"twin": twin})
    test = statistics.two_way_t(scores(store, "dhns")[:, ~twin], scores(store, "uniform")[:, ~twin])
    text = compare("sampler=dhns", "sampler=uniform", store)
    assert f"train has under no other relation the verdict stays ({percent(test.difference)}" in text
    assert "on the test triples whose entities both occur in train these runs do not record." in text


def test_seen_entities_are_found_in_any_run_on_the_same_data(store, run):
    seen = np.arange(60) >= 10
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2.5)
    others = {"dataset": "db15k"}, {"split": "clean"}, {"fingerprint": "f" * 64}
    for other in others:  # whose training triples, or test triples, are other ones
        run("bernoulli", arrays={"seen": ~seen}, **other)
    assert "these runs do not record" in compare("sampler=dhns", "sampler=uniform", store)
    (run("bernoulli", seed=2) / "ranks.npz").write_bytes(b"PK\x05\x06" + bytes(18))  # damaged, and not asked about
    run("bernoulli", seed=3, arrays={"seen": seen})
    test = statistics.two_way_t(scores(store, "dhns")[:, seen], scores(store, "uniform")[:, seen])
    said = f"whose entities both occur in train the verdict stays ({percent(test.difference)}"
    assert said in compare("sampler=dhns", "sampler=uniform", store)
    assert said in compare("dhns-", "uniform-", store)


def test_folders_and_names_of_runs(store, run, tmp_path):
    one, two = run("uniform", seeds=range(2), quality=2)
    other = run("dhns", seed=0)
    named = compare(other.name, one.name, store)
    assert named == compare(str(other), str(one)) == compare("sampler=dhns", "sampler=uniform,seed=0", store)
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    other.rename(elsewhere / other.name)
    assert compare(str(elsewhere), str(store)).startswith("A and B differ in sampler (dhns and uniform)")
    assert two.exists()


def clustered(run, spread):
    """Five seeds of two samplers whose difference is that of 20 hubs, of three test triples each."""
    hub = np.repeat(np.arange(20), 3)
    triples = np.stack([1000 + np.arange(60), np.zeros(60, int), hub], axis=1)
    factor = np.exp(np.random.default_rng(5).normal(0, spread, 20))[hub]
    for seed in range(5):
        stored, candidates = make_ranks(1.0, seed)
        moved = np.clip(stored * factor[:, None, None], 1, None).astype(np.int32)
        run("uniform", seed=seed, ranks=(stored, candidates), arrays={"triples": triples})
        run("dhns", seed=seed, ranks=(moved, candidates), arrays={"triples": triples})
    return triples


def test_with_shared_hubs_it_says_that_the_error_is_the_clustered_one(store, run):
    hubs = labels(clustered(run, 0.5))
    test = statistics.two_way_t(scores(store, "dhns"), scores(store, "uniform"), clusters=hubs)
    assert test.inflation > 1.25
    said = f"60 test triples, clustered by hub entity, which makes the error {test.inflation:.2f} times the plain one, p "
    assert said in compare("sampler=dhns", "sampler=uniform", store)
    sides = [sides_of(store, name, seed=0) for name in ("dhns", "uniform")]
    low, high = map(percent, paired.paired_t(*sides, clusters=hubs).interval)
    single = compare("sampler=dhns,seed=0", "sampler=uniform,seed=0", store)
    assert f"95 % interval {low} to {high} (paired over 60 test triples, clustered by hub entity, which makes" in single


def test_the_plain_error_is_not_called_clustered(store, run):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=2.5)  # no two of their test triples share an entity
    assert "clustered" not in compare("sampler=dhns", "sampler=uniform", store)


def test_a_small_inflation_is_said_without_its_factor():
    assert [_clustered(ratio) for ratio in (0.9, 1.0, 1.1)] == ["", "", ", clustered by hub entity"]


def test_a_group_cannot_undo_the_filter_of_both(store, run):
    run("uniform", "transe")
    run("dhns", "transe", quality=2)
    run("dhns", "rotate", quality=2)
    with pytest.raises(Misuse, match="no run has kge=rotate; there is transe"):
        compare("sampler=dhns,kge=rotate", "sampler=uniform", store, {"kge": "transe"})


REFUSED = {
    "twice": ("sampler=uniform,kge=transe,sampler=dhns", "kge=rotate", "names sampler twice.*uniform,dhns passes both"),
    "same": ("sampler=uniform", "sampler=uniform", "both groups are 'sampler=uniform'"),
    "dataset": ("dataset=mkg_y", "dataset=db15k", r"differ in dataset \(mkg_y and db15k\), so they answer different"),
    "nothing": ("nothing", "sampler=uniform", "'nothing' means no complete run"),
    "value": ("sampler=nothing", "sampler=uniform", "no run has sampler=nothing"),
    "disjoint": ("kge=rotate", "kge=transe,dataset=db15k", "differ in dataset"),
    "word": ("uniform sampler=uniform", "sampler=dhns", "a filter is NAME=VALUE, not 'uniform'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(store, run, case):
    run("uniform")
    run("uniform", "transe", "db15k")
    run("dhns", "rotate", quality=2)
    first, second, sentence = REFUSED[case]
    with pytest.raises(Misuse, match=sentence):
        compare(first, second, store)


def test_groups_without_a_common_cell_are_refused(store, run):
    run("uniform", "transe")
    run("uniform", "rotate")
    run("dhns", "transe", "db15k")
    run("dhns", "rotate", "db15k")
    with pytest.raises(Misuse, match="differ in dataset"):
        compare("sampler=uniform", "sampler=dhns", store)
    run("dhns", "rotate", "mkg_w")
    with pytest.raises(Misuse, match="no cell in common"):
        compare("sampler=uniform", "sampler=dhns", store)


def test_the_command(store, run):
    run("uniform", seed=0)
    run("dhns", seed=0, quality=2.5)
    run("dhns", "rotate", seed=0, quality=2.5)
    arguments = ["compare", "sampler=dhns", "sampler=uniform", "--where", "kge=transe", "--runs", str(store)]
    said = CliRunner().invoke(cli, arguments)
    assert said.exit_code == 0
    assert said.output == compare("sampler=dhns", "sampler=uniform", store, {"kge": "transe"}) + "\n"

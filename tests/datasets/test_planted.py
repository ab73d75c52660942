"""The planted graph has the laws that its docstring promises, and the latents really decide what is true."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import scipy
import torch
from torch import Tensor

from nsbench.campaign.plan import carry_out
from nsbench.config.run import configure
from nsbench.contracts import Dataset
from nsbench.datasets import planted
from nsbench.datasets.planted import DEGREE_EXPONENT, HELD_OUT, MISSING, RELATIONS, TOKENS, TYPES, latents, load
from nsbench.errors import Misuse
from nsbench.runs.runner import RunOptions


@pytest.fixture(scope="module")
def small() -> Dataset:
    return load("small")


@pytest.fixture(scope="module")
def large() -> Dataset:
    return load("10k")


def facts(triples: Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, triples.tolist()))


def filtered_mrr(data: Dataset, score: Callable[[Tensor, Tensor, bool], Tensor]) -> float:
    """Mean reciprocal realistic rank of the test facts, both sides, over all entities less the known facts.

    `score(kept end [n], relation [n], tail wanted)` answers [n, N].
    """
    reciprocal = []
    for kept, wanted in ((0, 2), (2, 0)):
        queries = data.test[:, [kept, 1]] @ torch.tensor([data.num_relations, 1])
        known = data.known[:, [kept, 1]] @ torch.tensor([data.num_relations, 1])
        scores = score(data.test[:, kept], data.test[:, 1], wanted == 2)
        true = scores.gather(1, data.test[:, wanted, None])
        hidden = torch.zeros_like(scores, dtype=torch.bool)
        for row, query in enumerate(queries.tolist()):
            hidden[row, data.known[known == query, wanted]] = True
        better = ((scores > true) & ~hidden).sum(1)
        equal = ((scores == true) & ~hidden).sum(1)
        reciprocal.append(1 / (1 + better + equal / 2))
    return torch.cat(reciprocal).double().mean().item()


def chance(entities: int) -> float:
    """MRR of a random order of all entities."""
    return float(np.mean(1 / np.arange(1, entities + 1)))


def relation_category(triples: Tensor, relation: int) -> str:
    """As evaluations name it: more than 1.5 heads per tail, or tails per head, count as many."""
    part = triples[triples[:, 1] == relation]
    tails_per_head = len(part) / len(part[:, 0].unique())
    heads_per_tail = len(part) / len(part[:, 2].unique())
    return f"{'n' if heads_per_tail >= 1.5 else '1'}-{'n' if tails_per_head >= 1.5 else '1'}"


def degree_exponent(degrees: np.ndarray, least: int) -> float:
    """Maximum likelihood of p(k) ~ k^-a on k >= least (Clauset, Shalizi and Newman 2009, equation 3.5)."""
    tail = degrees[degrees >= least]
    logs = np.log(tail).mean()

    def unlikely(a: float) -> float:
        return a * logs + np.log(scipy.special.zeta(a, least))

    return float(scipy.optimize.minimize_scalar(unlikely, bounds=(1.1, 8), method="bounded").x)


def probe_accuracy(x: np.ndarray, labels: np.ndarray) -> float:
    """Held-out accuracy of a ridge regression onto the types; fitted on every second row."""
    x = np.c_[x, np.ones(len(x))]
    fit, held = slice(0, None, 2), slice(1, None, 2)
    target = np.eye(len(TYPES))[labels[fit]]
    weight = np.linalg.solve(x[fit].T @ x[fit] + np.eye(x.shape[1]), x[fit].T @ target)
    return float(((x[held] @ weight).argmax(1) == labels[held]).mean())


def test_the_world_is_what_the_latents_say(small):
    """The neighbour search finds exactly the pairs that a dense computation from the latents calls true."""
    truth, dense = latents("small"), set()
    for relation in range(len(RELATIONS)):
        heads, tails, score = truth.scores(relation)
        h, t = np.nonzero(score > 0)
        dense |= {(a, relation, b) for a, b in zip(heads[h].tolist(), tails[t].tolist(), strict=True)}
    assert dense == facts(small.world)
    assert len(dense) == len(small.world)


def test_scores_of_facts_agree_with_the_dense_ones():
    truth = latents("500")
    for relation in range(len(RELATIONS)):
        heads, tails, score = truth.scores(relation)
        rows = truth.world[:, 1] == relation
        h, t = np.searchsorted(heads, truth.world[rows, 0]), np.searchsorted(tails, truth.world[rows, 2])
        np.testing.assert_allclose(truth.score[rows], score[h, t], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("argument", ["500", "small", "4k"])
def test_ranking_by_the_latents_is_nearly_perfect(argument):
    data, truth = load(argument, features="none"), latents(argument)

    def score(kept: Tensor, relation: Tensor, tail_wanted: bool) -> Tensor:
        out = torch.full((len(kept), data.num_entities), -np.inf, dtype=torch.float64)
        for r in range(len(RELATIONS)):
            heads, tails, dense = truth.scores(r)
            rows = (relation == r).nonzero().squeeze(1)
            kept_ids, others, table = (heads, tails, dense) if tail_wanted else (tails, heads, dense.T)
            found = table[np.searchsorted(kept_ids, kept[rows].numpy())]
            out[rows[:, None], torch.from_numpy(others)] = torch.from_numpy(found)
        return out

    assert filtered_mrr(data, score) >= 0.9


@pytest.mark.parametrize("model", ["transe", "distmult"])
def test_models_learn_but_do_not_solve_it(model, tmp_path):
    result = carry_out(configure("uniform", model, "planted:small", protocol="quick"), tmp_path, RunOptions(diagnose=False))
    assert 10 * chance(800) < result.test["mrr"] < 0.7


def test_a_random_score_is_at_chance(small):
    """What ten times chance is measured against: the ranking above does not favour the true entity by itself."""
    rng = torch.Generator().manual_seed(0)
    scores = [filtered_mrr(small, lambda e, r, _: torch.rand(len(e), 800, generator=rng)) for _ in range(4)]
    assert 0.6 < np.mean(scores) / chance(800) < 1.6  # filtered: fewer candidates, slightly above chance


@pytest.mark.parametrize("argument", ["500", "small", "10k"])
def test_all_four_categories_are_there_as_declared(argument):
    train = load(argument, features="none").train
    share = dict.fromkeys(("1-1", "1-n", "n-1", "n-n"), 0.0)
    for relation, rule in enumerate(RELATIONS):
        assert relation_category(train, relation) == rule.category, rule.name
        share[rule.category] += (train[:, 1] == relation).double().mean().item()
    assert min(share.values()) >= 0.1


def test_relations_join_their_types_and_keep_their_limits(large):
    types = latents("10k").types
    for relation, rule in enumerate(RELATIONS):
        part = large.world[large.world[:, 1] == relation]
        assert {list(TYPES)[k] for k in np.unique(types[part[:, 0]])} == {rule.head}
        assert {list(TYPES)[k] for k in np.unique(types[part[:, 2]])} == {rule.tail}
        assert (part[:, 0] != part[:, 2]).all()
        if rule.category in ("1-1", "n-1"):
            assert len(part[:, 0].unique()) == len(part)
        if rule.category in ("1-1", "1-n"):
            assert len(part[:, 2].unique()) == len(part)


@pytest.mark.parametrize("exponent", [2.1, 2.5, 3.0])
def test_the_exponent_estimator_recovers_a_known_law(exponent):
    draws = np.random.default_rng(0).zipf(exponent, 400_000)
    assert abs(degree_exponent(draws, 5) - exponent) < 0.05
    assert degree_exponent(np.random.default_rng(0).poisson(13, 100_000), 20) > 5  # no heavy tail, no small exponent


def test_degrees_follow_the_requested_power_law(large):
    """The cut-off lies above the facts that an entity without discs receives, where the law is the Pareto's."""
    for triples in (large.world, large.train):
        degrees = np.bincount(triples[:, [0, 2]].flatten().numpy(), minlength=large.num_entities)
        assert (degrees >= 20).sum() > 400
        assert abs(degree_exponent(degrees, 20) - DEGREE_EXPONENT) < 0.2


def test_the_request_moves_the_exponent(monkeypatch):
    monkeypatch.setattr(planted, "DEGREE_EXPONENT", 3.0)
    degrees = np.bincount(latents("10k").world[:, [0, 2]].ravel(), minlength=10_000)
    assert abs(degree_exponent(degrees, 25) - 3.0) < 0.2


def test_splits_are_a_part_of_the_world(small, large):
    for data in (small, large):
        parts = [facts(part) for part in (data.train, data.valid, data.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == len(data.known)
        assert [len(part) for part in parts] == [len(data.train), len(data.valid), len(data.test)]
        assert set.union(*parts) < facts(data.world)
        assert len(data.known) / len(data.world) == pytest.approx(1 - HELD_OUT, abs=0.005)
        assert len(data.test) / len(data.known) == pytest.approx(planted.TEST, abs=0.005)
        assert len(data.valid) / len(data.known) == pytest.approx(planted.VALID, abs=0.005)


def test_what_is_held_out_is_obscure_but_not_only(large):
    """The held-out facts score lower; still a fair part of them lies above the median of the recorded ones."""
    truth = latents("10k")
    known = facts(large.known)
    recorded = np.array([tuple(triple) in known for triple in truth.world.tolist()])
    above = (truth.score[~recorded] > np.median(truth.score[recorded])).mean()
    assert 0.03 < above < 0.4


def test_few_facts_have_an_unseen_entity(small, large):
    for data in (small, large):
        seen = torch.zeros(data.num_entities, dtype=torch.bool)
        seen[data.train[:, [0, 2]].flatten()] = True
        assert len(data.train[:, 1].unique()) == data.num_relations
        assert seen.double().mean() > 0.97
        for part in (data.valid, data.test):
            assert seen[part[:, [0, 2]]].all(1).double().mean() > 0.95


def test_features_tell_types_and_null_features_do_not():
    labels = latents("2k").types
    for argument, informative in (("2k", True), ("null:2k", False)):
        data = load(argument)
        views = {"image": data.features["image"]} | {f"text token {i}": data.features["text"][:, i] for i in range(TOKENS)}
        for name, view in views.items():
            rows = data.present[name.split()[0]].numpy()
            x, y = view.numpy()[rows].astype(np.float64), labels[rows]
            shuffled = np.random.default_rng(0).permutation(len(x))
            gain = probe_accuracy(x, y) - probe_accuracy(x[shuffled], y)
            assert gain > 0.1 if informative else abs(gain) < 0.06, (name, gain)


def test_features_are_missing_as_often_as_in_mkg_y():
    for argument in ("10k", "null:10k"):
        data = load(argument)
        assert set(data.features) == set(data.present) == set(MISSING)
        for name, rate in MISSING.items():
            missing = (~data.present[name]).double().mean().item()
            assert abs(missing - rate) < 4 * np.sqrt(rate * (1 - rate) / 10_000)
            assert (data.features[name].flatten(1) != 0).any(1).equal(data.present[name])
        assert data.features["image"].dtype == torch.float32
        assert data.features["image"].shape == (10_000, 32)
        assert data.features["text"].shape == (10_000, TOKENS, 32)


def test_null_is_the_same_graph_in_other_clothes(small):
    null = load("null")
    assert (null.name, null.modalities) == ("planted:null", ["image", "text"])
    for part in ("train", "valid", "test", "world"):
        assert getattr(null, part).equal(getattr(small, part))
    for name in MISSING:
        assert not null.features[name].equal(small.features[name])
        assert null.present[name].sum() == small.present[name].sum()
        rows, others = (data.features[name].flatten(1).unique(dim=0) for data in (null, small))
        assert rows.equal(others)  # the same set of views, worn by others
    assert null.fingerprint == small.fingerprint
    assert null.feature_fingerprint != small.feature_fingerprint


def test_the_same_every_time_and_another_for_another_size(small):
    assert load().fingerprint == load("800").fingerprint == small.fingerprint
    assert load().feature_fingerprint == small.feature_fingerprint
    assert load("null").feature_fingerprint == load("null").feature_fingerprint
    assert load().world.equal(small.world)
    assert load("801").fingerprint != small.fingerprint
    assert len({load(size, features="none").fingerprint for size in ("500", "501", "1k")}) == 3


def test_the_released_graph_has_not_changed(small):
    """A change here makes all earlier planted rows incomparable. Made with NumPy 2.4.6; the same with 1.26.4."""
    assert small.fingerprint.startswith("932db2ef758c7f0a")
    assert small.feature_fingerprint.startswith("8c14048178e902b4")


def test_names_can_be_read(small):
    assert len(set(small.entities)) == small.num_entities == 800
    assert "person 17" in small.entities
    assert small.relations == [rule.name for rule in RELATIONS]
    assert len(set(small.relations)) == len(RELATIONS)
    types = latents("small").types
    assert all(name.startswith(list(TYPES)[kind]) for name, kind in zip(small.entities, types, strict=True))


def test_features_can_be_left_out(small):
    bare = load("small", features="none")
    assert bare.fingerprint == small.fingerprint
    assert (bare.features, bare.present) == ({}, {})
    assert bare.train.equal(small.train)
    assert load("small", split="released").fingerprint == small.fingerprint


@pytest.mark.parametrize(
    ("argument", "name", "size"),
    [
        (None, "planted:small", 800),
        ("null:small", "planted:null", 800),
        ("1000", "planted:1k", 1_000),
        ("1K", "planted:1k", 1_000),
        ("1234", "planted:1234", 1_234),
        ("null:2k", "planted:null:2k", 2_000),
    ],
)
def test_sizes_have_one_name(argument, name, size):
    data = load(argument, features="none")
    assert (data.name, data.num_entities) == (name, size)


@pytest.mark.parametrize("argument", ["tiny", "499", "2m", "1000001", "1.5k", "-800", "k", "null:", "small:null", "²"])
def test_other_arguments_are_refused_in_one_sentence(argument):
    with pytest.raises(Misuse, match="planted"):
        load(argument)


@pytest.mark.parametrize("wrong", [{"split": "clean"}, {"features": "official"}, {"features": "names"}])
def test_other_choices_are_refused(wrong):
    with pytest.raises(Misuse, match=next(iter(wrong.values()))):
        load("small", **wrong)


@pytest.mark.parametrize(
    ("argument", "limit"), [("small", 1.0), ("10k", 8.0), pytest.param("100k", 60.0, marks=pytest.mark.slow)]
)
def test_generation_is_quick(argument, limit):
    start = time.process_time()  # of the processor: other programs must not fail this
    load(argument)
    assert time.process_time() - start < limit

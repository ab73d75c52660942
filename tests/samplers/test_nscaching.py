"""docs/notes/classic_samplers.md, section 4, Tests."""

import itertools

import pytest
import torch

from nsbench.kernels import native
from nsbench.kernels import operators as kernels
from nsbench.samplers.bernoulli import head_probability
from nsbench.samplers.nscaching import distinct, last_occurrence

WIDE = 200  # entities; the toy has fewer than N1, where rows cannot be distinct
TRIPLES = [(h, 0, 150) for h in range(100)] + [(0, 0, t) for t in range(30, 60)] + [(7, 1, 7), (199, 1, 0)]
SMALL = ("sampler.cache=8", "sampler.candidates=5")


@pytest.fixture
def caching(trainer_on):
    """caching(*settings): a trainer on TRIPLES with full caches, K = 4, and a model whose scores spread."""

    def make(*settings, triples=TRIPLES, entities=WIDE):
        trainer = trainer_on("nscaching", triples, entities, 2, 4, *settings)
        trainer.kge.entity.data.mul_(40)
        trainer.kge.relation.data.mul_(4)
        trainer.view.scoring = trainer.scoring()
        trainer.pretrain()
        return trainer

    return make


def repeats(cache):
    """bool: some row holds an entity twice."""
    ordered = cache.sort(1).values
    return bool((ordered[:, 1:] == ordered[:, :-1]).any())


def positive_slots(trainer):
    """bool [keys, N1]: cache slots that hold a training answer of their query."""
    keys = torch.arange(len(trainer.sampler.cache))
    return trainer.graph.answers(keys).gather(1, trainer.sampler.cache.long())


def cache_scores(trainer):
    """[n, 2 N1]: scores of what the caches of each training triple's two queries hold."""
    positives = trainer.graph.positives(torch.arange(len(trainer.graph)))
    both = []
    for head in (True, False):
        side = torch.full((len(positives),), head)
        held = trainer.sampler.cache[positives.key(side)].long()
        both.append(trainer.view.score_ids(positives, side, held).sort(1).values)
    return torch.cat(both, 1)


def copied_generator(trainer):
    return torch.Generator().set_state(trainer.view.rng.get_state())


# --- rows ---


@pytest.mark.parametrize("update", ["both", "drawn"])
def test_rows_are_distinct_in_range_and_free_of_positives_at_all_times(caching, draw, update):
    trainer = caching(f"sampler.update={update}")
    for _ in range(6):
        cache = trainer.sampler.cache
        assert cache.dtype == torch.int32
        assert cache.shape == (trainer.graph.num_keys + 1, 50)
        assert not repeats(cache)
        assert int(cache.min()) >= 0
        assert int(cache.max()) < WIDE
        assert not positive_slots(trainer).any()
        before = cache.clone()
        draw(trainer, range(len(TRIPLES)))
        assert not torch.equal(before, cache)


def test_the_start_covers_every_candidate_and_takes_each_as_often(caching):
    graph = caching().graph
    key = graph.key_tail[100:101].expand(4000)  # (0, 0, ?) with 31 answers: 169 candidates
    drawn = distinct(graph.non_positives, key, 13, torch.Generator().manual_seed(0))
    assert not repeats(drawn)
    free = ~graph.answers(key[:1])[0]
    counts = torch.bincount(drawn.flatten(), minlength=WIDE)
    assert ((counts > 0) == free).all()
    expected = 4000 * 13 / 169  # 13 strata of 13 candidates each
    assert (counts[free] - expected).abs().max() < 5 * expected**0.5


def test_a_query_with_fewer_candidates_than_slots_holds_all_of_them_and_nothing_else(trainer_on, draw):
    triples = [(0, 0, t) for t in range(15)]
    trainer = trainer_on("nscaching", triples, 20, 1, 4)
    trainer.pretrain()
    key = int(trainer.graph.key_tail[0])
    for _ in range(3):
        assert set(trainer.sampler.cache[key].tolist()) == {15, 16, 17, 18, 19}
        draw(trainer, range(15))


def test_a_negative_is_a_slot_of_its_querys_row_before_the_update(caching, draw):
    trainer = caching(*SMALL)
    for sides in ("per_row", "per_slot"):
        trainer.view.sides = sides
        before = trainer.sampler.cache.clone()
        positives, block = draw(trainer, range(len(TRIPLES)))
        key = positives.key(block.side)
        key = (key.unsqueeze(1) if key.dim() == 1 else key).expand(-1, 4)
        assert (before[key] == block.ids.unsqueeze(2)).any(2).all()


def test_every_slot_is_drawn_equally_often(caching, draw):
    trainer = caching(*SMALL)
    row = trainer.sampler.cache[trainer.graph.key_tail[100]].clone()
    _, block = draw(trainer, [100] * 20_000)
    drawn = block.ids[~block.side]
    counts = torch.bincount(drawn.flatten(), minlength=WIDE)[row.long()]
    assert int(counts.sum()) == drawn.numel()
    assert (counts - drawn.numel() / 8).abs().max() < 4 * (drawn.numel() / 8) ** 0.5


# --- the update ---


@pytest.mark.parametrize("choice", ["native", "eager"])
def test_noisy_top_k_draws_without_replacement(choice, monkeypatch):
    monkeypatch.setattr(native, "_chosen", choice)
    score, tau, n, rows = torch.tensor([0.3, -1.2, 2.0, 0.0, 1.1, -0.4]), 0.7, 3, 100_000
    weight = (score.double() / tau).exp().tolist()
    expected = [0.0] * 6
    for order in itertools.permutations(range(6), n):
        p, left = 1.0, sum(weight)
        for i in order:
            p, left = p * weight[i] / left, left - weight[i]
        for i in order:
            expected[i] += p
    rng = torch.Generator().manual_seed(3)
    u = torch.rand(rows, 6, generator=rng)
    drawn = kernels.keep_largest(torch.arange(6).expand(rows, 6), score.expand(rows, 6), u, n, 6, tau, True).long()
    counts = torch.bincount(drawn.flatten(), minlength=6).double()
    p = torch.tensor(expected, dtype=torch.float64)
    assert ((counts - rows * p).abs() < 4 * (rows * p * (1 - p)).sqrt()).all()


def test_frozen_scores_raise_the_cache_to_a_plateau(caching, draw):
    trainer = caching(*SMALL)
    means = [cache_scores(trainer).mean().item()]
    for _ in range(120):
        draw(trainer, range(len(TRIPLES)))
        means.append(cache_scores(trainer).mean().item())
    means = torch.tensor(means)
    uniform, early, late, last = means[0], means[1:6].mean(), means[60:90].mean(), means[90:].mean()
    assert uniform < early < late
    assert abs(last - late) < 0.05 * (late - uniform)


def test_at_temperature_zero_a_row_never_falls_and_ends_at_the_best_of_all_that_was_proposed(caching, draw):
    trainer = caching("sampler.tau=0", "sampler.cache=20", "sampler.candidates=5")
    positives = trainer.graph.positives(torch.arange(len(TRIPLES)))
    side = torch.zeros(len(TRIPLES), dtype=torch.bool)
    keys = positives.key(side)
    proposed = [trainer.sampler.cache.long()[keys]]
    before = cache_scores(trainer)
    for _ in range(15):
        fresh = trainer.graph.draw(keys, 5, copied_generator(trainer))
        proposed.append(fresh[last_occurrence(keys, len(trainer.sampler.cache))])  # of several copies one is the owner
        trainer.sampler.renew(positives, side, trainer.view)
        after = cache_scores(trainer)
        assert (after >= before).all()  # slot by slot of the sorted rows
        before = after
    for row, seen in enumerate(torch.cat(proposed, 1)):
        seen = seen.unique().unsqueeze(0)
        best = trainer.view.score_ids(trainer.graph.positives(torch.tensor([row])), side[:1], seen)[0].topk(20).indices
        assert set(seen[0, best].tolist()) == set(trainer.sampler.cache[keys[row]].tolist())


def test_copies_of_a_query_in_a_batch_equal_the_update_by_its_last_copy(caching):
    trainer = caching(*SMALL)
    rows = torch.tensor([100] * 86 + [3, 101, 4])  # 100 and 101 share (0, 0, ?): 87 copies, the last at 87
    positives, side = trainer.graph.positives(rows), torch.zeros(89, dtype=torch.bool)
    key = positives.key(side)
    before = trainer.sampler.cache.clone()

    rng = copied_generator(trainer)
    union = torch.cat([before.long()[key], trainer.graph.draw(key, 5, rng)], 1)
    noise = -(-torch.rand(89, 13, generator=rng).double().log()).log()
    score = trainer.view.score_ids(positives, side, union) + noise
    expected = {}
    for row in (86, 87, 88):
        ranking = sorted(range(13), key=lambda i: -score[row, i].item())
        best = list(dict.fromkeys(int(union[row, i]) for i in ranking if i == 0 or union[row, i] != union[row, i - 1]))
        expected[int(key[row])] = set(best[:8])

    trainer.sampler.renew(positives, side, trainer.view)
    for number, (old, new) in enumerate(zip(before.tolist(), trainer.sampler.cache.tolist())):
        assert set(new) == expected.get(number, set(old))
    assert last_occurrence(torch.tensor([4, 2, 4, 0, 2]), 6).tolist() == [2, 4, 2, 3, 4]


# --- options and variants ---


def test_only_the_drawn_sides_caches_change_if_asked(caching, draw):
    for update in ("both", "drawn"):
        trainer = caching(f"sampler.update={update}", *SMALL)
        before = trainer.sampler.cache.clone()
        positives, block = draw(trainer, [101] * 3)
        changed = {int(key) for key in (trainer.sampler.cache != before).any(1).nonzero()}
        drawn = set(positives.key(block.side).tolist())
        both = {int(positives.key_head[0]), int(positives.key_tail[0])}
        assert changed == (drawn if update == "drawn" else both)


def test_lazy_updates_skip_whole_epochs(caching, draw):
    trainer = caching("sampler.lazy=2", *SMALL)
    changed = []
    for epoch in range(6):
        trainer.view.epoch = epoch
        before = trainer.sampler.cache.clone()
        draw(trainer, range(20))
        draw(trainer, range(20))
        changed.append(not torch.equal(before, trainer.sampler.cache))
    assert changed == [True, False, False, True, False, False]


def test_paper_caches_known_positives_and_tosses_bernoullis_coin(caching, draw):
    rates = {}
    for variant in ("recommended", "paper"):
        trainer = caching(f"sampler.variant={variant}", *SMALL)
        p = head_probability(trainer.graph)[0].item()
        assert abs(p - 0.5) > 0.1
        _, block = draw(trainer, [100] * 20_000)
        rates[variant] = block.side.float().mean().item()
        for _ in range(5):
            draw(trainer, range(len(TRIPLES)))
        assert trainer.sampler.filtered == (variant == "recommended")
        assert positive_slots(trainer).any() == (variant == "paper")
        assert not repeats(trainer.sampler.cache)
    assert rates["recommended"] == pytest.approx(0.5, abs=0.02)
    assert rates["paper"] == pytest.approx(p, abs=0.02)


def test_released_lets_an_entity_fill_several_slots(caching, draw):
    trainer = caching("sampler.variant=released")
    assert trainer.sampler.cache.shape[1] == trainer.sampler.options.candidates == 30
    for _ in range(20):
        draw(trainer, range(len(TRIPLES)))
    assert repeats(trainer.sampler.cache)
    assert positive_slots(trainer).any()
    assert not trainer.sampler.filtered


def test_an_unfiltered_cache_starts_with_known_answers_too(trainer_on):
    triples = [(0, 0, t) for t in range(60)] + [(1, 1, 2)]
    for variant, some in (("paper", True), ("recommended", False)):
        trainer = trainer_on("nscaching", triples, 120, 2, 4, f"sampler.variant={variant}")
        trainer.pretrain()
        row = trainer.sampler.cache[trainer.graph.key_tail[0]]  # of (0, 0, ?)
        assert bool((row < 60).any()) is some
        assert len(set(row.tolist())) == 50

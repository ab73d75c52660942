"""specs/mmrns.md, section 5, by the numbers of its list; the attention itself is tested in test_attention.py."""

import dataclasses
import io
import math

import pytest
import torch
from scipy import stats

from nsbench.config.run import configure
from nsbench.contracts import Need
from nsbench.contracts.graph import TrainGraph
from nsbench.contracts.scoring import Scoring
from nsbench.errors import Misuse
from nsbench.samplers import mmrns
from nsbench.samplers.mmrns import (
    Answers,
    Component,
    Groups,
    Others,
    StraightThrough,
    Structure,
    Tape,
    contrast,
    exploration,
    gumbel_draws,
    mixture,
    per_row,
    pooled,
)
from nsbench.testing.rules import assert_contract, toy
from nsbench.training.trainer import Trainer

SIZES = ("width=6", "batch=16", "negatives=3")


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(1)


def trainer_on(dataset, *settings, kge="distmult", protocol=SIZES):
    own = ["sampler.candidates=0", "sampler.positives=16"]  # the defaults; protocol quick has sizes of its own
    values = [*(f"protocol.{x}" for x in protocol), *own, *settings]
    return Trainer(configure("mmrns", kge, dataset.name, protocol="quick", settings=values), dataset)


@pytest.fixture
def on_toy():
    """A trainer on the toy graph with both modalities, its entities spread out so that no two draws are alike."""

    def make(*settings, features=("image", "text"), **how):
        data = toy(features=True)
        chosen = {"features": {m: data.features[m] for m in features}, "present": {m: data.present[m] for m in features}}
        trainer = trainer_on(dataclasses.replace(data, **chosen), *settings, **how)
        with torch.no_grad():
            trainer.kge.entity.mul_(3)
            trainer.kge.relation.mul_(3)
        return trainer

    return make


def step_of(trainer, rows=range(16)):
    """Scoring, view, positives, block, and scores of one step."""
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    view = trainer._view(scoring, live=trainer.live)
    positives = trainer.graph.positives(torch.tensor(list(rows)))
    block = trainer.sampler.sample(positives, view)
    return scoring, view, positives, block, scoring.block(positives, block)


def no_others():
    return Others(*(torch.zeros(0, dtype=torch.int64) for _ in range(2)), torch.zeros(0, dtype=torch.bool))


@pytest.mark.parametrize(
    "kge", ["transe", pytest.param("distmult", marks=pytest.mark.slow), pytest.param("rotate", marks=pytest.mark.slow)]
)
def test_contract(kge):
    assert_contract("mmrns", kge, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "variant=paper",
        "variant=released",
        "attention=false",
        "relation=false",
        "beta=0",
        "feedback=-1",
        "feedback=0",
        "missing=zero",
    ],
)
def test_contract_of_variants_and_ablations(setting):
    assert_contract("mmrns", device="cpu", settings=[f"sampler.{setting}"])


@pytest.mark.parametrize("features", [(), ("text",), ("image",), ("image", "text")])
def test_any_modalities_serve(on_toy, features):
    trainer = on_toy(features=features)
    trainer.step()
    assert trainer.sampler.attention.names == sorted(features)
    assert math.isfinite(trainer.loss_sum.item())


def test_features_are_loaded_where_there_are_any():
    assert configure("mmrns", "transe", "planted:small").wants_features
    assert not configure("uniform", "transe", "planted:small").wants_features


def test_parameters_are_as_many_as_counted():
    """Section 4.6, with the two layers of the released code."""
    for entity, relation, expected in ((200, 200, 207_542), (400, 200, 247_742), (400, 400, 306_142), (200, 400, 265_942)):
        attention = mmrns.CrossModalAttention({"image": (24, 383), "text": (4, 384)}, relation)
        parts = (*attention.parameters(), *Structure(entity, relation, 2).parameters())
        assert sum(p.numel() for p in parts) == expected


# --- draws: properties 2 to 6, 22 ---


def test_draws_are_distinct_and_unknown_2(rng):
    log_p = torch.full((10_000, 8), 1 / 8).log()
    known = torch.zeros(10_000, 8, dtype=torch.bool)
    known[:, [1, 4, 6]] = True
    index, _, free = gumbel_draws(log_p, known, 5, rng)
    assert (index.sort(1).values == torch.tensor([0, 2, 3, 5, 7])).all()
    assert free.all()
    index, _, free = gumbel_draws(log_p, known, 6, rng)  # the sixth is not there
    assert (index[:, :5].sort(1).values == torch.tensor([0, 2, 3, 5, 7])).all()
    assert free[:, :5].all()
    assert not free[:, 5].any()


def test_too_few_candidates_are_refused_2(on_toy):
    with pytest.raises(Misuse, match=r"sampler\.candidates"):
        on_toy("sampler.candidates=2")


def test_the_first_draw_has_probability_p_3(rng):
    p = torch.tensor([0.05, 0.3, 0.1, 0.25, 0.2, 0.1])
    known = torch.zeros(200_000, 6, dtype=torch.bool)
    known[:, 3] = True
    index, _, _ = gumbel_draws(p.log().expand(200_000, -1), known, 1, rng)
    seen = index.flatten().bincount(minlength=6)
    assert seen[3] == 0
    left = [0, 1, 2, 4, 5]
    assert stats.chisquare(seen[left].numpy(), (200_000 * p[left] / 0.75).double().numpy(), sum_check=False).pvalue > 1e-4


def test_a_pair_of_draws_has_the_law_without_replacement_4(rng):
    p = torch.tensor([0.5, 0.2, 0.15, 0.15])
    index, _, _ = gumbel_draws(p.log().expand(100_000, -1), torch.zeros(100_000, 4, dtype=torch.bool), 2, rng)
    expected = (p.unsqueeze(1) * p / (1 - p.unsqueeze(1))).fill_diagonal_(0)
    seen = (index[:, 0] * 4 + index[:, 1]).bincount(minlength=16)
    off = ~torch.eye(4, dtype=torch.bool).flatten()
    assert not seen[~off].any()
    found = stats.chisquare(seen[off].numpy(), 100_000 * expected.flatten()[off].double().numpy(), sum_check=False)
    assert found.pvalue > 1e-4


def components_of(rows, candidates, number, rng):
    return [
        Component(2 * torch.rand(rows, candidates, generator=rng) - 1, torch.ones(rows), torch.zeros(0))
        for _ in range(number)
    ]


def test_p_is_the_mean_of_the_softmaxes_5(rng):
    parts = components_of(4, 9, 3, rng)
    p = mixture(parts, 0.3).exp()
    mean = sum((c.near / 0.3).exp() / (c.near / 0.3).exp().sum(1, keepdim=True) for c in parts) / 3
    torch.testing.assert_close(p, mean)
    torch.testing.assert_close(p.sum(1), torch.ones(4))
    assert (mixture(parts, 1e6).exp() - 1 / 9).abs().max() < 1e-6


def test_three_times_p_changes_no_draw_and_no_gradient_5(rng):
    log_p = mixture(components_of(5, 9, 3, rng), 0.3)
    known, table, grad = torch.zeros(5, 9, dtype=torch.bool), torch.randn(9, 6), torch.randn(5, 2, 6)
    found = []
    for shift in (0.0, math.log(3)):
        logits = (log_p + shift).requires_grad_()
        index, soft, _ = gumbel_draws(logits.detach(), known, 2, torch.Generator().manual_seed(2))
        StraightThrough.apply(logits, soft, table, 1).backward(grad)
        found.append((index, logits.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


def test_exploration_falls_6():
    assert [exploration(10, s - 1) for s in (1, 1000, 100_000)] == pytest.approx([10, 1.26458, 0.799174], rel=1e-5)
    assert exploration(1, 99) == pytest.approx(0.178407, rel=1e-5)
    values = [exploration(1, s) for s in range(500)]
    assert values == sorted(values, reverse=True)


def test_the_schedule_is_read_from_the_step_6(on_toy, monkeypatch):
    asked = []
    monkeypatch.setattr(mmrns, "exploration", lambda start, step: asked.append((start, step)) or 1.0)
    trainer = on_toy("sampler.exploration=3")
    trainer.step()
    trainer.step()
    assert asked == [(3.0, 0), (3.0, 1)]


def test_at_low_exploration_the_most_similar_are_drawn_22(rng):
    part = components_of(50, 30, 1, rng)
    known = torch.rand(50, 30, generator=rng) < 0.3
    index, _, _ = gumbel_draws(mixture(part, 1e-3), known, 4, rng)
    near = part[0].near.masked_fill(known, -9)
    value = near.gather(1, index).sort(1, descending=True).values
    assert (near.topk(4, dim=1).values - value).abs().max() < 0.02  # candidates nearer than about eps are ties


# --- contrast: properties 7 to 10 ---


def tape_of(near, index, known=None, others=None):
    near = torch.tensor(near)
    known = torch.zeros_like(near, dtype=torch.bool) if known is None else torch.tensor(known)
    component = Component(near, torch.ones(len(near)), torch.zeros(0))
    return Tape([component], known, torch.tensor(index), others or no_others())


def test_contrast_of_the_paper_7(on_toy):
    tape = tape_of([[0.5, 0.0, -0.5]], [[0, 1]])
    loss, empty = per_row(contrast(tape, torch.tensor([[0.75, 0.25]]), 1 / 4, True))
    assert loss.item() == pytest.approx(0.879876, abs=1e-6)
    assert empty == 0
    sampler = on_toy("sampler.beta=0.5").sampler  # the same by its own weights, alpha = 0.5
    sampler.num_entities = 4
    block = mmrns.Negatives(
        torch.zeros(1, dtype=torch.bool), ids=tape.index, valid=torch.ones(1, 2, dtype=torch.bool), tape=tape
    )
    assert sampler.feedback(block, torch.zeros(1), torch.tensor([[2 * math.log(3), 0]])).item() == pytest.approx(0.439938)


def test_contrast_of_the_released_code_8(on_toy):
    tape = tape_of([[1.0, 0.5, 0.0, -0.5]], [[1, 2]], [[True, False, False, False]])
    loss, _ = pooled(contrast(tape, torch.tensor([[0.75, 0.25]]) / 4, 1 / 4, False))
    assert loss.item() == pytest.approx(-0.261367, abs=1e-6)
    sampler = on_toy("sampler.variant=released").sampler
    sampler.candidates = 4
    block = mmrns.Negatives(
        torch.zeros(1, dtype=torch.bool), ids=tape.index, valid=torch.ones(1, 2, dtype=torch.bool), tape=tape
    )
    loss = sampler.feedback(block, torch.zeros(1), torch.tensor([[2 * math.log(3), 0]]))
    assert loss.item() == pytest.approx(-0.261367 / 100, abs=1e-7)  # 10: the code divides by a loss_rate of 100


def test_contrast_of_equal_similarities_9(rng):
    n, b, k, candidates = 50, 6, 3, 12
    known = torch.rand(b, candidates, generator=rng) < 0.3
    index = known.int().sort(dim=1, stable=True).indices[:, :k]  # k of the unknown
    others = Others(torch.tensor([0, 0, 4]), torch.tensor([1, 2, 3]), torch.tensor([True, True, True]))
    same = Component(torch.full((b, candidates), 0.4), torch.full((b,), 0.4), torch.full((3,), 0.4))
    p = torch.rand(b, k, generator=rng)
    p = p / p.sum(1, keepdim=True)
    tape = Tape([same], known, index, others)
    negatives, answers = (~known).sum(1), torch.tensor([3, 1, 1, 1, 2, 1])
    loss, _ = per_row(contrast(tape, p, 1 / n, True))
    assert loss.item() == pytest.approx(((n + negatives - k) / answers).log().mean().item(), rel=1e-5)
    loss, _ = pooled(contrast(tape, p / candidates, 1 / candidates, False))
    assert loss.item() == pytest.approx(math.log(((negatives - k).sum() + b) / known.sum()), rel=1e-5)


def test_without_any_answer_among_the_candidates_the_released_loss_is_0():
    tape = tape_of([[1.0, 0.5, 0.0]], [[1, 2]])
    near = tape.components[0].near.requires_grad_()
    loss, empty = pooled(contrast(tape, torch.tensor([[0.5, 0.5]]), 1 / 3, False))
    loss.backward()
    assert loss == 0
    assert empty == 1
    assert not near.grad.any()


def test_the_variants_are_what_they_say_10():
    for variant, expected in (
        ("paper", (0.005, 1.0, 0, False)),
        ("recommended", (0.005, 1.0, 0, True)),
        ("released", (0.01, 10.0, 1500, False)),
    ):
        o = configure("mmrns", "transe", "toy", settings=[f"sampler.variant={variant}"]).sampler_options
        assert (o.beta, o.exploration, o.candidates, o.detach_kge) == expected


# --- feedback of the model: properties 11 to 14 ---


def test_delta_is_zero_and_has_the_gradient_of_the_one_hot_product_11(rng):
    b, n, k, d = 4, 7, 3, 5
    log_p = torch.randn(b, n, generator=rng, dtype=torch.float64).log_softmax(1)
    known = torch.rand(b, n, generator=rng) < 0.2
    table, target = torch.randn(n, d, generator=rng).double(), torch.randn(b, k, d, generator=rng).double()
    logits = log_p.clone().requires_grad_()
    index, soft, _ = gumbel_draws(log_p, known, k, rng)
    delta = StraightThrough.apply(logits, soft, table, 1)
    assert torch.equal(table[index] + delta, table[index])
    ((table[index] + delta - target) ** 2).sum().backward()

    noise = (soft.log() - log_p).detach()  # up to a constant of the row, which a softmax ignores
    explicit = log_p.clone().requires_grad_()
    y = (explicit + noise).softmax(2)  # [k, b, n]
    hot = torch.nn.functional.one_hot(index.T, n).double() + y - y.detach()
    ((hot @ table - target.transpose(0, 1)) ** 2).sum().backward()
    torch.testing.assert_close(logits.grad, explicit.grad, atol=1e-9, rtol=1e-6)

    g = 2 * (table[index] - target)  # dL / d(negative)
    pull = torch.einsum("bkd,nd->kbn", g, table)
    closed = (soft * (pull - (soft * pull).sum(2, keepdim=True))).sum(0)
    torch.testing.assert_close(logits.grad, closed, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("kappa", [1, -1])
def test_the_sign_of_the_feedback_12(kappa, rng):
    """DistMult: minimising softplus(f) through y lowers the expected score; kappa = -1 raises it."""
    table, q = torch.randn(30, 5, generator=rng), torch.randn(8, 5, generator=rng)
    logits = torch.zeros(8, 30, requires_grad=True)
    index, soft, _ = gumbel_draws(logits.detach(), torch.zeros(8, 30, dtype=torch.bool), 1, rng)
    negative = table[index] + StraightThrough.apply(logits, soft, table, kappa)
    torch.nn.functional.softplus((q.unsqueeze(1) * negative).sum(2)).sum().backward()
    f = q @ table.T
    moved = ((soft[0].log() - 1e-2 * logits.grad).softmax(1) * f).sum(1)
    assert (kappa * (moved - (soft[0] * f).sum(1)) < 0).all()


def test_without_feedback_and_contrast_the_sampler_does_not_learn_12(on_toy):
    trainer = on_toy("sampler.feedback=0", "sampler.beta=0")
    before = [p.clone() for p in trainer.sampler.parameters()]
    trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.sampler.parameters()))


def reached(trainer):
    return {name for name, p in trainer.sampler.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("source", ["feedback", "contrast"])
def test_every_parameter_learns_from_either_loss_13(on_toy, source, layers):
    only = "sampler.beta=0" if source == "feedback" else "sampler.feedback=0"
    trainer = on_toy(only, f"sampler.structure_layers={layers}")
    _, _, _, block, (s_pos, s_neg) = step_of(trainer)
    loss = s_neg.sum() if source == "feedback" else trainer.sampler.feedback(block, s_pos.detach(), s_neg.detach())
    loss.backward()
    assert reached(trainer) == {name for name, _ in trainer.sampler.named_parameters()}


def test_detached_the_contrast_leaves_the_model_alone_14(on_toy):
    touched = {}
    for detach in ("true", "false"):
        trainer = on_toy(f"sampler.detach_kge={detach}", protocol=("width=6", "batch=16", "negatives=1"))
        _, _, positives, block, (s_pos, s_neg) = step_of(trainer, range(3))
        (s_pos.sum() + s_neg.sum()).backward(retain_graph=True)
        kge = set(trainer.kge.entity.grad.any(1).nonzero().flatten().tolist())
        trainer.kge.zero_grad()
        trainer.sampler.feedback(block, s_pos.detach(), s_neg.detach()).backward()
        own = [x.grad is not None and bool(x.grad.any()) for x in (trainer.kge.entity, trainer.kge.relation)]
        assert own == [detach == "false"] * 2
        named = {*positives.h.tolist(), *positives.t.tolist(), *block.ids.flatten().tolist()}
        touched[detach] = kge - named
    assert not touched["true"]
    assert touched["false"]


def test_what_the_trainer_is_asked_for_follows_the_option():
    assert mmrns.MMRNS.needs(mmrns.MMRNS.Options()) == {Need.ONE_VIEW}
    assert mmrns.MMRNS.needs(mmrns.MMRNS.Options(detach_kge=False)) == {Need.LIVE, Need.ONE_VIEW}


# --- similarity: properties 15, 16 ---


def similarities(trainer, candidates, rows=range(16), side=None):
    """What the sampler finds for given candidates, and the parts that went in."""
    trainer.sampler.candidates = len(candidates)
    scoring = Scoring(trainer.kge, trainer.fusion, trainer.graph)
    view = trainer._view(scoring, live=True)
    positives = trainer.graph.positives(torch.tensor(list(rows)))
    side = torch.arange(len(positives)) % 2 == 0 if side is None else side
    answer = positives.answer(side)
    others = trainer.sampler.answers.others(positives.key(side), answer, 4, torch.Generator().manual_seed(3))
    ids = torch.cat([candidates, answer, others.entity])
    found = trainer.sampler.components(ids, view.vectors(ids), positives.r, others, view)
    return found, positives.r, answer, others, view


def one_by_one(trainer, r, entity, view, bare=None):
    """z of structure and each modality for one relation and one entity."""
    sampler, rho, e = trainer.sampler, view.relations(r), view.vectors(entity)
    z = [e * (torch.cat([rho, e]) @ sampler.structure.first.weight.T + sampler.structure.first.bias).sigmoid()]
    tokens = {m: sampler._tokens(m, entity.view(1), view) for m in sampler.attention.names}
    return z + [x[0] for x in sampler.attention.pairs(tokens, rho.unsqueeze(0), bare).values()]


def cosine(x, y):
    return (x @ y) / (x.norm() * y.norm() + 1e-10)


@pytest.mark.parametrize("bound", [False, True])
def test_grouped_by_relation_is_the_same_as_row_by_row_16(on_toy, bound, monkeypatch):
    if bound:  # as on a GPU, where the number of relations is not known
        monkeypatch.setattr(mmrns, "_size", lambda count, bound: bound)
    monkeypatch.setattr(mmrns, "TILE", 2)
    trainer = on_toy()
    trainer.kge.double()
    trainer.sampler.double()
    trainer.setting.features.update({m: x.double() for m, x in trainer.setting.features.items()})
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    candidates = torch.tensor([5, 0, 7, 11, 39, 20])
    rows = [0, 90, 1, 128, 91, 2, 100, 101, 3, 4, 120, 5, 70]
    gradients = []
    for slow in (False, True):
        found, r, answer, others, view = similarities(trainer, candidates, rows)
        if slow:
            expected = [
                torch.stack(
                    [
                        torch.stack(
                            [
                                cosine(a, b)
                                for a, b in zip(
                                    one_by_one(trainer, r[i], answer[i], view), one_by_one(trainer, r[i], c, view)
                                )
                            ]
                        )
                        for c in candidates
                    ]
                )
                for i in range(len(rows))
            ]
            near = torch.stack(expected).permute(2, 0, 1)
            for c, value in zip(found, near):
                torch.testing.assert_close(c.near, value, atol=1e-10, rtol=0)
            for at in others.live.nonzero().flatten():
                i, entity = others.row[at], others.entity[at]
                both = zip(one_by_one(trainer, r[i], answer[i], view), one_by_one(trainer, r[i], entity, view))
                for c, (x, y) in zip(found, both):
                    torch.testing.assert_close(c.other[at], cosine(x, y), atol=1e-10, rtol=0)
        else:
            near = torch.stack([c.near for c in found])
        weight = torch.randn(near.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        parameters = [*trainer.sampler.parameters(), trainer.kge.entity, trainer.kge.relation]
        gradients.append(torch.autograd.grad((weight * near).sum(), parameters, allow_unused=True))
    for fast, slow in zip(*gradients):
        torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-7)


def test_the_static_bounds_of_a_gpu_change_no_draw_16(on_toy, monkeypatch):
    plain = step_of(on_toy())[3]
    monkeypatch.setattr(mmrns, "_size", lambda count, bound: bound)
    bounded = step_of(on_toy())[3]
    assert torch.equal(plain.ids, bounded.ids)
    assert len(bounded.tape.others.row) == 16 * 15 > len(plain.tape.others.row)


@pytest.mark.parametrize("tile", [1, 3, 16])
def test_groups_put_every_row_in_a_tile_of_its_relation(tile, monkeypatch, rng):
    monkeypatch.setattr(mmrns, "TILE", tile)
    r = torch.randint(9, (40,), generator=rng) ** 2 // 9
    for size in (mmrns._size, lambda count, bound: bound):
        monkeypatch.setattr(mmrns, "_size", size)
        groups = Groups(r, 9)
        relation_of_tile = groups.relation[groups.of_tile].double()
        x = torch.arange(40.0).unsqueeze(1)
        assert torch.equal(groups.rows(groups.tiles(x)), x)
        seen = relation_of_tile.view(-1, 1, 1).expand(-1, tile, 1)
        assert torch.equal(groups.rows(seen).flatten().long(), r)


def test_self_similarity_is_1_15(on_toy):
    side = torch.zeros(4, dtype=torch.bool)
    for setting, image_is_1 in (("bare_anchor=false", True), ("bare_anchor=true", False)):
        trainer = on_toy(f"sampler.{setting}")
        answer = trainer.graph.positives(torch.arange(4)).answer(side)
        found, *_ = similarities(trainer, answer, range(4), side)
        for component, is_1 in zip(found, (True, image_is_1, True)):  # structure, image, text
            own = component.near.diagonal()
            assert ((own - 1).abs() < 1e-5).all() if is_1 else ((own - 1).abs() > 1e-3).all()


def test_the_gradient_of_the_cosine_15(on_toy, rng):
    for setting, radial in (("false", False), ("true", True)):
        sampler = on_toy(f"sampler.constant_norms={setting}").sampler
        x = torch.randn(3, 5, generator=rng, requires_grad=True)
        s = sampler._cosine(x, torch.randn(4, 5, generator=rng))
        (along,) = torch.autograd.grad(s.sum(), x)
        torch.testing.assert_close((x * along).sum(1), s.sum(1) if radial else torch.zeros(3), atol=1e-6, rtol=1e-5)


def test_structure_is_equation_7():
    torch.manual_seed(0)
    e, r = torch.randn(4, 3), torch.randn(4, 2)
    one, two, none = Structure(3, 2, 1), Structure(3, 2, 2), Structure(3, 0, 1)
    joint = torch.cat([r, e], dim=1)
    torch.testing.assert_close(one(e, r), e * (joint @ one.first.weight.T + one.first.bias).sigmoid())
    hidden = joint @ two.first.weight.T + two.first.bias
    hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
    torch.testing.assert_close(two(e, r), e * (hidden @ two.second.weight.T + two.second.bias).sigmoid())
    assert torch.equal(none(e, r), none(e, 5 * r))
    torch.testing.assert_close(one(e.unsqueeze(0), r.unsqueeze(1))[2, 1], one(e[1:2], r[2:3])[0])


def test_other_answers_are_uniform_without_replacement_and_never_the_true_one(rng):
    graph = TrainGraph(torch.tensor([[0, 0, t] for t in range(1, 7)] + [[1, 0, 2]]), num_entities=9, num_relations=1)
    key = graph.key_tail[:1].expand(30_000)
    others = Answers(graph).others(key, torch.full((30_000,), 3), 2, rng)
    assert others.live.all()
    pairs = others.entity[others.row.argsort(stable=True)].view(-1, 2).sort(1).values
    assert (pairs[:, 0] < pairs[:, 1]).all()
    seen = (pairs[:, 0] * 9 + pairs[:, 1]).bincount(minlength=81)
    allowed = [a * 9 + b for a in (1, 2, 4, 5, 6) for b in (1, 2, 4, 5, 6) if a < b]
    assert seen[allowed].sum() == 30_000
    assert stats.chisquare(seen[allowed].numpy()).pvalue > 1e-4
    few = Answers(graph).others(graph.key_tail[[0, 6]], torch.tensor([3, 2]), 15, rng)  # five others, and none
    assert few.entity[few.live].tolist() == [1, 2, 4, 5, 6]
    assert not few.row[few.live].any()


# --- missing modalities, ablations, resuming: properties 18 to 21 ---


def test_who_lacks_a_modality_has_no_share_in_it_18(on_toy):
    """Entities 0, 7 and 11 of the toy lack text; 7 and 20 lack an image."""
    trainer = on_toy()
    found, _, answer, _, _ = similarities(trainer, torch.tensor([0, 1, 2, 7, 11]), range(60))
    structure, image, text = found
    p = mixture(found, 0.5).exp()
    assert (p > 0).all()
    only_text = mixture([text], 0.5).exp()
    whole = torch.isin(answer, torch.tensor([0, 7, 11]), invert=True)
    assert whole.any()
    assert not only_text[whole][:, [0, 3, 4]].any()
    textless = torch.isin(answer, torch.tensor([0, 11]))
    assert textless.any()
    without = (structure.near / 0.5).softmax(1)
    seen = image.near[:, [0, 1, 2, 4]] / 0.5  # candidate 7 has no image
    without[:, [0, 1, 2, 4]] += seen.softmax(1)
    torch.testing.assert_close(p[textless], without[textless] / 2)
    torch.testing.assert_close(p.sum(1), torch.ones(60))


def test_missing_as_zero_makes_twins_18(on_toy):
    data = {}
    for missing in ("zero", "mask"):
        trainer = on_toy(f"sampler.missing={missing}")
        features = trainer.setting.features["image"]
        features[11] = features[0]  # both lack text
        found, *_ = similarities(trainer, torch.tensor([0, 11, 7, 1]), range(20))
        data[missing] = found[2]
    assert torch.equal(data["zero"].near[:, 0], data["zero"].near[:, 1])
    assert data["zero"].has_candidate is None
    assert data["mask"].has_candidate.tolist() == [False, False, False, True]


def test_the_contrast_skips_what_lacks_the_modality_18():
    near = torch.tensor([[0.5, 0.0, -0.5], [0.1, 0.2, 0.3]])
    whole = Component(near, torch.ones(2), torch.zeros(0))
    gaps = Component(
        near,
        torch.ones(2),
        torch.zeros(0),
        torch.tensor([True, False, True]),
        torch.tensor([True, False]),
        torch.zeros(0, dtype=torch.bool),
    )
    tape = Tape([whole, gaps], torch.zeros(2, 3, dtype=torch.bool), torch.tensor([[0, 1], [0, 1]]), no_others())
    loss, empty = per_row(contrast(tape, torch.tensor([[0.75, 0.25], [0.5, 0.5]]), 0.25, True))
    e = math.exp
    first = -math.log(0.25 * e(1) / (0.75 * e(0.5) + 0.25 + 0.25 * e(-0.5)))
    first_gaps = -math.log(0.25 * e(1) / (0.75 * e(0.5) + 0.25 * e(-0.5)))
    second = -math.log(0.25 * e(1) / (0.5 * e(0.1) + 0.5 * e(0.2) + 0.25 * e(0.3)))
    assert loss.item() == pytest.approx(((first + first_gaps) / 2 + second) / 2, rel=1e-5)
    assert empty == 0


def test_ablations_19(on_toy):
    assert step_of(on_toy("sampler.beta=0"))[3].tape is None  # w/o CSS: no loss of its own
    trainer = on_toy("sampler.beta=0")
    assert trainer.sampler.feedback(step_of(trainer)[3], torch.zeros(16), torch.zeros(16, 3)) is None
    assert not len(on_toy("sampler.attention=false").sampler.attention.gate)
    trainer = on_toy("sampler.relation=false")
    found, *_ = similarities(trainer, torch.arange(6))
    with torch.no_grad():
        trainer.kge.relation.mul_(-3)
    moved, *_ = similarities(trainer, torch.arange(6))
    assert all(torch.equal(a.near, b.near) for a, b in zip(found, moved))


def test_a_resumed_run_is_the_same_run_20(on_toy):
    whole, other = on_toy(), on_toy()
    for _ in range(4):
        whole.step()
    saved = whole.state_dict()
    other.load_state_dict(torch.load(_file(saved), weights_only=True))
    for _ in range(3):
        whole.step()
        other.step()
    assert torch.equal(whole.kge.entity, other.kge.entity)
    assert torch.equal(whole.loss_sum, other.loss_sum)
    assert all(torch.equal(a, b) for a, b in zip(whole.sampler.state_dict().values(), other.sampler.state_dict().values()))
    assert whole.sampler.describe() == other.sampler.describe()


def _file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_the_positives_are_those_of_uniform_21(on_toy):
    mine, plain = (
        on_toy(),
        Trainer(configure("uniform", "distmult", "toy", protocol="quick", settings=[f"protocol.{x}" for x in SIZES]), toy()),
    )
    for _ in range(12):
        assert torch.equal(mine._next_positives().hrt, plain._next_positives().hrt)
        mine.step()
        plain.step()


def test_describe_averages_over_the_steps(on_toy, monkeypatch):
    trainer = on_toy("sampler.exploration=1e6")
    sample, invalid = trainer.sampler.sample, []

    def watched(positives, view):
        block = sample(positives, view)
        invalid.append((~block.valid).double().mean().item())
        return block

    monkeypatch.setattr(trainer.sampler, "sample", watched)
    for _ in range(20):
        trainer.step()
    said = trainer.sampler.describe()
    assert said["invalid"] == pytest.approx(sum(invalid) / 20)
    assert said["invalid"] > 0  # eight candidates, and a query with 29 answers among 40 entities
    assert said["entropy"] == pytest.approx(1, abs=0.15)  # uniform, but for who lacks a modality

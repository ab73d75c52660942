"""MMRNS's similarities and its contrast: docs/notes/mmrns.md section 5, properties 7 to 10, 15, 16."""

import math

import pytest
import scipy
import torch

from nsbench.contracts.graph import TrainGraph
from nsbench.samplers import mmrns, parts
from nsbench.samplers.mmrns import Answers, Component, Groups, Others, Structure, Tape, contrast
from nsbench.samplers.parts import mmrns_released as released
from tests.samplers.mmrns_cases import similarities, step_of, tape_of


def test_contrast_of_the_paper_7(on_toy):
    tape = tape_of([[0.5, 0.0, -0.5]], [[0, 1]])
    loss, empty = contrast(tape, torch.tensor([[0.75, 0.25]]), 4)
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
    loss, _ = released.contrast(tape, torch.tensor([[0.75, 0.25]]), 1000)
    assert loss.item() == pytest.approx(-0.261367, abs=1e-6)
    sampler = on_toy("sampler.variant=released").sampler
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
    loss, _ = contrast(tape, p, n)
    assert loss.item() == pytest.approx(((n + negatives - k) / answers).log().mean().item(), rel=1e-5)
    loss, _ = released.contrast(tape, p, n)
    assert loss.item() == pytest.approx(math.log(((negatives - k).sum() + b) / known.sum()), rel=1e-5)


def test_without_any_answer_among_the_candidates_the_released_loss_is_0():
    tape = tape_of([[1.0, 0.5, 0.0]], [[1, 2]])
    near = tape.components[0].near.requires_grad_()
    loss, empty = released.contrast(tape, torch.tensor([[0.5, 0.5]]), 3)
    loss.backward()
    assert loss == 0
    assert empty == 1
    assert not near.grad.any()


def one_by_one(trainer, r, entity, view, bare=None):
    """z of structure and each modality for one relation and one entity."""
    sampler, rho, e = trainer.sampler, view.relations(r), view.vectors(entity)
    z = [e * (torch.cat([rho, e]) @ sampler.structure.first.weight.T + sampler.structure.first.bias).sigmoid()]
    tokens = {m: sampler._tokens(m, entity.view(1), view) for m in sampler.attention.names}
    return z + [x[0] for x in sampler.attention.pairs(tokens, rho.unsqueeze(0), bare).values()]


def cosine(x, y):
    return (x @ y) / (x.norm() * y.norm() + 1e-10)


def as_on_a_gpu(monkeypatch):
    """Where nobody may ask how many things there are."""
    for module in (mmrns, parts.contrast):
        monkeypatch.setattr(module, "size_of", lambda count, bound: bound)


@pytest.mark.parametrize("bound", [False, True])
def test_grouped_by_relation_is_the_same_as_row_by_row_16(on_toy, bound, monkeypatch):
    if bound:
        as_on_a_gpu(monkeypatch)
        monkeypatch.setattr(Groups, "products", Groups.products_in_tiles)
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
    as_on_a_gpu(monkeypatch)
    bounded = step_of(on_toy())[3]
    assert torch.equal(plain.ids, bounded.ids)
    assert len(bounded.tape.others.row) == 16 * 15 > len(plain.tape.others.row)


@pytest.mark.parametrize("tile", [1, 3, 16])
def test_a_row_meets_what_its_relation_sees(tile, monkeypatch, rng):
    monkeypatch.setattr(mmrns, "TILE", tile)
    r = torch.randint(9, (40,), generator=rng) ** 2 // 9
    x, of_relation = torch.randn(40, 3, generator=rng).double(), torch.randn(9, 5, 3, generator=rng).double()
    of_relation[:, 2] = 0  # a norm of 0 has gradient 0
    expected = (x.unsqueeze(1) * of_relation[r]).sum(2)
    for size, products in (
        (mmrns.size_of, Groups.products),
        (lambda count, bound: bound, Groups.products),
        (lambda count, bound: bound, Groups.products_in_tiles),
    ):
        monkeypatch.setattr(mmrns, "size_of", size)
        groups = Groups(r, 9)
        inputs = x.clone().requires_grad_(), of_relation[groups.relation].requires_grad_()
        found, norms = products(groups, *inputs)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(norms[groups.of_row], of_relation.norm(dim=2)[r])
        assert torch.autograd.gradcheck(lambda x, seen, p=products, g=groups: p(g, x, seen)[0], inputs)
        (slope,) = torch.autograd.grad(products(groups, *inputs)[1].sum(), inputs[1])
        torch.testing.assert_close(slope, torch.nn.functional.normalize(inputs[1].detach(), dim=2))


def test_self_similarity_is_1_15(on_toy):
    side = torch.zeros(4, dtype=torch.bool)
    for code, image_is_1 in (("paper", True), ("released", False)):
        trainer = on_toy(f"sampler.code={code}")
        answer = trainer.graph.positives(torch.arange(4)).answer(side)
        found, *_ = similarities(trainer, answer, range(4), side)
        for component, is_1 in zip(found, (True, image_is_1, True)):  # structure, image, text
            own = component.near.diagonal()
            assert ((own - 1).abs() < 1e-5).all() if is_1 else ((own - 1).abs() > 1e-3).all()


def test_the_gradient_of_the_cosine_15(on_toy, rng):
    for code, radial in (("paper", False), ("released", True)):
        sampler = on_toy(f"sampler.code={code}").sampler
        x = torch.randn(3, 5, generator=rng, requires_grad=True)
        y = torch.randn(4, 5, generator=rng)
        s = sampler.cosine(x @ y.T, x.norm(dim=1).unsqueeze(1), y.norm(dim=1))
        (along,) = torch.autograd.grad(s.sum(), x)
        torch.testing.assert_close((x * along).sum(1), s.sum(1) if radial else torch.zeros(3), atol=1e-6, rtol=1e-5)


def test_structure_is_equation_7():
    torch.manual_seed(0)
    e, r = torch.randn(4, 3), torch.randn(4, 2)
    one, two, none = Structure(3, 2), released.HiddenStructure(3, 2), Structure(3, 0)
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
    assert scipy.stats.chisquare(seen[allowed].numpy()).pvalue > 1e-4
    few = Answers(graph).others(graph.key_tail[[0, 6]], torch.tensor([3, 2]), 15, rng)  # five others, and none
    assert few.entity[few.live].tolist() == [1, 2, 4, 5, 6]
    assert not few.row[few.live].any()

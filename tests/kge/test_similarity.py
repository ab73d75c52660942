"""The three forms of every similarity, native and eager, against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nsbench.kernels import native
from nsbench.kernels import operators as kernels
from nsbench.kge.similarity import L1, L2, Blocks, Dot, Moduli, RankOne

SCALED = [Dot(), L1(0.5), L2(0.5), Moduli(0.5)]
OTHERS = [RankOne(0.5, 1), RankOne(0.5, 2), RankOne(0.5, 2, unit=True), Blocks(0.5, 2), Blocks(0.5, 1, contexts=True)]
BY_KIND = [pytest.param(similarity, id=str(similarity.kind or similarity.form)) for similarity in (*SCALED, *OTHERS)]
small = st.integers(1, 9)


@pytest.fixture(params=["native", "eager"], autouse=True)
def choice(request, monkeypatch):
    monkeypatch.setattr(native, "_chosen", request.param)
    return request.param


def expected(similarity, q: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The score in float64, and the size of what is summed: rounding is relative to that, not to a difference of two."""
    q, c = q.double(), c.double()
    half = q.shape[-1] // 2
    if similarity.kind == "dot":
        return (q * c).sum(-1), (q * c).abs().sum(-1)
    if isinstance(similarity, RankOne):
        along = (c[..., :half] * c[..., half:]).sum(-1, keepdim=True)
        projected = c[..., :half] + along * q[..., half:]
        if similarity.unit:
            projected = projected / (projected**2).sum(-1, keepdim=True).sqrt()
        x = (q[..., :half] - projected).abs()
        distance = x.sum(-1) if similarity.p == 1 else (x**2).sum(-1).sqrt()
        return similarity.margin - distance, similarity.margin + distance + x.sum(-1) + projected.abs().sum(-1)
    if similarity.form == "contexts":
        (x, y), (a, b) = (q[..., :half], q[..., half:]), (c[..., :half], c[..., half:])
        distance = lengths(x - a, similarity.size) / 2 + lengths(y - a, similarity.size) / 4
        distance = distance + lengths(x - b, similarity.size) / 4
    elif similarity.form == "blocks":
        distance = lengths(q - c, similarity.size)
    elif similarity.kind == "moduli":
        distance = lengths(q - c, 2)
    else:
        x = (q - c).abs()
        distance = x.sum(-1) if similarity.kind == "l1" else (x**2).sum(-1).sqrt()
    return similarity.margin - distance, similarity.margin + distance


def lengths(x: Tensor, size: int) -> Tensor:
    """Number j of block g stands at j G + g."""
    blocks = x.shape[-1] // size
    return sum((x[..., g::blocks] ** 2).sum(-1).sqrt() for g in range(blocks))


def close(found: Tensor, wanted: tuple[Tensor, Tensor]) -> bool:
    value, size = wanted
    return found.shape == value.shape and bool(((found - value).abs() <= 1e-5 * size + 1e-12).all())


@pytest.mark.parametrize("similarity", BY_KIND)
@given(b=small, k=small, n=st.integers(1, 150), half=st.integers(1, 41), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_three_forms_are_the_formula(similarity, b, k, n, half, seed):
    rng = torch.Generator().manual_seed(seed)
    q, table = torch.randn(b, 2 * half, generator=rng), torch.randn(n, 2 * half, generator=rng)
    scale, ids = torch.rand(b, 2 * half, generator=rng), torch.randint(n, (b, k), generator=rng)
    gathered = expected(similarity, q.unsqueeze(1), table[ids])
    assert close(similarity.pairwise(q.unsqueeze(1), table[ids]), gathered)
    assert close(similarity.gathered(q, table, ids), gathered)
    assert close(similarity.all_pairs(q, table), expected(similarity, q.unsqueeze(1), table))
    if similarity in SCALED:
        scaled = expected(similarity, q.unsqueeze(1), table.double() * scale.double().unsqueeze(1))
        assert close(similarity.all_pairs(q, table, scale), scaled)
        assert close(similarity.gathered(q, table, ids, scale), (scaled[0].gather(1, ids), scaled[1].gather(1, ids)))


@pytest.mark.parametrize("contexts", [False, True])
@pytest.mark.parametrize(("size", "blocks"), [(1, 5), (3, 1), (3, 17), (4, 16), (4, 50), (20, 10)])
def test_blocks_of_any_size(size, blocks, contexts):
    similarity, width = Blocks(3, size, contexts), size * blocks * (1 + contexts)
    rng = torch.Generator().manual_seed(size)
    inputs = [torch.randn(n, width, generator=rng).requires_grad_() for n in (9, 140)]
    exact, ids = [x.detach().double().requires_grad_() for x in inputs], torch.randint(140, (9, 7), generator=rng)
    assert close(similarity.all_pairs(*inputs), expected(similarity, inputs[0].unsqueeze(1), inputs[1]))
    score, formula = similarity.gathered(*inputs, ids), expected(similarity, exact[0].unsqueeze(1), exact[1][ids])
    assert close(score, formula)
    for found, wanted in zip(gradients(score, inputs), gradients(formula[0], exact), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-5)


def test_two_parts_a_block_are_moduli_and_one_is_l1(choice):
    q, table = torch.randn(6, 20), torch.randn(50, 20)
    exact = {"rtol": 0, "atol": 0} if choice == "eager" else {}
    torch.testing.assert_close(Blocks(2, 2).all_pairs(q, table), Moduli(2).all_pairs(q, table), **exact)
    torch.testing.assert_close(Blocks(2, 1).all_pairs(q, table), L1(2).all_pairs(q, table))


@pytest.mark.parametrize("similarity", BY_KIND[: len(SCALED)])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)])
def test_gradients_of_a_scale(similarity, which):
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=rng) for shape in ((12, 38), (9, 38), (12, 38))]
    ids = torch.randint(9, (12, 5), generator=rng)
    exact = [x.double().requires_grad_() for x in inputs]
    for i in which:
        inputs[i].requires_grad_()
    score = similarity.gathered(inputs[0], inputs[1], ids, inputs[2])
    formula = expected(similarity, exact[0].unsqueeze(1), exact[1][ids] * exact[2].unsqueeze(1))[0]
    wanted = gradients(formula, exact)
    for i, found in zip(which, gradients(score, [inputs[i] for i in which]), strict=True):
        torch.testing.assert_close(found.double(), wanted[i], rtol=1e-4, atol=2e-5)


def gradients(score: Tensor, inputs: list[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    weight = torch.randn(score.shape, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad(score, inputs, weight.to(score.dtype))


@pytest.mark.parametrize("similarity", BY_KIND)
@pytest.mark.parametrize(("b", "k", "n"), [(1, 1, 1), (1, 6, 3), (7, 1, 40), (12, 9, 5), (64, 20, 700)])
def test_gradients_of_gathered_are_those_of_the_formula(similarity, b, k, n):
    rng = torch.Generator().manual_seed(b)
    q, table = torch.randn(b, 38, generator=rng).requires_grad_(), torch.randn(n, 38, generator=rng).requires_grad_()
    ids = torch.randint(n, (b, k), generator=rng)  # n = 1, 3, 5: every entity many times
    ours = gradients(similarity.gathered(q, table, ids), [q, table])
    exact = [q.detach().double().requires_grad_(), table.detach().double().requires_grad_()]
    formula = similarity.pairwise(exact[0].unsqueeze(1), exact[1][ids])
    for found, wanted in zip(ours, gradients(formula, exact), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("similarity", BY_KIND)
@pytest.mark.parametrize("which", ["q", "table"])
def test_gathered_with_one_input_constant(similarity, which):
    q, table, ids = torch.randn(5, 8), torch.randn(11, 8), torch.randint(11, (5, 4))
    both = [q.clone().requires_grad_(), table.clone().requires_grad_()]
    wanted = gradients(similarity.gathered(*both, ids), both)
    one = q.requires_grad_() if which == "q" else table.requires_grad_()
    (found,) = gradients(similarity.gathered(q, table, ids), [one])
    assert torch.equal(found, wanted[which == "table"])


@pytest.mark.parametrize("similarity", BY_KIND)
@pytest.mark.parametrize(("b", "n", "d"), [(1, 1, 2), (6, 33, 10), (7, 300, 38), (9, 41, 64)])
def test_gradients_of_all_pairs(similarity, b, n, d):
    rng = torch.Generator().manual_seed(3)
    inputs = [torch.randn(shape, generator=rng).requires_grad_() for shape in ((b, d), (n, d), (b, d))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    for used in (2, 3) if similarity in SCALED else (2,):  # without and with a scale
        ours = gradients(similarity.all_pairs(*inputs[:used]), inputs[:used])
        c = exact[1] if used == 2 else exact[1] * exact[2].unsqueeze(1)
        formula = similarity.pairwise(exact[0].unsqueeze(1), c)
        for found, wanted in zip(ours, gradients(formula, exact[:used]), strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("similarity", [L1(0.5), L2(0.5), Moduli(0.5), Blocks(0.5, 2)], ids=lambda x: x.kind or x.form)
def test_at_distance_zero_the_score_is_the_margin_and_the_gradient_zero(similarity):
    table = torch.randn(4, 12).requires_grad_()
    q = table.detach()[[2]].clone().requires_grad_()
    ids = torch.tensor([[2]])
    all_pairs = similarity.all_pairs(q, table)[:, 2:3]
    for score in (similarity.gathered(q, table, ids), similarity.pairwise(q.unsqueeze(1), table[ids]), all_pairs):
        assert score.item() == similarity.margin
        dq, dtable = gradients(score, [q, table])
        assert not dq.any()
        assert not dtable.any()


@pytest.mark.parametrize("similarity", BY_KIND)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(similarity, value):
    table = torch.randn(70, 38)
    table[1, 37] = value
    q, ids = torch.randn(2, 38), torch.tensor([[0, 1, 69], [1, 2, 3]])
    broken = torch.tensor([[False, True, False], [True, False, False]])
    assert torch.equal(~similarity.gathered(q, table, ids).isfinite(), broken)
    assert torch.equal(~similarity.all_pairs(q, table).isfinite(), (torch.arange(70) == 1).expand(2, -1))


@pytest.mark.parametrize("similarity", BY_KIND)
def test_a_gradient_that_is_not_a_number_stays_so(similarity):
    q, table = torch.randn(2, 38).requires_grad_(), torch.randn(7, 38).requires_grad_()
    weight = torch.tensor([[1.0, float("nan")], [1.0, 1.0]])
    score = similarity.gathered(q, table, torch.tensor([[0, 3], [1, 2]]))
    dq, dtable = torch.autograd.grad(score, [q, table], weight)
    assert dq.isnan().all(1).tolist() == [True, False]
    assert dtable.isnan().all(1).tolist() == [False, False, False, True, False, False, False]


@pytest.mark.parametrize("similarity", BY_KIND)
def test_equal_entities_tie_wherever_they_stand(similarity, choice):
    if choice == "eager" and similarity.kind == "dot":
        pytest.skip("a matrix product of the BLAS promises no such thing")
    table = torch.randn(1, 46).expand(131, -1).contiguous()  # 131: full and partial panels
    q = torch.randn(9, 46)
    scores = similarity.all_pairs(q, table)
    assert torch.equal(scores, scores[:, :1].expand(-1, 131))
    assert torch.equal(scores[5:7], similarity.all_pairs(q[5:7], table))  # however queries are cut into chunks


@pytest.mark.parametrize("similarity", BY_KIND)
def test_any_number_of_threads_gives_the_same_bits(similarity):
    rng = torch.Generator().manual_seed(5)
    q, table = torch.randn(101, 44, generator=rng).requires_grad_(), torch.randn(333, 44, generator=rng).requires_grad_()
    ids = torch.randint(20, (101, 13), generator=rng)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            score = similarity.gathered(q, table, ids)
            taken = kernels.rows(table, ids)
            pairs = similarity.all_pairs(q.detach(), table.detach())
            both = (
                gradients(similarity.all_pairs(q, table), [q, table]) if similarity.kind != "dot" else ()
            )  # torch's product
            results.append([score, *gradients(score, [q, table]), *gradients(taken, [table]), pairs, *both])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_float64_and_odd_layouts_are_served():
    q, table, ids = torch.randn(5, 2, 8)[:, 0], torch.randn(8, 6).T, torch.randint(6, (4, 5)).T
    assert not q.is_contiguous()
    assert not table.is_contiguous()
    assert not ids.is_contiguous()
    similarity = L1(1)
    wanted = similarity.pairwise(q.unsqueeze(1), table[ids])
    torch.testing.assert_close(similarity.gathered(q, table, ids), wanted)
    torch.testing.assert_close(similarity.gathered(q.double(), table.double(), ids).float(), wanted)
    torch.testing.assert_close(similarity.all_pairs(q, table), similarity.pairwise(q.unsqueeze(1), table))


@pytest.mark.parametrize("bad", [-1, 6, 1 << 40])
def test_an_id_outside_the_table_is_an_error(bad):
    ids = torch.tensor([[0, bad]])
    with pytest.raises(IndexError):
        Dot().gathered(torch.randn(1, 4), torch.randn(6, 4), ids)
    with pytest.raises(IndexError):
        kernels.rows(torch.randn(6, 4), ids)


@pytest.mark.parametrize(
    ("q", "table", "ids"),
    [((2, 4), (6, 5), (2, 3)), ((2, 4), (6, 4), (3, 3)), ((2, 1, 4), (6, 4), (2, 3)), ((2, 5), (6, 5), (2, 3))],
)
def test_shapes_that_do_not_fit_are_refused(q, table, ids):
    with pytest.raises(ValueError, match=r"must be|odd"):
        Moduli(1).gathered(torch.randn(q), torch.randn(table), torch.zeros(ids, dtype=torch.int64))

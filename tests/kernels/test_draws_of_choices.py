"""What is drawn from, or compared among, all entities or rows of candidates: the kernels against plain torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nsbench.contracts.graph import NonPositives
from nsbench.kernels import eager, native
from nsbench.kernels import operators as kernels

rows, entities = st.integers(1, 9), st.integers(1, 300)


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(native, "_chosen", "native")


def lists(q: int, n: int, rng: torch.Generator) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Some entities of each row, as start, count and entities; and bool [q, n]. The first row has all of them."""
    mask = torch.rand(q, n, generator=rng) < 0.3
    mask[0] = True
    count = mask.sum(1)
    return (count.cumsum(0) - count, count, mask.nonzero()[:, 1].contiguous()), mask


@given(q=rows, n=entities, seed=st.integers(0, 99), size=st.sampled_from([0.1, 5.0, 60.0]))
@settings(max_examples=60, deadline=None)
def test_cross_entropy_is_torchs_on_masked_scores(q, n, seed, size):
    rng = torch.Generator().manual_seed(seed)
    left_out, mask = lists(q, n, rng)
    score, answer = size * torch.randn(q, n, generator=rng), torch.randint(n, (q,), generator=rng)
    ours, exact = score.clone().requires_grad_(), score.double().requires_grad_()
    mask = mask.scatter(1, answer.unsqueeze(1), False)
    found = 3 * kernels.cross_entropy(ours, answer, left_out)
    wanted = 3 * F.cross_entropy(exact.masked_fill(mask, -torch.inf), answer)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours.detach(), score)


@given(q=rows, n=entities, width=st.integers(1, 20), k=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_choices_invert_the_distribution_and_know_their_chances(q, n, width, k, seed):
    rng = torch.Generator().manual_seed(seed)
    left_out, mask = lists(q, n, rng)
    mask[mask.all(1)] = False
    inputs = [torch.randn(shape, generator=rng).requires_grad_() for shape in ((q, width), (n, width), (n,))]
    u, weight = torch.rand(q, k, generator=rng, dtype=torch.float64), torch.randn(q, k, generator=rng)
    ids, log_q = kernels.choices(*inputs, left_out, u)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    log_p = (exact[0] @ exact[1].T + exact[2]).masked_fill(mask, -torch.inf).log_softmax(1)
    assert not mask.gather(1, ids).any()
    below = log_p.exp().cumsum(1)
    assert (below.gather(1, ids) >= u - 1e-5).all()
    assert (below.gather(1, ids) - log_p.exp().gather(1, ids) <= u + 1e-5).all()
    torch.testing.assert_close(log_q.double(), log_p.gather(1, ids), rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(log_q, inputs, weight)
    for x, y in zip(found, torch.autograd.grad(log_p.gather(1, ids), exact, weight.double()), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-4)


def test_many_rows_in_pieces(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    left_out, _ = lists(23, 50, rng)
    inputs = [torch.randn(shape, generator=rng).requires_grad_() for shape in ((23, 7), (50, 7), (50,))]
    u = torch.rand(23, 3, generator=rng, dtype=torch.float64)

    def everything():
        ids, log_q = kernels.choices(*inputs, left_out, u)
        return [ids, log_q, *torch.autograd.grad(log_q.square().sum(), inputs)]

    whole = everything()
    monkeypatch.setattr(kernels, "PIECE", 5)
    torch.testing.assert_close(whole, everything())


def test_what_is_not_finite_stays_so():
    nothing = torch.zeros(2, dtype=torch.int64)
    score = torch.randn(2, 40)
    score[1, 33] = float("nan")
    assert kernels.cross_entropy(score, nothing, (nothing, nothing, nothing[:0])).isnan()
    assert kernels.cross_entropy(score[:1], nothing[:1], (nothing[:1], nothing[:1], nothing[:0])).isfinite()


@pytest.mark.parametrize("tau", [0.0, 0.7])
@given(b=rows, m=st.integers(1, 40), n=st.integers(1, 60), once=st.booleans(), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_what_the_eager_path_keeps(tau, b, m, n, once, seed, data):
    k = data.draw(st.integers(1, m))
    rng = torch.Generator().manual_seed(seed)
    ids, u = torch.randint(n, (b, m), generator=rng), torch.rand(b, m, generator=rng)
    score = torch.randn(b, m, generator=rng)
    found = kernels.keep_largest(ids, score, u, k, n, tau, once)
    assert found.dtype == torch.int32
    assert torch.equal(found, eager.keep_largest(ids, score, u, k, tau, once))


def test_draws_pass_the_positives_of_their_own_key_alone():
    """Rank by rank, for keys with many, one and no positives, and a key that comes last."""
    positives = {0: [0, 1, 2, 5, 9], 2: [3], 3: [0, 9]}
    key, rank = zip(*((k, e) for k, es in positives.items() for e in es))
    pool = NonPositives(torch.tensor(key), torch.tensor(rank), torch.full((5,), 10))
    for k in range(5):
        free = [e for e in range(10) if e not in positives.get(k, [])]
        u = torch.arange(len(free)).unsqueeze(0)
        assert pool.at(torch.tensor([[k]]), u)[0].tolist() == free
        assert pool.at(torch.full_like(u, k), u)[0].tolist() == free
    with pytest.raises(IndexError):
        pool.at(torch.tensor([[5]]), torch.tensor([[0]]))


def test_shapes_that_would_read_beyond_are_refused():
    x, one = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="start and count"):
        kernels.cross_entropy(x, one, (one[:2], one, one))
    with pytest.raises(ValueError, match="contiguous int64"):
        kernels.cross_entropy(x, one, (one, one.int(), one))
    with pytest.raises(ValueError, match="answer"):
        kernels.cross_entropy(x, one[:2], (one, one, one))
    with pytest.raises(ValueError, match="layer"):
        kernels.choices(x, torch.zeros(5, 3), torch.zeros(5), (one, one, one), torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="float64"):
        kernels.choices(x, torch.zeros(5, 4), torch.zeros(5), (one, one, one), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="M of 5"):
        kernels.keep_largest(torch.zeros(3, 4, dtype=torch.int64), x, x, 5, 9, 1.0, True)

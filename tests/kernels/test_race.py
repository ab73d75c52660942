"""Draws without replacement: the noise, the draws and the gradient against loops, by compiled and eager kernels."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from nsbench.kernels import native
from nsbench.kernels.race import NOBODY, SoftRows, exponentials, race


def threefry(key, counter):
    """Threefry-2x32 with 13 rounds (Salmon et al., SC 2011, sections 4.2 and 4.3), one pair of words at a time."""
    keys, (x, y) = [*key, 0x1BD11BDA ^ key[0] ^ key[1]], counter
    x, y = (x + keys[0]) % 2**32, (y + keys[1]) % 2**32
    for number in range(1, 14):
        by = (13, 15, 26, 6, 17, 29, 16, 24)[(number - 1) % 8]
        x = (x + y) % 2**32
        y = ((y * 2**by) % 2**32 + y // 2 ** (32 - by)) ^ x
        if number % 4 == 0:
            x, y = (x + keys[number // 4 % 3]) % 2**32, (y + keys[(number // 4 + 1) % 3] + number // 4) % 2**32
    return x, y


def noise(seed, place, n):
    half = (n + 1) // 2
    pairs = [threefry((seed % 2**32, seed >> 32), (j, place)) for j in range(half)]
    words = [x for x, _ in pairs] + [y for _, y in pairs]
    return [max(-math.log1p(-(word >> 8) / 2**24), 2**-25) for word in words[:n]]


def by_loops(log_p, known, k, seed, pull):
    """Index and free [B, K], and what `pull` [B, K, N] does to the log-probabilities, [B, N]; in double precision."""
    rows, n = log_p.shape
    index, free, gradient = np.zeros((rows, k), int), np.zeros((rows, k), bool), np.zeros((rows, n))
    for b in range(rows):
        left = [c for c in range(n) if not known[b, c] and log_p[b, c] > NOBODY]
        for i in range(k):
            if not left:
                break
            e = noise(seed, b * k + i, n)
            top = max(log_p[b, c] for c in left)
            weight = np.array([math.exp(log_p[b, c] - top) / e[c] if c in left else 0.0 for c in range(n)])
            y, force = weight / weight.sum(), pull[b, i]
            gradient[b] += y * (force - (y * force).sum())
            index[b, i], free[b, i] = weight.argmax(), True
            left.remove(index[b, i])
    return index, free, gradient


@pytest.fixture(params=["native", "eager"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(native, "_chosen", request.param)


def test_the_noise_has_the_published_values():
    """Random123's known answers for 13 rounds, key and counter 0 and all ones."""
    assert threefry((0, 0), (0, 0)) == (0x9D1C5EC6, 0x8BD50731)
    assert threefry((2**32 - 1,) * 2, (2**32 - 1,) * 2) == (0xFD36D048, 0x2D17272C)


def test_the_noise_is_exponential():
    found = exponentials(12345678901234, torch.arange(200), 501)
    assert found.shape == (200, 501)
    torch.testing.assert_close(found[7].double(), torch.tensor(noise(12345678901234, 7, 501), dtype=torch.float64))
    assert stats.kstest(found.flatten().numpy(), "expon").pvalue > 1e-4
    beside, below = ((found[:, :-1], found[:, 1:]), (found[:-1], found[1:]))
    near = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in (beside, below)]
    assert np.abs(near).max() < 4 / math.sqrt(found.numel())


@pytest.mark.parametrize("n", [1, 6, 37])
def test_draws_and_gradient_against_loops(n, kernels):
    rng = torch.Generator().manual_seed(n)
    rows, k, width = 9, min(n + 2, 8), 5
    log_p = 3 * torch.randn(rows, n, generator=rng)
    log_p[1] *= 100  # each draw takes the largest, and what is left would be 0 beside it
    log_p[2, n // 2 :] = 2 * NOBODY
    known = torch.rand(rows, n, generator=rng) < 0.2
    known[3] = True
    table, grad = torch.randn(n, width, generator=rng), torch.randn(rows, k, width, generator=rng)
    stream = torch.Generator().manual_seed(5)
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(5)))
    pull = torch.einsum("bkd,nd->bkn", grad, table).numpy()
    index, free, gradient = by_loops(log_p.double().numpy(), known.numpy(), k, seed, pull)

    logits = log_p.requires_grad_()
    draws = race(logits.detach(), known, k, stream)
    delta = SoftRows.apply(logits, draws, table, -2.0)
    assert delta.shape == grad.shape
    assert not delta.any()
    delta.backward(grad)
    assert np.array_equal(draws.index.numpy(), index)
    assert np.array_equal(draws.free.numpy(), free)
    assert n == 1 or np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(logits.grad.numpy(), -2 * gradient, atol=2e-4, rtol=1e-3)


def test_pieces_of_the_gradient_fit_together(kernels, monkeypatch):
    log_p = torch.randn(10, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = []
    for piece in (1, 7 * 3 * 4, 1 << 18):
        monkeypatch.setattr("nsbench.kernels.race.PIECE", piece)
        draws = race(log_p.detach(), torch.zeros(10, 7, dtype=torch.bool), 3, torch.Generator().manual_seed(1))
        rng = torch.Generator().manual_seed(2)
        table, pull = torch.randn(7, 4, generator=rng), torch.randn(10, 3, 4, generator=rng)
        found.append(torch.autograd.grad(SoftRows.apply(log_p, draws, table, 1), log_p, pull)[0])
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])
    assert found[0].abs().max() > 0.1

"""docs/notes/dhns.md 4.6, and section 5, properties 14, 15 and 19 (one evaluation; the chain's is in test_dhns.py)."""

import math

import pytest
import torch
from torch.nn import functional as F

from nsbench.errors import Misuse
from nsbench.kernels import native
from nsbench.samplers.parts.denoiser import ROWS, denoiser, interleaved, pieces, sines_first

FORMS = ["printed", "released"]


def made(form, width=12, steps=7, seed=0):
    """A denoiser whose every parameter, those of the norms too, is random."""
    torch.manual_seed(seed)
    model = denoiser(form, width, steps)
    for p in model.parameters():
        p.data = torch.randn(p.shape) * (0.5 if p.dim() == 1 else p.shape[1] ** -0.5) + (1.0 if p.dim() == 1 else 0.0)
    return model


def as_written(model, form, x, t, c):
    """The two formulas of D5 and D6, without any algebra."""
    width = x.shape[1]
    if form == "printed":
        p = interleaved(100, width)[t - 1].to(x)
        return model.norm(model.second(model.first(torch.cat([x, p, c], 1)).relu()))
    p = sines_first(100, width)[t - 1].to(x)
    p = model.time[2](F.gelu(model.time[0](p)))
    hidden = model.first(model.norm_in(torch.cat([x, p, c], 1))).relu()
    return model.last(model.second(model.norm_hidden(hidden)))


def inputs(n=9, width=12, steps=7):
    rng = torch.Generator().manual_seed(1)
    x, c = (3 * torch.randn(n, width, generator=rng) + 1 for _ in range(2))
    return x, torch.randint(1, steps + 1, (n,), generator=rng), c


@pytest.mark.parametrize("choice", ["native", "eager"])
@pytest.mark.parametrize("form", FORMS)
def test_folded_is_what_is_written(form, choice, monkeypatch):
    monkeypatch.setattr(native, "_chosen", choice)
    model = made(form)
    x, t, c = inputs()
    folded = model.fold()
    expected = as_written(model, form, x, t, c)
    assert torch.allclose(folded(x, t, folded.condition(c)), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # as in the chain, one time for all
        for time in range(1, 8):
            one = folded(x, time, folded.condition(c))
            assert torch.allclose(one[t == time], expected[t == time], atol=1e-5, rtol=1e-5)
        assert not folded(x, 3, folded.condition(c)).isnan().any()
        x[1, 2] = torch.nan
        assert folded(x, 3, folded.condition(c)).isnan().any(1).tolist() == [row == 1 for row in range(len(x))]


@pytest.mark.parametrize("form", FORMS)
def test_its_gradient_is_that_of_what_is_written(form):
    model = made(form)
    x, t, c = inputs()
    leaves = [x.requires_grad_(), c.requires_grad_(), *model.parameters()]
    rng = torch.Generator().manual_seed(3)
    pull = torch.randn(x.shape, generator=rng)
    folded = model.fold()
    found = torch.autograd.grad((folded(x, t, folded.condition(c)) * pull).sum(), leaves)
    expected = torch.autograd.grad((as_written(model, form, x, t, c) * pull).sum(), leaves)
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, atol=2e-4 * b.abs().max().item() + 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_output_is_finite_also_where_everything_is_equal(form):
    model = denoiser(form, 8, 5)
    folded = model.fold()
    zero = torch.zeros(3, 8)
    out = folded(zero, 5, folded.condition(zero))
    assert out.shape == (3, 8)
    assert out.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_odd_width_is_refused(form):
    with pytest.raises(Misuse, match="even width, not 7"):
        denoiser(form, 7, 5)


def test_time_embeddings_are_the_formulas():
    for t in (1, 4):
        paper, released = interleaved(5, 8)[t - 1].tolist(), sines_first(5, 8)[t - 1].tolist()
        for i in range(4):
            angle = t / 1000 ** (2 * i / 8)
            assert paper[2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert paper[2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)
            angle = t / 10000 ** (i / 3)
            assert released[i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert released[4 + i] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("form", "count"), [("printed", 16), ("released", 19)])
def test_parameters_are_those_of_the_specification(form, count):
    width = 64
    weights = sum(p.numel() for p in denoiser(form, width, 5).parameters() if p.dim() == 2)
    assert weights == count * width**2


def folded_in(model, dtype):
    model.dtype = dtype
    return model.fold()


@pytest.mark.parametrize("form", FORMS)
def test_bf16_is_within_two_per_cent(form):
    torch.manual_seed(0)
    model, (x, c) = denoiser(form, 64, 20), torch.randn(2, 300, 64)
    exact, rough = (f(x, 11, f.condition(c)) for f in (folded_in(model, torch.float32), folded_in(model, torch.bfloat16)))
    assert rough.dtype == torch.float32
    error = (rough - exact).norm() / exact.norm()
    assert 0 < error < 0.02


@pytest.mark.parametrize("form", FORMS)
def test_bf16_gradients_are_within_a_few_per_cent(form):
    """Those through the time table too, whose every row sums up what a twentieth of 5,000 rows send back, all one way."""
    torch.manual_seed(0)
    model, (x, c), pull = denoiser(form, 64, 20), torch.randn(2, 5000, 64), torch.randn(64)
    t = torch.randint(1, 21, (5000,))
    leaves = {"x": x.requires_grad_(), "c": c.requires_grad_(), **dict(model.named_parameters())}
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        folded = folded_in(model, dtype)
        assert folded.time.dtype == torch.float32
        found.append(torch.autograd.grad((folded(x, t, folded.condition(c)) * pull).mean(), list(leaves.values())))
    for name, exact, rough in zip(leaves, *found):
        assert rough.dtype == torch.float32
        bound = 0.06 if name in ("x", "c") else 0.02  # single rows: where rounding decides whether a hidden unit is on
        assert (rough - exact).norm() < bound * exact.norm(), name


def test_pieces_are_views_of_all_rows():
    x = torch.zeros(2 * ROWS + 3, 2)
    for number, part in enumerate(pieces(x)):
        part += number + 1
    assert x[0, 0] == 1
    assert x[ROWS, 0] == 2
    assert x[-1, 1] == 3

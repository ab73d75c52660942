"""The conditional denoiser of DHNS, eps_hat(x_t, t, C), in the two forms that exist. Registers nothing.

`printed` (Niu and Zhang, DASFAA 2025, Eq. 10): LayerNorm(W2 relu(W1 [x; p_t; c] + b1) + b2), p_t sinusoidal, sines and
cosines interleaved, base 1000 as printed. Depth, hidden width (4 D) and ReLU are the released code's; the paper is silent.

`released` (the authors' CEDenoiserBlock): W3 (W2 LN(relu(W1 LN([x; p_t; c]) + b1)) + b2) + b3, where p_t is a two-layer
perceptron of a sinusoid of base 10000, sines first.

Neither is ever evaluated as written: `fold` gives maps that compute the same function, in training and in the chain, with
8 D^2 multiply-adds per row and step where the released code has 19 D^2 (docs/notes/dhns.md 4.6).
- W1 = [Wx | Wp | Wc]. Wc c does not change along the chain and Wp p_t has T values: both are computed beforehand.
- LayerNorm is (u - mean) / sd * g + b. Its g goes into the weights after it, and so does the mean: centring u is centring
  the rows of W g. Its b becomes a constant.
- sd(u) > 0 is one number per row, and relu(a / sd) = relu(a) / sd. So no hidden row is ever divided: the next LayerNorm
  takes the factor out again (all but its epsilon, which is scaled to fit), and its own sd is applied to D numbers, not 4 D.
- W3 W2 is one map, for there is nothing between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nsbench.errors import Misuse
from nsbench.kernels import operators as kernels

HIDDEN = 4  # width of the hidden layer, in D
ROWS = 512  # that pass the denoiser together on a CPU; see `pieces`
EPS = 1e-5  # of every LayerNorm


@dataclass(frozen=True)
class Condition:
    """What C adds to the first layer, the same for every t: `base` [n, 4 D]; sums over c's numbers, [n, 1] each."""

    base: Tensor
    total: Tensor
    square: Tensor


class PrintedDenoiser(nn.Module):
    """Eq. 10: normalised after the perceptron."""

    dtype = torch.float32  # of the matrix products; states, sums over rows, norms, losses and parameters stay float32

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.first = nn.Linear(3 * width, HIDDEN * width)
        self.second = nn.Linear(HIDDEN * width, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.register_buffer("sinusoids", interleaved(steps, width), persistent=False)  # [T, D]
        self.sinusoids: Tensor

    def fold(self) -> FoldedPrinted:
        """The same function with everything that depends on t alone computed; differentiable in the parameters."""
        dtype = self.dtype
        wx, wp, wc = self.first.weight.chunk(3, dim=1)
        time = F.linear(self.sinusoids, wp, self.first.bias)
        return FoldedPrinted(
            wx.t().to(dtype), wc.t().to(dtype), time, self.second.weight.t().to(dtype), self.second.bias, self.norm
        )


@dataclass(frozen=True)
class FoldedPrinted:
    """See `PrintedDenoiser.fold`."""

    x_in: Tensor  # [D, 4 D]
    c_in: Tensor  # [D, 4 D]
    time: Tensor  # [T, 4 D], with the first bias; float32, because gradients of many rows meet in one of its rows
    out: Tensor  # [4 D, D]
    bias: Tensor  # [D]
    norm: nn.LayerNorm

    def condition(self, c: Tensor) -> Condition:
        """For conditions c [n, D]."""
        none = c.new_zeros(())
        return Condition(c.to(self.c_in.dtype) @ self.c_in, none, none)

    def __call__(self, x: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        """eps_hat [n, D] for states x [n, D] at time t in 1..T, one for all or int64 [n]."""
        hidden = condition.base + at(self.time, t).to(self.x_in.dtype)
        hidden.addmm_(x.to(self.x_in.dtype), self.x_in)
        return self.norm((hidden.relu_() @ self.out).float() + self.bias)


class ReleasedDenoiser(nn.Module):
    """The authors' code: normalised before each hidden map."""

    dtype = torch.float32  # of the matrix products; states, sums over rows, norms, losses and parameters stay float32

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(3 * width, EPS)
        self.first = nn.Linear(3 * width, HIDDEN * width)
        self.norm_hidden = nn.LayerNorm(HIDDEN * width, EPS)
        self.second = nn.Linear(HIDDEN * width, width)
        self.last = nn.Linear(width, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.register_buffer("sinusoids", sines_first(steps, width), persistent=False)  # [T, D]
        self.sinusoids: Tensor

    def fold(self) -> FoldedReleased:
        """The same function in half the work; differentiable in the parameters. 4 D^3 multiply-adds and T rows."""
        dtype = self.dtype
        w_in = centred(self.first.weight * self.norm_in.weight)
        wx, wp, wc = w_in.chunk(3, dim=1)
        p = self.time(self.sinusoids)  # [T, D]
        w_out = centred((self.last.weight @ self.second.weight) * self.norm_hidden.weight)
        bias_out = self.last(self.second(self.norm_hidden.bias))
        return FoldedReleased(
            x_in=wx.t().to(dtype),
            c_in=wc.t().to(dtype),
            time=F.linear(p, wp),
            time_total=p.sum(1, keepdim=True),
            time_square=p.square().sum(1, keepdim=True),
            bias_in=self.first(self.norm_in.bias).to(dtype),
            out=w_out.t().to(dtype),
            bias_out=bias_out,
        )


@dataclass(frozen=True)
class FoldedReleased:
    """See `ReleasedDenoiser.fold`."""

    x_in: Tensor  # [D, 4 D]
    c_in: Tensor  # [D, 4 D]
    time: Tensor  # [T, 4 D]; float32, because gradients of many rows meet in one of its rows
    time_total: Tensor  # [T, 1] sum over the numbers of p_t
    time_square: Tensor  # [T, 1] and over their squares
    bias_in: Tensor  # [4 D], to be multiplied by sd(u)
    out: Tensor  # [4 D, D]
    bias_out: Tensor  # [D]

    def condition(self, c: Tensor) -> Condition:
        """For conditions c [n, D]."""
        return Condition(c.to(self.c_in.dtype) @ self.c_in, c.sum(1, keepdim=True), c.square().sum(1, keepdim=True))

    def __call__(self, x: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        """eps_hat [n, D] for states x [n, D] at time t in 1..T, one for all or int64 [n]."""
        native = isinstance(t, int) and not torch.is_grad_enabled() and kernels.serve(x, self.x_in)
        hidden, factor = self._native(x, int(t), condition) if native else self._plain(x, t, condition)
        return torch.addcmul(self.bias_out, (hidden @ self.out).float(), factor)

    def _native(self, x: Tensor, t: int, condition: Condition) -> tuple[Tensor, Tensor]:
        """As `_plain`, with one pass over the hidden layer between the two products, where torch needs six."""
        hidden = x @ self.x_in
        sums = condition.total, condition.square, at(self.time_total, t), at(self.time_square, t)
        return hidden, kernels.hidden_layer(hidden, condition.base, at(self.time, t), self.bias_in, x, sums, EPS)

    def _plain(self, x: Tensor, t: int | Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The hidden layer [n, 4 D] times sd(u), and what takes its own sd and that factor out again, [n, 1]."""
        width = 3 * x.shape[1]
        mean = (x.sum(1, keepdim=True) + at(self.time_total, t) + condition.total) / width
        square = (x.square().sum(1, keepdim=True) + at(self.time_square, t) + condition.square) / width
        variance = square - mean.square() + EPS  # of [x; p_t; c]
        hidden = torch.addcmul(condition.base, variance.sqrt().to(self.x_in.dtype), self.bias_in)
        hidden += at(self.time, t).to(hidden.dtype)
        hidden.addmm_(x.to(self.x_in.dtype), self.x_in).relu_()  # sd times the hidden layer
        mean = hidden.mean(1, keepdim=True, dtype=torch.float32)
        length = torch.linalg.vector_norm(hidden, dim=1, keepdim=True, dtype=torch.float32)
        return hidden, (length.square() / hidden.shape[1] - mean.square() + EPS * variance).rsqrt()


Denoiser = PrintedDenoiser | ReleasedDenoiser
Folded = FoldedPrinted | FoldedReleased


def denoiser(form: str, width: int, steps: int) -> Denoiser:
    """form is `printed` or `released`; width D must be even, for sines and cosines come in pairs."""
    if width % 2:
        raise Misuse(f"the diffusion denoiser needs entity vectors of even width, not {width}; set protocol.width")
    return PrintedDenoiser(width, steps) if form == "printed" else ReleasedDenoiser(width, steps)


def pieces(x: Tensor) -> tuple[Tensor, ...]:
    """x [n, ...] in views of ROWS rows on a CPU, whole elsewhere.

    Rows never meet. But a piece's noise is drawn for all its states before the next piece's: with another number a seed
    means other draws, and runs do not come back, so dhns.version must change with it.
    """
    return x.split(ROWS) if x.device.type == "cpu" else (x,)


def at(table: Tensor, t: int | Tensor) -> Tensor:
    """The row(s) of table [T, ...] for time t in 1..T."""
    return table[t - 1] if isinstance(t, int) else kernels.rows(table, t - 1)


def centred(weight: Tensor) -> Tensor:
    """Each row of weight [out, in] less its mean: what it makes of u it makes of u less its mean."""
    return weight - weight.mean(1, keepdim=True)


def interleaved(steps: int, width: int) -> Tensor:
    """[T, D]: sin and cos of t / 1000^(2 i / D) in turn, for t = 1..T (the paper's PE, base as printed)."""
    angle = angles(steps, 1000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def sines_first(steps: int, width: int) -> Tensor:
    """[T, D]: all sines, then all cosines, of t / 10000^(i / (D / 2 - 1)), for t = 1..T (released SinusoidalPosEmb)."""
    half = width // 2
    step = math.log(10000.0) / max(half - 1, 1)
    angle = angles(steps, torch.exp(-step * torch.arange(half, dtype=torch.float64)))
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def angles(steps: int, frequency: Tensor) -> Tensor:
    return torch.arange(1, steps + 1, dtype=torch.float64).unsqueeze(1) * frequency

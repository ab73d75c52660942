"""Scores of queries against rows of a large table, and parts of DHNS's chain.

Float32 tensors on the CPU are served by compiled kernels (`nsbench.kernels.native`). Everything else, and a machine without
a compiler, takes the eager path (`nsbench.kernels.eager`), equal up to float noise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nsbench.kernels import eager, native
from nsbench.kernels.eager import Formula
from nsbench.kernels.native import KINDS as KINDS
from nsbench.kernels.native import chosen as chosen
from nsbench.kernels.native import library_for
from nsbench.kernels.native import name as name
from nsbench.kernels.native import use as use


def gathered(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None = None) -> Tensor:
    """Scores [B, K] of q [B, D] against the rows of table [N, D] (times scale [B, D]) named by ids [B, K].

    Never builds [B, K, D] on a CPU. Differentiable (once) in q, table and scale. On a CPU the gradients are the same for any
    number of threads.
    """
    if q.dim() != 2 or ids.dim() != 2 or len(q) != len(ids):
        raise ValueError(f"q must be [B, D] and ids [B, K], not {list(q.shape)} and {list(ids.shape)}")
    _check(similarity, q, table, ids, scale)
    if scale is not None or similarity.form is not None:
        return _Formed.apply(q, table, ids, similarity, scale)
    return _Gathered.apply(q, table, ids, similarity)


def straight_through(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, delta: Tensor) -> Tensor:
    """Zeros [B, K], whose gradient into delta [B, K, D] is that of `gathered` into the rows that ids name, one by one."""
    _check(similarity, q, table, ids)
    return _StraightThrough.apply(delta, q.detach(), table.detach(), ids, similarity)


def rows(table: Tensor, ids: Tensor) -> Tensor:
    """Rows [..., D] of table [N, D] for ids [...]. On a CPU the gradient adds duplicates up in the order of ids."""
    return _Rows.apply(table, ids)


def distinct(ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The different ones among ids [...], of n, in order, and each id's place. Not for a GPU, which would wait."""
    asked = torch.zeros(n, dtype=torch.bool, device=ids.device)
    asked[ids.reshape(-1)] = True
    places = np.flatnonzero(asked.numpy())  # by numpy: `nsbench check` holds what torch does on a CPU to a GPU's rules
    different = ids.new_empty(len(places))
    different.numpy()[:] = places
    return different, (asked.cumsum(0) - 1)[ids]


def rows_and_table(table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, D] for ids [B], and the table once more, to be passed to `gathered` or `all_pairs` and to nothing else.

    The gradient that comes back through that table is a fresh [N, D]; the rows' is added into it in place. So a step makes
    one dense gradient where `rows` beside `gathered` would make two and a sum.
    """
    return _RowsAndTable.apply(table, ids)


def all_pairs(similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None = None) -> Tensor:
    """Scores [Q, N] of q [Q, D] against every row of table [N, D] (times scale [Q, D]); never builds [Q, N, D].

    Differentiable (once). The eager path computes every piece again on the way back, and so does a scale's.
    """
    _check(similarity, q, table, scale=scale)
    inputs = [q, table] if scale is None else [q, table, scale]
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if similarity.form is not None and not learns and (found := library_for(*inputs)) is not None:
        return native.formed_pairs(found, similarity, q, table)
    library = None if similarity.kind is None else library_for(*inputs)
    if library is None or (learns and (scale is not None or similarity.kind == "dot")):  # a product is torch's on both ways
        return eager.all_pairs(similarity, q, table, scale, learns)
    if learns:
        return _AllPairs.apply(q, table, similarity, library)
    return native.all_pairs(library, similarity, q, table, scale)


def rank_counts(scores: Tensor, row: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each t, how many of scores[row[t]] are above, and how many equal, scores[row[t], answer[t]]; int64 [T] each.

    scores [Q, N]; row and answer int64 [T]. The answer itself is among the equal. Third: whether all scores in these
    rows are finite, bool [], which nobody has read yet: on a GPU that waits for the device.
    """
    if row.dtype != torch.int64 or answer.dtype != torch.int64 or row.shape != answer.shape or row.dim() != 1:
        raise ValueError(f"row and answer must be int64 [T] alike, not {list(row.shape)} and {list(answer.shape)}")
    library = library_for(scores)
    return eager.rank_counts(scores, row, answer) if library is None else native.rank_counts(library, scores, row, answer)


def passed(rank: Tensor, key: Tensor, values: Tensor, first: Tensor, stride: int) -> Tensor:
    """How many of values[first[key] : first[key + 1]] are at most key * stride + rank, for rank [B, K]; [B, K].

    key is [B, 1] or [B, K]. All are int64; values ascend, and those of a key lie between its key * stride and the next.
    """
    if rank.device.type != "cpu" or library_for() is None:
        return torch.searchsorted(values, key * stride + rank, right=True) - first[key]
    if any(x.dtype != torch.int64 for x in (rank, key, values, first)) or key.shape not in (rank.shape, (len(rank), 1)):
        raise ValueError(f"keys {list(key.shape)} must be int64 [B, 1] or [B, K], as ranks {list(rank.shape)}")
    rank, key, values, first = (x.contiguous() for x in (rank, key, values, first))
    return native.passed(cast(ctypes.CDLL, library_for()), rank, key, values, first, stride)


def keep_largest(ids: Tensor, score: Tensor, u: Tensor, k: int, n: int, tau: float, once: bool) -> Tensor:
    """Of ids [B, M] below n the k whose score [B, M] plus tau times Gumbel noise is largest, in their order; int32 [B, k].

    So they are drawn without replacement with chances ~ exp(score / tau). u float32 [B, M] is uniform in [0, 1) and makes
    the noise. `once`: an entity counts where it stands first alone, unless a row holds fewer than k of them.
    """
    if ids.shape != score.shape or ids.shape != u.shape or ids.dim() != 2 or ids.dtype != torch.int64 or k > ids.shape[1]:
        raise ValueError(
            f"ids, score and u must be [B, M] with M of {k} or more, not {[list(x.shape) for x in (ids, score, u)]}"
        )
    library = library_for(score, u)
    if library is None:
        return eager.keep_largest(ids, score, u, k, tau, once)
    return native.keep_largest(library, ids.contiguous(), score.contiguous(), u.contiguous(), k, n, tau, once)


def serve(*tensors: Tensor) -> bool:
    """Whether the native kernels take these; only then may what follows be called."""
    return library_for(*tensors) is not None


def cross_entropy(score: Tensor, answer: Tensor, left_out: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy of answer [Q] under score [Q, N], among itself and the entities that are not left out.

    left_out: start and count [Q], and the entities that they list one after another.
    """
    _check_lists(score, left_out)
    if answer.shape != score.shape[:1] or answer.dtype != torch.int64:
        raise ValueError(f"answer must be int64 [Q], not {answer.dtype} {list(answer.shape)}")
    return _CrossEntropy.apply(score, answer, *left_out)


def choices(hidden: Tensor, weight: Tensor, bias: Tensor, left_out: Sequence[Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Entities [Q, K] drawn from softmax(hidden weight^T + bias) without those left out, and log of their chances [Q, K].

    hidden [Q, H], weight [N, H], bias [N]; u float64 [Q, K] is uniform in [0, 1). A row that all entities are left out of
    draws from all. Differentiable (once) in the first three.
    """
    _check_lists(hidden, left_out)
    if hidden.shape[1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
        raise ValueError(f"a layer {list(weight.shape)}, {list(bias.shape)} does not take {list(hidden.shape)}")
    if u.dtype != torch.float64 or u.dim() != 2 or len(u) != len(hidden):
        raise ValueError(f"u must be float64 [Q, K], not {u.dtype} {list(u.shape)}")
    return _Choices.apply(hidden, weight, bias, u.contiguous(), *left_out)


def hidden_layer(
    hidden: Tensor, base: Tensor, time: Tensor, bias: Tensor, x: Tensor, sums: Sequence[Tensor], eps: float
) -> Tensor:
    """hidden [n, H] becomes relu(hidden + base + time + sd bias); returns [n, 1], one over the rows' standard deviation.

    x is [n, D], base [n, H], time and bias [H]. sd is the standard deviation of [x; p; c], each of width D, from the sums
    over c's numbers and their squares, [n, 1] each, and over p's, [1] each; `sums` holds them in this order. eps is added to
    both variances, to that of the hidden rows as if they were divided by sd. Native only, and no graph is made.
    """
    library = library_for(hidden, base, time, bias, x, *sums)
    assert library is not None
    if not all(y.is_contiguous() for y in (hidden, base, time, bias, x, *sums)):
        raise ValueError("the hidden layer and what goes into it must be contiguous")
    (n, width), d = hidden.shape, x.shape[1]
    shapes = [(n, width), (n, width), (width,), (width,), (n, d), (n, 1), (n, 1), (1,), (1,)]
    if [tuple(y.shape) for y in (hidden, base, time, bias, x, *sums)] != shapes:
        raise ValueError(f"the hidden layer's parts must have shapes {shapes}")
    return native.hidden_layer(library, hidden, (base, time, bias, x, *sums), d, eps)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, table: Tensor, ids: Tensor, similarity: Formula) -> Tensor:
        library = None if similarity.kind is None else library_for(q, table)
        q, table, ids = q.contiguous(), table.contiguous(), ids.contiguous()
        ctx.save_for_backward(q, table, ids)
        ctx.similarity, ctx.library = similarity, library
        if library is None:
            return eager.gathered(similarity, q, table, ids)
        return native.gathered(library, similarity, q, table, ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, table, ids = ctx.saved_tensors
        if ctx.library is None:
            return *eager.gradients(ctx.similarity, q, table, ids, grad)[:2], None, None
        wanted = ctx.needs_input_grad[:2]
        return *native.gradients(ctx.library, ctx.similarity, q, table, ids, grad, wanted), None, None


class _Formed(torch.autograd.Function):
    """`gathered` with a scale, or of a form."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, table: Tensor, ids: Tensor, similarity: Formula, scale: Tensor | None) -> Tensor:
        has = similarity.kind is not None or similarity.form is not None
        library = library_for(q, table, *(() if scale is None else (scale,))) if has else None
        q, table, ids = q.contiguous(), table.contiguous(), ids.contiguous()
        scale = None if scale is None else scale.contiguous()
        ctx.save_for_backward(q, table, ids, scale)
        ctx.similarity, ctx.library = similarity, library
        if library is None:
            return eager.gathered(similarity, q, table, ids, scale)
        return native.formed(library, similarity, q, table, ids, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, table, ids, scale = ctx.saved_tensors
        if ctx.library is None:
            dq, dtable, dscale = eager.gradients(ctx.similarity, q, table, ids, grad, scale)
            return dq, dtable, None, None, dscale
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[4], ctx.needs_input_grad[1]
        found = native.formed_gradients(ctx.library, ctx.similarity, q, table, ids, scale, grad, wanted)
        return *found[:2], None, None, found[2]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, delta: Tensor, q: Tensor, table: Tensor, ids: Tensor, similarity: Formula) -> Tensor:
        ctx.save_for_backward(q.contiguous(), table.contiguous(), ids.contiguous())
        ctx.similarity = similarity
        return q.new_zeros(ids.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, table, ids = ctx.saved_tensors
        library = None if ctx.similarity.kind is None else library_for(q, table)
        if library is None:
            return eager.each_gradient(ctx.similarity, q, table, ids, grad), None, None, None, None
        return native.each_gradient(library, ctx.similarity, q, table, ids, grad), None, None, None, None


class _AllPairs(torch.autograd.Function):
    """Native, of a distance."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, table: Tensor, similarity: Formula, library: ctypes.CDLL) -> Tensor:
        q, table = q.contiguous(), table.contiguous()
        score = native.all_pairs(library, similarity, q, table, None)
        ctx.save_for_backward(q, table, *([(similarity.margin or 0.0) - score] if similarity.kind == "l2" else []))
        ctx.similarity, ctx.library = similarity, library
        return score

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, table, *distances = ctx.saved_tensors
        for distance in distances:
            grad = torch.where(distance == 0, 0.0, grad / distance)
        return *native.all_pairs_gradients(ctx.library, ctx.similarity, q, table, grad), None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, answer: Tensor, *left_out: Tensor) -> Tensor:
        library = library_for(score)
        assert library is not None
        score, answer = score.contiguous(), answer.contiguous()
        own = score.gather(1, answer.unsqueeze(1)).squeeze(1)
        e, top, total, _ = native.exponentials(library, score, left_out, keep=answer)
        ctx.save_for_backward(e, total, answer)
        return (top - own + total.log()).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        e, total, answer = ctx.saved_tensors
        share = grad / len(e)
        to_score = e.mul_((share / total).unsqueeze(1))
        to_score.scatter_add_(1, answer.unsqueeze(1), (-share).expand(len(e), 1))
        return to_score, None, None, None, None


HALVES = ("moduli", "rank_one_l1", "rank_one_l2", "contexts")  # whose vectors are two side by side
PIECE = 256  # rows of [Q, N] at a time: they stay in a large cache, and malloc keeps their pages


class _Choices(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, u: Tensor, start: Tensor, count: Tensor, entities: Tensor
    ) -> tuple[Tensor, Tensor]:
        library = library_for(hidden, weight, bias)
        assert library is not None
        picked, chances, kept = [], [], []
        for h, draws, *lists in zip(*(x.split(PIECE) for x in (hidden, u, start, count))):
            score = h @ weight.T
            e, _, total, ids = native.exponentials(library, score, (*lists, entities), bias=bias, u=draws, out=score)
            picked.append(ids)
            chances.append(e.gather(1, ids) / total.unsqueeze(1))
            kept += [e, total] if any(ctx.needs_input_grad) else []
        ids = torch.cat(picked)
        ctx.save_for_backward(hidden, weight, ids, *kept)
        ctx.mark_non_differentiable(ids)
        return ids, torch.cat(chances).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of a chance p_i: log p_i = s_i - log sum exp s, so that g log p_i brings g (1 at i, minus p) to the scores s."""
        hidden, weight, ids, *kept = ctx.saved_tensors
        dhidden, dweight, dbias = torch.empty_like(hidden), torch.zeros_like(weight), weight.new_zeros(len(weight))
        pieces = (hidden.split(PIECE), dhidden.split(PIECE), ids.split(PIECE), grad.split(PIECE), kept[::2], kept[1::2])
        for h, dh, picked, g, e, total in zip(*pieces):
            to_score = e.mul_((-g.sum(1) / total).unsqueeze(1)).scatter_add_(1, picked, g)
            torch.mm(to_score, weight, out=dh)
            dweight.addmm_(to_score.T, h)
            dbias += to_score.sum(0)
        return dhidden, dweight, dbias, None, None, None, None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(table, ids)
        return table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, ids = ctx.saved_tensors
        flat, grad = ids.reshape(-1), grad.reshape(-1, table.shape[1])
        return _add_rows(torch.zeros_like(table), flat, grad), None


class _RowsAndTable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(table, ids)
        ctx.set_materialize_grads(False)
        return table.index_select(0, ids), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_rows: Tensor | None, to_table: Tensor | None) -> tuple[Tensor | None, ...]:
        table, ids = ctx.saved_tensors
        if to_rows is None:
            return to_table, None
        return _add_rows(torch.zeros_like(table) if to_table is None else to_table, ids, to_rows), None


def _add_rows(out: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
    """out [N, D] with rows [M, D] added, in place, at ids [M]; duplicates in the order of ids on a CPU."""
    library = library_for(out, rows)
    if library is None or not out.is_contiguous():
        return out.index_add_(0, ids, rows)
    native.add_rows(library, out, ids, rows)
    return out


def _check_lists(rows: Tensor, left_out: Sequence[Tensor]) -> None:
    start, count, _ = left_out
    if rows.dim() != 2 or start.shape != rows.shape[:1] or count.shape != rows.shape[:1]:
        raise ValueError(f"start and count must be one number for each of the {len(rows)} rows")
    if any(x.dtype != torch.int64 or not x.is_contiguous() for x in left_out):
        raise ValueError("what is left out is named by contiguous int64 tensors")


def _check(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor | None = None, scale: Tensor | None = None) -> None:
    """The kernels read raw memory: shapes and types that do not fit must never reach them."""
    if q.dim() != 2 or table.dim() != 2 or q.shape[1] != table.shape[1]:
        raise ValueError(f"q must be [B, D] and the table [N, D], not {list(q.shape)} and {list(table.shape)}")
    if scale is not None and scale.shape != q.shape:
        raise ValueError(f"scale must have the shape of q, {list(q.shape)}, not {list(scale.shape)}")
    if scale is not None and similarity.form is not None:
        raise ValueError(f"a similarity of form {similarity.form} takes no scale")
    parts = similarity.size * (2 if (similarity.form or similarity.kind) in HALVES else 1)
    if q.shape[1] % parts:
        raise ValueError(f"vectors consist of {parts} parts here; a width of {q.shape[1]} must be a multiple of that")
    if ids is not None and ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64, not {ids.dtype}")

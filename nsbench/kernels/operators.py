"""Scores of queries against rows of a large table, and parts of DHNS's chain.

Float32 tensors on the CPU are served by compiled kernels (`nsbench.kernels.native`). Everything else, and a machine without
a compiler, takes the eager path (`nsbench.kernels.eager`), equal up to float noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def gathered(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """Scores [B, K] of q [B, D] against the rows of table [N, D] named by ids [B, K]; never builds [B, K, D] on a CPU.

    Differentiable (once) in q and table. On a CPU the gradients are the same for any number of threads.
    """
    if q.dim() != 2 or ids.dim() != 2 or len(q) != len(ids):
        raise ValueError(f"q must be [B, D] and ids [B, K], not {list(q.shape)} and {list(ids.shape)}")
    _check(similarity, q, table, ids)
    return _Gathered.apply(q, table, ids, similarity)


def rows(table: Tensor, ids: Tensor) -> Tensor:
    """Rows [..., D] of table [N, D] for ids [...]. On a CPU the gradient adds duplicates up in the order of ids."""
    return _Rows.apply(table, ids)


def rows_and_table(table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, D] for ids [B], and the table once more, to be passed to `gathered` and to nothing else.

    The gradient that comes back through that table is a fresh [N, D]; the rows' is added into it in place. So a step makes
    one dense gradient where `rows` beside `gathered` would make two and a sum.
    """
    return _RowsAndTable.apply(table, ids)


def all_pairs(similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None = None) -> Tensor:
    """Scores [Q, N] of q [Q, D] against every row of table [N, D] (times scale [Q, D]); never builds [Q, N, D].

    Where a gradient is wanted it takes the eager path, which computes every piece again on the way back.
    """
    _check(similarity, q, table)
    if scale is not None and scale.shape != q.shape:
        raise ValueError(f"scale must have the shape of q, {list(q.shape)}, not {list(scale.shape)}")
    inputs = [q, table] if scale is None else [q, table, scale]
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    library = None if learns or similarity.kind is None else library_for(*inputs)
    if library is None:
        return eager.all_pairs(similarity, q, table, scale, learns)
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


def serve(*tensors: Tensor) -> bool:
    """Whether the native kernels take these; only then may `hidden_layer` be called."""
    return library_for(*tensors) is not None


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
            return *eager.gradients(ctx.similarity, q, table, ids, grad), None, None
        wanted = ctx.needs_input_grad[:2]
        return *native.gradients(ctx.library, ctx.similarity, q, table, ids, grad, wanted), None, None


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


def _check(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor | None = None) -> None:
    """The kernels read raw memory: shapes and types that do not fit must never reach them."""
    if q.dim() != 2 or table.dim() != 2 or q.shape[1] != table.shape[1]:
        raise ValueError(f"q must be [B, D] and the table [N, D], not {list(q.shape)} and {list(table.shape)}")
    if similarity.kind == "moduli" and q.shape[1] % 2:
        raise ValueError(f"complex vectors are stored as two halves; a width of {q.shape[1]} is odd")
    if ids is not None and ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64, not {ids.dtype}")

"""Scores of queries against rows of a large table, and parts of DHNS's chain: C++ on a CPU, plain torch everywhere else.

`kernels.cpp` is compiled once per machine with the user's own compiler (about two seconds) and cached. It serves float32
tensors on the CPU. Everything else, and a machine without a compiler, takes the eager path: the similarity's own formula
in pieces of bounded size, equal up to float noise.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from nsbench.errors import Diverged, Misuse

Choice = Literal["auto", "native", "eager"]

KINDS = ("dot", "l1", "l2", "moduli")  # the order of `Kind` in kernels.cpp
SOURCE = Path(__file__).with_name("kernels.cpp")
# Sums may be reordered into vector lanes; NaN and infinity keep their meaning (never -ffinite-math-only).
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)

_chosen: Choice | None = None  # None: as NSBENCH_KERNELS says


class Formula(Protocol):
    """What the kernels need to know of a similarity."""

    kind: str | None  # one of KINDS; None: eager only
    margin: float

    def pairwise(self, q: Tensor, c: Tensor) -> Tensor: ...


def use(choice: Choice) -> None:
    """Choose for this process: `native` (Misuse where it cannot be had), `eager`, or `auto`: native where possible."""
    global _chosen
    _chosen = _checked(choice)
    _library()


def chosen() -> Choice:
    """What `use` or NSBENCH_KERNELS asked for."""
    return _chosen or _checked(os.environ.get("NSBENCH_KERNELS", "auto"))


def name() -> Literal["native", "eager"]:
    """Which kernels serve float32 tensors on the CPU; for the run record."""
    return "eager" if _library() is None else "native"


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
    library = None if learns or similarity.kind is None else _library(*inputs)
    if library is None:
        return _eager_all_pairs(similarity, q, table, scale, learns)
    q, table, scale = q.contiguous(), table.contiguous(), None if scale is None else scale.contiguous()
    out = q.new_empty(len(q), len(table))
    library.all_pairs(
        _code(similarity),
        _at(q),
        _at(table),
        _at(scale),
        _at(out),
        len(q),
        *table.shape,
        similarity.margin,
        torch.get_num_threads(),
    )
    return out


def rank_counts(scores: Tensor, row: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """For each t, how many of scores[row[t]] are above, and how many equal, scores[row[t], answer[t]]; int64 [T] each.

    scores [Q, N]; row and answer int64 [T]. The answer itself is among the equal. Diverged when a score in one of these
    rows is not finite (on a GPU the check waits for the device).
    """
    if row.dtype != torch.int64 or answer.dtype != torch.int64 or row.shape != answer.shape or row.dim() != 1:
        raise ValueError(f"row and answer must be int64 [T] alike, not {list(row.shape)} and {list(answer.shape)}")
    library = _library(scores)
    if library is None:
        return _eager_rank_counts(scores, row, answer)
    scores, row, answer = scores.contiguous(), row.contiguous(), answer.contiguous()
    greater, equal = torch.empty_like(row), torch.empty_like(row)
    status = library.rank_counts(
        _at(scores), _at(row), _at(answer), _at(greater), _at(equal), *scores.shape, len(row), torch.get_num_threads()
    )
    if status == 1:
        raise IndexError(f"a row or an answer lies outside of scores {list(scores.shape)}")
    if status == 2:
        raise _not_finite()
    return greater, equal


def serve(*tensors: Tensor) -> bool:
    """Whether the native kernels take these; only then may `hidden_layer` be called."""
    return _library(*tensors) is not None


def hidden_layer(
    hidden: Tensor, base: Tensor, time: Tensor, bias: Tensor, x: Tensor, sums: Sequence[Tensor], eps: float
) -> Tensor:
    """hidden [n, H] becomes relu(hidden + base + time + sd bias); returns [n, 1], one over the rows' standard deviation.

    x is [n, D], base [n, H], time and bias [H]. sd is the standard deviation of [x; p; c], each of width D, from the sums
    over c's numbers and their squares, [n, 1] each, and over p's, [1] each; `sums` holds them in this order. eps is added to
    both variances, to that of the hidden rows as if they were divided by sd. Native only, and no graph is made.
    """
    library = _library(hidden, base, time, bias, x, *sums)
    assert library is not None
    if not all(y.is_contiguous() for y in (hidden, base, time, bias, x, *sums)):
        raise ValueError("the hidden layer and what goes into it must be contiguous")
    (n, width), d = hidden.shape, x.shape[1]
    shapes = [(n, width), (n, width), (width,), (width,), (n, d), (n, 1), (n, 1), (1,), (1,)]
    if [tuple(y.shape) for y in (hidden, base, time, bias, x, *sums)] != shapes:
        raise ValueError(f"the hidden layer's parts must have shapes {shapes}")
    factor = hidden.new_empty(n, 1)
    library.hidden_layer(*map(_at, (hidden, base, time, bias, x, *sums, factor)), n, width, d, eps)
    return factor


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, table: Tensor, ids: Tensor, similarity: Formula) -> Tensor:
        library = None if similarity.kind is None else _library(q, table)
        q, table, ids = q.contiguous(), table.contiguous(), ids.contiguous()
        ctx.save_for_backward(q, table, ids)
        ctx.similarity, ctx.library = similarity, library
        if library is None:
            return _eager_gathered(similarity, q, table, ids)
        out = q.new_empty(ids.shape)
        if library.gathered(
            _code(similarity),
            _at(q),
            _at(table),
            _at(ids),
            _at(out),
            *ids.shape,
            *table.shape,
            similarity.margin,
            torch.get_num_threads(),
        ):
            raise IndexError(f"an id lies outside of the table's {len(table)} rows")
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, table, ids = ctx.saved_tensors
        wants_q, wants_table = ctx.needs_input_grad[:2]
        dq, dtable = _gradients(ctx.library, ctx.similarity, q, table, ids, grad, wants_q, wants_table)
        return dq, dtable, None, None


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
    library = _library(out, rows)
    if library is None or not out.is_contiguous():
        return out.index_add_(0, ids, rows)
    ids, rows = ids.contiguous(), rows.contiguous()
    library.add_rows(_at(rows), _at(ids), _at(out), *rows.shape, torch.get_num_threads())
    return out


def _gradients(
    library: ctypes.CDLL | None,
    similarity: Formula,
    q: Tensor,
    table: Tensor,
    ids: Tensor,
    grad: Tensor,
    wants_q: bool,
    wants_table: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients [B, D] and [N, D] of `gathered` for grad [B, K]."""
    if library is None:
        return _eager_gradients(similarity, q, table, ids, grad)
    dq = torch.empty_like(q) if wants_q else None
    dtable = torch.empty_like(table) if wants_table else None
    grad = grad.contiguous()
    library.gathered_backward(
        _code(similarity),
        _at(q),
        _at(table),
        _at(ids),
        _at(grad),
        _at(dq),
        _at(dtable),
        *ids.shape,
        *table.shape,
        torch.get_num_threads(),
    )
    return dq, dtable


def _eager_gathered(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    step = _piece(q, ids.shape[1])
    pairs = zip(q.split(step), ids.split(step))
    return torch.cat([similarity.pairwise(left.unsqueeze(1), _take(table, some)) for left, some in pairs])


def _eager_gradients(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    step = _piece(q, ids.shape[1])
    dtable, dq = torch.zeros_like(table), []
    for left, some, weight in zip(q.split(step), ids.split(step), grad.split(step)):
        with torch.enable_grad():
            left, c = left.detach().requires_grad_(), _take(table, some).detach().requires_grad_()
            score = similarity.pairwise(left.unsqueeze(1), c)
        to_left, to_c = torch.autograd.grad(score, (left, c), weight)
        dq.append(to_left)
        dtable.index_add_(0, some.reshape(-1), to_c.flatten(0, 1))
    return torch.cat(dq), dtable


def _eager_all_pairs(similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None, learns: bool) -> Tensor:
    if similarity.kind == "dot":
        return (q if scale is None else q * scale) @ table.T
    if scale is None and similarity.kind in ("l1", "l2") and (not learns or q.device.type == "cpu"):
        # On a GPU the gradient of cdist would build [Q, N, D].
        p = 1.0 if similarity.kind == "l1" else 2.0
        return similarity.margin - torch.cdist(q, table, p=p, compute_mode="donot_use_mm_for_euclid_dist")

    def score(left: Tensor, c: Tensor, factor: Tensor | None) -> Tensor:
        return similarity.pairwise(left.unsqueeze(1), c if factor is None else c * factor.unsqueeze(1))

    pieces = table.split(_piece(table, len(q)))
    if learns:
        return torch.cat([checkpoint(score, q, c, scale, use_reentrant=False) for c in pieces], dim=1)
    return torch.cat([score(q, c, scale) for c in pieces], dim=1)


def _eager_rank_counts(scores: Tensor, row: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    own = scores[row, answer].unsqueeze(1)
    step = _piece(scores, 1)
    greater, equal, finite = [], [], []
    for some, value in zip(row.split(step), own.split(step)):
        block = scores.index_select(0, some)
        greater.append((block > value).sum(1))
        equal.append((block == value).sum(1))
        finite.append(block.isfinite().all())
    if not torch.stack(finite).all():
        raise _not_finite()
    return torch.cat(greater), torch.cat(equal)


def _take(table: Tensor, ids: Tensor) -> Tensor:
    # index_select is several times faster than table[ids] on a CPU.
    return table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])


def _piece(x: Tensor, per_row: int) -> int:
    """How many rows of x [n, D], each meeting `per_row` others, the eager path takes at a time."""
    numbers = 1 << 18 if x.device.type == "cpu" else 1 << 26  # the fastest on a CPU (1 MiB); 256 MiB on a GPU
    return max(1, numbers // max(1, per_row * x.shape[1]))


def _check(similarity: Formula, q: Tensor, table: Tensor, ids: Tensor | None = None) -> None:
    """The kernels read raw memory: shapes and types that do not fit must never reach them."""
    if q.dim() != 2 or table.dim() != 2 or q.shape[1] != table.shape[1]:
        raise ValueError(f"q must be [B, D] and the table [N, D], not {list(q.shape)} and {list(table.shape)}")
    if similarity.kind == "moduli" and q.shape[1] % 2:
        raise ValueError(f"complex vectors are stored as two halves; a width of {q.shape[1]} is odd")
    if ids is not None and ids.dtype != torch.int64:
        raise ValueError(f"ids must be int64, not {ids.dtype}")


def _not_finite() -> Diverged:
    return Diverged("scores are not finite (nan or infinity): lower the learning rate or the initial range")


def _code(similarity: Formula) -> int:
    assert similarity.kind is not None
    return KINDS.index(similarity.kind)


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _checked(choice: str) -> Choice:
    if choice not in ("auto", "native", "eager"):
        raise Misuse(f"kernels must be auto, native or eager, not '{choice}' (NSBENCH_KERNELS)")
    return cast(Choice, choice)


def _library(*tensors: Tensor) -> ctypes.CDLL | None:
    """The native kernels if they are wanted, can be had and serve these tensors."""
    if any(x.dtype != torch.float32 or x.device.type != "cpu" for x in tensors):
        return None
    choice = chosen()
    if choice == "eager":
        return None
    library = _compiled()
    if isinstance(library, ctypes.CDLL):
        return library
    if choice == "native":
        raise Misuse(f"native kernels cannot be built ({library}); install g++ or choose kernels 'auto'")
    _warn(library)
    return None


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(f"scoring without native kernels ({reason}): slower, same results; install g++ for speed", stacklevel=4)


@functools.cache
def _compiled() -> ctypes.CDLL | str:
    """The library, compiled if the cache does not have it; or, as a text, why it cannot be had."""
    wanted = (os.environ.get("CXX", ""), "g++", "c++", "clang++")
    compiler = next((path for command in wanted if (path := shutil.which(command))), None)
    if compiler is None:
        return "no C++ compiler found"
    stamp = os.stat(compiler)
    key = repr((SOURCE.read_bytes(), FLAGS, os.path.realpath(compiler), stamp.st_size, stamp.st_mtime_ns, _cpu()))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsbench"
    library = cache / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:  # another process may be doing the same
                built = Path(folder) / library.name
                command = [compiler, *FLAGS, str(SOURCE), "-o", str(built)]
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
                os.replace(built, library)
        return _declared(ctypes.CDLL(str(library)))
    except subprocess.CalledProcessError as error:
        return f"{compiler} fails: {error.stderr.strip().splitlines()[-1:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, real, code = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    library.gathered.argtypes = [code, *[pointer] * 4, *[size] * 4, real, code]
    library.gathered_backward.argtypes = [code, *[pointer] * 6, *[size] * 4, code]
    library.all_pairs.argtypes = [code, *[pointer] * 4, *[size] * 3, real, code]
    library.rank_counts.argtypes = [*[pointer] * 5, *[size] * 3, code]
    library.add_rows.argtypes = [*[pointer] * 3, *[size] * 2, code]
    library.hidden_layer.argtypes = [*[pointer] * 10, *[size] * 3, real]
    for nothing in ("gathered_backward", "all_pairs", "add_rows", "hidden_layer"):
        getattr(library, nothing).restype = None
    return library

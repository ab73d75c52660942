"""The compiled kernels: float32 tensors on the CPU.

`kernels.cpp` is compiled once per machine with the user's own compiler (about two seconds) and cached. The calls below
read raw memory: their callers in `nsbench.kernels.operators` have checked shapes and types.
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
from typing import Literal, cast

import torch
from torch import Tensor

from nsbench.errors import Misuse
from nsbench.files import cache_folder
from nsbench.kernels.eager import Formula
from nsbench.machine import cpu_facts

Choice = Literal["auto", "native", "eager"]

KINDS = ("dot", "l1", "l2", "moduli")  # the order of `Kind` in kernels.cpp
FORMS = (*KINDS, "rank_one_l1", "rank_one_l2", "blocks", "contexts")  # of `by_form`; the first take a scale there
SOURCE = Path(__file__).with_name("kernels.cpp")
# Sums may be reordered into vector lanes; NaN and infinity keep their meaning (never -ffinite-math-only).
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
)

_chosen: Choice | None = None  # None: as NSBENCH_KERNELS says


def use(choice: Choice) -> None:
    """Choose for this process: `native` (Misuse where it cannot be had), `eager`, or `auto`: native where possible."""
    global _chosen
    _chosen = _checked(choice)
    library_for()


def chosen() -> Choice:
    """What `use` or NSBENCH_KERNELS asked for."""
    return _chosen or _checked(os.environ.get("NSBENCH_KERNELS", "auto"))


def name() -> Literal["native", "eager"]:
    """Which kernels serve float32 tensors on the CPU; for the run record."""
    return "eager" if library_for() is None else "native"


def library_for(*tensors: Tensor) -> ctypes.CDLL | None:
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


def _checked(choice: str) -> Choice:
    if choice not in ("auto", "native", "eager"):
        raise Misuse(f"kernels must be auto, native or eager, not '{choice}' (NSBENCH_KERNELS)")
    return cast(Choice, choice)


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
    cache = cache_folder()
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
    facts = [text for name, text in cpu_facts().items() if name in ("model name", "flags", "Features", "CPU part")]
    return "\n".join(facts) or f"{platform.machine()} {platform.processor()}"


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, size, real, code = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    library.gathered.argtypes = [code, *[pointer] * 4, *[size] * 4, real, code]
    library.gathered_backward.argtypes = [code, *[pointer] * 6, *[size] * 4, code]
    library.gathered_each.argtypes = [code, *[pointer] * 5, *[size] * 3, code]
    library.all_pairs.argtypes = [code, *[pointer] * 4, *[size] * 3, real, code]
    library.all_pairs_backward.argtypes = [code, *[pointer] * 5, *[size] * 3, code]
    library.exponentials.argtypes = [*[pointer] * 11, *[size] * 3, code]
    library.keep_largest.argtypes = [*[pointer] * 4, *[size] * 4, real, code, code]
    library.passed.argtypes = [*[pointer] * 5, *[size] * 5, code]
    library.rank_counts.argtypes = [*[pointer] * 5, *[size] * 3, code]
    library.add_rows.argtypes = [*[pointer] * 3, *[size] * 2, code]
    library.formed.argtypes = [code, size, *[pointer] * 5, *[size] * 4, real, code]
    library.formed_backward.argtypes = [code, size, *[pointer] * 8, *[size] * 4, code]
    library.formed_pairs.argtypes = [code, size, *[pointer] * 3, *[size] * 3, real, code]
    library.hidden_layer.argtypes = [*[pointer] * 10, *[size] * 3, real]
    library.race.argtypes = [pointer, pointer, size, pointer, pointer, *[size] * 3, real, code]
    library.race_backward.argtypes = [pointer, pointer, size, *[pointer] * 3, *[size] * 4, real, code]
    for nothing in (
        "formed_backward",
        "formed_pairs",
        "gathered_backward",
        "gathered_each",
        "all_pairs",
        "all_pairs_backward",
        "exponentials",
        "keep_largest",
        "add_rows",
        "hidden_layer",
        "race",
        "race_backward",
    ):
        getattr(library, nothing).restype = None
    return library


def gathered(library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """[B, K] for contiguous q [B, D], table [N, D], ids [B, K]."""
    out = q.new_empty(ids.shape)
    sizes = (*ids.shape, *table.shape, similarity.margin or 0.0, torch.get_num_threads())
    if library.gathered(_code(similarity), *map(_at, (q, table, ids, out)), *sizes):
        raise IndexError(f"an id lies outside of the table's {len(table)} rows")
    return out


def gradients(
    library: ctypes.CDLL,
    similarity: Formula,
    q: Tensor,
    table: Tensor,
    ids: Tensor,
    grad: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients [B, D] and [N, D] of `gathered` for grad [B, K], each where it is wanted."""
    dq, dtable = (torch.empty_like(x) if wants else None for x, wants in zip((q, table), wanted))
    tensors = (q, table, ids, grad.contiguous(), dq, dtable)
    library.gathered_backward(_code(similarity), *map(_at, tensors), *ids.shape, *table.shape, torch.get_num_threads())
    return dq, dtable


def each_gradient(library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, grad: Tensor) -> Tensor:
    """[B, K, D]: the gradients of `gathered` for grad [B, K] with respect to the rows that ids name, one by one."""
    out = q.new_empty(*ids.shape, table.shape[1])
    sizes = (*out.shape, torch.get_num_threads())
    library.gathered_each(_code(similarity), *map(_at, (q, table, ids, grad.contiguous(), out)), *sizes)
    return out


def all_pairs(library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None) -> Tensor:
    """[Q, N] for q [Q, D], table [N, D], scale [Q, D]."""
    q, table, scale = q.contiguous(), table.contiguous(), None if scale is None else scale.contiguous()
    out = q.new_empty(len(q), len(table))
    sizes = (len(q), *table.shape, similarity.margin or 0.0, torch.get_num_threads())
    library.all_pairs(_code(similarity), *map(_at, (q, table, scale, out)), *sizes)
    return out


def all_pairs_gradients(
    library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients [Q, D] and [N, D] of `all_pairs` without a scale, for grad [Q, N] (l2: over the distances)."""
    dq, dtable = torch.empty_like(q), torch.empty_like(table)
    sizes = (len(q), *table.shape, torch.get_num_threads())
    library.all_pairs_backward(_code(similarity), *map(_at, (q, table, grad.contiguous(), dq, dtable)), *sizes)
    return dq, dtable


def exponentials(
    library: ctypes.CDLL,
    scores: Tensor,
    left_out: Sequence[Tensor],
    bias: Tensor | None = None,
    keep: Tensor | None = None,
    u: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """exp(scores + bias - top) [Q, N], top [Q], the sums [Q] of the rows and, for u [Q, K], the entities [Q, K] picked.

    left_out is `start` and `count` [Q], and the entities that they list, which get 0; keep [Q] is never left out, and
    without it no row loses all.
    """
    out = torch.empty_like(scores) if out is None else out
    top, total = scores.new_empty(len(scores)), scores.new_empty(len(scores))
    picked = torch.empty((len(scores), 0) if u is None else u.shape, dtype=torch.int64)
    tensors = (scores, bias, *left_out, keep, u, out, top, total, picked)
    sizes = (*scores.shape, 0 if u is None else u.shape[1], torch.get_num_threads())
    library.exponentials(*map(_at, tensors), *sizes)
    return out, top, total, picked


def keep_largest(
    library: ctypes.CDLL, ids: Tensor, score: Tensor, u: Tensor, k: int, n: int, tau: float, once: bool
) -> Tensor:
    """As `operators.keep_largest`, for contiguous tensors."""
    kept = torch.empty(len(ids), k, dtype=torch.int32)
    library.keep_largest(*map(_at, (ids, score, u, kept)), *ids.shape, k, n, tau, once, torch.get_num_threads())
    return kept


def passed(library: ctypes.CDLL, rank: Tensor, key: Tensor, values: Tensor, first: Tensor, stride: int) -> Tensor:
    """As `operators.passed`, for contiguous tensors."""
    out = torch.empty_like(rank)
    each = rank.shape[1] if key.shape[1] == 1 else 1
    sizes = (rank.numel(), max(each, 1), len(first), len(values), stride, torch.get_num_threads())
    if library.passed(*map(_at, (rank, key, values, first, out)), *sizes):
        raise IndexError(f"a key lies outside of the {len(first)} there are")
    return out


def formed(library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None) -> Tensor:
    """[B, K] for contiguous q and scale [B, D], table [N, D], ids [B, K]."""
    out = q.new_empty(ids.shape)
    sizes = (*ids.shape, *table.shape, similarity.margin or 0.0, torch.get_num_threads())
    if library.formed(*_form(similarity), *map(_at, (q, scale, table, ids, out)), *sizes):
        raise IndexError(f"an id lies outside of the table's {len(table)} rows")
    return out


def formed_gradients(
    library: ctypes.CDLL,
    similarity: Formula,
    q: Tensor,
    table: Tensor,
    ids: Tensor,
    scale: Tensor | None,
    grad: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `formed` for grad [B, K], for q, table and scale; wanted: of q or the scale, and of the table."""
    dq, dtable = (torch.empty_like(x) if wants else None for x, wants in zip((q, table), wanted))
    dscale = None if scale is None or dq is None else torch.empty_like(scale)
    tensors = (q, scale, table, ids, grad.contiguous(), dq, dscale, dtable)
    library.formed_backward(*_form(similarity), *map(_at, tensors), *ids.shape, *table.shape, torch.get_num_threads())
    return dq, dtable, dscale


def formed_pairs(library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor) -> Tensor:
    """[Q, N] for q [Q, D], table [N, D], of a form without a scale."""
    q, table = q.contiguous(), table.contiguous()
    out = q.new_empty(len(q), len(table))
    sizes = (len(q), *table.shape, similarity.margin or 0.0, torch.get_num_threads())
    library.formed_pairs(*_form(similarity), *map(_at, (q, table, out)), *sizes)
    return out


def rank_counts(library: ctypes.CDLL, scores: Tensor, row: Tensor, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `operators.rank_counts`."""
    scores, row, answer = scores.contiguous(), row.contiguous(), answer.contiguous()
    greater, equal = torch.empty_like(row), torch.empty_like(row)
    tensors = (scores, row, answer, greater, equal)
    status = library.rank_counts(*map(_at, tensors), *scores.shape, len(row), torch.get_num_threads())
    if status == 1:
        raise IndexError(f"a row or an answer lies outside of scores {list(scores.shape)}")
    return greater, equal, torch.tensor(status == 0)


def add_rows(library: ctypes.CDLL, out: Tensor, ids: Tensor, rows: Tensor) -> None:
    """Add rows [M, D] to out [N, D], contiguous, at ids [M], duplicates in the order of ids."""
    ids, rows = ids.contiguous(), rows.contiguous()
    library.add_rows(_at(rows), _at(ids), _at(out), *rows.shape, torch.get_num_threads())


def hidden_layer(library: ctypes.CDLL, hidden: Tensor, parts: Sequence[Tensor], width: int, eps: float) -> Tensor:
    """As `operators.hidden_layer`, for hidden [n, H] and the parts in its order; `width` is D."""
    factor = hidden.new_empty(len(hidden), 1)
    library.hidden_layer(*map(_at, (hidden, *parts, factor)), *hidden.shape, width, eps)
    return factor


def race(library: ctypes.CDLL, log_p: Tensor, known: Tensor, seed: int, k: int, nobody: float) -> tuple[Tensor, Tensor]:
    """Index and whether something was left, [B, K] each, for contiguous log_p and known [B, N] (nsbench.kernels.race)."""
    index, free = (torch.empty(len(log_p), k, dtype=kind) for kind in (torch.int64, torch.bool))
    sizes = (len(log_p), k, log_p.shape[1], nobody, torch.get_num_threads())
    library.race(_at(log_p), _at(known), seed, _at(index), _at(free), *sizes)
    return index, free


def raced_back(
    library: ctypes.CDLL, log_p: Tensor, known: Tensor, seed: int, index: Tensor, pull: Tensor, first: int, nobody: float
) -> Tensor:
    """As `race.Draws.pulled`, for the draws that `race` made."""
    pull = pull.contiguous()
    out = log_p.new_empty(len(pull), log_p.shape[1])
    sizes = (first, *pull.shape, nobody, torch.get_num_threads())
    library.race_backward(_at(log_p), _at(known), seed, *map(_at, (index, pull, out)), *sizes)
    return out


def _form(similarity: Formula) -> tuple[int, int]:
    return FORMS.index(similarity.form or similarity.kind or ""), similarity.size


def _code(similarity: Formula) -> int:
    assert similarity.kind is not None
    return KINDS.index(similarity.kind)


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()

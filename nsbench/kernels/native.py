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
    library.all_pairs.argtypes = [code, *[pointer] * 4, *[size] * 3, real, code]
    library.rank_counts.argtypes = [*[pointer] * 5, *[size] * 3, code]
    library.add_rows.argtypes = [*[pointer] * 3, *[size] * 2, code]
    library.hidden_layer.argtypes = [*[pointer] * 10, *[size] * 3, real]
    for nothing in ("gathered_backward", "all_pairs", "add_rows", "hidden_layer"):
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


def all_pairs(library: ctypes.CDLL, similarity: Formula, q: Tensor, table: Tensor, scale: Tensor | None) -> Tensor:
    """[Q, N] for q [Q, D], table [N, D], scale [Q, D]."""
    q, table, scale = q.contiguous(), table.contiguous(), None if scale is None else scale.contiguous()
    out = q.new_empty(len(q), len(table))
    sizes = (len(q), *table.shape, similarity.margin or 0.0, torch.get_num_threads())
    library.all_pairs(_code(similarity), *map(_at, (q, table, scale, out)), *sizes)
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


def _code(similarity: Formula) -> int:
    assert similarity.kind is not None
    return KINDS.index(similarity.kind)


def _at(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()

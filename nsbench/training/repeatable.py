"""On a GPU, sums in one order: two runs of one seed end with the same bits.

By default torch adds what meets in one place (the gradient of rows that are looked up twice, of `gather`) in whatever order
threads come by. Asked to, it sorts first. What it has no such way for is named in the result (`env.unrepeatable`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU multiplies for the first time


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Whatever is computed inside; a CPU's sums have one order anyhow."""
    if device.type == "cpu":
        yield
        return
    mode = torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]

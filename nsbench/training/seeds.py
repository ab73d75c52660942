"""One seed, many independent streams of random numbers: one for each purpose."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """An independent stream of random numbers for each purpose of a run."""
    return torch.Generator(device=device).manual_seed(_derived(seed, purpose))


@contextlib.contextmanager
def global_seed(seed: int, purpose: str) -> Iterator[None]:
    """The global generator of the CPU, seeded for one purpose; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):  # initial values are all drawn on the CPU
        torch.manual_seed(_derived(seed, purpose))
        yield


def _derived(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:7])

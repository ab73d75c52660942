from pathlib import Path

import numpy as np
import pytest

from nsbench.datasets.features import import_features
from nsbench.datasets.folder import load_folder
from nsbench.errors import Misuse


def test_a_folder_is_a_dataset(small: Path) -> None:
    data = load_folder(small)
    assert (data.name, data.split, data.modalities) == ("small", "released", [])
    assert data.train.tolist() == [[0, 0, 1], [1, 0, 2], [2, 1, 3], [3, 1, 0]]
    assert data.test.tolist() == [[1, 0, 3], [4, 1, 0]]
    assert len(data.known) == 7


def test_entities_only_in_test_have_ids(tmp_path: Path) -> None:
    for split, line in (("train", "b\tr\ta"), ("valid", "a\tr\tb"), ("test", "a\tr\tz")):
        (tmp_path / f"{split}.txt").write_text(line)
    data = load_folder(tmp_path)
    assert data.entities == ["a", "b", "z"]
    assert data.test.tolist() == [[0, 0, 2]]


@pytest.mark.parametrize("split", ["train", "test"])
def test_repeats_are_refused_with_both_lines(small: Path, split: str) -> None:
    (small / f"{split}2id.txt").write_text("4\n0 1 0\n0 2 0\n0 1 0\n0 2 0\n")
    with pytest.raises(Misuse, match=rf"{split}2id\.txt, line 4, repeats the triple of line 2 \(2 repeats in all\)"):
        load_folder(small)


def test_a_test_triple_in_train_is_warned_about(small: Path) -> None:
    (small / "test2id.txt").write_text("2\n0 1 0\n1 3 0\n")
    with pytest.warns(UserWarning, match=r"1 of 2 triples of test2id\.txt are in train2id\.txt too"):
        load_folder(small)


def test_has_only_its_own_split(small: Path) -> None:
    with pytest.raises(Misuse, match="leave out --split clean"):
        load_folder(small, split="clean")
    assert load_folder(small, split="released").fingerprint == load_folder(small).fingerprint


def test_the_fingerprint_sees_every_change_and_nothing_else(small: Path) -> None:
    first = load_folder(small).fingerprint
    assert load_folder(small).fingerprint == first
    (small / "entity_names.txt").write_text("a\nb\nc\nd\ne\n")
    assert load_folder(small).fingerprint == first  # names change no result
    changes = {
        "train2id.txt": "4\n0 1 0\n1 2 0\n2 3 1\n3 1 1\n",
        "valid2id.txt": "1\n0 3 1\n",
        "test2id.txt": "2\n1 3 0\n4 1 1\n",
        "relation2id.txt": "3\nknows 0\nlikes 1\nhates 2\n",
    }
    seen = {first}
    for file, text in changes.items():
        kept = (small / file).read_text()
        (small / file).write_text(text)
        seen.add(load_folder(small).fingerprint)
        (small / file).write_text(kept)
    assert len(seen) == len(changes) + 1


def test_the_fingerprint_of_features_is_their_own(small: Path) -> None:
    seen = {load_folder(small).feature_fingerprint}
    graph = load_folder(small).fingerprint
    for value in (1, 2):
        np.save(small / "small-visual.npy", np.full((5, 3), value, dtype=np.float16))
        import_features(small, small / "small-visual.npy", "images")
        data = load_folder(small)
        assert data.fingerprint == graph
        assert data.feature_fingerprint == load_folder(small).feature_fingerprint
        seen.add(data.feature_fingerprint)
    assert len(seen) == 3

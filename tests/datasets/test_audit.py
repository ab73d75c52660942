from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nsbench.datasets.audit import Finding, audit, printable
from nsbench.errors import Misuse


def counts(dataset: str | Path) -> dict[str, Finding]:
    found = audit(dataset)
    keyed = {finding.key: finding for finding in found}
    assert len(keyed) == len(found)
    return keyed


@cache
def real(name: str) -> dict[str, Finding]:
    """Counted once; the tests that ask for it bring `no_files`."""
    return counts(name)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("db15k", [12842, 279, 79222, 9904, 9902]),
        ("mkg_w", [15000, 169, 34196, 4276, 4274]),
        ("mkg_y", [15000, 28, 21310, 2665, 2663]),
    ],
)
def test_sizes_of_the_public_datasets(no_files: Path, name: str, sizes: list[int]) -> None:
    found = real(name)
    assert [found[key].count for key in ("entities", "relations", "train", "valid", "test")] == sizes
    assert found["test_in_train"].count == 0
    assert found["train_duplicates"].count == found["test_duplicates"].count == 0


@pytest.mark.parametrize(
    ("name", "unseen_percent", "loops", "inverse"),
    [("db15k", 0.8, 768, 678), ("mkg_w", 7.2, 55, 224), ("mkg_y", 14.6, 0, 50)],
)
def test_known_defects(no_files: Path, name: str, unseen_percent: float, loops: int, inverse: int) -> None:
    found = real(name)
    assert round(100 * found["test_unseen"].share, 1) == unseen_percent
    assert found["self_loops"].count == loops
    assert found["inverse_pairs"].count == inverse


@pytest.mark.parametrize(
    ("name", "twins", "most"),
    [
        ("db15k", 2519, "(associated Band / associated Musical Artist 390, type / is Part Of 135, "),
        ("mkg_w", 449, "(screenwriter / director 120, "),
        ("mkg_y", 704, "(plays For / is Affiliated To 581, created / directed 68, "),
    ],
)
def test_twins(no_files: Path, name: str, twins: int, most: str) -> None:
    """Counted apart, over the public files line by line, with a set of relations for each pair."""
    found = real(name)["twins"]
    assert (found.count, found.of) == (twins, real(name)["test"].count)
    assert found.remark.startswith(most)


def test_the_validation_file_of_db15k(no_files: Path) -> None:
    found = real("db15k")
    keys = ("valid", "valid_distinct", "valid_in_train", "valid_in_test", "valid_in_neither")
    assert [found[key].count for key in keys] == [9904, 7481, 6584, 824, 73]
    assert found["most_heads"].count == 6777
    for clean in ("mkg_w", "mkg_y"):
        other = real(clean)
        assert [other[key].count for key in ("valid_duplicates", "valid_in_train", "valid_in_test")] == [0, 0, 0]


def test_answers_never_seen_and_the_biggest_key(no_files: Path) -> None:
    assert round(100 * real("mkg_y")["tail_answer_unseen"].share, 1) == 9.8
    assert real("mkg_w")["most_heads"].count == 3533


def test_a_folder_with_every_defect(tmp_path: Path) -> None:
    """Counted by hand: g, x, y, z are entities; z is never trained, nor is relation `new`."""
    (tmp_path / "train.tsv").write_text("x\tr\ty\nx\tr\ty\ng\tr\ty\nz0\tr\ty\ny\tr\ty\nx\ts\tg\n")
    (tmp_path / "valid.tsv").write_text("x\tr\ty\nx\tr\ty\ng\ts\tx\nx\ts\tz\n")
    (tmp_path / "test.tsv").write_text("y\tr\tx\nx\ts\tz\nx\tr\ty\nz\tnew\tx\n")
    found = counts(tmp_path)
    expected = {
        "entities": 5,  # g x y z z0
        "relations": 3,
        "train": 6,
        "train_duplicates": 1,
        "valid_duplicates": 1,
        "test_duplicates": 0,
        "valid_distinct": 3,
        "valid_in_train": 1,
        "valid_in_test": 2,  # x r y is in both
        "valid_in_neither": 1,
        "test_in_train": 1,
        "unseen_entities": 1,
        "unseen_relations": 1,
        "test_unseen": 2,
        "tail_answer_unseen": 1,
        "head_answer_unseen": 1,
        "test_relation_unseen": 1,
        "self_loops": 1,
        "inverse_pairs": 1,  # y r x, with x r y in train
        "most_heads": 4,  # of (r, y), the repeat not counted
        "most_tails": 1,
        "relations_n-1": 1,
        "test_n-1": 2,
        "relations_1-1": 1,
        "test_1-1": 1,
        "relations_1-n": 0,
        "relations_n-n": 0,
        "features": 0,
    }
    assert {key: found[key].count for key in expected} == expected
    assert found["most_heads"].remark == "(r, y)"


@pytest.mark.parametrize(
    ("lines", "category"),
    [("a r b, c r d", "1-1"), ("a r b, a r c", "1-n"), ("a r b, c r b", "n-1"), ("a r b, a r d, c r b, c r d", "n-n")],
)
def test_relation_categories(tmp_path: Path, lines: str, category: str) -> None:
    text = lines.replace(" ", "\t").replace(",\t", "\n") + "\n"
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_text(text)
    found = counts(tmp_path)
    for key in ("1-1", "1-n", "n-1", "n-n"):
        assert found[f"relations_{key}"].count == (key == category)
        assert found[f"test_{key}"].share == (key == category)


def test_the_threshold_is_one_and_a_half(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):  # r: 3 triples from 2 heads; s: 4 triples from 3 heads
        (tmp_path / f"{split}.tsv").write_text("a\tr\tb\na\tr\tc\nd\tr\te\na\ts\tb\na\ts\tc\nd\ts\te\nf\ts\tg\n")
    found = counts(tmp_path)
    assert (found["relations_1-n"].count, found["relations_1-1"].count) == (1, 1)


def test_features_at_hand_are_listed(small: Path) -> None:
    table = np.ones((5, 4), dtype=np.float16)
    table[2] = 0
    for name in ("images", "official-visual"):
        (small / "features").mkdir(exist_ok=True)
        np.save(small / "features" / f"{name}.npy", table)
    rows = dict(printable(audit(small)))
    assert rows["entities with images features"] == "4 of 5 (80.0%) 4 wide"
    assert rows["entities with official:visual features"] == "4 of 5 (80.0%) 4 wide"


def test_rows_are_words_and_figures(small: Path) -> None:
    rows = dict(printable(audit(small)))
    assert rows["train triples"] == "4"
    assert rows["test triples with an entity never in train"] == "1 of 2 (50.0%)"
    assert rows["feature modalities at hand"] == "0"
    assert printable([Finding("x", "many", 12345, 0)]) == [("many", "12,345 of 0")]


def test_malformed_files_are_refused(small: Path) -> None:
    (small / "test2id.txt").write_text("1\n0 9 0\n")
    with pytest.raises(Misuse, match=r"test2id\.txt, line 2: entity id 9 is out of range"):
        audit(small)

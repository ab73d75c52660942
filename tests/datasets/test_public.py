import hashlib
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.contracts import Dataset
from nsbench.datasets.loading import load_dataset
from nsbench.datasets.public import hold_out
from nsbench.datasets.reading import Graph, read_graph
from nsbench.errors import Misuse


def rows(triples: torch.Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, triples.tolist()))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("mkg_y", (15000, 28, 21310, 2665, 2663)), ("mkg_w", (15000, 169, 34196, 4276, 4274))],
)
def test_released_splits_have_one_name(no_files: Path, name: str, sizes: tuple[int, ...]) -> None:
    data = load_dataset(name, features="none")
    got = (data.num_entities, data.num_relations, len(data.train), len(data.valid), len(data.test))
    assert got == sizes
    clean = load_dataset(name, split="clean", features="none")
    assert clean.split == data.split == "released"
    assert clean.fingerprint == data.fingerprint
    assert len(data.known) == sum(sizes[2:])  # nothing repeated, nothing shared


@pytest.mark.data
def test_triples_are_head_relation_tail(real_data: Path) -> None:
    data = load_dataset("mkg_y", features="none")
    head, tail, relation = map(int, (real_data / "MKG-Y" / "train2id.txt").read_text().split("\n")[1].split())
    assert data.train[0].tolist() == [head, relation, tail]
    named = (data.entities[head], data.relations[relation], data.entities[tail])
    assert named == ("Gilles Mbang Ondo", "was Born In", "Libreville")


@cache
def db15k(split: str | None) -> Dataset:
    return load_dataset("db15k", split=split, features="none")


class TestRepairOfDB15K:
    def test_valid_is_held_out_of_train(self, no_files: Path) -> None:
        clean, released = db15k(None), db15k("released")
        assert (clean.split, released.split) == ("clean", "released")
        train, valid, original = rows(clean.train), rows(clean.valid), rows(released.train)
        assert not train & valid
        assert train | valid == original
        assert abs(len(valid) / len(original) - 0.025) < 1e-4
        assert not valid & rows(clean.test)
        assert clean.test.equal(released.test)
        assert clean.fingerprint == db15k("clean").fingerprint  # loaded again: the default is clean, and always the same
        assert clean.fingerprint != released.fingerprint

    def test_entities_and_relations_stay_in_train(self, no_files: Path) -> None:
        clean, released = db15k("clean"), db15k("released")
        assert clean.train[:, 1].unique().equal(released.train[:, 1].unique())
        assert clean.train[:, [0, 2]].unique().equal(released.train[:, [0, 2]].unique())

    def test_both_splits_filter_the_same(self, no_files: Path) -> None:
        clean, released = db15k("clean"), db15k("released")
        assert clean.known.equal(released.known)
        assert rows(clean.known) == rows(released.train) | rows(released.valid) | rows(released.test)

    def test_selection_filters_no_test_fact_but_those_of_a_file_it_reads(self, no_files: Path) -> None:
        """Original train and held-out rows stay; of the released valid, which is no validation set here, test triples go."""
        clean, released = db15k("clean"), db15k("released")
        original, valid, test = rows(released.train), rows(released.valid), rows(released.test)
        assert rows(clean.known_untested) == (original | valid) - test
        assert len(rows(clean.known) - rows(clean.known_untested)) == len(test)
        assert rows(released.known_untested) == original | valid
        assert len(rows(released.known_untested) & test) == 824

    def test_is_the_recorded_one(self, no_files: Path) -> None:
        """The split that every published figure of this suite rests on: first computed with numpy 2.4."""
        valid = db15k(None).valid
        digest = hashlib.sha256(valid.contiguous().numpy().astype("<i8").tobytes()).hexdigest()
        assert digest == "08bc74d9db80fca0acefa0cecf23960f0de824da7cdb8fd4a4809562c071d0cc"

    def test_keeps_the_released_file_as_it_is(self, no_files: Path) -> None:
        released = db15k("released")
        assert len(released.valid) == 9904
        assert len(rows(released.valid)) == 7481


triples = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=60, unique=True)


@given(triples, st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.3]))
@settings(max_examples=100, deadline=None)
def test_holding_out_never_empties_an_entity_or_relation(train: list, seed: int, share: float) -> None:
    array = np.array(train)
    graph = Graph([""] * 6, [""] * 6, [""] * 3, {"train": array}, {}, 2)
    try:
        out = hold_out(graph, share, seed)
    except Misuse as error:
        assert "rows too few" in str(error)  # noqa: PT017
        return
    assert out.sum() == round(share * len(array))
    assert (out == hold_out(graph, share, seed)).all()
    kept = array[~out]
    assert set(kept[:, 1]) == set(array[:, 1])
    assert set(kept[:, [0, 2]].ravel()) == set(array[:, [0, 2]].ravel())


def test_holding_out_refuses_what_cannot_be_spared() -> None:
    chain = Graph([""] * 6, [""] * 6, ["", ""], {"train": np.array([[0, 0, 1], [2, 1, 3], [4, 0, 5]])}, {}, 2)
    with pytest.raises(Misuse, match=r"cannot hold out 50\.0% of 3 triples, 2 rows too few"):
        hold_out(chain, 0.5)


@pytest.mark.data
def test_an_altered_file_is_not_the_public_dataset(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(real_data / "MKG-Y", tmp_path / "MKG-Y")
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path))
    before = load_dataset("mkg_y", features="none")
    file = tmp_path / "MKG-Y" / "test2id.txt"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("2663\n6427 13022 9", "2663\n6427 13022 8"))
    with pytest.raises(Misuse, match=r"test2id\.txt is not the published file .*nsbench data fetch mkg_y"):
        load_dataset("mkg_y", features="none")
    changed = load_dataset(str(tmp_path / "MKG-Y"), features="none")  # as one's own folder it is fine
    assert changed.fingerprint != before.fingerprint
    assert len(read_graph(tmp_path / "MKG-Y").triples["test"]) == 2663

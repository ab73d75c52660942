import gzip
import re
import string
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbench.datasets.reading import read_graph
from nsbench.errors import Misuse

LABELS = st.text(string.ascii_letters + string.digits + "<>/:#()é東_-'", min_size=1, max_size=8)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], list[str], list[list[tuple[int, int, int]]]]:
    entities = draw(st.lists(LABELS, min_size=1, max_size=6, unique=True))
    relations = draw(st.lists(LABELS, min_size=1, max_size=3, unique=True))
    ids = st.integers(0, len(entities) - 1)
    triple = st.tuples(ids, st.integers(0, len(relations) - 1), ids)
    return entities, relations, [draw(st.lists(triple, min_size=1, max_size=8)) for _ in range(3)]


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_openke_files_are_read_back(writer: Callable[..., Path], graph) -> None:
    entities, relations, splits = graph
    with tempfile.TemporaryDirectory() as folder:
        read = read_graph(writer(Path(folder), entities, relations, *splits))
    assert read.entities == read.identifiers == entities
    assert read.relations == relations
    for name, triples in zip(("train", "valid", "test"), splits):
        assert read.triples[name].dtype == np.int64
        assert read.triples[name].tolist() == [list(x) for x in triples]


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_label_files_are_read_back_by_label(graph) -> None:
    entities, relations, splits = graph
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, triples in zip(("train", "valid", "test"), splits):
            lines = [f"{entities[h]}\t{relations[r]}\t{entities[t]}" for h, r, t in triples]
            (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        read = read_graph(folder)
    used = {entities[x] for triples in splits for h, _, t in triples for x in (h, t)}
    assert read.entities == sorted(used)
    assert read.relations == sorted({relations[r] for triples in splits for _, r, _ in triples})
    for split, triples in zip(("train", "valid", "test"), splits):
        again = [(read.entities[h], read.relations[r], read.entities[t]) for h, r, t in read.triples[split]]
        assert again == [(entities[h], relations[r], entities[t]) for h, r, t in triples]


def test_ids_need_not_be_in_order(small: Path) -> None:
    (small / "entity2id.txt").write_text("5\nEve 4\nCem 2\nAnn 0\nDee\t3\nBob 1\n")
    assert read_graph(small).entities == ["Ann", "Bob", "Cem", "Dee", "Eve"]


def test_names_replace_identifiers(small: Path) -> None:
    (small / "entity_names.txt").write_text("A\nB b\nC\u2028c\nD\n\n", "utf-8")  # a strange break inside, an empty name
    graph = read_graph(small)
    assert graph.entities == ["A", "B b", "C\u2028c", "D", ""]
    assert graph.identifiers == ["Ann", "Bob", "Cem", "Dee", "Eve"]
    (small / "entity_names.txt").write_text("A\nB\n")
    with pytest.raises(Misuse, match=r"entity_names\.txt has 2 lines for 5 ids"):
        read_graph(small)


def test_windows_line_ends_and_trailing_blank_lines_are_read(small: Path) -> None:
    before = read_graph(small)
    for file in small.glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    after = read_graph(small)
    assert after.entities == before.entities
    assert all((after.triples[s] == before.triples[s]).all() for s in before.triples)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train2id.txt", "0 1 0\n1 2 0\n", r"train2id\.txt, line 1, must be the number of lines .* not '0 1 0'; add it"),
        ("train2id.txt", "", r"train2id\.txt, line 1, must be the number of lines"),
        ("train2id.txt", "3\n0 1 0\n1 2 0\n", r"train2id\.txt is truncated: line 1 announces 3 lines and 2 follow"),
        ("train2id.txt", "1\n0 1 0\n1 2 0\n", r"line 1, announces 1 lines but 2 follow; correct the number"),
        ("train2id.txt", "2\n0 1 0\n1 x 0\n", r"train2id\.txt, line 3: 'x' is not an id; write whole numbers"),
        ("train2id.txt", "2\n0 1 0\n1 1_0 0\n", r"line 3: '1_0' is not an id"),
        ("train2id.txt", "1\n0 99999999999999999999 0\n", r"line 2: '9+' is not an id"),
        ("test2id.txt", "2\n0 1 0\n1 2\n", r"test2id\.txt, line 3, has 2 columns; write head, tail, relation"),
        ("test2id.txt", "2\n0 1 0\n\n1 2 0", r"test2id\.txt, line 1, announces 2 lines but 3 follow"),
        ("test2id.txt", "3\n0 1 0\n\n1 2 0", r"test2id\.txt, line 3, has 0 columns"),
        ("valid2id.txt", "2\n0 1 0\n5 1 0\n", r"valid2id\.txt, line 3: entity id 5 is out of range; entity2id\.txt has"),
        ("valid2id.txt", "2\n0 1 0\n1 -1 0\n", r"line 3: entity id -1 is out of range; .* ids 0 to 4"),
        ("valid2id.txt", "1\n0 4 2\n", r"line 2: relation id 2 is out of range; relation2id\.txt has ids 0 to 1"),
        ("train2id.txt", "2\n0 1 4\n2 0 3\n", r"line 2: the columns look swapped.* write head, tail, relation$"),
        ("valid2id.txt", "0\n", r"valid2id\.txt holds no triple; every split needs at least one"),
        ("entity2id.txt", "2\nAnn 0\nBob\n", r"entity2id\.txt, line 3, must be 'identifier id', not 'Bob'"),
        ("entity2id.txt", "2\nAnn 0\nBob one\n", r"entity2id\.txt, line 3: the id 'one' is not a whole number"),
        ("entity2id.txt", "2\nAnn 0\nBob 2\n", r"entity2id\.txt, line 3: id 2 is out of range; the 2 ids"),
        ("entity2id.txt", "2\nAnn 0\nBob 0\n", r"entity2id\.txt, line 3: id 0 is given twice"),
        ("entity2id.txt", "3\nAnn 0\nBob 1\nAnn 2\n", r"entity2id\.txt, line 4, gives 'Ann' an id, as line 2 does"),
        ("relation2id.txt", "0\n", r"relation2id\.txt is empty; list at least one"),
    ],
)
def test_malformed_files_are_refused_in_one_sentence(small: Path, file: str, text: str, message: str) -> None:
    (small / file).write_text(text)
    with pytest.raises(Misuse, match=message) as error:
        read_graph(small)
    assert str(small / file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["entity2id.txt", "valid2id.txt"])
def test_a_missing_file_is_named(small: Path, file: str) -> None:
    (small / file).unlink()
    with pytest.raises(Misuse, match=f"{file} is missing; put it there"):
        read_graph(small)


def test_other_encodings_are_refused(small: Path) -> None:
    (small / "entity2id.txt").write_bytes("1\nJosé 0\n".encode("latin-1"))
    with pytest.raises(Misuse, match=r"entity2id\.txt is not UTF-8 text"):
        read_graph(small)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tr\tb\na r b\n", r"train\.tsv, line 2, has 1 columns; write head, relation, tail with tabs"),
        ("a\t\tb\n", r"train\.tsv, line 1, has an empty label"),
        ("", r"train\.tsv holds no triple"),
    ],
)
def test_malformed_label_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.tsv").write_text("a\tr\tb\n")
    (tmp_path / "train.tsv").write_text(text)
    with pytest.raises(Misuse, match=message):
        read_graph(tmp_path)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([], "holds no graph, only nothing; put train.tsv, valid.tsv and test.tsv there, of head, relation, tail"),
        (["train.tsv.zip", "notes.md"], "holds no graph, only notes.md, train.tsv.zip; put train.tsv"),
        (["train.csv", "dev.csv", "b"], "holds no test, only b, dev.csv, train.csv; put"),
        (["test.tsv", "raw/"], "holds no train and no valid, only raw/, test.tsv; put"),
        ([f"f{i}" for i in range(9)], "only f0, f1, f2, f3, f4, f5, f6, f7 and 1 more; put"),
    ],
)
def test_a_folder_without_a_graph_says_what_it_holds(tmp_path: Path, held: list[str], said: str) -> None:
    for name in held:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("a\tr\tb\n")
    with pytest.raises(Misuse, match=re.escape(said)):
        read_graph(tmp_path)


def test_compressed_files_are_read(small: Path) -> None:
    plain = read_graph(small)
    for file in small.glob("*2id.txt"):
        (small / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    again = read_graph(small)
    assert again.identifiers == plain.identifiers
    assert all((again.triples[split] == plain.triples[split]).all() for split in plain.triples)
    (small / "test2id.txt.gz").write_bytes((small / "test2id.txt.gz").read_bytes()[:-9])
    with pytest.raises(Misuse, match=r"test2id\.txt\.gz is no whole gzip file"):
        read_graph(small)


def test_a_large_file_is_read_quickly(tmp_path: Path, writer: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    h, r, t = rng.integers(0, 12_000, 80_000), rng.integers(0, 200, 80_000), rng.integers(0, 12_000, 80_000)
    triples = list(zip(h.tolist(), r.tolist(), t.tolist()))
    writer(tmp_path, [f"e{i}" for i in range(12_000)], [f"r{i}" for i in range(200)], triples, triples[:9], triples[9:18])
    start = time.process_time()
    graph = read_graph(tmp_path)
    assert time.process_time() - start < 1.0
    assert graph.triples["train"].tolist() == [list(x) for x in triples]

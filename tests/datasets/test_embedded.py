"""What the package itself holds of the public datasets."""

import hashlib
import importlib.util
import io
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nsbench.commands.reporter import described
from nsbench.config.run import configure
from nsbench.datasets import embedded, places
from nsbench.datasets.features import import_features
from nsbench.datasets.graphs import graph_of
from nsbench.datasets.loading import load_dataset
from nsbench.datasets.reading import SPLITS, read_graph
from nsbench.errors import Misuse

FINGERPRINTS = {  # as the shipped runs record them (results/runs), which read the public files
    ("mkg_y", None): "c09af6629d73767fb3f4e8d9da380219daeaa3a356d4ffe44400c7238d0d24ea",
    ("mkg_w", None): "df7b01925ad18547b1590a3b0f8ec22f7028beb312554bc4e6025f738dff0aab",
    ("db15k", "clean"): "52c97da0296915a8fb863d4a125da9770116d5acd7ae120b14126f2292db47dc",
    ("db15k", "released"): "ee95e8305f860e242158882af1cd6a2f78bb4d3ad2eec076405333ad4de274b7",
}


@pytest.mark.parametrize(("name", "split"), FINGERPRINTS)
def test_fingerprints_are_those_of_the_public_files(no_files: Path, name: str, split: str | None) -> None:
    data = load_dataset(name, split=split, features="none")
    assert (data.fingerprint, data.origin) == (FINGERPRINTS[name, split], "embedded")


@pytest.mark.parametrize("name", places.FOLDERS)
def test_the_public_files_come_back_to_the_byte(name: str) -> None:
    """Written in their form, what is embedded has the SHA-256 of the manifest: nothing is lost, no row, no order."""
    graph, stem = embedded.graph(name), places.FOLDERS[name]
    lines: dict[str, list] = {"entity_names.txt": graph.entities, "relation_names.txt": graph.relations}
    lines["entity2id.txt"] = [len(graph.identifiers), *(f"{x} {i}" for i, x in enumerate(graph.identifiers))]
    for split in SPLITS:
        rows = graph.triples[split]
        lines[f"{split}2id.txt"] = [len(rows), *(f"{h} {t} {r}" for h, r, t in rows)]
    for file in (*places.triple_files(stem), *places.name_files(stem)):
        if file.name != "relation2id.txt":  # of a relation its name alone is read
            text = "".join(f"{line}\n" for line in lines.pop(file.name))
            assert hashlib.sha256(text.encode()).hexdigest() == file.sha256, file.name
    assert not lines


@pytest.mark.data
@pytest.mark.parametrize("name", places.FOLDERS)
def test_a_graph_from_files_is_the_same(real_data: Path, name: str) -> None:
    held, read = embedded.graph(name), graph_of(places.place(name))
    assert read.origin == f"from {real_data / places.FOLDERS[name]}"
    assert (held.identifiers, held.entities, held.relations) == (read.identifiers, read.entities, read.relations)
    for split in SPLITS:
        assert held.triples[split].dtype == read.triples[split].dtype
        assert (held.triples[split] == read.triples[split]).all()


@pytest.mark.data
@pytest.mark.parametrize("name", places.FOLDERS)
def test_names128_are_principal_components(real_data: Path, name: str) -> None:
    """Against numpy's SVD: each number within half a step of its component's, whose sign is free."""
    x = np.load(real_data / places.FOLDERS[name] / "text_name_minilm.npy").astype(np.float64)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected, held = (u * s)[:, :128], embedded.names128(name).numpy()
    expected *= np.sign((expected * held).sum(0))
    assert held.shape == (len(x), 128)
    assert np.abs(held - expected).max() <= 1 / 256 + 1e-7


@pytest.mark.data
@pytest.mark.slow
def test_the_tool_makes_the_same_files(real_data: Path, checkout: Path, tmp_path: Path, monkeypatch) -> None:
    specification = importlib.util.spec_from_file_location("embed", checkout / "tools" / "embed.py")
    assert specification is not None
    assert specification.loader is not None
    embed = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(embed)
    monkeypatch.setattr(embed, "FOLDER", tmp_path)
    embed.write("mkg_y", real_data / "MKG-Y")
    assert {file.name for file in tmp_path.iterdir()} == {"mkg_y.graph.xz", "mkg_y.names128.xz"}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (embedded.FOLDER / file.name).read_bytes()


@pytest.mark.parametrize("name", places.FOLDERS)
def test_every_entity_has_names128(name: str) -> None:
    x = embedded.names128(name)
    assert (x.shape[1], x.dtype.is_floating_point, x.element_size()) == (128, True, 4)
    assert len(x) == len(embedded.graph(name).entities)
    assert (x != 0).any(1).all()


def packed(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return lzma.compress(sink.getvalue())


def test_a_step_is_a_128th(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    (tmp_path / "mkg_y.names128.xz").write_bytes(packed(np.array([[-127, 1], [64, 0]], dtype=np.int8)))
    assert embedded.names128("mkg_y").tolist() == [[-0.9921875, 0.0078125], [0.5, 0.0]]


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(embedded.FOLDER, tmp_path / "embedded")
    monkeypatch.setattr(embedded, "FOLDER", folder)
    return folder


SPOILT = {
    "a bit": lambda whole: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
    "its end": lambda whole: whole[:-100],
    "all": lambda whole: b"",
    "its form": lambda whole: b"not compressed",
    "its content": lambda whole: lzma.compress(b"text"),
    "all of its content": lambda whole: lzma.compress(b""),
    "what it is": lambda whole: lzma.compress(b"PK\x03\x04 no archive"),
}


@pytest.mark.parametrize("kind", ["graph", "names128"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_damaged_file_is_told_in_one_sentence(no_files: Path, copy: Path, kind: str, spoil: Callable) -> None:
    file = copy / f"mkg_y.{kind}.xz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(Misuse) as error:
        load_dataset("mkg_y", features="none") if kind == "graph" else embedded.names128("mkg_y")
    assert str(error.value) == f"{file} is damaged; install nsbench again"


def test_a_graph_without_its_parts_is_damaged(copy: Path) -> None:
    sink = io.BytesIO()
    np.savez(sink, train=np.zeros((1, 3), dtype=np.uint16))
    (copy / "mkg_y.graph.xz").write_bytes(lzma.compress(sink.getvalue()))
    with pytest.raises(Misuse, match=r"mkg_y\.graph\.xz is damaged"):
        embedded.graph("mkg_y")


def test_without_the_folder_names128_are_refused(unembedded: None) -> None:
    with pytest.raises(Misuse, match=r"^this installation holds no names128 features of mkg_w; .*encode-names mkg_w'"):
        embedded.names128("mkg_w")


def test_files_at_hand_win_and_the_output_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[..., Path]
) -> None:
    config = configure("uniform", "transe", "mkg_y", features="none", protocol="quick")
    folder = writer(tmp_path / "MKG-Y", ["a", "b", "c"], ["r"], [(0, 0, 1), (1, 0, 2)], [(0, 0, 2)], [(2, 0, 0)])
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path / "empty"))
    assert described(config).startswith("mkg_y (released split, embedded): 15000 entities")
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path))
    with pytest.raises(Misuse, match=r"entity2id\.txt is not the published file"):  # won, and was looked at
        load_dataset("mkg_y", features="none")
    monkeypatch.setattr(places, "triple_files", lambda stem: [])  # any files are the published ones
    assert load_dataset("mkg_y", features="none").origin == f"from {folder}"
    (folder / "test2id.txt").unlink()  # a part is not a graph
    assert load_dataset("mkg_y", features="none").origin == "embedded"


def test_features_are_imported_for_an_embedded_graph(no_files: Path, tmp_path: Path) -> None:
    graph = embedded.graph("mkg_y")
    np.save(tmp_path / "mine.npy", np.ones((15000, 2), dtype=np.float32))
    listed = tmp_path / "mine.npy.ids.txt"
    listed.write_text("".join(f"{x}\n" for x in graph.identifiers), "utf-8")
    kept = import_features("mkg_y", tmp_path / "mine.npy", "visual")
    assert kept.path == no_files / "MKG-Y" / "features" / "visual.npy"
    assert load_dataset("mkg_y", features="visual").features["visual"].shape == (15000, 2)
    listed.write_text("".join(f"{x}\n" for x in reversed(graph.identifiers)), "utf-8")
    with pytest.raises(Misuse, match="row 0 belongs to"):
        import_features("mkg_y", tmp_path / "mine.npy", "visual")


def test_a_users_folder_says_nothing_of_its_origin(small: Path) -> None:
    assert load_dataset(str(small)).origin == ""
    assert read_graph(small).origin == f"from {small}"

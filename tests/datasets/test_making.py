"""Features fetched from a server on this machine, with small upstream files in the true formats, and made into files."""

import base64
import hashlib
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nsbench.datasets import making, modalities, places
from nsbench.datasets.fetch import Unfetched
from nsbench.datasets.loading import load_dataset
from nsbench.errors import Misuse
from tests.datasets.encoder import Encoder, vector
from tests.datasets.mirror import Mirror

ENTITIES = {
    "MKG-Y": ["Ann_A", "AC/DC", "Rome", "Ed", "Fay", "Gil"],
    "MKG-W": ["Q1", "Q2", "Q3", "Q4", "Q5"],
    "DB15K": [f"<http://dbpedia.org/resource/{name}>" for name in ("Rome", "Ann,_A", "Ed", "Fay", "Kiss_(band)")],
}
WORDS = ["[PAD]", "club", "##s", "man", "the", "red", *"abcdefgh"]
CODEBOOK = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
VISUAL = [[7, *range(1, 13)], [0] * 13, [3] * 13, list(range(13)), [19] * 13, [5] * 13]  # of upstream's entities
TEXTUAL = [[3, 1, 2, *[4] * 10], [5] * 13, [1, 2, *[6] * 11], [7] * 13, [8] * 13, [9, 2, *[3] * 11]]
NUMBERED = {name: 5 - i for i, name in enumerate(ENTITIES["MKG-Y"])}  # upstream's order is not ours


def captions(texts: list[str]) -> bytes:
    return "".join([f"{len(texts)}\n", *(f"{i}\t {text}\n" for i, text in enumerate(texts))]).encode()


def archive(rows: list[list[int]], kind: str) -> dict[str, bytes]:
    return {
        f"{kind}_master.pkl": pickle.dumps([row[0] for row in rows]),
        f"{kind}_neighbors.pkl": pickle.dumps([row[1:] for row in rows]),
    }


def visual_pth(tmp_path: Path) -> bytes:
    torch.save(CODEBOOK, tmp_path / "codebook.pth")
    return (tmp_path / "codebook.pth").read_bytes()


SAME = [("/m/0r", "Rome"), ("/m/0a", "Ann,_A"), ("/m/0k", "Kiss_(band)"), ("/m/0e", "Ed")]
FILES = {
    "captions_mkg_w.txt": captions(["One.", "Two is a Film.", 'Three, "3".', "Four.", "Five."]),
    "captions_mkg_y.txt": captions(["A man.", "A band.", "A city.", "Ed is a Person.", "A star.", "A gill."]),
    "captions_fb15k237.txt": captions(["Ann is tall.", "Kissing.", "A city in Italy.", "Other."]),
    "entities_fb15k237.txt": b"4\n/m/0a\t0\n/m/0k\t1\n/m/0r\t2\n/m/0x\t3\n",
    "sameas_db15k.txt": "".join(f"{m} <SameAs> <http://dbpedia.org/resource/{n}> .\n" for m, n in SAME).encode(),
    "entity2wikidata.json": json.dumps(
        {
            "/m/0k": {"alternatives": [], "description": "American band", "label": "Kiss"},
            "/m/0e": {"label": "Ed"},
            "/m/0a": {"description": "Dutch composer", "label": "Ann"},
        }
    ).encode(),
    "ent2id.pkl": pickle.dumps(NUMBERED),
    **archive(TEXTUAL, "txt"),
    **archive(VISUAL, "vis"),
}
EXPECTED: dict[tuple[str, str], list[str | None]] = {  # what is encoded of each entity
    ("mkg_w", "captions"): ["One.", None, 'Three, "3".', "Four.", None],
    ("mkg_y", "captions"): ["A man.", "A band.", "A city.", None, "A star.", "A gill."],
    ("mkg_y", "wordpieces"): [  # entities 2 and 5 are upstream's random filler
        " ".join(["ds", *["man"] * 11]),
        " ".join("c" * 13),
        None,
        " ".join(["clubs", *"a" * 11]),
        " ".join(["red"] * 13),
        None,
    ],
    ("db15k", "captions"): ["A city in Italy.", "Ann is tall.", None, None, "Kissing."],
    ("db15k", "wikidata"): [None, "Dutch composer", None, None, "American band"],
}
UPSTREAM = {
    ("MKG-W", "captions"): ["captions_mkg_w.txt"],
    ("MKG-Y", "captions"): ["captions_mkg_y.txt"],
    ("MKG-Y", "wordpieces"): ["ent2id.pkl", "txt_master.pkl", "txt_neighbors.pkl"],
    ("MKG-Y", "beit"): ["ent2id.pkl", "vis_master.pkl", "vis_neighbors.pkl", "visual.pth"],
    ("DB15K", "captions"): ["captions_fb15k237.txt", "entities_fb15k237.txt", "sameas_db15k.txt"],
    ("DB15K", "wikidata"): ["entity2wikidata.json", "sameas_db15k.txt"],
}
BEIT_MASK = [True, True, False, True, True, True]


def path_of(name: str) -> str:
    return f"who/up/c0ffee/of/{name}"


def packed(mask: list[bool]) -> str:
    return base64.b85encode(zlib.compress(np.packbits(mask).tobytes())).decode()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    return Encoder.stand_in(monkeypatch)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[..., Path]) -> Iterator[Mirror]:
    """Serves FILES under manifests to match; NSBENCH_DATA holds the triples of the three datasets."""
    server, bodies = Mirror(), {**FILES, "visual.pth": visual_pth(tmp_path)}

    def entry(body: bytes) -> dict:
        return {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}

    triples: dict = {
        "source_triples": {"repository": "who/what", "commit": "c", "path": "<NAME>/<FILE>"},
        "source_names_mkg_w": {"repository": "who/names", "commit": "beef", "path": "entity2id.txt, relation2id.txt"},
        "files": {},
        "derived_names": {"files": {}},
        "official_features": {
            "mirrors": [{"repository": "a/f", "commit": "1", "path": "e/<NAME>-<visual|textual>.pth", "storage": "plain"}],
            "files": {},
        },
    }
    for stem, identifiers in ENTITIES.items():
        folder = writer(tmp_path / "data" / stem, identifiers, ["r"], [(0, 0, 1), (2, 0, 3)], [(1, 0, 2)], [(0, 0, 3)])
        (folder / "entity_names.txt").write_text("".join(f"name {i}\n" for i in range(len(identifiers))))
        (folder / "relation_names.txt").write_text("r\n")
        for name in places.TRIPLE_FILES:
            triples["files"][f"{stem}/{name}"] = entry((folder / name).read_bytes())
        for name in places.NAME_FILES:
            triples["derived_names"]["files"][f"{stem}/{name}"] = entry((folder / name).read_bytes())
        for kind in ("visual", "textual"):
            torch.save(torch.ones(len(identifiers), 2), tmp_path / "official.pth")
            body = (tmp_path / "official.pth").read_bytes()
            server.bodies[f"a/f/1/e/{stem}-{kind}.pth"] = body
            triples["official_features"]["files"][f"{stem}-{kind}.pth"] = entry(body)
    features: dict = {"upstream": {}, "modalities": {stem: {} for stem in ENTITIES}}
    for name, body in bodies.items():
        server.bodies[path_of(name)] = body
        features["upstream"][name] = {"repository": "who/up", "commit": "c0ffee", "path": f"of/{name}", **entry(body)}
    for (stem, modality), names in UPSTREAM.items():
        name = {folder: dataset for dataset, folder in places.FOLDERS.items()}[stem]
        mask = BEIT_MASK if modality == "beit" else [text is not None for text in EXPECTED[name, modality]]
        features["modalities"][stem][modality] = {"upstream": names, "present": packed(mask)}
    monkeypatch.setattr(places, "manifest", lambda: triples)
    monkeypatch.setattr(modalities, "manifest", lambda: features)
    monkeypatch.setattr(making, "vocabulary", lambda: WORDS)
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NSBENCH_MIRROR", server.url)
    yield server
    server.server.shutdown()
    server.server.server_close()


def fetched(dataset: str, features: str) -> list[str]:
    """As `nsbench data fetch DATASET --features` does."""
    wanted = making.missing(dataset, features)
    making.download(dataset, wanted)
    for modality in wanted:
        if modality not in modalities.OFFICIAL:
            making.make(dataset, modality)
    return wanted


@pytest.mark.parametrize(("dataset", "modality"), EXPECTED)
def test_texts_become_the_vectors_of_their_entities(
    mirror: Mirror, model: Encoder, tmp_path: Path, dataset: str, modality: str
) -> None:
    assert fetched(dataset, modality) == [modality]
    data = load_dataset(dataset, features=modality)
    texts = EXPECTED[dataset, modality]
    assert data.present[modality].tolist() == [text is not None for text in texts]
    for row, text in zip(data.features[modality].numpy(), texts):
        assert row == pytest.approx(np.zeros(384) if text is None else vector(text), abs=1e-3)
    file = tmp_path / "data" / places.FOLDERS[dataset] / "features" / f"{modality}.npz"
    with np.load(file) as held:
        recipe = json.loads(str(held["recipe"]))
    assert recipe["encoder"].startswith("all-MiniLM-L6-v2")
    for name in UPSTREAM[places.FOLDERS[dataset], modality]:
        assert recipe["upstream"][name] == hashlib.sha256(FILES[name]).hexdigest()


def test_visual_tokens_become_vectors_of_the_codebook(mirror: Mirror) -> None:
    fetched("mkg_y", "beit")
    data = load_dataset("mkg_y", features="beit")
    expected = CODEBOOK[torch.tensor(VISUAL[::-1])]  # [6, 13, 4], entity 0 is upstream's 5
    expected[2] = 0
    assert data.present["beit"].tolist() == BEIT_MASK
    assert data.features["beit"].shape == (6, 13, 4)
    assert (data.features["beit"] - expected).abs().max() <= expected.abs().max() / 254


def test_mm_is_captions_and_the_best_text(mirror: Mirror, model: Encoder) -> None:
    assert fetched("db15k", "mm") == ["captions", "wikidata"]
    assert fetched("mkg_y", "mm") == ["captions", "wordpieces"]
    assert load_dataset("mkg_y", features="mm").modalities == ["captions", "wordpieces"]
    assert load_dataset("db15k", features="mm").modalities == ["captions", "wikidata"]


def test_official_files_are_fetched_as_they_are(mirror: Mirror, tmp_path: Path) -> None:
    assert fetched("mkg_w", "official:visual") == ["official:visual"]
    assert load_dataset("mkg_w", features="official:visual").features["official:visual"].shape == (5, 2)
    assert not (tmp_path / "data" / "MKG-W" / "MKG-W-textual.pth").exists()


class TestOnlyWhatIsMissing:
    def test_is_fetched(self, mirror: Mirror, model: Encoder) -> None:
        fetched("db15k", "wikidata")
        assert mirror.asked == [path_of("entity2wikidata.json"), path_of("sameas_db15k.txt")]
        mirror.asked.clear()
        assert fetched("db15k", "wikidata,captions") == ["captions"]
        assert path_of("sameas_db15k.txt") not in mirror.asked
        mirror.asked.clear()
        assert fetched("db15k", "wikidata,captions") == []
        assert mirror.asked == []

    def test_is_encoded(self, mirror: Mirror, model: Encoder, tmp_path: Path) -> None:
        fetched("mkg_y", "captions")
        file = tmp_path / "data" / "MKG-Y" / "features" / "captions.npz"
        whole = load_dataset("mkg_y", features="captions")
        file.unlink()
        mirror.asked.clear()
        model.asked, model.patience = [], 1
        with pytest.raises(KeyboardInterrupt):
            fetched("mkg_y", "captions")
        assert not file.exists()
        model.asked, model.patience = [], 99
        fetched("mkg_y", "captions")
        assert model.asked == [["A city.", "A star."], ["A gill."]]
        assert mirror.asked == []
        again = load_dataset("mkg_y", features="captions")
        assert again.feature_bytes == whole.feature_bytes
        assert [path.name for path in file.parent.iterdir()] == ["captions.npz"]


WRONG = {
    "missing": (lambda server, path: server.bodies.pop(path), "does not exist"),
    "truncated": (lambda server, path: server.bodies.update({path: server.bodies[path][:-9]}), "truncated"),
    "altered": (lambda server, path: server.bodies.update({path: server.bodies[path][:-1] + b"~"}), "altered"),
    "longer": (lambda server, path: server.bodies.update({path: server.bodies[path] + b"\n"}), "altered"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_source_that_fails(mirror: Mirror, model: Encoder, command: Callable, tmp_path: Path, fault: str) -> None:
    spoil, culprit = WRONG[fault]
    right = dict(mirror.bodies)
    spoil(mirror, path_of("entity2wikidata.json"))
    ended = command("data", "fetch", "db15k", "--features", "captions,wikidata")
    assert ended.code == 1
    assert "entity2wikidata.json" in ended.err
    assert culprit in ended.err
    assert f"place upstream/entity2wikidata.json in {tmp_path / 'data' / 'DB15K'} by hand" in ended.err
    assert not (tmp_path / "data" / "DB15K" / "features").exists()
    mirror.bodies = right
    mirror.asked.clear()
    ended = command("data", "fetch", "db15k", "--features", "captions,wikidata")
    assert (ended.code, mirror.asked) == (0, [path_of("entity2wikidata.json")])
    assert "with captions, wikidata; use them with --features captions,wikidata" in ended.out


def test_no_network(mirror: Mirror, tmp_path: Path) -> None:
    mirror.server.shutdown()
    mirror.server.server_close()
    place = rf"place upstream/captions_mkg_w\.txt in {tmp_path / 'data' / 'MKG-W'} by hand"
    with pytest.raises(Unfetched, match=rf"no network to .*; {place}"):
        fetched("mkg_w", "captions")


def test_a_graph_of_the_package_need_not_be_fetched_for_its_features(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path / "empty"))
    making.download("mkg_y", ["beit"])
    assert mirror.asked == [path_of(name) for name in UPSTREAM["MKG-Y", "beit"]]


class TestRefused:
    def test_what_is_not_fetched(self, mirror: Mirror, small: Path) -> None:
        with pytest.raises(Misuse, match="names are not fetched; they are encoded, by nsbench data encode-names mkg_w"):
            making.missing("mkg_w", "captions,names")
        with pytest.raises(Misuse, match="mkg_w has no wikidata features; it can have captions, names, names128, offi"):
            making.missing("mkg_w", "wikidata")
        with pytest.raises(Misuse, match=r"small' cannot be fetched; the public datasets are mkg_y, mkg_w, db15k"):
            making.missing(str(small), "captions")

    def test_what_is_not_here(self, mirror: Mirror) -> None:
        with pytest.raises(Misuse, match=r"mkg_w has no captions .*; run nsbench data fetch mkg_w --features captions"):
            load_dataset("mkg_w", features="captions")

    def test_upstream_that_is_silent_of_an_entity(self, mirror: Mirror, model: Encoder) -> None:
        modalities.manifest()["modalities"]["DB15K"]["wikidata"]["present"] = packed([True] * 5)
        with pytest.raises(Misuse, match=r"say nothing of 3 entities that have it, first of entity 0"):
            fetched("db15k", "wikidata")

    def test_what_another_version_made(self, mirror: Mirror, model: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched("mkg_w", "captions")
        monkeypatch.setattr(modalities, "VERSION", modalities.VERSION + 1)
        with pytest.raises(Misuse, match=r"captions\.npz was made from .* remove it and run nsbench data fetch mkg_w"):
            load_dataset("mkg_w", features="captions")


class TestIdentity:
    @pytest.fixture
    def developed(self, mirror: Mirror, tmp_path: Path) -> Path:
        """The array derived from the same captions, as development has it, in another folder of data."""
        texts = EXPECTED["mkg_w", "captions"]
        emb = np.stack([np.zeros(384) if text is None else vector(text) for text in texts]).astype(np.float16)
        file = tmp_path / "development" / "MKG-W" / "image_caption_minilm.npz"
        (tmp_path / "data" / "MKG-W").rename(tmp_path / "kept")
        file.parent.parent.mkdir()
        (tmp_path / "kept").rename(file.parent)
        np.savez(file, emb=emb, mask=np.array([text is not None for text in texts]))
        entry = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        modalities.manifest()["modalities"]["MKG-W"]["captions"]["derived"] = entry
        return file

    def test_is_one_for_the_development_file_and_the_fetched_one(
        self, developed: Path, model: Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NSBENCH_DATA", str(developed.parent.parent))
        found = load_dataset("mkg_w", features="captions")
        developed.rename(developed.with_suffix(".away"))
        assert fetched("mkg_w", "captions") == ["captions"]
        made = load_dataset("mkg_w", features="captions")
        assert made.features["captions"].equal(found.features["captions"])
        assert (made.feature_fingerprint, made.feature_bytes) == (found.feature_fingerprint, found.feature_bytes)
        assert made.feature_fingerprint != made.feature_bytes

    def test_an_altered_development_file_is_refused(self, developed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NSBENCH_DATA", str(developed.parent.parent))
        developed.write_bytes(developed.read_bytes() + b"\n")
        with pytest.raises(Misuse, match=r"image_caption_minilm\.npz is not the array derived .*; run nsbench data fetch"):
            load_dataset("mkg_w", features="captions")

    def test_follows_from_what_was_made_how_not_from_the_last_bits(
        self, mirror: Mirror, model: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetched("mkg_w", "captions")
        ours = load_dataset("mkg_w", features="captions")
        (tmp_path / "data" / "MKG-W" / "features" / "captions.npz").unlink()
        encode = Encoder.encode
        monkeypatch.setattr(Encoder, "encode", lambda *a, **k: encode(*a, **k) * np.float32(1.004))  # another machine
        fetched("mkg_w", "captions")
        theirs = load_dataset("mkg_w", features="captions")
        assert theirs.feature_bytes != ours.feature_bytes
        assert theirs.feature_fingerprint == ours.feature_fingerprint
        upstream = modalities.manifest()["upstream"]["captions_mkg_w.txt"]
        home = places.place("mkg_w")
        known = modalities.identity(modalities.recipe(home, "captions", ours.entities))
        monkeypatch.setitem(upstream, "sha256", "0" * 64)
        assert modalities.identity(modalities.recipe(home, "captions", ours.entities)) != known


def test_names_are_encoded_where_there_is_no_network(mirror: Mirror, model: Encoder, command: Callable, small: Path) -> None:
    mirror.server.shutdown()
    for dataset, count in (("mkg_w", 5), (str(small), 5)):
        ended = command("data", "encode-names", dataset)
        assert ended.code == 0, ended.err
        data = load_dataset(dataset, features="names")
        assert data.features["names"].norm(dim=1).tolist() == pytest.approx([1] * count, abs=1e-2)
        assert data.features["names"][1] == pytest.approx(vector(data.entities[1]), abs=1e-3)


def test_the_list_says_what_is_here_and_what_could_be(mirror: Mirror, model: Encoder, command: Callable) -> None:
    fetched("mkg_w", "captions")
    said = command("data", "list").out.split("mkg_w")[1].split("mkg_y")[0]
    assert "features here: captions, names128; mm: captions, names128" in said
    assert "not here: official:textual, official:visual; nsbench data fetch" in said
    assert "not here: names; nsbench data encode-names" in command("data", "list").out


@pytest.mark.data
class TestTheManifestOfThePackage:
    def test_is_that_of_the_shared_folder(self, real_data: Path) -> None:
        shared = json.loads((real_data / "features_manifest.json").read_text())
        theirs = {(each["repository"], each["path"]): each for each in shared["upstream"]}
        for ours in modalities.manifest()["upstream"].values():
            assert ours.items() <= theirs[ours["repository"], ours["path"]].items()

    def test_says_which_entities_have_what(self, real_data: Path) -> None:
        for name, stem in places.FOLDERS.items():
            for modality, entry in modalities.manifest()["modalities"][stem].items():
                file = real_data / stem / entry["derived"]["file"]
                assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["derived"]["sha256"]
                if "present" in entry:
                    mask = np.load(file)["mask"]
                    assert (modalities.present(places.place(name), modality, len(mask)) == mask).all()
                    assert set(entry["upstream"]) <= set(modalities.manifest()["upstream"])

    @pytest.mark.parametrize("dataset", places.FOLDERS)
    def test_the_derived_arrays_are_features(self, real_data: Path, dataset: str) -> None:
        home = places.place(dataset)
        derived = [m for m in modalities.possible(home) if modalities.developed(home, m)]
        data = load_dataset(dataset, features=",".join(derived))
        for modality in derived:
            x = data.features[modality]
            assert x.shape[1:] == ((13, 32) if modality == "beit" else (384,))
            assert (x.flatten(1).any(1) == data.present[modality]).all()

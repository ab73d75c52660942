"""Downloads, from a server on this machine."""

import errno
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbench.datasets import places
from nsbench.datasets.fetch import ensure, fetch
from nsbench.datasets.loading import load_dataset
from nsbench.errors import Misuse
from tests.datasets.mirror import Mirror

TRIPLES = {
    "entity2id.txt": "3\nA_b 0\nAC/DC 1\nCe 2\n",
    "relation2id.txt": "1\nwasBornIn 0\n",
    "train2id.txt": "2\n0 1 0\n1 2 0\n",
    "valid2id.txt": "1\n2 0 0\n",
    "test2id.txt": "1\n0 2 0\n",
}
NAMES = {"entity_names.txt": "A b\nDC\nCe\n", "relation_names.txt": "was Born In\n"}
LISTS = {  # of MKG-W; they give other labels than its identifiers
    "data/MKG-W/entity2id.txt": "0 http://x/resource/A_b 0\n1 http://x/resource/AC/DC 1\n2 http://x/resource/Ce 2\n",
    "data/MKG-W/relation2id.txt": "0 place_of_birth 0\n",
}
NAMES_W = {"entity_names.txt": "A b\nAC/DC\nCe\n", "relation_names.txt": "place of birth\n"}
FEATURES = {"visual": b"v" * 300_000, "textual": b"t" * 1000}
SPARE = b"of the other mirror"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Mirror]:
    """Serves MKG-Y and MKG-W in miniature, under a manifest to match; NSBENCH_DATA is an empty folder."""
    server = Mirror()

    def entry(body: bytes) -> dict:
        return {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body)}

    small: dict = {
        "source_triples": {"repository": "who/what", "commit": "c0ffee", "path": "benchmarks/<NAME>/<FILE>"},
        "source_names_mkg_w": {"repository": "who/names", "commit": "beef", "path": ", ".join(LISTS)},
        "files": {},
        "derived_names": {"files": {}},
        "official_features": {
            "mirrors": [
                {"repository": "a/f", "commit": "1", "path": "e/<NAME>-<visual|textual>.pth", "storage": "git-lfs"},
                {"repository": "b/f", "commit": "2", "path": "e/MKG-Y-<visual|textual>.pth", "storage": "plain"},
            ],
            "files": {},
        },
    }
    for folder, derived in (("MKG-Y", NAMES), ("MKG-W", NAMES_W)):
        for name, text in TRIPLES.items():
            server.bodies[f"who/what/c0ffee/benchmarks/{folder}/{name}"] = text.encode()
            small["files"][f"{folder}/{name}"] = entry(text.encode())
        for name, text in derived.items():
            small["derived_names"]["files"][f"{folder}/{name}"] = entry(text.encode())
        for modality, body in FEATURES.items():
            server.bodies[f"a/f/1/e/{folder}-{modality}.pth"] = body
            small["official_features"]["files"][f"{folder}-{modality}.pth"] = entry(body)
    for path, text in LISTS.items():
        server.bodies[f"who/names/beef/{path}"] = text.encode()
    monkeypatch.setattr(places, "manifest", lambda: small)
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NSBENCH_MIRROR", server.url)
    yield server
    server.server.shutdown()
    server.server.server_close()


TRAIN = "who/what/c0ffee/benchmarks/MKG-Y/train2id.txt"
VISUAL = "a/f/1/e/MKG-Y-visual.pth"


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def both(name: str) -> Path:
    """Fetch a dataset with the official features."""
    return fetch(name, extra=list(places.feature_files(places.FOLDERS[name]).values()))


@pytest.mark.parametrize(("name", "derived"), [("mkg_y", NAMES), ("mkg_w", NAMES_W)])
def test_everything_arrives_unaltered(mirror: Mirror, tmp_path: Path, name: str, derived: dict[str, str]) -> None:
    folder = both(name)
    stem = places.FOLDERS[name]
    assert folder == tmp_path / "data" / stem
    expected = {n: text.encode() for n, text in (TRIPLES | derived).items()}
    assert files(folder) == expected | {f"{stem}-{m}.pth": body for m, body in FEATURES.items()}


def test_what_is_there_is_not_fetched_again(mirror: Mirror) -> None:
    folder = fetch("mkg_w")
    mirror.asked.clear()
    fetch("mkg_w")
    assert mirror.asked == []
    (folder / "valid2id.txt").write_text("1\n0 0 0\n")  # same length, another triple
    fetch("mkg_w")
    assert mirror.asked == ["who/what/c0ffee/benchmarks/MKG-W/valid2id.txt"]
    assert (folder / "valid2id.txt").read_text() == TRIPLES["valid2id.txt"]


def test_features_are_fetched_where_they_are_asked_for(mirror: Mirror) -> None:
    assert set(files(fetch("mkg_y"))) == set(TRIPLES) | set(NAMES)


def test_progress_runs_to_the_total(mirror: Mirror) -> None:
    seen: list[tuple[int, int]] = []
    extra = list(places.feature_files("MKG-Y").values())
    fetch("mkg_y", extra=extra, progress=lambda done, total: seen.append((done, total)))
    whole = sum(map(len, TRIPLES.values())) + sum(map(len, FEATURES.values()))
    assert {total for _, total in seen} == {whole}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == whole


def test_the_parameter_wins_over_the_environment(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBENCH_MIRROR", "http://127.0.0.1:9/nothing")
    fetch("mkg_y", mirror=mirror.url + "/")
    assert TRAIN in mirror.asked


def test_without_a_mirror_each_file_comes_from_its_own_host(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def open_nothing(url: str, timeout: float) -> None:
        asked.append(url)
        raise urllib.error.URLError("unplugged")

    monkeypatch.delenv("NSBENCH_MIRROR")
    monkeypatch.setattr(urllib.request, "urlopen", open_nothing)
    with pytest.raises(Misuse, match="no network"):
        fetch("mkg_y")
    monkeypatch.setattr(places, "triple_files", lambda folder: [])
    with pytest.raises(Misuse, match="no network"):
        both("mkg_y")
    assert asked == [
        "https://raw.githubusercontent.com/who/what/c0ffee/benchmarks/MKG-Y/entity2id.txt",
        "https://media.githubusercontent.com/media/a/f/1/e/MKG-Y-visual.pth",  # git-lfs
        "https://raw.githubusercontent.com/b/f/2/e/MKG-Y-visual.pth",  # the second mirror keeps plain files
    ]


WRONG = {  # what the server does to TRAIN -> what the sentence names
    "missing": (lambda server, body: server.bodies.pop(TRAIN), r"does not exist"),
    "refusing": (lambda server, body: server.status.update({TRAIN: 503}), "503"),
    "short": (lambda server, body: server.bodies.update({TRAIN: body[:5]}), "truncated, 5 of 14 bytes"),
    "altered": (lambda server, body: server.bodies.update({TRAIN: body.replace(b"1 2 0", b"1 0 0")}), "altered"),
    "longer": (lambda server, body: server.bodies.update({TRAIN: body + b"\n" * 5_000_000}), "altered"),
    "broken off": (
        lambda server, body: (server.declared.update({TRAIN: len(body)}), server.bodies.update({TRAIN: body[:5]})),
        r"is truncated, 5 of 14 bytes|broke off after \d bytes",
    ),
}


class TestSourceFails:
    @pytest.mark.parametrize("fault", WRONG)
    def test_it_is_told_in_one_sentence_and_nothing_half_written_stays(
        self, mirror: Mirror, tmp_path: Path, fault: str
    ) -> None:
        spoil, culprit = WRONG[fault]
        spoil(mirror, mirror.bodies[TRAIN])
        with pytest.raises(Misuse, match=rf"train2id.txt .*({culprit})") as error:
            fetch("mkg_y")
        assert "\n" not in str(error.value)
        assert "train2id.txt, valid2id.txt, test2id.txt, entity_names.txt, relation_names.txt in" in str(
            error.value
        )  # where to place them by hand
        assert "NSBENCH_DATA" in str(error.value)
        assert set(files(tmp_path / "data" / "MKG-Y")) == {"entity2id.txt", "relation2id.txt"}

    def test_no_web_address(self, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NSBENCH_MIRROR", "somewhere")
        with pytest.raises(Misuse, match=r"somewhere/who/what/.* is no web address"):
            fetch("mkg_y")

    def test_no_network(self, mirror: Mirror, unembedded: None) -> None:
        mirror.server.shutdown()
        mirror.server.server_close()
        with pytest.raises(Misuse, match=r"no network to .*; place entity2id.txt, .*, relation_names.txt in"):
            load_dataset("mkg_y")


def test_a_second_mirror_stands_in(mirror: Mirror, tmp_path: Path) -> None:
    mirror.bodies["b/f/2/e/MKG-Y-visual.pth"] = mirror.bodies[VISUAL]
    for wrong in (None, b"version https://git-lfs.github.com/spec/v1\n", b"x" * 300_000):
        mirror.bodies.pop(VISUAL, None)
        if wrong is not None:
            mirror.bodies[VISUAL] = wrong
        folder = both("mkg_y")
        assert (folder / "MKG-Y-visual.pth").read_bytes() == FEATURES["visual"]
        (folder / "MKG-Y-visual.pth").unlink()
    assert mirror.asked.count("b/f/2/e/MKG-Y-visual.pth") == 3


@pytest.mark.parametrize("text", ["0 http://x/resource/Other 0\n1 b 1\n2 c 2\n", "0 a 1\n", ""])
def test_altered_names_are_refused(mirror: Mirror, tmp_path: Path, text: str) -> None:
    mirror.bodies["who/names/beef/data/MKG-W/entity2id.txt"] = text.encode()
    with pytest.raises(Misuse, match="was altered"):
        fetch("mkg_w")
    assert not (tmp_path / "data" / "MKG-W" / "entity_names.txt").exists()


class TestDiskFails:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_while_writing(self, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        def fail(_: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(Misuse, match=rf"cannot write .*entity2id.txt \({os.strerror(number)}\); make room, or set"):
            fetch("mkg_y")
        assert files(tmp_path / "data" / "MKG-Y") == {}

    def test_no_folder_can_be_made(self, mirror: Mirror, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("a file where the folder should be")
        with pytest.raises(Misuse, match=r"cannot write .*entity2id.txt"):
            fetch("mkg_y")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
    def test_read_only_folder(self, mirror: Mirror, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir(mode=0o500)
        with pytest.raises(Misuse, match=r"cannot write .* \(Permission denied\)"):
            fetch("mkg_y")


def test_an_interrupted_download_leaves_nothing_of_the_file(mirror: Mirror, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 300:  # inside visual
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("mkg_y", extra=list(places.feature_files("MKG-Y").values()), progress=stop)
    assert set(files(tmp_path / "data" / "MKG-Y")) == set(TRIPLES)


def test_loading_fetches_once_what_is_neither_embedded_nor_there(mirror: Mirror, unembedded: None) -> None:
    data = load_dataset("mkg_y", features="none")
    assert data.entities == ["A b", "DC", "Ce"]
    assert data.train.tolist() == [[0, 0, 1], [1, 0, 2]]
    mirror.asked.clear()
    assert load_dataset("mkg_y", features="none").fingerprint == data.fingerprint
    assert mirror.asked == []


def test_what_is_embedded_is_not_fetched_and_what_is_fetched_wins(mirror: Mirror) -> None:
    assert load_dataset("mkg_y", features="none").num_entities == 15000
    assert mirror.asked == []
    fetch("mkg_y")
    assert load_dataset("mkg_y", features="none").entities == ["A b", "DC", "Ce"]


def test_only_public_datasets_are_fetched(mirror: Mirror) -> None:
    with pytest.raises(Misuse, match="'planted' cannot be fetched; the public datasets are mkg_y, mkg_w, db15k"):
        fetch("planted")


def test_the_manifest_of_the_package_is_whole() -> None:
    for folder in places.FOLDERS.values():
        assert [file.name for file in places.triple_files(folder)] == list(places.TRIPLE_FILES)
        assert [file.name for file in places.name_files(folder)] == list(places.NAME_FILES)
        features = places.feature_files(folder)
        assert [file.name for file in features.values()] == [f"{folder}-visual.pth", f"{folder}-textual.pth"]
        assert [len(file.sources) for file in features.values()] == ([2, 2] if folder == "MKG-Y" else [1, 1])
        assert all(file.sources[0].lfs for file in features.values())
    assert set(places.name_lists("MKG-W")) == {"entity", "relation"}
    assert places.name_lists("DB15K") == {}


@pytest.mark.data
def test_the_real_files_verify_and_travel(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MKG-Y and DB15K served from the real folder under the real manifest arrive byte for byte, names included."""
    shared = json.loads((real_data / "manifest.json").read_text())
    own = places.manifest()
    assert {key: own[key] for key in shared} == shared
    server = Mirror()
    for folder in ("MKG-Y", "DB15K"):
        for file in places.triple_files(folder):
            (source,) = file.sources
            body = (real_data / folder / file.name).read_bytes()
            server.bodies[f"{source.repository}/{source.commit}/{source.path}"] = body
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("NSBENCH_MIRROR", server.url)
    for name in ("mkg_y", "db15k"):
        folder = ensure(name)
        for file in (*places.TRIPLE_FILES, *places.NAME_FILES):
            assert (folder / file).read_bytes() == (real_data / folder.name / file).read_bytes()
    server.server.shutdown()
    server.server.server_close()

import contextlib
import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nsbench.campaign.plan import identify
from nsbench.config.run import configure
from nsbench.datasets import embedded, modalities, places, quantised
from nsbench.datasets.features import import_features, presence, read_features
from nsbench.datasets.loading import load_dataset
from nsbench.errors import Misuse
from nsbench.training.trainer import Trainer

NAMES = ["Ann", "Bob", "Cem", "Dee", "Eve"]  # of the fixture `small`
TABLE = np.arange(15, dtype=np.float32).reshape(5, 3) + 1


class Intruder:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


class TestImport:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
    def test_npy(self, small: Path, tmp_path: Path, dtype: str) -> None:
        np.save(tmp_path / "x.npy", TABLE.astype(dtype))
        result = import_features(small, tmp_path / "x.npy", "visual")
        assert (result.path, result.shape) == (small / "features" / "visual.npy", (5, 3))
        data = load_dataset(str(small))
        assert data.modalities == ["visual"]
        assert data.features["visual"].dtype == torch.float32
        assert data.features["visual"].tolist() == TABLE.tolist()
        assert data.present["visual"].all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_pth_with_tokens(self, small: Path, tmp_path: Path, dtype: torch.dtype) -> None:
        x = torch.arange(30, dtype=dtype).reshape(5, 2, 3)
        torch.save(torch.nn.Parameter(x), tmp_path / "x.pth")
        assert import_features(small, tmp_path / "x.pth", "official:textual").path.name == "official-textual.npy"
        assert load_dataset(str(small), features="official:textual").features["official:textual"].equal(x.float())

    def test_rows_of_zeros_are_absent(self, small: Path, tmp_path: Path) -> None:
        x = np.stack([TABLE, TABLE], axis=1)  # [5, 2, 3]
        x[1] = 0
        x[3, 0] = 0  # one token left: present
        np.save(tmp_path / "x.npy", x)
        assert import_features(small, tmp_path / "x.npy", "visual").absent == 1
        assert load_dataset(str(small)).present["visual"].tolist() == [True, False, True, True, True]

    def test_a_second_import_replaces_the_first(self, small: Path, tmp_path: Path) -> None:
        for factor in (1, 2):
            np.save(tmp_path / "x.npy", TABLE * factor)
            import_features(small, tmp_path / "x.npy", "visual")
        assert load_dataset(str(small)).features["visual"].tolist() == (TABLE * 2).tolist()
        assert [file.name for file in (small / "features").iterdir()] == ["visual.npy"]

    @pytest.mark.parametrize(
        ("array", "culprit"),
        [
            (TABLE[:4], "4 rows for 5 entities"),
            (TABLE[:, 0], r"shape \[5\]"),
            (TABLE[:, :0], r"shape \[5, 0\]"),
            (TABLE.astype(int), "int64"),
            (TABLE > 3, "bool"),
            (TABLE.astype(str), "<U32"),
            (np.where(TABLE == 7, np.nan, TABLE), "entity 2"),
            (np.where(TABLE > 12, 1e300, TABLE.astype(float)), "entity 4"),
            (TABLE * 0, "zeros"),
        ],
    )
    def test_unusable_arrays_are_refused(self, small: Path, tmp_path: Path, array: np.ndarray, culprit: str) -> None:
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(Misuse, match=rf"x\.npy .*{culprit}"):
            import_features(small, tmp_path / "x.npy", "visual")
        assert not (small / "features").exists()

    @pytest.mark.parametrize(
        ("dataset", "file", "modality", "culprit"),
        [
            (None, "none.npy", "visual", r"none\.npy"),
            (None, "x.csv", "visual", r"x\.csv is of an unknown kind"),
            (None, "x.csv", "../x", r"'\.\./x'"),
            (None, "x.pth", "captions", "'captions' names features that nsbench makes itself; import yours under a name"),
            (None, "x.pth", "names128", "'names128' names features"),
            (None, "x.pth", "official", "'official' names features .* or as official:textual or official:visual if"),
            (None, "x.pth", "visual", r"x\.pth holds a dict"),
            ("planted", "x.pth", "visual", "planted"),
        ],
    )
    def test_other_mistakes_are_refused(self, small: Path, tmp_path: Path, dataset, file, modality, culprit) -> None:
        (tmp_path / "x.csv").write_text("1,2")
        torch.save({"a": torch.ones(2)}, tmp_path / "x.pth")
        with pytest.raises(Misuse, match=culprit):
            import_features(dataset or small, tmp_path / file, modality)

    @pytest.mark.parametrize("labels", [NAMES, ["e0", "e1", "e2", "e3", "e4"]])
    def test_a_list_of_rows_is_checked(self, small: Path, tmp_path: Path, labels: list[str]) -> None:
        (small / "entity_names.txt").write_text("\n".join(f"e{i}" for i in range(5)) + "\n")
        np.save(tmp_path / "x.npy", TABLE)
        listed = tmp_path / "x.npy.ids.txt"
        listed.write_text("\n".join(labels) + "\n")
        import_features(small, tmp_path / "x.npy", "visual")
        listed.write_text("\n".join([labels[1], labels[0], *labels[2:]]) + "\n")
        with pytest.raises(Misuse, match=rf"row 0 belongs to '{labels[1]}' but entity 0 is 'Ann'; put the rows in"):
            import_features(small, tmp_path / "x.npy", "visual")
        listed.write_text("\n".join(labels[:4]) + "\n")
        with pytest.raises(Misuse, match="names 4 rows for 5 entities"):
            import_features(small, tmp_path / "x.npy", "visual")


def legacy_pth(x: object, file: Path) -> None:
    torch.save([torch.ones(5, 3), x], file, _use_new_zipfile_serialization=False)


class TestNeverCode:
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize(
        ("name", "save"),
        [
            ("x.pth", legacy_pth),
            ("x.pth", lambda x, file: torch.save([torch.ones(5, 3), x], file)),
            ("x.pth", lambda x, file: file.write_bytes(pickle.dumps(x))),
            ("x.npy", lambda x, file: np.save(file, np.array([x], dtype=object), allow_pickle=True)),
        ],
    )
    def test_no_file_is_obeyed(self, small: Path, tmp_path: Path, name: str, save: Callable[..., None]) -> None:
        file, trace = tmp_path / name, tmp_path / "trace"
        save(Intruder(trace), file)
        with pytest.raises(Misuse, match=rf"{name} .*would run code"):
            import_features(small, file, "visual")
        assert not trace.exists()
        with contextlib.suppress(RuntimeError):  # a plain pickle is no tensor either
            np.load(file, allow_pickle=True) if name == "x.npy" else torch.load(file, weights_only=False)
        assert trace.exists()  # the file does what it is accused of

    @pytest.mark.parametrize("end", ["npy", "pth", "h5"])
    @pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 half an archive"])
    def test_damaged(self, small: Path, tmp_path: Path, end: str, content: bytes) -> None:
        if end == "h5":
            pytest.importorskip("h5py")
        file = tmp_path / f"x.{end}"
        file.write_bytes(content)
        with pytest.raises(Misuse, match=rf"x\.{end}"):
            import_features(small, file, "visual")

    def test_published_files_are_read_the_same_way(self, small: Path, tmp_path: Path) -> None:
        torch.save(Intruder(tmp_path / "trace"), small / "small-visual.pth")
        with pytest.raises(Misuse, match="would run code"):
            load_dataset(str(small))
        assert not (tmp_path / "trace").exists()


class TestH5:
    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[..., Path]:
        h5py = pytest.importorskip("h5py")

        def write(**datasets: object) -> Path:
            with h5py.File(tmp_path / "x.h5", "w") as file:
                for key, value in datasets.items():
                    file[key] = value
            return tmp_path / "x.h5"

        return write

    def test_one_array(self, small: Path, write: Callable[..., Path]) -> None:
        import_features(small, write(data=TABLE), "visual")
        assert load_dataset(str(small)).features["visual"].tolist() == TABLE.tolist()

    def test_one_array_with_names(self, small: Path, write: Callable[..., Path]) -> None:
        import_features(small, write(data=TABLE, names=NAMES), "visual")
        with pytest.raises(Misuse, match=r"x\.h5/names: row 0 belongs to 'Eve' but entity 0 is 'Ann'"):
            import_features(small, write(data=TABLE, names=NAMES[::-1]), "visual")

    def test_an_array_per_entity_is_put_in_order(self, small: Path, write: Callable[..., Path]) -> None:
        arrays = {"Eve": np.full((1, 2), 5.0), "Ann": np.full((3, 2), 1.0), "Zoe": np.ones((1, 2))}
        result = import_features(small, write(**arrays), "textual")
        assert (result.shape, result.absent, result.unknown) == ((5, 3, 2), 3, 1)
        data = load_dataset(str(small))
        assert data.features["textual"][0].tolist() == [[1, 1]] * 3
        assert data.features["textual"][4].tolist() == [[5, 5], [0, 0], [0, 0]]
        assert data.present["textual"].tolist() == [True, False, False, False, True]

    def test_names_with_slashes_and_shared_names(self, small: Path, write: Callable[..., Path]) -> None:
        (small / "entity_names.txt").write_text("AC/DC\nTwin\nTwin\nD\nE\n")
        result = import_features(small, write(**{"AC/DC": np.ones(2), "Twin": np.ones(2), "Bob": np.ones(2)}), "visual")
        assert result.unknown == 1  # a name of two entities says nothing
        assert load_dataset(str(small)).present["visual"].tolist() == [True, True, False, False, False]

    def test_unlike_arrays_are_refused(self, small: Path, write: Callable[..., Path]) -> None:
        with pytest.raises(Misuse, match=r"the entities of .* have unlike arrays"):
            import_features(small, write(Ann=np.ones(2), Bob=np.ones(3)), "visual")
        with pytest.raises(Misuse, match="holds 2 arrays and none is named after an entity"):
            import_features(small, write(a=TABLE, b=TABLE), "visual")

    def test_without_h5py(self, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "h5py", None)
        (tmp_path / "x.h5").write_bytes(b"")
        with pytest.raises(Misuse, match=r"reading \.h5 needs h5py; run pip install 'nsbench\[h5\]'"):
            import_features(small, tmp_path / "x.h5", "visual")


class TestChoice:
    """Which features a folder gets; `small` has none until a test adds them."""

    def official(self, folder: Path) -> None:
        torch.save(torch.full((5, 2), 3.0), folder / "small-textual.pth")

    def names(self, folder: Path) -> None:
        unit = torch.nn.functional.normalize(torch.randn(5, 384, generator=torch.Generator().manual_seed(0))).numpy()
        recipe = modalities.recipe(places.place(folder), "names", NAMES)
        quantised.write(folder / "features" / "names.npz", unit, np.ones(5, bool), recipe)

    def test_auto_is_what_the_folder_brings(self, small: Path) -> None:
        def found() -> list[str]:
            data = load_dataset(str(small))
            assert set(data.present) == set(data.features)
            return data.modalities

        assert found() == []
        self.names(small)
        assert found() == ["names"]
        self.official(small)
        assert found() == ["official:textual"]
        np.save(small / "features" / "mine.npy", TABLE)
        assert found() == ["mine", "official:textual"]

    def test_an_imported_file_wins_over_the_published_one(self, small: Path) -> None:
        self.official(small)
        (small / "features").mkdir()
        np.save(small / "features" / "official-textual.npy", TABLE)
        data = load_dataset(str(small))
        assert data.modalities == ["official:textual"]
        assert data.features["official:textual"].tolist() == TABLE.tolist()

    def test_a_choice_is_kept_or_refused(self, small: Path) -> None:
        with pytest.raises(Misuse, match=r"small has no official:textual .* \(none there\); put small-textual\.pth in"):
            load_dataset(str(small), features="official")
        with pytest.raises(Misuse, match=r"small has no names features on .* run nsbench data encode-names /"):
            load_dataset(str(small), features="names")
        with pytest.raises(Misuse, match=r"small has no nams features; did you mean 'names'\?"):
            load_dataset(str(small), features="nams")
        with pytest.raises(Misuse, match=r"mm is for mkg_y, mkg_w, db15k; small takes auto, none, or some of names"):
            load_dataset(str(small), features="mm")
        self.names(small)
        self.official(small)
        assert load_dataset(str(small), features="names").features["names"].shape == (5, 384)
        assert load_dataset(str(small), features="official:textual").features["official:textual"].shape == (5, 2)
        assert load_dataset(str(small), features="official:textual, names").modalities == ["names", "official:textual"]
        assert load_dataset(str(small), features="none").features == {}

    def test_encoded_names_are_those_of_these_names(self, small: Path) -> None:
        self.names(small)
        known = load_dataset(str(small), features="names").feature_fingerprint
        (small / "entity_names.txt").write_text("Ann\nBob\nCem\nDee\nEva\n")
        with pytest.raises(Misuse, match=r"names\.npz was made from other files .*; remove it and run nsbench data encode"):
            load_dataset(str(small), features="names")
        (small / "entity_names.txt").unlink()
        assert load_dataset(str(small), features="names").feature_fingerprint == known

    def test_a_wrong_number_of_rows_is_refused_at_loading(self, small: Path) -> None:
        (small / "features").mkdir()
        np.save(small / "features" / "mine.npy", TABLE[:4])
        with pytest.raises(Misuse, match="has 4 rows for 5 entities"):
            load_dataset(str(small))


@pytest.mark.parametrize("shapes", [{"visual": (24, 383), "textual": (4, 384)}, {"visual": (383,), "textual": (384,)}])
def test_files_of_the_published_widths_are_trained_on(tmp_path: Path, writer: Callable[..., Path], shapes: dict) -> None:
    """One entity in twelve has no features, one in seven a shorter list of tokens."""
    rng, n = np.random.default_rng(0), 300
    facts = np.unique(
        np.stack([rng.integers(n, size=600), rng.integers(28, size=600), rng.integers(n, size=600)], 1), axis=0
    )
    rng.shuffle(facts)
    entities, relations = [f"e{i}" for i in range(n)], [f"r{i}" for i in range(28)]
    home = writer(tmp_path / "graph", entities, relations, facts[200:], facts[:100], facts[100:200])
    for modality, shape in [(f"official:{kind}", shape) for kind, shape in shapes.items()]:
        x = torch.randn(n, *shape).half()
        if len(shape) == 2:
            x[::7, shape[0] // 2 :] = 0
        x[::12] = 0
        torch.save(x, tmp_path / "x.pth")
        assert import_features(home, tmp_path / "x.pth", modality).absent == 25
    settings = ["protocol.width=16", "protocol.batch=64", "protocol.steps=20"]
    config = configure("uniform", "transe", str(home), fusion="adamf", settings=settings, identify=identify)
    trainer = Trainer(config, load_dataset(str(home)))
    before = trainer.model_state()
    for _ in range(20):
        trainer.step()
    after = trainer.model_state()
    assert trainer.loss_sum.isfinite()
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.data
@pytest.mark.parametrize("name", ["DB15K", "MKG-W", "MKG-Y"])
def test_the_real_encoded_names_are_features(real_data: Path, name: str) -> None:
    entities = len((real_data / name / "entity_names.txt").read_text("utf-8").removesuffix("\n").split("\n"))
    x = read_features(real_data / name / "text_name_minilm.npy", entities)
    assert x.shape == (entities, 384)
    assert presence(x).all()


class TestPublic:
    """Official features of a public dataset, which must be the published files."""

    @pytest.fixture
    def published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Callable[..., Path]) -> Path:
        folder = writer(tmp_path / "MKG-Y", NAMES, ["r"], [(0, 0, 1), (2, 0, 3)], [(1, 0, 2)], [(0, 0, 3)])
        for modality in ("visual", "textual"):
            torch.save(torch.ones(5, 2), folder / f"MKG-Y-{modality}.pth")

        def entry(file: Path) -> dict:
            return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}

        made = {
            "source_triples": {"repository": "a/b", "commit": "c", "path": "<NAME>/<FILE>"},
            "files": {f"MKG-Y/{name}": entry(folder / name) for name in places.TRIPLE_FILES},
            "official_features": {
                "mirrors": [],
                "files": {f"MKG-Y-{m}.pth": entry(folder / f"MKG-Y-{m}.pth") for m in ("visual", "textual")},
            },
        }
        monkeypatch.setattr(places, "manifest", lambda: made)
        monkeypatch.setenv("NSBENCH_DATA", str(tmp_path))
        return folder

    def test_official_is_short_for_both(self, published: Path) -> None:
        assert load_dataset("mkg_y", features="official").modalities == ["official:textual", "official:visual"]
        assert load_dataset("mkg_y", features="official:visual").modalities == ["official:visual"]

    def test_auto_is_what_the_package_holds_whatever_lies_here(
        self, published: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded, "names128", lambda name: torch.ones(5, 128))
        assert load_dataset("mkg_y").modalities == ["names128"]

    def test_altered_ones_are_refused(self, published: Path) -> None:
        torch.save(torch.full((5, 2), 2.0), published / "MKG-Y-visual.pth")
        with pytest.raises(Misuse, match=r"MKG-Y-visual\.pth is not the published file .*import it as your own"):
            load_dataset("mkg_y", features="official")
        assert load_dataset("mkg_y", features="none").features == {}

    def test_imported_ones_win_and_need_no_match(self, published: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "tokens.npy", np.stack([TABLE, TABLE], axis=1))
        result = import_features("mkg_y", tmp_path / "tokens.npy", "official:visual")
        assert result.path == published / "features" / "official-visual.npy"
        data = load_dataset("mkg_y", features="official")
        assert data.features["official:visual"].shape == (5, 2, 3)
        assert data.features["official:textual"].shape == (5, 2)

    def test_one_of_ones_own(self, published: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", TABLE)
        import_features("mkg_y", tmp_path / "x.npy", "images")
        assert load_dataset("mkg_y", features="images,official:visual").modalities == ["images", "official:visual"]

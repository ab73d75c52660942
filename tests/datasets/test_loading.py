from pathlib import Path

import pytest

from nsbench.datasets import places
from nsbench.datasets.loading import check_choice, load_dataset
from nsbench.errors import Misuse
from nsbench.registry import DATASETS
from nsbench.testing.toy import toy


def test_the_public_datasets_are_registered() -> None:
    assert set(places.FOLDERS) <= set(DATASETS.names())
    assert {DATASETS.source(name) for name in places.FOLDERS} == {"built-in"}


@pytest.mark.parametrize("form", ["{path}", "{path}/", "small", "./small", "../{parent}/small"])
def test_a_folder_is_loaded_by_path(small: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    assert load_dataset(form.format(path=small, parent=small.parent.name)).name == "small"


def test_a_registered_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Misuse, match="holds no graph"):
        load_dataset("./planted")
    seen = []
    monkeypatch.setitem(DATASETS._found, "planted", lambda argument, **rest: seen.append((argument, rest)) or toy())
    load_dataset("planted", features="none")
    load_dataset("planted:small", split="released")
    assert seen == [
        (None, {"split": None, "features": "none"}),
        ("small", {"split": "released", "features": "auto"}),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mkg-y", r"unknown dataset 'mkg-y'; did you mean 'mkg_y'\?"),
        ("mkg_y:small", "mkg_y takes no argument"),
        ("./nowhere", r"there is no folder ./nowhere; give the folder of a dataset, or one of mkg_y"),
    ],
)
def test_unknown_datasets_are_refused(name: str, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        load_dataset(name)


def test_unknown_choices_are_refused(small: Path) -> None:
    with pytest.raises(Misuse, match=r"small has no ofical features; did you mean 'official'\?"):
        load_dataset(str(small), features="ofical")
    for wrong in ("", " , ", "auto,names", "none,names", "mm,names"):
        with pytest.raises(Misuse, match="--features takes auto, mm or none alone, or modalities, comma-separated, not"):
            load_dataset(str(small), features=wrong)
    with pytest.raises(Misuse, match="unknown split 'dirty'; choose clean or released"):
        load_dataset(str(small), split="dirty")


def test_a_dataset_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from nsbench.contracts import Dataset\n"
        "def load(argument, *, split, features):\n"
        "    x = torch.tensor([[0, 0, 1]])\n"
        "    return Dataset('mine', x, x, x, ['a', 'b'], ['r'])\n"
    )
    assert load_dataset(f"{tmp_path}/mine.py:load").name == "mine"


class TestRoots:
    def test_the_environment_decides_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NSBENCH_DATA", str(tmp_path))
        place = places.place("mkg_w")
        assert place.search == (tmp_path / "MKG-W",)
        assert place.writable == tmp_path / "MKG-W"

    def test_otherwise_shared_data_then_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NSBENCH_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        place = places.place("db15k")
        assert place.search[0] == tmp_path / "shared" / "data" / "DB15K"
        assert place.search[-1] == place.writable == tmp_path / "cache" / "nsbench" / "DB15K"

    def test_the_cache_is_in_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("NSBENCH_DATA", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert places.download_root() == tmp_path / ".cache" / "nsbench"


def test_some_modalities_of_the_features() -> None:
    whole = load_dataset("planted:small")
    part = load_dataset("planted:small", features="text")
    assert (whole.modalities, part.modalities) == (["image", "text"], ["text"])
    assert part.features["text"].equal(whole.features["text"])
    assert part.present["text"].equal(whole.present["text"])
    assert part.fingerprint == whole.fingerprint
    assert load_dataset("planted:small", features="text, image").feature_fingerprint == whole.feature_fingerprint
    assert part.feature_fingerprint not in ("", whole.feature_fingerprint)
    with pytest.raises(Misuse, match="planted:small has no sound features; there are: image, text"):
        load_dataset("planted:small", features="sound")


@pytest.mark.parametrize(
    ("name", "features", "refused"),
    [
        ("mkg_y", "captions,official", ""),  # known, though nothing of it may be here
        ("mkg_y", "mm", ""),
        ("mkg_w", "beit", "mkg_w has no beit features; it can have captions, names, names128, official:textual"),
        ("mkg_y", "auto,names", "takes auto, mm or none alone"),
        ("planted:small", "text", ""),
        ("planted:small", "whatever", "planted:small has no whatever features"),
    ],
)
def test_a_choice_is_checked_where_nothing_reads_features(name: str, features: str, refused: str) -> None:
    if not refused:
        return check_choice(name, features)
    with pytest.raises(Misuse, match=refused):
        check_choice(name, features)

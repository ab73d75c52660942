"""Where the files of a dataset lie on this machine, and what the public ones must be.

`manifest.json` holds repository, commit, byte count and SHA-256 of every public file. A dataset is one folder below a
root: NSBENCH_DATA if it is set, otherwise ../shared/data beside the working directory or the checkout, then the user's
cache. Files there win over what the package holds (nsbench.datasets.embedded). What nsbench itself writes (downloads,
imported features, encoded names) goes to NSBENCH_DATA or the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from nsbench import files
from nsbench.errors import Misuse, suggest
from nsbench.registry import DATASETS

FOLDERS = {"mkg_y": "MKG-Y", "mkg_w": "MKG-W", "db15k": "DB15K"}
TRIPLE_FILES = ("entity2id.txt", "relation2id.txt", "train2id.txt", "valid2id.txt", "test2id.txt")
NAME_FILES = ("entity_names.txt", "relation_names.txt")

REMEDY = "make room, or set NSBENCH_DATA to a folder that you may write to"
replacing = partial(files.replacing, remedy=REMEDY, error=Misuse)
"""nsbench.files.replacing for a dataset's files; Misuse where the disk is full or the folder cannot be written."""


@dataclass(frozen=True)
class Source:
    """One public copy of a file: a path in a repository at a commit."""

    repository: str
    commit: str
    path: str
    lfs: bool = False


@dataclass(frozen=True)
class PublicFile:
    """A file as it was published; `name` is its name in the dataset's folder."""

    name: str
    sha256: str
    bytes: int
    sources: tuple[Source, ...] = ()

    def is_at(self, path: Path) -> bool:
        """Whether `path` holds exactly this file."""
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


@cache
def manifest() -> dict[str, Any]:
    """The package's manifest.json."""
    return json.loads(resources.files("nsbench.datasets").joinpath("manifest.json").read_text("utf-8"))


def triple_files(folder: str) -> list[PublicFile]:
    """The five OpenKE files of a public dataset; `folder` as in FOLDERS' values."""
    origin = manifest()["source_triples"]
    files = []
    for name in TRIPLE_FILES:
        entry = manifest()["files"][f"{folder}/{name}"]
        path = origin["path"].replace("<NAME>", folder).replace("<FILE>", name)
        source = Source(origin["repository"], origin["commit"], path)
        files.append(PublicFile(name, entry["sha256"], entry["bytes"], (source,)))
    return files


def name_files(folder: str) -> list[PublicFile]:
    """entity_names.txt and relation_names.txt, without a source: they are what nsbench.datasets.names must make."""
    entries = manifest()["derived_names"]["files"]
    return [PublicFile(n, entries[f"{folder}/{n}"]["sha256"], entries[f"{folder}/{n}"]["bytes"]) for n in NAME_FILES]


def name_lists(folder: str) -> dict[str, Source]:
    """entity, relation -> the public list of labels where the identifiers are bare numbers; else nothing."""
    origin = manifest()["source_names_mkg_w"]
    if folder != "MKG-W":
        return {}
    paths = [path.strip() for path in origin["path"].split(",")]
    return {Path(p).name.removesuffix("2id.txt"): Source(origin["repository"], origin["commit"], p) for p in paths}


def feature_files(folder: str) -> dict[str, PublicFile]:
    """modality -> the published feature file, with every mirror that holds it."""
    official = manifest()["official_features"]
    files = {}
    for modality in ("visual", "textual"):
        name = f"{folder}-{modality}.pth"
        sources = []
        for mirror in official["mirrors"]:
            path = mirror["path"].replace("<NAME>", folder).replace("<visual|textual>", modality)
            if path.endswith("/" + name):  # a mirror may hold one dataset only
                sources.append(Source(mirror["repository"], mirror["commit"], path, lfs=mirror["storage"] == "git-lfs"))
        entry = official["files"][name]
        files[modality] = PublicFile(name, entry["sha256"], entry["bytes"], tuple(sources))
    return files


@dataclass(frozen=True)
class Place:
    """A dataset that lives in files: a public one or a user's folder."""

    name: str  # as in Dataset.name
    stem: str  # official features are <stem>-<modality>.pth
    search: tuple[Path, ...]  # folders that may hold its files, best first
    writable: Path  # where new files of it go
    public: bool

    def find(self, *names: str) -> Path | None:
        """The first folder that holds all of these files."""
        return next((folder for folder in self.search if all((folder / name).is_file() for name in names)), None)


def place(dataset: str | Path) -> Place:
    """The place of a public dataset's name or of a folder of one's own."""
    if str(dataset) in FOLDERS:
        folder = FOLDERS[str(dataset)]
        search = tuple(root / folder for root in roots())
        return Place(str(dataset), folder, search, download_root() / folder, public=True)
    path = files.expanded(dataset)
    if not path.is_dir():
        if os.sep in str(dataset):
            raise Misuse(f"there is no folder {dataset}; give the folder of a dataset, or one of {', '.join(FOLDERS)}")
        fix = suggest(str(dataset), FOLDERS) or f"; give a folder, or one of {', '.join(FOLDERS)}"
        if (name := str(dataset).partition(":")[0]) in DATASETS.names():
            raise Misuse(f"{name} is generated, so there are no files of it; give a folder, or one of {', '.join(FOLDERS)}")
        raise Misuse(f"no dataset in files is called '{dataset}'{fix}")
    stem = path.resolve().name
    return Place(stem, stem, (path,), path, public=False)


def roots() -> list[Path]:
    """Folders that may hold dataset folders, best first."""
    if os.environ.get("NSBENCH_DATA"):
        return [download_root()]
    checkout = Path(__file__).resolve().parent.parent
    return [Path.cwd().parent / "shared" / "data", checkout.parent / "shared" / "data", download_root()]


def download_root() -> Path:
    """The root that nsbench writes to."""
    if os.environ.get("NSBENCH_DATA"):
        return files.expanded(os.environ["NSBENCH_DATA"])
    return files.cache_folder()

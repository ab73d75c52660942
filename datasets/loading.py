"""The one way from what a user writes after --dataset to a Dataset."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from nsbench.contracts import Dataset
from nsbench.datasets import modalities, places
from nsbench.datasets.features import own
from nsbench.datasets.folder import load_folder
from nsbench.errors import Misuse, suggest
from nsbench.identity import PUBLIC, graph_label, marked
from nsbench.registry import DATASETS


def load_dataset(name: str, split: str | None = None, features: str = "auto") -> Dataset:
    """The dataset called `name`: a registered name, `NAME:ARGUMENT` (planted:small), or a folder.

    `split`: clean, released, or None for the dataset's default. `features`: auto (what the package holds of a public
    dataset, what others bring), mm (captions and the best text of a public dataset), none, or modalities,
    comma-separated. A registered name wins over a folder of that name; write ./NAME for the folder. Raises Misuse when
    the dataset is unknown, malformed or cannot be had. `Dataset.name` is the public one where the content is, and no
    other graph has it: nsbench.identity. Warns where that is not what the user may have meant.
    """
    dataset = _loaded(name, split, features)
    label = graph_label(dataset.name, dataset.fingerprint)
    if label == dataset.name and is_folder(name) and label in DATASETS.names() and label not in PUBLIC.values():
        label = marked(label, dataset.fingerprint)
    if label == dataset.name:
        return dataset
    if "@" in label:
        warnings.warn(f"{name} is not the dataset {dataset.name}, but another graph; here it is {label}", stacklevel=2)
    else:
        warnings.warn(f"{name} holds the triples of {label}, and goes by that name", stacklevel=2)
    return dataclasses.replace(dataset, name=label)


def _loaded(name: str, split: str | None, features: str) -> Dataset:
    if split not in (None, "clean", "released"):
        raise Misuse(f"unknown split '{split}'; choose clean or released")
    words = modalities.listed(features)
    if ".py:" in name:
        load, argument = DATASETS.get(name), None
    elif is_folder(name):
        return load_folder(name, split, features)
    else:
        registered, colon, text = name.partition(":")
        load, argument = DATASETS.get(registered), text if colon else None
        if any(Path(name).glob("train*")):
            warnings.warn(f"{name} is the dataset of that name; for the folder {name} here write ./{name}", stacklevel=3)
    if name in places.FOLDERS or words in (["auto"], ["none"]):
        return load(argument, split=split, features=",".join(words))
    return _with_modalities(load(argument, split=split, features="auto"), words)


def check_choice(name: str, features: str) -> None:
    """Misuse for --features that the dataset `name` cannot have. One that is generated is generated to see that."""
    words = modalities.listed(features)
    if name in places.FOLDERS or (".py:" not in name and is_folder(name)):
        home = places.place(name)
        modalities.resolve(",".join(words), home, own(home))
    elif words not in (["auto"], ["none"]):
        load_dataset(name, features=features)


def _with_modalities(dataset: Dataset, wanted: Sequence[str]) -> Dataset:
    """The same with features of these modalities alone."""
    missing = [name for name in wanted if name not in dataset.features]
    if missing:
        near, there = suggest(missing[0], dataset.features), ", ".join(dataset.modalities) or "none"
        raise Misuse(f"{dataset.name} has no {missing[0]} features{near}; there are: {there}")
    features, present = ({name: of[name] for name in wanted} for of in (dataset.features, dataset.present))
    return dataclasses.replace(dataset, features=features, present=present)


def is_folder(name: str) -> bool:
    """Whether `name` means a folder rather than a registered dataset."""
    if "/" in name or os.sep in name or name in (".", "..") or name.startswith("~"):
        return True
    return Path(name).is_dir() and name not in DATASETS.names()

"""The one way from what a user writes after --dataset to a Dataset."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from nsbench.contracts import Dataset
from nsbench.datasets.features import CHOICES
from nsbench.datasets.folder import load_folder
from nsbench.errors import Misuse, suggest
from nsbench.registry import DATASETS


def load_dataset(name: str, split: str | None = None, features: str = "auto") -> Dataset:
    """The dataset called `name`: a registered name, `NAME:ARGUMENT` (planted:small), or a folder.

    `split`: clean, released, or None for the dataset's default. `features`: auto (the best at hand, see
    `Dataset.feature_source`), official, names or none, and after a colon the modalities that are wanted, else all:
    official:visual. A registered name wins over a folder of that name; write ./NAME for the folder. Raises Misuse when
    the dataset is unknown, malformed or cannot be had.
    """
    choice, wanted = choice_of(features)
    if split not in (None, "clean", "released"):
        raise Misuse(f"unknown split '{split}'; choose clean or released")
    dataset = _loaded(name, split, choice)
    return _with_modalities(dataset, wanted) if wanted else dataset


def choice_of(features: str) -> tuple[str, list[str]]:
    """Source and modalities, [] for all, in what a user writes after --features. Misuse for an unknown source."""
    choice, _, wanted = features.partition(":")
    if choice not in CHOICES:
        raise Misuse(f"unknown features '{choice}'{suggest(choice, CHOICES)}; choose {', '.join(CHOICES)}")
    return choice, [name.strip() for name in wanted.split(",") if name.strip()]


def _with_modalities(dataset: Dataset, wanted: Sequence[str]) -> Dataset:
    """The same with features of these modalities alone."""
    missing = [name for name in wanted if name not in dataset.features]
    if missing:
        near, there = suggest(missing[0], dataset.features), ", ".join(sorted(dataset.features)) or "none"
        raise Misuse(f"{dataset.name} has no {missing[0]} features{near}; there are: {there}")
    features, present = ({name: of[name] for name in sorted(wanted)} for of in (dataset.features, dataset.present))
    return dataclasses.replace(dataset, features=features, present=present)


def _loaded(name: str, split: str | None, features: str) -> Dataset:
    if ".py:" in name:
        return DATASETS.get(name)(None, split=split, features=features)
    if is_folder(name):
        return load_folder(name, split, features)
    registered, colon, argument = name.partition(":")
    return DATASETS.get(registered)(argument if colon else None, split=split, features=features)


def is_folder(name: str) -> bool:
    """Whether `name` means a folder rather than a registered dataset."""
    if "/" in name or os.sep in name or name in (".", "..") or name.startswith("~"):
        return True
    return Path(name).is_dir() and name not in DATASETS.names()

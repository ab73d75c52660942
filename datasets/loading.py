"""The one way from what a user writes after --dataset to a Dataset."""

from __future__ import annotations

import os
from pathlib import Path

from nsbench.contracts import Dataset
from nsbench.datasets.features import CHOICES
from nsbench.datasets.folder import load_folder
from nsbench.errors import Misuse
from nsbench.registry import DATASETS, suggest


def load_dataset(name: str, split: str | None = None, features: str = "auto") -> Dataset:
    """The dataset called `name`: a registered name, `NAME:ARGUMENT` (planted:small), or a folder.

    `split`: clean, released, or None for the dataset's default. `features`: auto (the best at hand, see
    `Dataset.feature_source`), official, names or none. A registered name wins over a folder of that name; write
    ./NAME for the folder. Raises Misuse when the dataset is unknown, malformed or cannot be had.
    """
    if features not in CHOICES:
        raise Misuse(f"unknown features '{features}'{suggest(features, CHOICES)}; choose {', '.join(CHOICES)}")
    if split not in (None, "clean", "released"):
        raise Misuse(f"unknown split '{split}'; choose clean or released")
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

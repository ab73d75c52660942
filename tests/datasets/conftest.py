"""Small graphs on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Triple = tuple[int, int, int]


def write_openke(
    folder: Path,
    entities: Sequence[str],
    relations: Sequence[str],
    train: Sequence[Triple],
    valid: Sequence[Triple],
    test: Sequence[Triple],
) -> Path:
    """Write a graph given as (h, r, t); the files hold head, tail, relation."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, identifiers in (("entity2id", entities), ("relation2id", relations)):
        lines = [str(len(identifiers)), *(f"{x} {i}" for i, x in enumerate(identifiers))]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    for name, triples in (("train", train), ("valid", valid), ("test", test)):
        lines = [str(len(triples)), *(f"{h} {t} {r}" for h, r, t in triples)]
        (folder / f"{name}2id.txt").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    return folder


@pytest.fixture(scope="session")
def writer() -> Callable[..., Path]:
    return write_openke


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Five entities, two relations, nothing wrong."""
    return write_openke(
        tmp_path / "small",
        ["Ann", "Bob", "Cem", "Dee", "Eve"],
        ["knows", "likes"],
        [(0, 0, 1), (1, 0, 2), (2, 1, 3), (3, 1, 0)],
        [(0, 1, 2)],
        [(1, 0, 3), (4, 1, 0)],
    )

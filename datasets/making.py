"""How a modality comes to be on this machine: its upstream files fetched, mapped to entities, encoded and quantised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nsbench.datasets import modalities, places, quantised, upstream
from nsbench.datasets.encoding import encode, vocabulary
from nsbench.datasets.features import at_hand, made_at
from nsbench.datasets.fetch import Progress, check_public, fetch
from nsbench.datasets.graphs import graph_of, is_embedded
from nsbench.datasets.modalities import EMBEDDED, FETCHED, NAMES, OFFICIAL
from nsbench.datasets.places import Place
from nsbench.errors import Misuse


def missing(dataset: str, features: str) -> list[str]:
    """Those of the modalities meant by --features that are not here. Misuse for what nobody can fetch."""
    check_public(dataset)
    home = places.place(dataset)
    wanted = modalities.resolve(features, home, ()) or []
    here = at_hand(home)
    for modality in wanted:
        if modality not in here and modality in (NAMES, EMBEDDED):
            why = {NAMES: f"encoded, by nsbench data encode-names {dataset}", EMBEDDED: "part of the package"}[modality]
            raise Misuse(f"{modality} are not fetched; they are {why}")
    return [modality for modality in wanted if modality not in here]


def download(dataset: str, wanted: Sequence[str], *, mirror: str | None = None, progress: Progress | None = None) -> Path:
    """The dataset's folder, with the published files behind the modalities `wanted`, and with its triples and names.

    These are left out where the package holds them and features alone are wanted.
    """
    home = places.place(dataset)
    official = places.feature_files(home.stem) if set(OFFICIAL) & set(wanted) else {}
    files = [official[name.partition(":")[2]] for name in wanted if name in OFFICIAL]
    for modality in wanted:
        files += modalities.upstream(home, modality) if modality in FETCHED else []
    graph = not (wanted and is_embedded(home))
    return fetch(dataset, graph=graph, extra=list(dict.fromkeys(files)), mirror=mirror, progress=progress)


def make(dataset: str, modality: str, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """The file of a fetched modality, from upstream files that are here. Progress counts texts.

    What an interrupted call has encoded is kept and gone on with.
    """
    home = places.place(dataset)
    graph = graph_of(home)
    identifiers, names = graph.identifiers, graph.entities
    files = {Path(file.name).name: home.writable / file.name for file in modalities.upstream(home, modality)}
    mask = modalities.present(home, modality, len(identifiers))
    if modality == "beit":
        table = upstream.visual_tokens(files, identifiers)
        return _write(home, modality, names, table, _said(home, modality, mask, np.asarray(table.any((1, 2)))))
    texts = upstream.TEXTS[home.stem, modality](files, identifiers, vocabulary() if modality == "wordpieces" else ())
    _said(home, modality, mask, np.array([text is not None for text in texts]))
    return _encoded(home, modality, names, {int(i): texts[i] or "" for i in mask.nonzero()[0]}, progress)


def encode_names(dataset: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """The file of a dataset's entity names, encoded."""
    home = places.place(dataset)
    names = graph_of(home).entities
    return _encoded(home, NAMES, names, dict(enumerate(names)), progress)


def _said(home: Place, modality: str, mask: np.ndarray, said: np.ndarray) -> np.ndarray:
    """The mask, if upstream says something of every entity in it."""
    if (mask & ~said).any():
        count, first = int((mask & ~said).sum()), int((mask & ~said).argmax())
        raise Misuse(
            f"the upstream files of {home.name}'s {modality} say nothing of {count} entities that have it, first of entity "
            f"{first}; this version of nsbench cannot read them, please report it"
        )
    return mask


def _encoded(
    home: Place, modality: str, names: Sequence[str], texts: dict[int, str], progress: Callable[[int, int], None] | None
) -> Path:
    """Encode the texts of some entities, and write the modality's file."""
    identity = modalities.identity(modalities.recipe(home, modality, names))
    part = made_at(home, modality).with_name(f".{modality}-{identity[:8]}.part")
    rows = encode(list(texts.values()), progress=progress, part=part)
    table, mask = np.zeros((len(names), rows.shape[1]), np.float32), np.zeros(len(names), bool)
    table[list(texts)], mask[list(texts)] = rows, True
    path = _write(home, modality, names, table, mask)
    with contextlib.suppress(OSError):
        part.unlink()
    return path


def _write(home: Place, modality: str, names: Sequence[str], table: np.ndarray, mask: np.ndarray) -> Path:
    path = made_at(home, modality)
    quantised.write(path, table, mask, modalities.recipe(home, modality, names))
    return path

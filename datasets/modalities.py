"""Feature modalities by names that say what they are: which a dataset can have, what --features means, what identifies one.

features_manifest.json holds, per public dataset and modality, the upstream files that it is made from, which entities
have it, and the array derived from the same files that serves development.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from nsbench.datasets import places
from nsbench.datasets.places import Place, PublicFile, Source
from nsbench.errors import Misuse, suggest

OFFICIAL = ("official:textual", "official:visual")
FETCHED = ("beit", "captions", "wikidata", "wordpieces")
NAMES, EMBEDDED = "names", "names128"
MM = {  # captions, and the best text: descriptions where there are some, else the names that need no encoding
    "DB15K": ("captions", "wikidata"),
    "MKG-W": ("captions", EMBEDDED),
    "MKG-Y": ("captions", "wordpieces"),
}
RESERVED = (*OFFICIAL, *FETCHED, NAMES, EMBEDDED, "auto", "mm", "none", "official")
ENCODER = "all-MiniLM-L6-v2, unit rows, float16"
QUANTISED = "int8, one scale per vector"
VERSION = 1  # of the way from upstream files to numbers; raised when it changes


@cache
def manifest() -> dict[str, Any]:
    """The package's features_manifest.json."""
    return json.loads(resources.files("nsbench.datasets").joinpath("features_manifest.json").read_text("utf-8"))


def possible(home: Place) -> list[str]:
    """Every modality that the dataset can have, apart from a user's own."""
    if not home.public:
        return [NAMES, *OFFICIAL]
    return sorted({*OFFICIAL, NAMES, EMBEDDED, *manifest()["modalities"].get(home.stem, {})})


def listed(features: str) -> list[str]:
    """The words of a --features list, sorted; official means both files of the papers. Misuse for an empty list."""
    words = [word.strip() for word in features.split(",") if word.strip()]
    alone = [word for word in words if word in ("auto", "mm", "none")]
    if not words or (alone and len(words) > 1):
        raise Misuse(f"--features takes auto, mm or none alone, or modalities, comma-separated, not '{features}'")
    return sorted({name for word in words for name in (OFFICIAL if word == "official" else [word])})


def resolve(features: str, home: Place, own: Collection[str]) -> list[str] | None:
    """The modalities meant by --features; None for what a folder brings. `own`: those that the user imported by name.

    Misuse for a modality that the dataset cannot have.
    """
    words = listed(features)
    if words == ["none"]:
        return []
    if words == ["auto"]:
        return [EMBEDDED] if home.public else None
    known = sorted({*possible(home), *own})
    if words == ["mm"]:
        if not home.public:
            there = ", ".join(known)
            raise Misuse(f"mm is for {', '.join(places.FOLDERS)}; {home.name} takes auto, none, or some of {there}")
        return list(MM[home.stem])
    for word in words:
        if word not in known:
            near = (
                suggest(word, [*known, "official", "auto", "none"]) or f"; it can have {', '.join(known)}, or auto, mm, none"
            )
            raise Misuse(f"{home.name} has no {word} features{near} (nsbench data list)")
    return words


def check_own(modality: str) -> None:
    """Misuse for a name that the user's own features may not have: one that says they are something else."""
    if modality in OFFICIAL:
        return
    if modality in RESERVED:
        raise Misuse(
            f"'{modality}' names features that nsbench makes itself; import yours under a name of your own, or as "
            f"{' or '.join(OFFICIAL)} if they are the papers'"
        )
    if not re.fullmatch("[a-z][a-z0-9_]*", modality):
        raise Misuse(f"'{modality}' cannot name a modality; use lower-case letters, as in images or descriptions")


def upstream(home: Place, modality: str) -> list[PublicFile]:
    """The upstream files of a fetched modality, by their places in the dataset's folder."""
    files = []
    for name in manifest()["modalities"][home.stem][modality]["upstream"]:
        entry = manifest()["upstream"][name]
        source = Source(entry["repository"], entry["commit"], entry["path"])
        files.append(PublicFile(f"upstream/{name}", entry["sha256"], entry["bytes"], (source,)))
    return files


def developed(home: Place, modality: str) -> tuple[str, str] | None:
    """Name and SHA-256 of the array that was derived from the same upstream files, for development."""
    entry = manifest()["modalities"].get(home.stem, {}).get(modality, {}).get("derived") if home.public else None
    return entry and (entry["file"], entry["sha256"])


def present(home: Place, modality: str, num_entities: int) -> np.ndarray:
    """bool [N]: which entities of a public dataset have a fetched modality; its other rows are none or random filler."""
    bits = zlib.decompress(base64.b85decode(manifest()["modalities"][home.stem][modality]["present"]))
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=num_entities).astype(bool)


def recipe(home: Place, modality: str, names: Sequence[str]) -> dict[str, Any]:
    """What the numbers of a fetched or encoded modality follow from. Two machines that share it have the same features."""
    if modality == NAMES:
        sources = {"entity names": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    else:
        entry = manifest()["modalities"][home.stem][modality]
        sources = {name: manifest()["upstream"][name]["sha256"] for name in entry["upstream"]}
        sources["present"] = hashlib.sha256(entry["present"].encode()).hexdigest()
    how = {"quantisation": QUANTISED, "version": VERSION} | ({} if modality == "beit" else {"encoder": ENCODER})
    return {"modality": modality, "upstream": sources, **how}


def identity(recipe: Mapping[str, Any] | str) -> str:
    """SHA-256 of a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

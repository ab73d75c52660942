"""Feature vectors of entities, one modality at a time: found, read, checked, imported.

Of a modality (nsbench.datasets.modalities) a dataset's folder may hold `features/<modality>.npz`, which nsbench made;
`features/<name>.npy`, imported under a name of the user's own, or `features/official-<kind>.npy`; and the published
`<NAME>-<kind>.pth`. Row i belongs to entity i; a row of zeros means that the entity has none. A feature file is data:
reading one never runs code.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nsbench.datasets import embedded, modalities, places, quantised, text
from nsbench.datasets.graphs import graph_of
from nsbench.datasets.modalities import EMBEDDED, NAMES, OFFICIAL
from nsbench.datasets.places import Place
from nsbench.errors import Misuse
from nsbench.files import expanded

_FLOATS = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    path: Path
    shape: tuple[int, ...]
    absent: int  # entities without the modality
    unknown: int  # entries of the file that are no entity of the dataset (only .h5 keyed by entity)


@dataclass(frozen=True)
class Gathered:
    """Features by modality, as nsbench.contracts.Dataset has them."""

    features: dict[str, Tensor] = field(default_factory=dict)
    present: dict[str, Tensor] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)


def gather(home: Place, names: Sequence[str], features: str) -> Gathered:
    """The features meant by --features, of the entities with these names. Misuse for what is unknown or not here.

    `auto` is what the package holds of a public dataset, whatever else lies on this machine; of a folder it is what lies
    there: official features and the user's own, or else encoded names.
    """
    wanted = modalities.resolve(features, home, own(home))
    if wanted is None:
        here = at_hand(home)
        wanted = [name for name in here if name != NAMES] or here
    found = Gathered()
    for modality in wanted:
        x, present, identity = _read(home, modality, names)
        found.features[modality], found.present[modality] = x, present
        if identity:
            found.identities[modality] = identity
    return found


def at_hand(home: Place) -> list[str]:
    """The modalities that can be read on this machine."""
    made = [name for name in modalities.possible(home) if name not in (*OFFICIAL, EMBEDDED) and _made(home, name)]
    official = [name for name in OFFICIAL if _given(home, name)]
    held = [EMBEDDED] if home.public and (embedded.FOLDER / f"{home.name}.{EMBEDDED}.xz").is_file() else []
    return sorted([*made, *official, *held, *own(home)])


def own(home: Place) -> list[str]:
    """The modalities that the user imported by names of his own."""
    files = {file.stem for folder in home.search for file in (folder / "features").glob("*.npy")}
    return sorted(files - {_stem(name) for name in modalities.RESERVED})


def made_at(home: Place, modality: str) -> Path:
    """Where nsbench keeps a modality that it fetched or encoded."""
    return home.writable / "features" / f"{modality}.npz"


def _stem(modality: str) -> str:
    return modality.replace(":", "-")  # no file system minds


def _made(home: Place, modality: str) -> Path | None:
    """The file that nsbench made, or the array derived from the same upstream files."""
    files = [folder / "features" / f"{modality}.npz" for folder in home.search]
    if derived := modalities.developed(home, modality):
        files += [folder / derived[0] for folder in home.search]
    return next((file for file in files if file.is_file()), None)


def _given(home: Place, modality: str) -> Path | None:
    """An imported file, which wins, or the published one."""
    files = [f"features/{_stem(modality)}.npy"]
    if modality in OFFICIAL:
        files.append(f"{home.stem}-{modality.partition(':')[2]}.pth")
    return next((folder / name for name in files if (folder := home.find(name))), None)


def _read(home: Place, modality: str, names: Sequence[str]) -> tuple[Tensor, Tensor, str]:
    """float32 [N, F] or [N, tokens, F], presence [N], and what identifies them if not their content."""
    if modality == EMBEDDED:
        x = embedded.names128(home.name)
        return x, presence(x), ""
    if modality in OFFICIAL or modality in own(home):
        file = _given(home, modality)
        if file is None:
            raise _absent(home, modality)
        if home.public and file.suffix == ".pth":
            _check_published(home, modality, file)
        x = read_features(file, len(names))
        return x, presence(x), ""
    file = _made(home, modality)
    if file is None:
        raise _absent(home, modality)
    recipe = modalities.recipe(home, modality, names)
    if file.suffix == ".npz" and file.parent.name == "features":
        array, mask = quantised.read(file, recipe, f"remove it and {remedy(home, modality)}")
    else:
        array, mask = _developed(home, modality, file)
    tensor = _checked(torch.from_numpy(array), file, len(names))
    return tensor, torch.from_numpy(mask), modalities.identity(recipe)


def _developed(home: Place, modality: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """float32 [N, ..., F] and mask [N] from an array that was derived from the upstream files, quantised as they are."""
    derived = modalities.developed(home, modality)
    if derived is None or hashlib.sha256(file.read_bytes()).hexdigest() != derived[1]:
        raise Misuse(f"{file} is not the array derived from the published files (SHA-256); {remedy(home, modality)}")
    held = np.load(file, allow_pickle=False)
    if isinstance(held, np.ndarray):
        x, mask = held, np.ones(len(held), bool)
    else:
        x, mask = held["emb"] if "emb" in held else held["codebook"][held["tokens"]], held["mask"]
    x = np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x.astype(np.float32), 0)
    return quantised.restored(*quantised.quantised(x)), mask


def remedy(home: Place, modality: str) -> str:
    """How to get a modality."""
    if modality == NAMES:
        return f"run nsbench data encode-names {home.name if home.public else shlex.quote(str(home.writable))}"
    if home.public:
        return f"run nsbench data fetch {home.name} --features {modality}"
    return f"put {home.stem}-{modality.partition(':')[2]}.pth in {home.writable}, or use nsbench data import-features"


def _absent(home: Place, modality: str) -> Misuse:
    here = ", ".join(at_hand(home)) or "none"
    return Misuse(f"{home.name} has no {modality} features on this machine ({here} there); {remedy(home, modality)}")


def _check_published(home: Place, modality: str, file: Path) -> None:
    if not places.feature_files(home.stem)[modality.partition(":")[2]].is_at(file):
        raise Misuse(
            f"{file} is not the published file (its SHA-256 differs); {remedy(home, modality)} again, or import it as your "
            "own with nsbench data import-features"
        )


def read_features(file: Path, num_entities: int) -> Tensor:
    """float32 [N, F] or [N, tokens, F] from a .npy or .pth file. Raises Misuse when it holds anything else."""
    return _checked(_read_tensor(file), file, num_entities)


def presence(features: Tensor) -> Tensor:
    """bool [N]: False where the row is all zeros."""
    return (features != 0).flatten(1).any(1)


def import_features(dataset: str | Path, file: str | Path, modality: str) -> Imported:
    """Check a .npy, .pth or .h5 file and keep it as the dataset's features of `modality`.

    That is a name of the user's own, or official:visual or official:textual for those of the papers. Rows must be in the
    order of the entity ids. Where the file says whose they are (`<file>.ids.txt`, one identifier
    or name a line, or a text array inside .h5) that is checked. An .h5 file with one array per entity, [F] or
    [tokens, F] under its identifier or name, is put in order, and shorter token lists are filled up with zeros.
    """
    file = expanded(file)
    modalities.check_own(modality)
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
        _check_order(text.read(listed).removesuffix("\n").split("\n"), listed, identifiers, names)
    path = home.writable / "features" / f"{_stem(modality)}.npy"
    with places.replacing(path) as sink:
        np.save(sink, tensor.numpy())
    return Imported(path, tuple(tensor.shape), int((~presence(tensor)).sum()), unknown)


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

"""What the package itself holds of the public datasets: their graphs, and their names' features reduced to 128 numbers.

All of it lies in the folder `embedded` beside this file, which may be taken out (its NOTICE says whose the data are): then
the datasets are fetched. tools/embed.py writes the folder. Of each dataset NAME it holds two xz-compressed files, which
tell a damaged byte by themselves:

    NAME.graph.xz     .npz: train, valid, test, uint16 [n, 3] as (h, r, t) in the order of the public files; identifiers,
                      entities, relations, UTF-8 text with a line for each id
    NAME.names128.xz  .npy: int8 [N, 128]
"""

from __future__ import annotations

import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nsbench.datasets.reading import SPLITS, Graph
from nsbench.errors import Misuse

FOLDER = Path(__file__).with_name("embedded")
COMPONENTS = 128
STEPS = 128  # of the quantisation to the unit; a power of two, so that decoding is exact
RECIPE = f"entity names, all-MiniLM-L6-v2, centred, {COMPONENTS} principal components, int8 in steps of 1/{STEPS}"
"""What `names128` are, wherever features are identified."""


def has(name: str) -> bool:
    """Whether the package holds the graph of this dataset."""
    return (FOLDER / f"{name}.graph.xz").is_file()


def graph(name: str) -> Graph:
    """The graph of a public dataset, equal to that of its public files. Raises Misuse where it is not whole."""
    file = FOLDER / f"{name}.graph.xz"
    held = _read(file)
    try:
        identifiers, entities, relations = (
            held[key].tobytes().decode().split("\n") for key in ("identifiers", "entities", "relations")
        )
        triples = {split: held[split].astype(np.int64) for split in SPLITS}
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(file) from error
    return Graph(identifiers, entities, relations, triples, files={}, first_lines={})


def names128(name: str) -> Tensor:
    """float32 [N, 128]: what RECIPE says of a public dataset. Raises Misuse where it is not whole, or not there."""
    file = FOLDER / f"{name}.names128.xz"
    if not file.is_file():
        raise Misuse(
            f"this installation holds no names128 features of {name}; install nsbench with its folder "
            f"datasets/embedded, or encode them with 'nsbench data encode-names {name}' and use --features names"
        )
    return torch.from_numpy(_read(file).astype(np.float32) / STEPS)


def _read(file: Path) -> np.ndarray:
    """The array, or the arrays by name (numpy.load), of a compressed file."""
    try:
        return np.load(io.BytesIO(lzma.decompress(file.read_bytes())), allow_pickle=False)
    except (lzma.LZMAError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> Misuse:
    return Misuse(f"{file} is damaged; install nsbench again")

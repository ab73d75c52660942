"""Write datasets/embedded from the public files, each the same to the last byte every time.

python tools/embed.py PATH reads DB15K/, MKG-W/ and MKG-Y/ in folder PATH: what `nsbench data fetch` brings there, and
text_name_minilm.npy, the entity names encoded by nsbench.datasets.encoding, float16 [N, 384]. (Another processor may
round those otherwise, by a last bit.)
"""

from __future__ import annotations

import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nsbench.datasets import places
from nsbench.datasets.embedded import COMPONENTS, FOLDER, STEPS
from nsbench.datasets.reading import SPLITS, Graph, read_graph

ENCODED_NAMES = "text_name_minilm.npy"


def write(name: str, folder: Path) -> None:
    """Both files of one dataset."""
    for file in (*places.triple_files(folder.name), *places.name_files(folder.name)):
        if not file.is_at(folder / file.name):
            sys.exit(f"{folder / file.name} is not the file of the manifest; run nsbench data fetch {name}")
    graph, encoded = read_graph(folder), np.load(folder / ENCODED_NAMES).astype(np.float64)
    quantised, kept = reduced(encoded)
    sizes = compress(f"{name}.graph.xz", lambda sink: np.savez(sink, **arrays(graph)))
    sizes += compress(f"{name}.names128.xz", lambda sink: np.save(sink, quantised))
    print(f"{name}: {sizes} bytes; the {COMPONENTS} components keep {kept:.2%} of the variance")


def arrays(graph: Graph) -> dict[str, np.ndarray]:
    """What nsbench.datasets.embedded.graph reads."""
    texts = {"identifiers": graph.identifiers, "entities": graph.entities, "relations": graph.relations}
    held = {key: np.frombuffer("\n".join(lines).encode(), dtype=np.uint8) for key, lines in texts.items()}
    return held | {split: graph.triples[split].astype("<u2") for split in SPLITS}


def reduced(x: np.ndarray) -> tuple[np.ndarray, float]:
    """int8 [N, COMPONENTS] from float64 [N, F], and the share of the variance that is left after rounding."""
    x = x - x.mean(0)
    axes = np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :COMPONENTS]
    axes *= np.sign(axes[np.abs(axes).argmax(0), range(COMPONENTS)])  # else their signs are the library's whim
    steps = np.rint(x @ axes * STEPS)
    assert np.abs(steps).max() <= 127
    lost = np.square(x - steps / STEPS @ axes.T).sum() / np.square(x).sum()
    return steps.astype(np.int8), 1 - lost


def compress(name: str, save: Callable[[io.BytesIO], Any]) -> int:
    """Write what `save` writes, compressed; how many bytes it takes."""
    sink = io.BytesIO()
    save(sink)
    data = lzma.compress(sink.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    return (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, stem in places.FOLDERS.items():
        write(name, Path(sys.argv[1]) / stem)

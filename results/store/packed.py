"""A store as one file, NAME.nsb: what `nsbench runs pack` writes, and every --runs reads as it is.

It is a zip archive (`unzip -l NAME.nsb` lists it) of these members, packed by LZMA:

    index.json      {"nsbench runs": 1, "runs": {RUN: {"files": [...], "arrays": {...}}}}
    config.json     a JSON list of the texts of the runs' files, in the order of the index, null where a run has none;
                    likewise result.json and events.jsonl
    array-0.npy     an array of ranks.npz, once for all runs that share it: "arrays": {"triples": "array-0.npy"}
    ranks-1.npy     the ranks of R runs, as bytes [4 (lowest first), 2 (optimistic, what pessimistic adds to it), T, 2, R]:
                    "arrays": {"ranks": ["ranks-1.npy", number of the run, type]}
    RUN/FILE        any other file of a run

Every file of a run comes back byte for byte, but for ranks.npz, whose arrays come back. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import io
import json
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nsbench.errors import Misuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXTS = ("config.json", "result.json", "events.jsonl")
KEPT = (*TEXTS, "ranks.npz", "reference.safetensors", "model.safetensors", "sampler.safetensors")  # of a complete run
VERSION = 1
LARGEST = 2**34  # bytes that the file may unpack to


def write(file: BinaryIO, runs: Sequence[Path]) -> None:
    """Pack these run folders. Misuse if one's ranks.npz is damaged."""
    import numpy as np

    index: dict[str, dict[str, Any]] = {}
    texts: dict[str, list[str | None]] = {name: [] for name in TEXTS}
    members: dict[tuple[str, str, bytes], tuple[str, NDArray]] = {}  # type, shape, content -> name, array
    ranks: dict[str, tuple[str, list[NDArray]]] = {}  # type and shape, triples -> name, of each run
    with zipfile.ZipFile(file, "w") as archive:

        def add(member: str, content: bytes) -> None:
            info = zipfile.ZipInfo(member)  # dated 1980, so that the same runs give the same file
            info.compress_type = zipfile.ZIP_LZMA
            archive.writestr(info, content)

        for path in runs:
            files = [name for name in KEPT if (path / name).is_file()]
            arrays: dict[str, Any] = {}
            for name in files:
                if name not in (*TEXTS, "ranks.npz"):
                    add(f"{path.name}/{name}", (path / name).read_bytes())
            for name in TEXTS:
                texts[name].append((path / name).read_bytes().decode("utf-8", "surrogateescape") if name in files else None)
            stored = unzipped(path / "ranks.npz", (path / "ranks.npz").read_bytes()) if "ranks.npz" in files else {}
            for name, array in stored.items():
                kind = array.dtype.str
                if name == "ranks" and array.dtype.kind in "iu" and array.shape[1:] == (2, 2):
                    alike = ranks.setdefault(f"{kind}{array.shape}", (f"ranks-{len(ranks)}.npy", []))
                    arrays[name] = [alike[0], len(alike[1]), kind]
                    alike[1].append(array)
                else:
                    key = kind, str(array.shape), array.tobytes()
                    arrays[name] = members.setdefault(key, (f"array-{len(members)}.npy", array))[0]
            index[path.name] = {"files": files, "arrays": arrays}
        for name, parts in texts.items():
            add(name, json.dumps(parts, indent=0).encode())
        for member, array in [*members.values(), *((name, _split(np.stack(alike))) for name, alike in ranks.values())]:
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            add(member, stream.getvalue())
        add("index.json", json.dumps({"nsbench runs": VERSION, "runs": index}, indent=0).encode())


def zipped(arrays: Mapping[str, NDArray]) -> bytes:
    """An .npz of these arrays."""
    import numpy as np

    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def unzipped(path: Path, content: bytes) -> dict[str, NDArray]:
    """The arrays of an .npz that lies at `path`. Misuse if it is damaged."""
    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # numpy, zipfile and zlib raise of every kind
        raise Misuse(f"{path} is damaged ({error}); delete {path.parent} and run it again") from None


def _split(ranks: NDArray) -> NDArray:
    """Ranks [R, T, 2, 2] as the bytes of a ranks-N.npy, the bytes of alike numbers beside each other."""
    import numpy as np

    parts = np.stack([ranks[..., 0], ranks[..., 1] - ranks[..., 0]]).transpose(0, 2, 3, 1)  # [2, T, 2 sides, R]
    little = np.ascontiguousarray(parts, parts.dtype.newbyteorder("<"))
    return np.moveaxis(little.view(np.uint8).reshape(*parts.shape, parts.itemsize), -1, 0)


def _joined(split: NDArray, kind: str) -> NDArray:
    """Ranks [R, T, 2, 2] again."""
    import numpy as np

    little = np.dtype(kind).newbyteorder("<")
    parts = np.ascontiguousarray(np.moveaxis(split, 0, -1)).view(little)[..., 0]
    ranks = np.stack([parts[0], parts[0] + parts[1]], axis=-1).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(ranks, dtype=kind)


class Pack:
    """A packed store; each member is unpacked when it is first asked for. Misuse wherever it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unpacked: dict[str, Any] = {}
        with self._sound():
            index = json.loads(self._member("index.json"))
            if index["nsbench runs"] != VERSION:
                raise ValueError(f"it has version {index['nsbench runs']} of the format, and this nsbench reads {VERSION}")
            self.runs: dict[str, dict[str, Any]] = dict(sorted(index["runs"].items()))
            self._place = {name: i for i, name in enumerate(index["runs"])}
            if wrong := [name for name in self.runs if Path(name).name != name or name == ".."]:
                raise ValueError(f"it calls a run {wrong[0]!r}")

    def content(self, run: str, name: str) -> bytes:
        """A file of a run. FileNotFoundError where it has none of that name."""
        with self._sound():
            if run not in self.runs or name not in self.runs[run]["files"]:
                raise FileNotFoundError(f"{self.path / run} has no {name}")
            if name == "ranks.npz":
                return zipped(self.arrays(run))
            if name not in TEXTS:
                return self._member(f"{run}/{name}")
            texts = self._once(name, lambda: json.loads(self._member(name)))
            return texts[self._place[run]].encode("utf-8", "surrogateescape")

    def arrays(self, run: str) -> dict[str, NDArray]:
        """What is in the run's ranks.npz, read-only."""
        with self._sound():
            found = {}
            for name, where in self.runs[run]["arrays"].items():
                member, place, kind = (where, ..., None) if isinstance(where, str) else where
                found[name] = self._once(member, partial(self._array, member, kind))[place]
            return found

    def _array(self, member: str, kind: str | None) -> NDArray:
        import numpy as np

        stored = np.load(io.BytesIO(self._member(member)), allow_pickle=False)
        array = stored if kind is None else _joined(stored, kind)
        array.flags.writeable = False
        return array

    def _once(self, member: str, unpack: Callable[[], Any]) -> Any:
        if member not in self._unpacked:
            self._unpacked[member] = unpack()
        return self._unpacked[member]

    def _member(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            if sum(info.file_size for info in archive.infolist()) > LARGEST:
                raise ValueError(f"it claims to hold more than {LARGEST} bytes")
            return archive.read(name)

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, Misuse):
            raise
        except Exception as error:  # zipfile, lzma, json and numpy raise of every kind
            raise Misuse(f"{self.path} is no packed store of runs, or damaged ({error}); copy or pack it again") from None


def packed(store: Path) -> Pack | None:
    """The packed store in this file; None if it is no file."""
    try:
        status = store.stat()
    except OSError:
        return None
    return _opened(store, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


@lru_cache(maxsize=8)
def _opened(store: Path, changed: int, size: int) -> Pack:
    return Pack(store)

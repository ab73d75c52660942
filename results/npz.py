"""Arrays from .npz files, of which thousands are read for one table. What many of them share is unpacked once.

numpy.load spends most of its time on the headers of three small arrays and on test triples that are the same in every
run. Here an array is known by its packed bytes: where those are equal, so is the array, and nothing needs unpacking.
"""

from __future__ import annotations

import functools
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x93NUMPY\x01\x00"  # of a header whose length has two bytes


def read(path: Path, names: Sequence[str], shared: Collection[str] = ()) -> list[NDArray]:
    """The arrays of these names, read-only; those in `shared` are kept for the next file that holds the same.

    Raises OSError, KeyError (no such array), ValueError, zipfile.BadZipFile or zlib.error.
    """
    data = path.read_bytes()
    arrays = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in names:
            info = archive.getinfo(f"{name}.npy")
            unpack = _unpacked_once if name in shared else _unpacked
            arrays.append(unpack(info.compress_type, info.CRC, _packed(data, info)))
    return arrays


def _packed(data: bytes, info: zipfile.ZipInfo) -> bytes:
    """A member as it lies in the archive, behind its own header: 30 bytes, its name, and an extra field."""
    if data[info.header_offset : info.header_offset + 4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no member where {info.filename} should be")
    name, extra = struct.unpack_from("<HH", data.ljust(info.header_offset + 30), info.header_offset + 26)
    start = info.header_offset + 30 + name + extra
    return data[start : start + info.compress_size]


def _unpacked(method: int, checksum: int, packed: bytes) -> NDArray:
    if method not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        raise ValueError(f"it is compressed by method {method}, which numpy does not write")
    content = zlib.decompress(packed, -zlib.MAX_WBITS) if method == zipfile.ZIP_DEFLATED else packed
    if zlib.crc32(content) != checksum:
        raise zipfile.BadZipFile("its checksum is another one")
    return _array(content)


_unpacked_once = functools.lru_cache(maxsize=64)(_unpacked)


def _array(content: bytes) -> NDArray:
    """The array of an .npy file."""
    start = len(MAGIC) + 2 + int.from_bytes(content[8:10], "little")
    if content.startswith(MAGIC):
        shape, fortran, dtype = _header(content[:start])
        if not fortran and not dtype.hasobject:
            return np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    array.flags.writeable = False
    return array


@functools.lru_cache(maxsize=64)
def _header(text: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type: the same few in all runs, and slow to parse."""
    stream = io.BytesIO(text)
    np.lib.format.read_magic(stream)
    return np.lib.format.read_array_header_1_0(stream)

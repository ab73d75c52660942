"""Arrays as numpy.load gives them, whatever the file holds, and never another file's."""

import zipfile
import zlib

import numpy as np
import pytest

from nsbench.results import npz

ERRORS = (OSError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)
ARRAYS = {
    "ranks": np.arange(24, dtype=np.int32).reshape(6, 2, 2),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "swapped": np.arange(5, dtype=">i4"),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.int64),
    "words": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    for shared in ((), tuple(ARRAYS)):
        for name, array in zip(ARRAYS, npz.read(tmp_path / "a.npz", tuple(ARRAYS), shared)):
            assert (array.dtype, array.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
            assert np.array_equal(array, ARRAYS[name])
            assert not array.flags.writeable


def test_what_is_equal_is_shared_and_what_differs_is_not(tmp_path):
    for name, last in (("a", 7), ("b", 7), ("c", 8)):
        np.savez_compressed(tmp_path / f"{name}.npz", triples=np.array([1, 2, last]), ranks=np.array([last]))
    (a, r), (b, s), (c, _) = (npz.read(tmp_path / f"{x}.npz", ("triples", "ranks"), ("triples",)) for x in "abc")
    assert a is b
    assert r is not s
    assert c.tolist() == [1, 2, 8]


def test_a_changed_byte_never_yields_other_figures(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"ranks": rng.integers(1, 99, (8, 2, 2)), "triples": rng.integers(0, 99, (8, 3))}
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **arrays)
    npz.read(path, tuple(arrays), ("triples",))  # so that the sound array is at hand
    sound = path.read_bytes()
    refused = 0
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = npz.read(path, tuple(arrays), ("triples",))
        except ERRORS:
            refused += 1
        else:
            assert all(np.array_equal(x, arrays[name]) for name, x in zip(arrays, found)), place
    assert refused > len(sound) / 2


@pytest.mark.parametrize("length", [0, 1, 40, 100, 300])
def test_a_cut_file_is_refused(tmp_path, length):
    np.savez(tmp_path / "a.npz", ranks=np.arange(100))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:length])
    with pytest.raises(ERRORS):
        npz.read(tmp_path / "a.npz", ("ranks",))


def test_other_contents_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", ranks=np.array([{"code": "would run"}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        npz.read(tmp_path / "a.npz", ("ranks",))
    with pytest.raises(KeyError):
        npz.read(tmp_path / "a.npz", ("triples",))
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("ranks.npy", b"x" * 1000)
    with pytest.raises(ValueError, match="method"):
        npz.read(tmp_path / "b.npz", ("ranks",))

"""The cache of a store: as fast as it likes, and never to be noticed in a figure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nsbench.results import cache, load
from nsbench.results import store as stores


@pytest.fixture(autouse=True)
def kept_at(tmp_path, monkeypatch):
    """An empty cache that keeps stores of any size, and files of any age."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALLEST", 1)
    monkeypatch.setattr(cache, "SETTLED", -(10**9))
    return tmp_path / "cache" / "nsbench" / "stores"


@pytest.fixture
def reading(monkeypatch):
    """Names of the folders whose result.json is read."""
    names = []
    text = stores._text
    monkeypatch.setattr(stores, "_text", lambda path: names.append(path.name) or text(path))
    return names


def content(frame):
    return frame.to_dict("records"), frame.attrs


def uncached(store, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
        patch.setattr(cache, "SMALLEST", 10**9)
        return content(load(store))


def test_a_second_reading_opens_no_run_and_gives_the_same(store, run, reading, kept_at):
    run("uniform", seeds=range(3), changed={"note": "zwei Worte, ü, \u2028 and \n a line"})
    first = content(load(store))
    assert len(reading) == 3
    reading.clear()
    assert content(load(store)) == first
    assert content(load(os.path.relpath(store)))[0][0]["mrr"] == first[0][0]["mrr"]
    assert reading == []
    assert len(list(kept_at.iterdir())) == 1


def in_place(path):
    """Another figure in as many bytes."""
    text = (path / "result.json").read_text()
    assert '"steps": 6000' in text
    (path / "result.json").write_text(text.replace('"steps": 6000', '"steps": 7000'))


def with_old_times(path):
    before = (path / "result.json").stat()
    in_place(path)
    os.utime(path / "result.json", ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    (path / "new").write_text((path / "result.json").read_text().replace('"seed": 1', '"seed": 9'))
    os.replace(path / "new", path / "result.json")


CHANGES = {
    "in place": in_place,
    "in place, times put back": with_old_times,
    "replaced": replaced,
    "not JSON": lambda path: (path / "result.json").write_text("{"),
    "no result": lambda path: (path / "result.json").unlink(),
    "ranks cut": lambda path: (path / "ranks.npz").write_bytes((path / "ranks.npz").read_bytes()[:-100]),
    "no ranks": lambda path: (path / "ranks.npz").unlink(),
    "folder gone": lambda path: [file.unlink() for file in path.iterdir()] and path.rmdir(),
    "folder renamed": lambda path: path.rename(path.with_name("other")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(store, run, change, reading, monkeypatch, tmp_path):
    changed = run("uniform", seeds=range(3))[1]
    before = content(load(store))
    time.sleep(0.02)  # more than a tick of the file system's clock
    CHANGES[change](changed)
    reading.clear()
    found = content(load(store))
    assert set(reading) <= {changed.name, "other"}
    assert found == uncached(store, monkeypatch, tmp_path)
    assert found != before
    assert content(load(store)) == found


def test_a_new_run_is_read_and_the_others_are_not(store, run, reading):
    run("uniform", seeds=range(3))
    load(store)
    reading.clear()
    new = run("uniform", seed=7)
    assert len(load(store)) == 4
    assert reading == [new.name]
    reading.clear()
    assert len(load(store)) == 4
    assert reading == []


def test_twins_are_found_in_a_cache_too(store, run):
    path = run("uniform", seeds=range(2))[0]
    (store / "zz-copy").mkdir()
    for file in path.iterdir():
        (store / "zz-copy" / file.name).write_bytes(file.read_bytes())
    for _ in range(2):
        assert load(store).attrs["skipped"] == {"zz-copy": f"the same run as {path.name}"}


def test_no_damage_shows(store, run, kept_at, monkeypatch, tmp_path):
    run("uniform", seeds=range(2))
    load(store)
    expected = uncached(store, monkeypatch, tmp_path)
    (file,) = kept_at.iterdir()
    sound = file.read_bytes()
    first, runs, *texts = sound.split(b"\n")
    head = json.loads(first)
    rng = np.random.default_rng(0)
    damaged = [b"", b"\n", b"{", b"[" * 100_000, b"null\n", sound[:-1], sound[: len(sound) // 2], sound + b"\n", sound[1:]]
    damaged += [b"\n".join([json.dumps(head | {"format": 0}).encode(), runs, *texts])]
    damaged += [b"\n".join([json.dumps(head | {"store": "/elsewhere"}).encode(), runs, *texts])]
    damaged += [b"\n".join([first, runs, *reversed(texts)])]
    for content_of_runs in (b"", b"{}", b"[]", b"[1]", b"[[]]", b'[["a",1],["b",2]]', b'[["a"],["b"]]', b"[" * 100_000):
        rest = b"\n".join([content_of_runs, *texts])  # with a right checksum, as if an older version had written it
        damaged.append(json.dumps(cache._head(store, rest)).encode() + b"\n" + rest)
    for place in rng.integers(len(sound), size=40):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for broken in damaged:
        file.write_bytes(broken)
        assert content(load(store)) == expected, broken[:80]
        assert content(load(store)) == expected
        assert file.read_bytes() == sound, broken[:80]  # mended


def test_a_cache_that_cannot_be_written_is_none(store, run, kept_at, monkeypatch, tmp_path):
    run("uniform", seeds=range(2))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load(store)) == 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert len(load(store)) == 2
    assert not kept_at.exists()


def test_nothing_is_written_into_the_store(store, run):
    run("uniform", seeds=range(2))
    before = {path: path.stat().st_mtime_ns for path in [store, *store.rglob("*")]}
    load(store)
    load(store)
    assert {path: path.stat().st_mtime_ns for path in [store, *store.rglob("*")]} == before


def test_files_that_may_still_change_unseen_are_not_kept(store, run, kept_at, reading, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED", 3600 * 10**9)
    run("uniform", seeds=range(2))
    load(store)
    assert not kept_at.exists()
    load(store)
    assert len(reading) == 4


def test_small_stores_are_not_kept(store, run, kept_at, monkeypatch):
    monkeypatch.setattr(cache, "SMALLEST", 3)
    run("uniform", seeds=range(2))
    load(store)
    assert not kept_at.exists()


def test_stores_that_are_gone_are_forgotten(store, run, kept_at, tmp_path):
    run("uniform", seeds=range(2))
    load(store)
    store.rename(tmp_path / "moved")
    (kept_at / "no cache").write_text("of ours")
    load(tmp_path / "moved")
    assert sorted(path.name for path in kept_at.iterdir()) == sorted([cache._file(tmp_path / "moved").name, "no cache"])


def test_two_processes_at_once(store, run, kept_at):
    """Each drops what the other has written and writes its own, while the other is reading."""
    run("uniform", seeds=range(12))
    code = f"""
from pathlib import Path
from nsbench.results import cache, load
cache.SMALLEST, cache.SETTLED = 1, -(10**9)
store = Path({str(store)!r})
for _ in range(25):
    frame = load(store)
    assert sorted(frame["seed"]) == list(range(12)), frame
    assert not frame.attrs["skipped"]
    cache._file(store).unlink(missing_ok=True)
"""
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert not list(kept_at.glob("*.tmp"))

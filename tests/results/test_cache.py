"""The cache of a store: as fast as it likes, and never to be noticed in a figure."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nsbench.results import cache, contrasts, load
from nsbench.results import store as stores
from nsbench.results.comparison import comparison


@pytest.fixture(autouse=True)
def kept_at(tmp_path, monkeypatch):
    """An empty cache that keeps stores of any size, and files of any age."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "WORTH_CACHING", 1)
    monkeypatch.setattr(cache, "SETTLED", -(10**9))
    return tmp_path / "cache" / "nsbench"


@pytest.fixture
def reading(monkeypatch):
    """Names of the folders whose result.json is read."""
    names = []
    read = stores._read
    monkeypatch.setattr(stores, "_read", lambda path: names.append(path.name) or read(path))
    return names


def content(frame):
    return frame.to_dict("records"), frame.attrs


def uncached(store, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
        patch.setattr(stores, "WORTH_CACHING", 10**9)
        return content(load(store))


def test_a_second_reading_opens_no_run_and_gives_the_same(store, run, reading, kept_at):
    run("uniform", seeds=range(3), changed={"note": "zwei Worte, ü, \u2028 and \n a line"})
    first = load(store)
    assert len(reading) == 3
    reading.clear()
    again = load(store)
    assert again.drop(columns="result").to_dict("records") == first.drop(columns="result").to_dict("records")
    assert load(os.path.relpath(store))["mrr"].tolist() == first["mrr"].tolist()
    assert reading == []
    assert content(again) == content(first)
    assert len(reading) == 3  # what is in no column, only when it is looked into
    assert len(list((kept_at / "runs").iterdir())) == 1


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


def wait_for_the_clock(path):
    """Until a file that is written now gets another time than those of the run have: the file system's clock ticks."""
    latest = max(max(file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in path.iterdir())
    clock = path.parent.parent / "clock"
    for _ in range(10_000):
        clock.write_text("")
        if clock.stat().st_ctime_ns > latest:
            return
        time.sleep(0.001)
    raise AssertionError("the file system's clock stands")


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
    wait_for_the_clock(changed)
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
    (file,) = (kept_at / "runs").iterdir()
    sound = file.read_bytes()
    first, rest = sound.split(b"\n")
    head = json.loads(first)
    rng = np.random.default_rng(0)
    damaged = [b"", b"\n", b"{", b"[" * 100_000, b"null\n", sound[:-1], sound[: len(sound) // 2], sound + b"\n", sound[1:]]
    for other in ({"code": "older"}, {"store": "/elsewhere"}, {"checksum": 0}):
        damaged.append(json.dumps(head | other).encode() + b"\n" + rest)
    for place in rng.integers(len(sound), size=40):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for broken in damaged:
        file.write_bytes(broken)
        assert content(load(store)) == expected, broken[:80]
        assert content(load(store)) == expected
        assert file.read_bytes() == sound, broken[:80]  # mended


def test_what_other_code_wrote_counts_for_nothing(tmp_path):
    """The files of nsbench.results and the versions of what computes decide what is kept; a process reads them once."""
    keeping = "cache.keep('runs', Path('.'), {'a': 1})"
    asking = "print(cache.read('runs', Path('.')))"
    root = tmp_path / "nsbench"
    root.mkdir()
    for folder in ("nsbench", "samplers", "results"):
        shutil.copytree(Path(__file__).parents[2] / folder, root / folder, ignore=shutil.ignore_patterns("*-*"))

    def said(code):
        code = f"from pathlib import Path; from nsbench.results import cache; {code}"
        return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout

    said(keeping)
    assert said(asking) == "{'a': 1}\n"
    (root / "results" / "statistics.py").write_text("# another formula\n")
    assert said(asking) == "{}\n"


# Contrasts


@pytest.fixture
def computing(monkeypatch):
    """How many contrasts are computed."""
    computed = []
    compute = contrasts._computed

    def counted(grid, pairs, *how):
        computed.extend(pairs)
        return compute(grid, pairs, *how)

    monkeypatch.setattr(contrasts, "_computed", counted)
    return computed


def record_of(store, **how):
    (row,) = [row for row in comparison(store, **how).rows if row.label.startswith("dhns")]
    return row.cells[0].record


def test_a_second_table_computes_nothing_and_says_the_same(store, run, computing, monkeypatch, tmp_path):
    run("uniform", seeds=range(5), arrays={"seen": np.arange(60) > 9})
    run("dhns", seeds=range(5), quality=1.3)
    first = record_of(store)
    assert len(computing) == 1
    assert record_of(store) == first
    assert record_of(store, baseline="uniform") == first
    assert len(computing) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert record_of(store) == first
    assert "seen_p_holm" in first


def test_claims_add_their_intervals_to_what_a_table_left(store, run, computing):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=1.3)
    assert "bootstrap_low" not in record_of(store)
    claimed = record_of(store, layout="claims")
    assert len(computing) == 2
    assert record_of(store, layout="claims") == claimed
    assert "bootstrap_low" in claimed
    assert len(computing) == 2


def other_ranks(path):
    with np.load(path / "ranks.npz") as arrays:
        held = dict(arrays)
    held["ranks"] = held["ranks"][::-1]
    np.savez_compressed(path / "ranks.npz", **held)


@pytest.mark.parametrize("sampler", ["uniform", "dhns"])
def test_a_contrast_of_other_ranks_is_another(store, run, computing, sampler):
    """The same MRR of a run, from other triples."""
    changed = {name: run(name, seeds=range(5), quality=quality)[1] for name, quality in (("uniform", 1.0), ("dhns", 1.3))}
    before = record_of(store)
    wait_for_the_clock(changed[sampler])
    other_ranks(changed[sampler])
    after = record_of(store)
    assert len(computing) == 2
    assert after["difference"] == pytest.approx(before["difference"], abs=1e-12)
    assert after["p"] != before["p"]


def test_the_triples_of_seen_entities_may_be_recorded_later(store, run, computing):
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=1.3)
    assert "seen_p_holm" not in record_of(store)
    run("sans", seed=0, arrays={"seen": np.arange(60) > 9})
    assert "seen_p_holm" in record_of(store)
    assert len(computing) == 2


def test_contrasts_of_files_that_may_still_change_are_not_kept(store, run, computing, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED", 3600 * 10**9)
    run("uniform", seeds=range(5))
    run("dhns", seeds=range(5), quality=1.3)
    record_of(store)
    record_of(store)
    assert len(computing) == 2


def test_contrasts_do_not_grow_without_end(store, run, kept_at, monkeypatch):
    monkeypatch.setattr(contrasts, "REMEMBERED", 2)
    for sampler in ("uniform", "dhns", "sans", "kbgan"):
        run(sampler, seeds=range(5))
    record_of(store, where={"sampler": "uniform,dhns"})
    record_of(store)
    assert len(cache.read("contrasts", store)) == 2


# Where it lies


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
    monkeypatch.setattr(stores, "WORTH_CACHING", 3)
    run("uniform", seeds=range(2))
    load(store)
    assert not kept_at.exists()


def test_stores_that_are_gone_are_forgotten(store, run, kept_at, tmp_path):
    run("uniform", seeds=range(2))
    load(store)
    store.rename(tmp_path / "moved")
    (kept_at / "runs" / "no cache").write_text("of ours")
    load(tmp_path / "moved")
    names = sorted(path.name for path in (kept_at / "runs").iterdir())
    assert names == sorted([cache._file("runs", tmp_path / "moved").name, "no cache"])


def test_two_processes_at_once(store, run, kept_at):
    """Each drops what the other has written and writes its own, while the other is reading."""
    run("uniform", seeds=range(12))
    code = f"""
from pathlib import Path
from nsbench.results import cache, load, store as stores
stores.WORTH_CACHING, cache.SETTLED = 1, -(10**9)
store = Path({str(store)!r})
for _ in range(25):
    frame = load(store)
    assert sorted(frame["seed"]) == list(range(12)), frame
    assert not frame.attrs["skipped"]
    cache._file("runs", store).unlink(missing_ok=True)
"""
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert not list(kept_at.rglob("*.tmp"))

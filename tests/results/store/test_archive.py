"""Packing and merging of run stores: nothing lost, nothing overwritten, nothing let out of its folder."""

import io
from pathlib import Path

import numpy as np
import pytest

from nsbench.errors import Misuse, RunFailed
from nsbench.results import load
from nsbench.results.store.archive import merge, pack


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_a_packed_store_comes_back(run, store, tmp_path):
    run("uniform", seeds=(0, 1))
    (next(store.iterdir()) / "reference.safetensors").write_bytes(b"tensors")
    before = content(store)
    (store / "begun").mkdir()
    (store / "begun" / "config.json").write_text("{}")
    (next(iter(sorted(store.iterdir()))) / "lock").write_text("")
    names = pack(store, tmp_path / "runs.nsb")
    assert len(names) == 2
    found = merge(tmp_path / "runs.nsb", tmp_path / "elsewhere" / "runs")
    assert sorted(found.added) == sorted(names)
    after = content(tmp_path / "elsewhere" / "runs")
    assert before.keys() == after.keys()
    for name in before:
        if name.endswith("ranks.npz"):  # zipped anew
            one, other = np.load(io.BytesIO(before[name])), np.load(io.BytesIO(after[name]))
            assert all(np.array_equal(one[array], other[array]) for array in one)
        else:
            assert before[name] == after[name]
    assert not list(tmp_path.rglob(".merge-*"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_merging_twice_changes_nothing_and_keeps_what_is_there(run, store, tmp_path):
    run("uniform", seeds=(0, 1))
    pack(store, tmp_path / "a.nsb")
    kept = next(iter(sorted(store.iterdir())))
    (kept / "events.jsonl").write_text("ours\n")
    before = content(store)
    found = merge(tmp_path / "a.nsb", store)
    assert (found.added, len(found.present)) == ([], 2)
    assert content(store) == before


def test_a_folder_merges_like_an_archive_and_unfinished_runs_are_not_overwritten(run, store, tmp_path):
    run("uniform", seeds=(0, 1))
    first, second = sorted(store.iterdir())
    other = tmp_path / "other"
    (other / first.name).mkdir(parents=True)
    (other / first.name / "checkpoint.pt").write_bytes(b"half-way")
    found = merge(store, other)
    assert found.added == [second.name]
    assert "unfinished run of that name" in found.refused[first.name]
    assert (other / first.name / "checkpoint.pt").read_bytes() == b"half-way"
    assert len(load(other)) == 1


def test_damaged_runs_are_named_and_left_out(run, store, tmp_path):
    run("uniform", seeds=(0,))
    (good,) = store.iterdir()
    (store / "broken").mkdir()
    (store / "broken" / "result.json").write_text("{")
    (good / "run.sh").write_text("no file of a run")
    found = merge(store, tmp_path / "other")
    assert found.added == [good.name]
    assert list(found.refused) == ["broken"]
    assert [path.name for path in (tmp_path / "other").iterdir()] == [good.name]
    assert set(content(tmp_path / "other")) == {name for name in content(good.parent) if name.startswith(good.name)} - {
        f"{good.name}/run.sh"
    }


def test_refusals(store, tmp_path):
    with pytest.raises(Misuse, match="there is nothing to pack"):
        pack(store, tmp_path / "a.nsb")
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "nowhere.nsb"):
        with pytest.raises(Misuse, match=f"{nothing} holds no run"):
            merge(nothing, tmp_path / "new" / "runs")
    (tmp_path / "text.nsb").write_text("no archive")
    with pytest.raises(Misuse, match=r"text\.nsb"):
        merge(tmp_path / "text.nsb", tmp_path / "new" / "runs")
    assert not (tmp_path / "new" / "runs").exists()


def test_no_place_for_the_archive(run, store, tmp_path):
    run("uniform", seeds=(0,))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="cannot write"):
        pack(store, tmp_path / "file" / "a.nsb")


def test_a_run_that_is_there_under_another_name_does_not_come_again(run, store, tmp_path):
    made = run("uniform", dataset="old", fingerprint="a" * 64, folder="uniform-old-00000001")
    pack(store, tmp_path / "runs.nsb")
    made.rename(tmp_path / "moved")
    run("uniform", dataset="new", fingerprint="a" * 64, folder="uniform-new-00000001")
    assert merge(tmp_path / "runs.nsb", store) == ([], ["uniform-old-00000001"], {})

"""Packed stores: everything comes back, whatever it was, and a damaged file is one sentence."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nsbench.cli import cli
from nsbench.errors import Misuse
from nsbench.results.store import Run, events, read
from nsbench.results.store.archive import merge, pack
from nsbench.results.store.packed import Pack, write

GOLDEN = Path(__file__).with_name("golden.nsb")  # written by the first version of the format; must be read for ever
SHIPPED = Path(__file__).parents[3] / "results" / "runs"


def test_the_golden_file():
    found = read(GOLDEN)
    assert [(run.name, run["sampler"], run["seed"]) for run in found.runs] == [
        ("bernoulli-transe-toy-s1-00000001", "bernoulli", 1),
        ("uniform-transe-toy-s0-00000000", "uniform", 0),
    ]
    mrr = (1 / 2 + 1 / 2 + 2 / 601 + 1 / 70000) / 4, (1 + 1 / 4 + 1 / 3 + 1 / 3) / 4
    assert [run["mrr"] for run in found.runs] == pytest.approx(mrr)
    first, second = (run.ranks() for run in found.runs)
    assert first.ranks.tolist() == [[[1, 3], [2, 2]], [[300, 301], [70000, 70000]]]
    assert first.ranks.dtype == np.int32
    assert second.ranks.tolist() == [[[1, 1], [4, 4]], [[3, 3], [3, 3]]]
    assert first.candidates.tolist() == second.candidates.tolist() == [[70000, 70000], [70000, 70000]]
    assert first.triples.tolist() == [[0, 0, 1], [2, 1, 70001]]
    assert first.seen.tolist() == [True, False]
    assert second.seen is None
    assert events(found.runs[0].path) == [{"step": 10}, {"step": 20}]


texts = st.binary(max_size=40) | st.text(max_size=20).map(str.encode)
plain = st.sampled_from([np.int8, np.int32, np.uint16, np.int64, np.float32, np.bool_, ">i4"])
free = plain.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
integers = st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.uint64, ">i2"])
ranked = st.tuples(integers, st.integers(0, 4)).flatmap(lambda drawn: arrays(drawn[0], (drawn[1], 2, 2)))
stored = st.dictionaries(st.sampled_from(["candidates", "triples", "more"]), free)
npz = st.builds(lambda rest, own: rest | own, stored, st.fixed_dictionaries({}, optional={"ranks": ranked | free}))
files = ("config.json", "result.json", "events.jsonl", "model.safetensors")
folder = st.fixed_dictionaries({}, optional={**dict.fromkeys(files, texts), "ranks.npz": npz})


@settings(max_examples=25)
@given(st.dictionaries(st.from_regex(r"\A[a-z][a-zäß .-]{0,6}[a-z]\Z"), folder, min_size=1, max_size=4))
def test_everything_comes_back(tmp_path_factory, runs):
    place = tmp_path_factory.mktemp("packed")
    for name, files in runs.items():
        (place / name).mkdir()
        for file, content in files.items():
            if file == "ranks.npz":
                np.savez(place / name / file, **content)
            else:
                (place / name / file).write_bytes(content)
    with open(place / "all.nsb", "wb") as file:
        write(file, [place / name for name in runs])
    found = Pack(place / "all.nsb")
    assert set(found.runs) == set(runs)
    for name, files in runs.items():
        assert set(found.runs[name]["files"]) == set(files)
        for file, content in files.items():
            if file != "ranks.npz":
                assert found.content(name, file) == content
                continue
            with np.load(io.BytesIO(found.content(name, file))) as zipped:
                assert set(zipped.files) == set(content)
            for key, array in content.items():
                again = found.arrays(name)[key]
                assert (again.dtype, again.shape, again.tobytes()) == (array.dtype, array.shape, array.tobytes())
    shutil.rmtree(place)


def test_a_store_reads_alike_from_its_folder_and_from_its_file(small_store, tmp_path):
    for path in small_store.iterdir():
        (path / "events.jsonl").write_text('{"step": 1}\n')
    pack(small_store, tmp_path / "all.nsb")
    first = (tmp_path / "all.nsb").read_bytes()
    pack(small_store, tmp_path / "all.nsb")
    assert (tmp_path / "all.nsb").read_bytes() == first
    folder, file = read(small_store), read(tmp_path / "all.nsb")
    assert [run.name for run in file.runs] == [run.name for run in folder.runs]
    for one, other in zip(folder.runs, file.runs):
        assert (one.values, one.record) == (other.values, other.record)
        assert all(np.array_equal(a, b) for a, b in zip(one.ranks()[:3], other.ranks()[:3]))
        assert events(one.path) == events(other.path)
    with pytest.raises(Misuse, match=r"all\.nsb"):
        pack(tmp_path / "all.nsb", tmp_path / "again.nsb")


def test_a_damaged_file_is_one_sentence(tmp_path):
    """Wherever a byte is another one or the file ends: it is refused, or what is read is what was written."""
    whole = GOLDEN.read_bytes()

    def everything(path):
        opened = Pack(path)
        return [
            (name, opened.content(name, "result.json"), [array.tobytes() for array in opened.arrays(name).values()])
            for name in opened.runs
        ]

    expected, path = everything(GOLDEN), tmp_path / "damaged.nsb"
    refused = []
    for place in [*range(0, len(whole), 23), len(whole) - 1]:
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            path.write_bytes(damaged)
            try:
                found = everything(path)
            except Misuse as refusal:
                refused.append(str(refusal))
            else:
                assert found == expected
    assert len(refused) > len(whole) // 23
    assert all(str(path) in sentence for sentence in refused)


@pytest.mark.parametrize(
    "index",
    [
        {"nsbench runs": 2, "runs": {}},
        {"runs": {}},
        [],
        {"nsbench runs": 1, "runs": {"../outside": {"files": [], "arrays": {}}}},
        {"nsbench runs": 1, "runs": {"..": {"files": [], "arrays": {}}}},
        {"nsbench runs": 1, "runs": 3},
    ],
)
def test_an_index_of_another_kind_is_refused(tmp_path, index):
    with zipfile.ZipFile(tmp_path / "other.nsb", "w") as archive:
        archive.writestr("index.json", json.dumps(index))
    with pytest.raises(Misuse, match=r"other\.nsb"):
        merge(tmp_path / "other.nsb", tmp_path / "runs")
    assert not (tmp_path / "outside").exists()


def test_arrays_are_never_unpickled(tmp_path, run):
    path, array = run(), io.BytesIO()
    np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    with open(tmp_path / "good.nsb", "wb") as file:
        write(file, [path])
    with zipfile.ZipFile(tmp_path / "good.nsb") as good, zipfile.ZipFile(tmp_path / "bad.nsb", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, array.getvalue() if name.startswith("ranks-") else good.read(name))
    with pytest.raises(Misuse, match=r"bad\.nsb"):
        Run(tmp_path / "bad.nsb" / path.name, {}, {}, {}).ranks()


@pytest.mark.parametrize(
    "words",
    [
        "runs rm --yes --where seed=0",
        f"runs merge {GOLDEN}",
        "status classic",
        "run --sampler uniform --kge transe --dataset planted:small",
    ],
)
def test_nothing_is_written_into_a_packed_store(tmp_path, words):
    store = shutil.copy(GOLDEN, tmp_path / "all.nsb")
    said = CliRunner().invoke(cli, [*words.split(), "--runs", str(store)])
    assert isinstance(said.exception, Misuse)
    assert "all.nsb" in str(said.exception)
    assert store.read_bytes() == GOLDEN.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["all.nsb"]


COUNTS = {"baselines": 36, "one_factor": 24, "classic": 90, "pairs": 15, "variants": 7}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_the_shipped_stores_are_whole(name, count):
    found = read(SHIPPED / f"{name}.nsb")
    assert (len(found.runs), found.skipped) == (count, {})
    for run in found.runs:
        optimistic, pessimistic = run.ranks().ranks.astype(float).transpose(2, 0, 1)
        assert np.mean(2 / (optimistic + pessimistic)) == pytest.approx(run["mrr"])
        if run.config["protocol"]["version"] == 1:  # written by a version that had none, and added since
            assert isinstance(run.config["proposed"], dict)
        assert events(run.path)
    assert f"## {name}.nsb: {count} runs" in (SHIPPED / "README.md").read_text()

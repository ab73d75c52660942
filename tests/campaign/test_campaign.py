"""Which runs a plan has, and runs from Python."""

import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nsbench
from nsbench import machine
from nsbench.campaign import plan as campaign
from nsbench.campaign.attempt import attempt
from nsbench.commands.run import parse_seeds
from nsbench.errors import FailedBefore
from nsbench.files import store_folder
from nsbench.runs.result import Result
from nsbench.runs.runner import RunOptions
from nsbench.samplers.uniform import Uniform

QUICK = {"protocol.steps": 4, "protocol.validate_every": 2, "protocol.width": 8}


def test_run_from_python_returns_the_result(tmp_path: Path) -> None:
    stages = []
    result = nsbench.run(
        "bernoulli",
        "distmult",
        "planted:small",
        protocol="quick",
        seed=3,
        options=QUICK,
        runs=tmp_path,
        device="cpu",
        notify=lambda event: stages.append(event["stage"]),
    )
    assert isinstance(result, Result)
    assert result.folder.parent == tmp_path
    assert result.folder.name.startswith("bernoulli-distmult-planted_small-s3-")
    assert result.record["config"]["changed"] == {"steps": 4, "validate_every": 2, "width": 8}
    assert result.test == result.record["test"]
    assert 0 < result.valid["mrr"] < 1
    arrays = result.ranks()
    count = len(arrays["triples"])
    assert arrays["ranks"].shape == (count, 2, 2)
    assert arrays["ranks"].dtype == arrays["candidates"].dtype == np.int32
    assert result.test["mrr"] == pytest.approx((1 / arrays["ranks"].mean(-1)).mean(), abs=1e-12)
    assert list(dict.fromkeys(stages)) == ["set-up", "diagnosis", "training", "validation", "ranking", "writing"]


def test_the_store_is_where_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NSBENCH_RUNS", raising=False)
    assert store_folder() == Path("runs")
    monkeypatch.setenv("NSBENCH_RUNS", "/somewhere")
    assert store_folder() == Path("/somewhere")
    assert store_folder("here") == Path("here")


def test_a_plan_has_every_combination_once_and_keeps_cells_together() -> None:
    configs = campaign.plan(
        ["uniform", "bernoulli"], ["transe", "rotate"], ["planted:small", "planted:500"], range(3), protocol="quick"
    )
    named = [(c.dataset, c.kge, c.seed, c.sampler) for c in configs]
    assert len(named) == len(set(named)) == 2 * 2 * 2 * 3
    assert named[:2] == [("planted:small", "transe", 0, "uniform"), ("planted:small", "transe", 0, "bernoulli")]
    assert [c.dataset for c in configs] == ["planted:small"] * 12 + ["planted:500"] * 12


def test_without_seeds_the_protocol_says_how_many() -> None:
    configs = campaign.plan(["uniform"], ["transe"], ["planted:small"], None, protocol="quick")
    assert [c.seed for c in configs] == [0, 1, 2, 3, 4]


def test_an_impossible_pair_anywhere_in_the_plan_stops_it_before_the_first_run(command, store: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for split in ("train", "valid", "test"):
        (small / f"{split}.tsv").write_text("a\tr\tb\n" if split == "train" else "b\tr\ta\n")
    said = command("run", "--protocol", "quick", "--dataset", f"planted:small,{small}")
    assert said.code == 2
    assert "the batch of 256 is larger than the 1 training triples" in said.err
    assert not store.exists()


def test_seeds() -> None:
    expected = {"5": [0, 1, 2, 3, 4], "0,3,7": [0, 3, 7], "3,3,1": [3, 1]}
    assert {text: parse_seeds(text) for text in expected} == expected


def test_two_classes_of_one_file_and_two_files_of_one_name_are_different_runs(tmp_path: Path) -> None:
    source = "from nsbench.contracts import Sampler\nclass A(Sampler): pass\nclass B(Sampler): pass\n"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = tmp_path / "one" / "mine.py", tmp_path / "two" / "mine.py"
    one.write_text(source)
    two.write_text(source + "# changed\n")

    def folder(sampler: str) -> str:
        (config,) = campaign.plan([sampler], ["transe"], ["planted:small"], [0], protocol="quick")
        return campaign.folder_of(config, tmp_path).path.name

    assert len({folder(f"{one}:A"), folder(f"{one}:B"), folder(f"{two}:A")}) == 3
    two.write_text(source)
    assert folder(f"{one}:A") == folder(f"{two}:A")  # where the file lies does not matter
    assert folder(f"{one}:A").startswith("A-transe-planted_small-s0-")


def test_a_model_may_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("from nsbench.kge.models.transe import TransE\n\n\nclass Mine(TransE):\n    pass\n")
    result = nsbench.run(
        kge=f"{tmp_path / 'model.py'}:Mine", dataset="planted:small", protocol="quick", options=QUICK, runs=tmp_path / "runs"
    )
    assert result.folder.name.startswith("uniform-Mine-planted_small-s0-")
    same = nsbench.run(dataset="planted:small", protocol="quick", options=QUICK, runs=tmp_path / "runs")
    assert same.folder != result.folder
    assert np.array_equal(same.ranks()["ranks"], result.ranks()["ranks"])


def test_pretraining_is_part_of_the_cost(tmp_path: Path) -> None:
    options = {**QUICK, "sampler.pretrain_epochs": 2}
    result = nsbench.run("kbgan", "transe", "planted:small", protocol="quick", options=options, runs=tmp_path)
    cost = result.record["cost"]
    assert 0 < cost["sampler_seconds"] <= cost["train_seconds"]


FAST = ["--protocol", "quick", "--dataset", "planted:small", "--set", "protocol.steps=20", "--set", "protocol.width=8"]


def hardness(store: Path) -> dict[str, bool]:
    """Of each run, whether it was measured against its reference."""
    found = {}
    for path in store.glob("*/result.json"):
        result = json.loads(path.read_text())
        name = result["diagnostics"]["reference"]
        assert name is None or name.startswith("uniform-transe-planted_small-s0-")
        found[path.parent.name.rpartition("-")[0]] = "hardness" in result["diagnostics"]["end"]
    return found


def test_runs_come_after_the_one_that_their_hardness_refers_to(command: Callable, store: Path) -> None:
    assert command("run", "--sampler", "bernoulli,uniform", "--kge", "transe", "--seeds", "2", *FAST).code == 0
    cells = [f"{sampler}-transe-planted_small-s{seed}" for sampler in ("bernoulli", "uniform") for seed in (0, 1)]
    assert hardness(store) == dict.fromkeys(cells, True)


SOURCE = """
from nsbench.samplers.uniform import Uniform

class Mine(Uniform):
    version = 3

class Failing(Uniform):
    def sample(self, positives, view):
        raise ZeroDivisionError("of its own making")
"""


def test_run_takes_every_core(command: Callable, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler from a file, a replay, and one that fails among them: with the ranks of one run after another."""
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "short.toml").write_text('version = 1\nextends = "quick"\nsteps = 20\nwidth = 8\n')
    how = ["--protocol", str(tmp_path / "short.toml"), "--dataset", "planted:small", "--save-model"]
    samplers = f"uniform,{tmp_path / 'mine.py'}:Mine,{tmp_path / 'mine.py'}:Failing,replay:nscaching"
    said = {}
    assert command("run", "--sampler", "nscaching", *how, "--runs", str(store / "1")).code == 0
    shutil.copytree(store / "1", store / "2")
    for cores in (1, 2):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        said[cores] = command("run", "--sampler", samplers, *how, "--runs", str(store / str(cores)))
        assert said[cores].code == 1
        assert "1 of 4 runs failed (Failing-transe-planted_small-s0); the others are done" in said[cores].err
        assert "failed: ZeroDivisionError: of its own making" in said[cores].err
    assert "on cpu (threads: 1)" in said[1].err
    assert "on cpu (2 workers, threads: 1)" in said[2].err
    one, two = ({path.parent.name: Result(path.parent, {}) for path in (store / n).glob("*/result.json")} for n in "12")
    assert one.keys() == two.keys()
    assert len(one) == 4
    for name, run in one.items():
        assert np.array_equal(run.ranks()["ranks"], two[name].ranks()["ranks"])
        assert (two[name].folder / "model.safetensors").exists()
    assert said[2].out == said[1].out.replace(str(store / "1"), str(store / "2"))


def test_a_run_whose_reference_failed_or_is_not_asked_for_goes_on(command: Callable, store: Path) -> None:
    assert command("run", "--sampler", "bernoulli", "--kge", "transe", "--seeds", "2", *FAST).code == 0
    assert not any(hardness(store).values())


def test_a_failed_run_leaves_nothing_in_memory_and_is_not_repeated_unasked(tmp_path: Path, monkeypatch) -> None:
    config = campaign.configure("uniform", "transe", "planted:small", protocol="quick", settings=["protocol.steps=4"])
    made = []

    def fail(sampler, view):
        made.append(weakref.ref(sampler))
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patched:
        patched.setattr(Uniform, "pretrain", fail)
        failure = attempt(config, tmp_path, RunOptions(device="cpu"))
    assert str(failure).startswith("RuntimeError: no such luck")
    assert [sampler() for sampler in made] == [None]
    again = attempt(config, tmp_path, RunOptions(device="cpu", retry=False))
    assert isinstance(again, FailedBefore)
    assert str(again) == str(failure)
    assert isinstance(attempt(config, tmp_path, RunOptions(device="cpu")), Result)

"""Runs: done once, one process each, stopped and resumed, written whole; and what a saved model says by the textbook."""

import contextlib
import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from nsbench.campaign import plan as campaign
from nsbench.commands.run import stop_signal
from nsbench.config.run import Config
from nsbench.errors import Misuse, RunFailed
from nsbench.runs import checkpoint, runner
from nsbench.runs.folder import RunFolder
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted, RunOptions

SHORT = ["protocol.steps=30", "protocol.validate_every=10", "protocol.width=16"]


def planned(sampler: str = "uniform", kge: str = "transe", *settings: str, seed: int = 0) -> Config:
    (config,) = campaign.plan([sampler], [kge], ["planted:small"], [seed], protocol="quick", settings=settings or SHORT)
    return config


def same_ranks(one: Result, other: Result) -> bool:
    a, b = one.ranks(), other.ranks()
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time of change and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.carry_out(planned(), tmp_path_factory.mktemp("undisturbed"))


class StopAfter:
    """A `stopping` that says yes from its n-th question on; asked once or twice a step."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


# Done once


def test_the_same_command_twice_works_once(command: Callable, store: Path) -> None:
    arguments = ["run", "--protocol", "quick", "--dataset", "planted:small", "--device", "cpu"]
    arguments += [word for setting in SHORT for word in ("--set", setting)]
    first = command(*arguments)
    assert first.code == 0
    before = snapshot(store)
    second = command(*arguments)
    assert second.code == 0
    assert "already done, nothing to do" in second.err
    assert second.out == first.out
    assert snapshot(store) == before


def test_what_a_late_kill_leaves_is_removed(undisturbed: Result) -> None:
    (undisturbed.folder / "checkpoint.pt").write_bytes(b"left behind after result.json")
    campaign.carry_out(planned(), undisturbed.folder.parent)
    assert not (undisturbed.folder / "checkpoint.pt").exists()


def test_a_model_that_was_not_kept_cannot_be_had_afterwards(undisturbed: Result) -> None:
    with pytest.raises(Misuse, match="its model was not kept; delete the folder"):
        campaign.carry_out(planned(), undisturbed.folder.parent, RunOptions(save_model=True))


# One process each


def test_a_second_process_on_the_run_is_refused(tmp_path: Path) -> None:
    folder = campaign.folder_of(planned(), tmp_path)
    script = "import sys, time; from pathlib import Path; from nsbench.runs.folder import RunFolder\n"
    script += "with RunFolder(Path(sys.argv[1])).claimed(): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder.path)], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Misuse, match=r"another process is working on \S+; wait for it or stop it$"):
            campaign.carry_out(planned(), tmp_path)
        holder.kill()
        holder.wait()
        assert campaign.carry_out(planned(), tmp_path).test["mrr"] > 0  # the claim went with the process
    finally:
        holder.kill()
        holder.wait()
    assert not list(folder.path.glob("claim*"))


def test_who_gets_the_folder_last_finds_the_result(undisturbed: Result, tmp_path: Path, monkeypatch) -> None:
    """Between looking for result.json and getting the claim, the other process may finish."""
    looks = iter([False, True])
    monkeypatch.setattr(RunFolder, "complete", property(lambda self: next(looks)))
    monkeypatch.setattr(runner, "Trainer", None)  # would fail
    assert campaign.carry_out(planned(), undisturbed.folder.parent).record == undisturbed.record


# Stopped and resumed


HELD = """
import os
import time
from nsbench.samplers.uniform import Uniform


class Held(Uniform):
    calls = 0

    def sample(self, positives, view):
        self.calls += 1
        if self.calls == 10 and "HOLD" in os.environ:
            open(os.environ["HOLD"], "w").close()
            while os.path.exists(os.environ["HOLD"]):
                time.sleep(0.01)
        return super().sample(positives, view)
"""


def test_ctrl_c_checkpoints_and_the_same_run_goes_on(checkout: Path, tmp_path: Path) -> None:
    """A real Ctrl-C, to a real process, which is held in its tenth step until that has come."""
    store, hold, plugin = tmp_path / "stopped", tmp_path / "hold", tmp_path / "held.py"
    plugin.write_text(HELD)
    sampler = f"{plugin}:Held"
    arguments = [sys.executable, "-m", "nsbench", "run", "--protocol", "quick", "--dataset", "planted:small"]
    arguments += ["--sampler", sampler, "--threads", "1", "--device", "cpu", "--no-diagnostics", "--runs"]
    arguments += [str(store), *(word for setting in SHORT for word in ("--set", setting))]
    process = subprocess.Popen(
        arguments,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
        env={**os.environ, "HOLD": str(hold)},
    )
    deadline = time.monotonic() + 100
    while not hold.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    hold.unlink()
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    (folder,) = store.iterdir()
    assert "stopping after this step, with a checkpoint" in err
    assert f"stopped; the same command goes on from {folder}" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert out == ""
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "result.json").exists()

    resumed = campaign.carry_out(planned(sampler), store, RunOptions(device="cpu", diagnose=False))
    assert (resumed.folder, resumed.record["resumed_at"]) == (folder, 10)
    assert same_ranks(resumed, campaign.carry_out(planned(sampler), tmp_path / "reference"))


@pytest.mark.parametrize("questions", [0, 29])
def test_a_stopped_run_ends_with_the_same_ranks(undisturbed: Result, tmp_path: Path, questions: int) -> None:
    with pytest.raises(Interrupted):
        campaign.carry_out(planned(), tmp_path, stopping=StopAfter(questions))
    assert same_ranks(campaign.carry_out(planned(), tmp_path), undisturbed)


def test_two_stops_in_one_run(undisturbed: Result, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Interrupted):
            campaign.carry_out(planned(), tmp_path, stopping=StopAfter(10))
    resumed = campaign.carry_out(planned(), tmp_path)
    assert same_ranks(resumed, undisturbed)
    steps = [json.loads(line)["step"] for line in (resumed.folder / "events.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 30]


def test_early_stopping_survives_a_stop(tmp_path: Path) -> None:
    settings = ("protocol.steps=200", "protocol.validate_every=2", "protocol.patience=1", "protocol.width=4")
    whole = campaign.carry_out(planned("uniform", "transe", *settings), tmp_path / "whole")
    stopped_at = whole.record["cost"]["steps"]
    assert stopped_at < 200
    assert whole.record["selected_at"] == stopped_at - 2
    with pytest.raises(Interrupted):
        campaign.carry_out(planned("uniform", "transe", *settings), tmp_path / "stopped", stopping=StopAfter(stopped_at - 1))
    resumed = campaign.carry_out(planned("uniform", "transe", *settings), tmp_path / "stopped")
    assert same_ranks(resumed, whole)
    assert resumed.record["cost"]["steps"] == stopped_at


def test_threads_and_kernels_of_the_checkpoint_are_restored(tmp_path: Path) -> None:
    from nsbench.kernels import operators as kernels

    before = kernels.name()
    try:
        torch.set_num_threads(2)
        kernels.use("eager")
        with pytest.raises(Interrupted):
            campaign.carry_out(planned(), tmp_path, stopping=StopAfter(10))
        torch.set_num_threads(1)
        kernels.use(before)
        resumed = campaign.carry_out(planned(), tmp_path)
        assert torch.get_num_threads() == 1  # for the runs that follow
        assert kernels.chosen() == before
        assert resumed.record["env"]["threads"] == 2
        assert resumed.record["env"]["kernels"] == "eager"
    finally:
        torch.set_num_threads(1)
        kernels.use(before)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"garbage" * 99])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Interrupted):
        campaign.carry_out(planned(), tmp_path, stopping=StopAfter(10))
    file = campaign.folder_of(planned(), tmp_path).path / "checkpoint.pt"
    file.write_bytes(damage(file.read_bytes()))
    before = {name: content for name, (_, content) in snapshot(tmp_path).items()}
    with pytest.raises(Misuse, match=r"checkpoint\.pt is damaged or of another version; delete it"):
        campaign.carry_out(planned(), tmp_path)
    assert {name: content for name, (_, content) in snapshot(tmp_path).items()} == before


class Payload:
    """What a malicious checkpoint would hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_is_data_never_code(tmp_path: Path) -> None:
    folder = campaign.folder_of(planned(), tmp_path / "runs").path
    folder.mkdir(parents=True)
    torch.save({"format": checkpoint.FORMAT, "trainer": Payload(tmp_path / "executed")}, folder / "checkpoint.pt")
    with pytest.raises(Misuse, match="damaged"):
        campaign.carry_out(planned(), tmp_path / "runs")
    assert not (tmp_path / "executed").exists()


# Written whole


class Broken(Exception):
    pass


def failing(points: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one operation of RunFolder.write fail: before anything is done, or after half of it."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    if points == "open":
        monkeypatch.setattr(Path, "open", fail)
    elif points in ("fsync", "replace"):
        monkeypatch.setattr(os, points, fail)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("point", ["open", "save", "half", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch, point: str, there: bool) -> None:
    folder = RunFolder(tmp_path)
    if there:
        folder.write("a.bin", lambda file: file.write(b"old"))

    def save(file: Any) -> None:
        if point == "save":
            raise Broken
        file.write(b"ne")
        if point == "half":
            file.flush()
            raise Broken
        file.write(b"w")

    with monkeypatch.context() as patch:
        failing(point, Broken(), patch)
        with pytest.raises(Broken):
            folder.write("a.bin", save)
    assert [path.name for path in tmp_path.iterdir()] == (["a.bin"] if there else [])
    if there:
        assert (tmp_path / "a.bin").read_bytes() == b"old"
    folder.write("a.bin", lambda file: file.write(b"new"))
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_failure_after_the_rename_leaves_the_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write("a.bin", lambda file: file.write(b"old"))

    def fail(path: Path) -> None:
        raise Broken

    monkeypatch.setattr("nsbench.files._sync_folder", fail)
    with pytest.raises(Broken):
        folder.write("a.bin", lambda file: file.write(b"new"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"new"}


@pytest.mark.parametrize("target", ["config.json", "events.jsonl", "checkpoint.pt", "ranks.npz", "result.json"])
def test_a_full_disk_costs_nothing_but_time(undisturbed: Result, tmp_path: Path, monkeypatch, target: str) -> None:
    """ENOSPC at each kind of file; afterwards the same command goes on and ends with the same ranks."""
    real = RunFolder.write

    def write(self: RunFolder, name: str, save: Callable) -> None:
        def full(file: Any) -> None:
            file.write(b"some of it")
            file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        real(self, name, full if name == target else save)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write", write)
        with pytest.raises(RunFailed, match=rf"(?i)^cannot write \S+{target} \(no space left"):
            campaign.carry_out(planned(), tmp_path, RunOptions(checkpoint_seconds=0.0))
    folder = campaign.folder_of(planned(), tmp_path).path
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert not any(name.endswith(".tmp") for name in names)
    assert "result.json" not in names
    assert ("checkpoint.pt" in names) == (target in ("ranks.npz", "result.json"))
    assert same_ranks(campaign.carry_out(planned(), tmp_path), undisturbed)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs is Linux's")
def test_a_store_that_becomes_read_only(undisturbed: Result, tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    complete = campaign.carry_out(planned(), tiny_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    assert campaign.carry_out(planned(), tiny_disk).record == complete.record  # reading is all that this needs
    with pytest.raises(RunFailed, match=r"cannot write \S+ \(Read-only file system\)"):
        campaign.carry_out(planned(seed=1), tiny_disk)
    assert [path.name for path in tiny_disk.iterdir()] == [complete.folder.name]


def test_a_file_in_the_way_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunFailed, match=r"cannot write \S+ \(Not a directory\)"):
        campaign.carry_out(planned(), tmp_path / "runs")
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_refusal_during_set_up_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise Misuse("the sampler does not want these data")

    monkeypatch.setattr(runner, "Trainer", refuse)
    with pytest.raises(Misuse, match="does not want"):
        campaign.carry_out(planned(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_never_removes_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        campaign.carry_out(planned(), tmp_path, stopping=StopAfter(3))
    before = set(snapshot(tmp_path))

    def refuse(*_: Any) -> None:
        raise Misuse("the sampler does not want these data")

    monkeypatch.setattr(runner, "Trainer", refuse)
    with pytest.raises(Misuse, match="does not want"):
        campaign.carry_out(planned(), tmp_path)
    assert set(snapshot(tmp_path)) == before


# By the textbook


def transe(e: np.ndarray, r: np.ndarray, h: Any, k: Any, t: Any, margin: float) -> np.ndarray:
    return margin - np.abs(e[h] + r[k] - e[t]).sum(-1)


def distmult(e: np.ndarray, r: np.ndarray, h: Any, k: Any, t: Any, margin: float) -> np.ndarray:
    return (e[h] * r[k] * e[t]).sum(-1)


def rotate(e: np.ndarray, r: np.ndarray, h: Any, k: Any, t: Any, margin: float) -> np.ndarray:
    half = e.shape[1] // 2
    z = e[:, :half] + 1j * e[:, half:]
    return margin - np.abs(z[h] * np.exp(1j * r[k]) - z[t]).sum(-1)


@pytest.mark.parametrize("formula", [transe, distmult, rotate], ids=lambda formula: formula.__name__)
def test_the_saved_model_has_the_recorded_ranks(tmp_path: Path, formula: Callable[..., np.ndarray]) -> None:
    """Filtered ranks of both sides, from scores in float64 by the formula of the paper, one query after the other.

    Scores of the run are float32, so candidates within NEAR of the answer may lie on either side of it: recorded ranks
    must lie between those that take every such candidate as worse and as better.
    """
    near = 1e-4
    config = planned("uniform", formula.__name__, "protocol.steps=120", "protocol.regularizer=0")
    result = campaign.carry_out(config, tmp_path, RunOptions(save_model=True))
    weights = load_file(result.folder / "model.safetensors")
    e, r = weights["entity"].astype(np.float64), weights["relation"].astype(np.float64)
    dataset = campaign.dataset_of(config)
    known = torch.cat([dataset.train, dataset.valid, dataset.test]).numpy()
    stored = result.ranks()
    everyone = np.arange(dataset.num_entities)
    equal = 0
    for row, (h, k, t) in enumerate(dataset.test.tolist()):
        same = known[known[:, 1] == k]
        for side, (scores, answer, facts) in enumerate(
            (
                (formula(e, r, everyone, k, t, config.protocol.margin), h, same[same[:, 2] == t, 0]),
                (formula(e, r, h, k, everyone, config.protocol.margin), t, same[same[:, 0] == h, 2]),
            )
        ):
            candidate = (everyone == answer) | ~np.isin(everyone, facts)
            assert stored["candidates"][row, side] == candidate.sum()
            others = candidate & (everyone != answer)
            optimistic = 1 + (scores[others] > scores[answer]).sum()
            pessimistic = 1 + (scores[others] >= scores[answer]).sum()
            low, high = stored["ranks"][row, side]
            assert 1 + (scores[others] > scores[answer] + near).sum() <= low
            assert high <= 1 + (scores[others] >= scores[answer] - near).sum()
            equal += (low, high) == (optimistic, pessimistic)
    assert np.array_equal(stored["triples"], dataset.test.numpy())
    assert equal / (2 * len(dataset.test)) >= 0.999
    realistic = stored["ranks"].mean(axis=-1)
    assert result.test["mrr"] == pytest.approx((1 / realistic).mean(), abs=1e-12)
    assert result.test["hits@10"] == pytest.approx((realistic <= 10).mean(), abs=1e-12)


def environment() -> dict[str, str]:
    """For subprocesses that import nsbench from wherever this process has it."""
    return {**os.environ, "PYTHONPATH": str(Path(runner.__file__).parents[2])}


def test_what_a_killed_write_left_is_swept(store):
    folder = RunFolder(store / "one")
    folder.path.mkdir(parents=True)
    (folder.path / "ranks.npz.tmp").write_bytes(b"half")
    with folder.claimed():
        assert not (folder.path / "ranks.npz.tmp").exists()


def test_a_checkpoint_of_another_device_is_refused_and_kept(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        campaign.carry_out(planned(), tmp_path, stopping=StopAfter(10))
    file = campaign.folder_of(planned(), tmp_path).path / "checkpoint.pt"
    torch.save({**torch.load(file, weights_only=True), "device": "cuda"}, file)
    with pytest.raises(Misuse, match="was begun on cuda; add --device cuda, or delete it"):
        campaign.carry_out(planned(), tmp_path)
    assert file.exists()


def test_every_second_goes_to_one_account(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    progress = checkpoint.Progress(train_seconds=100.0)

    def passes(seconds: float) -> None:
        now[0] += seconds

    passes(1)  # before: nobody's
    with progress.charged("train_seconds"):
        passes(2)
        with progress.charged("evaluation_seconds"):
            passes(4)
        with contextlib.suppress(Broken), progress.charged(""):
            passes(8)
            raise Broken
        passes(16)
    passes(32)
    assert (progress.train_seconds, progress.evaluation_seconds) == (100 + 2 + 16, 4)
    assert checkpoint.Progress(**progress.state()) == progress


def test_a_stop_while_test_triples_are_ranked_keeps_the_training(undisturbed: Result, tmp_path: Path) -> None:
    ranking: list[int] = []

    def hear(event: dict[str, Any]) -> None:
        if event["stage"] == "ranking":
            ranking.append(event["done"])

    with pytest.raises(Interrupted):
        campaign.carry_out(planned(), tmp_path, RunOptions(), hear, lambda: len(ranking) > 1)
    folder = campaign.folder_of(planned(), tmp_path).path
    assert ranking[-1] > 0
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "config.json", "events.jsonl"]
    steps: list[int] = []
    again = campaign.carry_out(planned(), tmp_path, RunOptions(), lambda event: steps.append(event.get("step", -1)))
    assert set(steps) == {-1}  # nothing is trained again
    assert same_ranks(again, undisturbed)
    assert again.record["resumed_at"] == 30


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_terminal_that_closes_is_a_stop_and_never_two() -> None:
    before = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("it is not heard"))  # else the process would end
    try:
        with stop_signal() as stopping:
            for _ in range(2):  # the shell tells, and the system
                os.kill(os.getpid(), signal.SIGHUP)
            assert stopping()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        with stop_signal() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stopping()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_bug_leaves_in_the_run_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    file = folder.path / "failed.json"
    said = f"KeyError: 'x' (a bug in nsbench; please report it with {file})"
    assert str(folder.record_failure(KeyError("x"))) == said
    record = json.loads(file.read_text())
    assert record["reason"] == said
    assert record["versions"]["torch"] == torch.__version__
    assert (record["command"], "KeyError: 'x'" in record["traceback"]) == (shlex.join(sys.argv), True)

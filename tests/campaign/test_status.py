"""Where a campaign stands, what the rest will cost, and how it becomes an array job."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nsbench.campaign import estimates as expected
from nsbench.campaign import plan as campaign
from nsbench.campaign import sweep
from nsbench.campaign.estimates import Cost, Costs, together
from nsbench.commands.sweep import jobs_of, numbered, ranges
from nsbench.config.run import Config, configure
from nsbench.errors import Misuse
from nsbench.runs import checkpoint, runner
from nsbench.runs.device import environment, peak_memory, reset_peak_memory
from nsbench.runs.folder import RunFolder
from nsbench.runs.runner import RunOptions
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer

GRID = """
protocol = "quick"
seeds = 2
set = ["protocol.steps={steps}", "protocol.validate_every=10", "protocol.width=8"]
[[grid]]
sampler = ["uniform", "bernoulli"]
kge = ["transe", "distmult"]
dataset = "planted:small"
"""


def quick(sampler: str, *settings: str) -> Config:
    return configure(sampler, "transe", "planted:small", protocol="quick", settings=settings)


@pytest.fixture
def grid(tmp_path: Path) -> str:
    """A file of eight runs in four cells, the uniform ones with transe first."""
    (tmp_path / "grid.toml").write_text(GRID.format(steps=20))
    return str(tmp_path / "grid.toml")


@pytest.fixture
def standing(grid: str, store: Path) -> list[RunFolder]:
    """One run is done, one failed, one runs on another machine, one was begun and left, four are missing."""
    configs = sweep.read(grid)
    folders = [campaign.folder_of(config, store) for config in configs]
    campaign.carry_out(configs[0], store, RunOptions(device="cpu", diagnose=False))
    folders[1].record_failure(ValueError("of its own making"))
    folders[2].path.mkdir()
    who = {"token": "x", "host": "node7", "machine": "another boot", "pid": 77, "started": "1"}
    far = {"stage": "training", "step": 5, "steps": 20, "seconds_left": 90.0}
    (folders[2].path / "claim").write_text(json.dumps(who) + "\n" + json.dumps(far) + "\n")
    folders[3].path.mkdir()
    (folders[3].path / "checkpoint.pt").write_bytes(b"")
    (folders[3].path / "claim").write_text((folders[2].path / "claim").read_text())
    os.utime(folders[3].path / "claim", (0, 0))
    return folders


def beat(folder: RunFolder) -> None:
    """The heartbeat of whoever runs it elsewhere."""
    os.utime(folder.path / "claim")


def test_the_command_tells_them_and_the_time_left(command: Callable, grid: str, standing: list[RunFolder]) -> None:
    result = json.loads((standing[0].path / "result.json").read_text())
    result["cost"]["seconds"], result["cost"]["diagnosis_seconds"] = 600.0, 0.0
    (standing[0].path / "result.json").write_text(json.dumps(result))
    said = command("status", grid)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == f"running  {standing[2].path.name}: node7:77, step 5/20, 1 min 30 s left"
    assert lines[1].startswith(f"failed   {standing[1].path.name}: ValueError: of its own making")
    assert lines[2] == f"begun    {standing[3].path.name}"
    assert lines[3] == "1 of 8 runs are done, 1 running, 1 failed, 1 begun"
    # five runs that take 600 seconds like the one that is known, and 90 seconds of the one that runs, one at a time
    assert lines[4] == "about 51 min 30 s left, 1 at a time"

    of_all = command("status")
    assert of_all.out.splitlines()[:4] == [*lines[:3], "1 of 4 runs are done, 1 running, 1 failed, 1 begun"]


def test_status_loads_no_torch(store: Path) -> None:
    code = "import sys; sys.argv = ['nsbench', 'status']; from nsbench.cli import main\ntry: main()\n"
    code += "finally: print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.splitlines()[-1] == "False"


# What the rest will cost


def result(config: dict, seconds: float, memory: int, device: str = "cpu x", threads: int = 1) -> dict:
    cost = {"seconds": seconds, "diagnosis_seconds": 1.0, "peak_memory": memory}
    return {"config": config, "cost": cost, "env": {"device": device, "threads": threads}}


def test_costs_are_those_of_the_same_cell(tmp_path: Path) -> None:
    costs = Costs(tmp_path)
    cell = expected.group_of({"sampler": "uniform", "seed": 9, "id": "other"})
    other = expected.group_of({"sampler": "bernoulli"})
    assert costs.of(cell) is None
    assert costs.seconds([cell, other]) == []
    costs.learn(result({"sampler": "uniform", "seed": 0, "id": "a"}, 10, 100))
    costs.learn(result({"sampler": "uniform", "seed": 1, "id": "b"}, 20, 300))
    assert costs.of(cell) == Cost(16.0, 300, "recorded")
    assert costs.seconds([cell, other, cell]) == [16.0, 16.0, 16.0]
    costs.measured(other, Cost(4.0, 5, "measured"))
    assert costs.seconds([cell, other]) == [16.0, 4.0]


def test_what_was_recorded_elsewhere_does_not_count(grid: str, store: Path) -> None:
    job = jobs_of(grid, store)[0]
    campaign.carry_out(job.config, store, RunOptions(device="cpu", diagnose=False))
    device = environment(torch.device("cpu"))["device"]
    assert Costs(store, device, 1).of(job.group) is not None
    assert Costs(store, device, 2).of(job.group) is None
    assert Costs(store, "cuda H200", 1).of(job.group) is None


@pytest.mark.parametrize(("seconds", "slots", "whole"), [([4, 4, 4, 4], 2, 8), ([9, 1, 1], 2, 9), ([], 3, 0), ([5], 8, 5)])
def test_runs_together(seconds: list[float], slots: int, whole: float) -> None:
    assert together(seconds, slots) == whole


def test_calibration_knows_what_a_run_consists_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own clock, step k takes 1 + k / 30 seconds, preparation 5, and ranking a tenth of a second for each triple."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = clock.perf_counter = lambda: clock.now
    for module in (expected, checkpoint, runner):
        monkeypatch.setattr(module, "time", clock)

    def slow(owner: type, name: str, seconds: Callable[[Any], float]) -> None:
        real = getattr(owner, name)

        def call(self: Any, *rest: Any) -> Any:
            clock.now += seconds(self)
            return real(self, *rest)

        monkeypatch.setattr(owner, name, call)

    slow(Trainer, "step", lambda trainer: 1 + trainer.step_count / 30)
    slow(Trainer, "pretrain", lambda trainer: 5.0)
    slow(Ranking, "ranks", lambda ranking: len(ranking.triples) / 10)
    config = quick("uniform", "protocol.steps=30", "protocol.validate_every=10")
    dataset = campaign.dataset_of(config)
    truth = 5 + sum(1 + k / 30 for k in range(30)) + (3 * len(dataset.valid) + len(dataset.test)) / 10
    guess = expected.calibrate(config, dataset, torch.device("cpu"), diagnose=False)
    assert guess.seconds == pytest.approx(truth, rel=0.05)
    cost = campaign.carry_out(config, tmp_path, RunOptions(device="cpu", diagnose=False)).record["cost"]
    assert cost["seconds"] == pytest.approx(truth)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be reset")
def test_calibration_finds_what_a_step_needs_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, size = Trainer.step, 200_000_000

    def large(trainer: Trainer) -> None:
        torch.ones(size // 4)
        step(trainer)

    monkeypatch.setattr(Trainer, "step", large)
    monkeypatch.setattr(expected, "SPAN", 0.0)
    config = quick("uniform", "protocol.steps=4")
    dataset, device = campaign.dataset_of(config), torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory(device)
    guess = expected.calibrate(config, dataset, device, diagnose=False)
    cost = campaign.carry_out(config, tmp_path, RunOptions(device="cpu", diagnose=False)).record["cost"]
    assert guess.memory - before > 0.75 * size
    assert guess.memory == pytest.approx(cost["peak_memory"], abs=0.5 * size)


def test_the_plan_has_the_cost_of_every_group(command: Callable, grid: str, standing: list[RunFolder], monkeypatch) -> None:
    monkeypatch.setattr(expected, "SPAN", 0.0)
    plain = command("sweep", grid, "--plan", "--threads", "1", "--no-calibrate")
    assert plain.code == 0, plain.err
    assert plain.out.count("  missing ") == 4
    assert re.search(r"^   2  running  \S+ \(node7:77, step 5/20", plain.out, re.MULTILINE)
    assert plain.out.endswith("1 of 8 runs are done, 1 running, 1 failed, 1 begun\n")
    # time, memory and source of three cells: that of run 3, of which none is done, and the two of runs 4 to 7
    assert plain.out.count("?") == 3 * 3
    assert plain.err == ""

    beat(standing[2])
    tried = command("sweep", grid, "--plan", "--threads", "1", "--workers", "3")
    assert tried.out.count("measured") == 3
    assert "?" not in tried.out
    assert len(re.findall(r"^about \d+ s ", tried.out, re.MULTILINE)) == 2  # one run after another, and with 3 workers


# An array job


@pytest.mark.parametrize(("numbers", "text"), [([0, 1, 2, 7], "0-2,7"), ([3], "3"), ([5, 3, 4, 0], "0,3-5")])
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
    assert numbered(text, 8) == sorted(numbers)


@pytest.mark.parametrize("text", ["8", "0-8", "a", "2-1", "", "-1"])
def test_numbers_that_the_grid_has_not(text: str) -> None:
    with pytest.raises(Misuse, match="--only"):
        numbered(text, 8)


def test_only_some_runs(command: Callable, grid: str, store: Path) -> None:
    assert command("sweep", grid, "--only", "1,3", "--threads", "1").code == 0
    done = [job.number for job in jobs_of(grid, store) if job.folder.complete]
    assert done == [1, 3]


@pytest.mark.slow
def test_the_array_job_does_what_is_missing(
    command: Callable, checkout: Path, grid: str, standing: list[RunFolder], store: Path, tmp_path: Path
) -> None:
    """The printed script, started once for each number of its array, as sbatch would."""
    script = command("sweep", grid, "--slurm", "--threads", "1", "--device", "cpu").out
    assert re.search(r"^#SBATCH --array=3-7$", script, re.MULTILINE)
    assert re.search(r"^#SBATCH --cpus-per-task=1$", script, re.MULTILINE)
    assert "--mem" not in script  # of these cells nothing is known yet
    assert "5 of 8" in script
    listed = re.findall(r"^# (\d+) (\S+)$", script, re.MULTILINE)
    assert listed == [(str(i), standing[i].path.name) for i in range(3, 8)]
    (standing[3].path / "checkpoint.pt").unlink()

    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "nsbench").write_text(f'#!/bin/sh\nexec {sys.executable} -m nsbench "$@"\n')
    (commands / "nsbench").chmod(0o755)
    (tmp_path / "job.sh").write_text(script)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(checkout)}
    for number in numbered(re.findall(r"--array=(\S+)", script)[0], 8):
        task = subprocess.run(
            ["bash", str(tmp_path / "job.sh")],
            env={**environment, "SLURM_ARRAY_TASK_ID": str(number)},
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert task.returncode == 0, task.stderr
        assert standing[number].complete
    assert not standing[1].complete
    assert not standing[2].complete
    beat(standing[2])
    again = command("sweep", grid, "--slurm", "--threads", "1", "--retry-failed").out
    assert re.search(r"^#SBATCH --array=1$", again, re.MULTILINE)
    assert re.search(r"^#SBATCH --mem=\d+M$", again, re.MULTILINE)
    assert "--retry-failed" in again
    beat(standing[2])
    assert command("sweep", grid, "--slurm").code == 2

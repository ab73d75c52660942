"""kill -9 anywhere in a run, 42 times: what is resumed ends as if nothing had happened.

Each attempt is a process of its own that sends itself SIGKILL at a chosen place. The processes come from a fork server
that has imported torch once, and their clock ticks at every reading, so that checkpoints and events fall on the same
steps every time.
"""

import io
import itertools
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork servers are POSIX")

STEPS, VALIDATIONS = 48, 6
OPTIONS = [f"protocol.steps={STEPS}", f"protocol.validate_every={STEPS // VALIDATIONS}", "protocol.width=16"]
CHECKPOINT_TICKS = 5  # a step reads the clock once or a few times: a checkpoint every few steps

# Where a process can die -> the stage of the run that this belongs to.
WRITES = ("half", "flushed", "renaming", "renamed")
STAGE = {"set-up": "set-up", "built": "set-up", "training": "training", "optimiser": "training"}
STAGE |= {"validation": "validation", "validation scores": "validation", "event half": "validation"}
STAGE |= {"checkpoint": "checkpoint", "ranking": "ranking", "ranking scores": "ranking", "writing": "writing"}
STAGE |= {"removing checkpoint": "writing", "diagnosis": "diagnosis"}
for _file, _stage in {
    "config.json": "set-up",
    "events.jsonl": "set-up",
    "checkpoint.pt": "checkpoint",
    "ranks.npz": "writing",
    "reference.safetensors": "writing",
    "result.json": "writing",
}.items():
    STAGE |= {f"{_file} {part}": _stage for part in WRITES}

# Each chain is one run folder: (place, how many passages of it in this process) one kill after the other, then the end.
Kill = tuple[str, int]
CHAINS: list[tuple[str, str, list[Kill]]] = [
    (
        "uniform",
        "transe",
        [
            ("set-up", 1),
            ("config.json half", 1),
            ("config.json renaming", 1),
            ("config.json renamed", 1),
            ("built", 1),
            ("diagnosis", 1),
            ("events.jsonl half", 1),
            ("training", 3),
            ("checkpoint.pt half", 1),
            ("checkpoint.pt renaming", 1),
            ("validation scores", 1),
            ("checkpoint.pt renamed", 1),
            ("events.jsonl renaming", 1),
            ("validation", 1),
            ("event half", 1),
            ("checkpoint.pt half", 2),
            ("diagnosis", 1),
            ("ranking", 1),
            ("writing", 1),
            ("ranks.npz half", 1),
            ("reference.safetensors half", 1),
            ("reference.safetensors renamed", 1),
            ("result.json half", 1),
            ("result.json renamed", 1),
        ],
    ),
    (
        "bernoulli",
        "rotate",
        [
            ("optimiser", 1),
            ("diagnosis", 1),
            ("training", 9),
            ("checkpoint", 2),
            ("built", 1),
            ("optimiser", 11),
            ("validation scores", 3),
            ("event half", 2),
            ("checkpoint.pt flushed", 2),
            ("diagnosis", 1),
            ("ranking scores", 1),
            ("ranking", 2),
            ("ranks.npz renaming", 1),
            ("result.json flushed", 1),
            ("ranking scores", 2),
            ("ranks.npz renamed", 1),
            ("result.json renaming", 1),
            ("removing checkpoint", 1),
        ],
    ),
]


def test_the_plan_kills_everywhere() -> None:
    stages = Counter(STAGE[place] for _, _, kills in CHAINS for place, _ in kills)
    assert sum(stages.values()) == 42
    assert set(stages) == {"set-up", "diagnosis", "training", "checkpoint", "validation", "ranking", "writing"}
    assert min(stages.values()) >= 3


@pytest.fixture(scope="module")
def attempt() -> Callable[..., int]:
    """attempt(store, sampler, kge, kill) runs what is missing in a new process and returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nsbench.campaign.plan", "nsbench.datasets.planted", "scipy.spatial"])

    def start(store: Path, sampler: str, kge: str, kill: Kill | None = None) -> int:
        process = context.Process(target=drive, args=(store, sampler, kge, kill))
        process.start()
        process.join(120)
        assert process.exitcode is not None, f"the process hangs after {kill}"
        return process.exitcode

    return start


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("sampler", "kge", "kills"), CHAINS, ids=[f"{s}-{k}-{len(c)}" for s, k, c in CHAINS])
def test_a_killed_run_ends_like_an_undisturbed_one(
    attempt: Callable[..., int], tmp_path: Path, sampler: str, kge: str, kills: list[Kill]
) -> None:
    assert attempt(tmp_path / "undisturbed", sampler, kge) == 0
    for kill in kills:
        assert attempt(tmp_path / "killed", sampler, kge, kill) == -signal.SIGKILL, f"{kill} was not reached"
    assert attempt(tmp_path / "killed", sampler, kge) == 0

    (undisturbed,), (killed,) = ((tmp_path / name).iterdir() for name in ("undisturbed", "killed"))
    assert killed.name == undisturbed.name
    files = {file.name for file in killed.iterdir()}
    yardstick = {"reference.safetensors"} if sampler == "uniform" else set()
    assert files == {"config.json", "events.jsonl", "ranks.npz", "result.json"} | yardstick
    with np.load(undisturbed / "ranks.npz") as one, np.load(killed / "ranks.npz") as other:
        assert set(one) == set(other) == {"ranks", "candidates", "triples", "seen", "twin"}
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert np.array_equal(one[name], other[name]), name
    assert history(killed) == history(undisturbed)
    assert len(history(killed)) == VALIDATIONS
    for part in ("config", "test", "valid", "breakdown", "diagnostics", "selected_at", "converged"):
        assert read(killed / "result.json")[part] == read(undisturbed / "result.json")[part]
    assert read(undisturbed / "result.json")["resumed_at"] is None


def history(folder: Path) -> list[tuple[int, float, dict[str, float]]]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [(event["step"], event["loss"], event["valid"]) for event in events]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


# In the process that dies


def drive(store: Path, sampler: str, kge: str, kill: Kill | None) -> None:
    """Carry the run on from wherever it is, and die at the `kill`-th place."""
    import torch

    from nsbench.campaign import plan as campaign
    from nsbench.runs import checkpoint, runner

    torch.set_num_threads(1)
    passes = set_traps(*(kill or ("nowhere", 0)))
    runner.time = checkpoint.time = SimpleNamespace(monotonic=itertools.count(0.0).__next__)
    (config,) = campaign.plan([sampler], [kge], ["planted:small"], [0], protocol="quick", settings=OPTIONS)
    options = runner.RunOptions(device="cpu", checkpoint_seconds=CHECKPOINT_TICKS)
    campaign.carry_out(config, store, options, notify=lambda event: passes(event["stage"]))


def set_traps(where: str, number: int) -> Callable[[str], None]:
    """Make every place report its passages; the `number`-th one at `where` is the last thing that the process does."""
    from nsbench.kernels.adam import Adam
    from nsbench.runs import runner
    from nsbench.runs.folder import RunFolder
    from nsbench.training import evaluation

    left, stage = number, ""

    def passes(place: str) -> None:
        nonlocal left, stage
        assert place in STAGE
        if place in ("training", "validation", "checkpoint", "ranking"):
            stage = place
        if place == where:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, name: str, place: Callable[..., str | None]) -> None:
        """Report `place(*arguments)` before each call of owner.name."""
        real = getattr(owner, name)

        def trapped(*args: Any, **kwargs: Any) -> Any:
            spot = place(*args)
            if spot is not None:
                passes(spot)
            return real(*args, **kwargs)

        setattr(owner, name, trapped)

    before(Adam, "step", lambda *_: "optimiser")
    before(runner.Trainer, "pretrain", lambda *_: "built")
    before(runner.Trainer, "load_state_dict", lambda *_: "built")
    before(evaluation, "rank_counts", lambda *_: spot if (spot := f"{stage} scores") in STAGE else None)
    before(RunFolder, "remove", lambda _, name: "removing checkpoint" if name == "checkpoint.pt" else None)

    real_write, real_append, real_fsync, real_replace = RunFolder.write, RunFolder.append_event, os.fsync, os.replace
    writing = ""

    def write(folder: RunFolder, name: str, save: Callable[..., Any]) -> None:
        nonlocal writing
        writing = name

        def save_in_halves(file: Any) -> None:
            whole = io.BytesIO()
            save(whole)
            content = whole.getvalue()
            file.write(content[: len(content) // 2])
            file.flush()
            passes(f"{name} half")
            file.write(content[len(content) // 2 :])

        real_write(folder, name, save_in_halves)

    def append_event(folder: RunFolder, event: dict[str, Any]) -> None:
        if where == "event half" and left == 1:
            with open(folder.path / "events.jsonl", "a") as file:
                file.write(json.dumps(event)[:40])
        passes("event half")
        real_append(folder, event)

    def fsync(handle: int) -> None:
        real_fsync(handle)
        if not os.path.isdir(f"/dev/fd/{handle}"):
            passes(f"{writing} flushed")

    def replace(source: Any, target: Any) -> None:
        passes(f"{writing} renaming")
        real_replace(source, target)
        passes(f"{writing} renamed")

    RunFolder.write, RunFolder.append_event, os.fsync, os.replace = write, append_event, fsync, replace  # type: ignore
    return passes

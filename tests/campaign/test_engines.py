"""Engines: who gets which run, with what; and what happens when workers, drivers and disks fail."""

import io
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from nsbench.campaign import conduct as conducting
from nsbench.campaign import local_engine
from nsbench.campaign import plan as campaign
from nsbench.campaign.conduct import Plan, State, conduct
from nsbench.campaign.engines import Ending, Job, Lost
from nsbench.campaign.estimates import Costs
from nsbench.campaign.local_engine import Slot, divide, fits
from nsbench.commands import display, reporter
from nsbench.config.run import configure
from nsbench.errors import Busy, RunFailed, StoreFailed
from nsbench.runs import claim
from nsbench.runs.folder import RunFolder
from nsbench.runs.result import Result
from nsbench.runs.runner import Interrupted, RunOptions

# Division


def test_cores_and_gpus_are_divided() -> None:
    assert divide(9, 2, None, 8, []) == [Slot("cpu", 4)] * 2
    assert divide(9, 3, None, 8, []) == [Slot("cpu", 2)] * 3
    assert divide(9, 4, None, 2, []) == [Slot("cpu", 1)] * 4
    assert divide(9, 2, 3, 8, []) == [Slot("cpu", 3)] * 2
    two = ["cuda:0", "cuda:1"]
    assert divide(9, 5, None, 16, two) == [Slot(two[i % 2], 3) for i in range(5)]
    assert divide(9, 2, None, 16, ["cuda:3"]) == [Slot("cuda:3", 8)] * 2
    assert divide(2, 4, None, 8, []) == [Slot("cpu", 4)] * 2  # no worker without a run


def test_without_a_number_of_workers_every_core_has_a_run() -> None:
    assert divide(24, None, None, 2, []) == [Slot("cpu", 1)] * 2
    assert divide(24, None, 4, 16, []) == [Slot("cpu", 4)] * 4
    assert divide(2, None, None, 8, []) == [Slot("cpu", 4)] * 2
    assert divide(1, None, None, 8, []) == divide(0, None, None, 8, []) == [Slot("cpu", 8)]
    assert divide(24, None, 64, 2, []) == [Slot("cpu", 64)]
    assert divide(24, None, None, 16, [], memory=3 * 2**30) == [Slot("cpu", 5)] * 3
    assert divide(24, None, None, 16, [], memory=5) == [Slot("cpu", 16)]
    two = ["cuda:0", "cuda:1"]
    assert divide(24, None, None, 16, two) == [Slot(two[i % 2], 2) for i in range(8)]
    assert divide(24, None, None, 2, two[:1]) == [Slot("cuda:0", 1)] * 2
    assert divide(24, None, None, 16, two[:1], memory=3 * 2**30) == [Slot("cuda:0", 5)] * 3


def test_several_runs_share_a_device_where_they_fit() -> None:
    assert all([fits(5, 10, [5]), fits(5, None, [5, 5]), fits(0, 10, [10])])
    assert not any([fits(6, 10, [5]), fits(1, 10, [5, 5])])


def test_a_gpu_has_as_many_runs_as_its_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 GiB, with 1 GiB for each process: 3 and 4 leave no room for another 1; an unknown run is never beside others."""
    gib = 2**30

    class Idle:
        def __init__(self, store: Path, slot: Slot, options: RunOptions) -> None:
            self.slot, self.job, self.ready, self.capacity = slot, None, True, 10 * gib
            self.pipe = SimpleNamespace(send=lambda order: None)

    asked: list[int] = []
    needs = {1: 3 * gib, 2: 4 * gib, 3: gib, 4: None, 5: gib // 2}

    def need(job: Job) -> int | None:
        asked.append(job.number)
        return needs[job.number]

    monkeypatch.setattr(local_engine, "Worker", Idle)
    engine = local_engine.Local(tmp_path, [Slot("cuda:0", 1)] * 4, need, RunOptions())
    job = {n: Job(n, configure("uniform", "transe", "planted:small"), RunFolder(tmp_path / str(n)), str(n)) for n in needs}
    assert engine.room(job[1])
    assert not asked  # alone, a run begins at once; counting what it needs takes seconds
    engine.start(job[1])
    assert engine.room(job[2])
    engine.start(job[2])
    assert [engine.room(job[n]) for n in (3, 4)] == [False, False]
    engine.workers[1].job = None
    assert [engine.room(job[n]) for n in (3, 4, 5)] == [True, False, True]
    engine.workers[0].job = job[4]
    assert not engine.room(job[5])


# The driver, with an engine that does as it is told


class Scripted:
    """An engine whose runs end as a script says: {number: [ending, ...]}."""

    def __init__(self, script: Mapping[int, list[Ending]], slots: int = 2) -> None:
        self.script = {number: list(endings) for number, endings in script.items()}
        self.slots, self.apart, self.running = slots, True, list[Job]()
        self.started: list[int] = []
        self.stopped = False

    def room(self, job: Job) -> bool:
        return len(self.running) < self.slots and not self.stopped

    def start(self, job: Job) -> None:
        self.started.append(job.number)
        self.running.append(job)

    def ended(self, seconds: float) -> list[tuple[Job, Ending]]:
        if not self.running:
            return []
        job = self.running.pop(0)
        return [(job, Interrupted("") if self.stopped else self.script[job.number].pop(0))]

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        pass


class Notes:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[tuple[int, bool]] = []

    def begin(self, job: Job) -> None:
        self.begun.append(job.number)

    def hear(self, job: Job, event: Mapping[str, Any]) -> None:
        pass

    def end(self, job: Job, ending: Ending, again: bool) -> None:
        self.ended.append((job.number, again))


def jobs(store: Path, count: int) -> list[Job]:
    return [Job(i, None, RunFolder(store / f"run{i}"), "cell") for i in range(count)]  # type: ignore[arg-type]


def finished(store: Path, number: int) -> Result:
    return Result(store / f"run{number}", {})


def numbers(plan: Plan, state: State) -> list[int]:
    return sorted(job.number for job in plan.those(state))


def test_a_failure_does_not_stop_the_rest_and_a_lost_worker_is_replaced(tmp_path: Path) -> None:
    lost = Lost("its worker was killed by signal 9")
    script: dict[int, list[Ending]] = {i: [finished(tmp_path, i)] for i in range(6)}
    script[1] = [RunFailed("the scores are not finite")]
    script[2] = [lost, lost, finished(tmp_path, 2)]
    script[3] = [lost] * 3
    engine, notes = Scripted(script), Notes()
    plan = conduct(jobs(tmp_path, 6), engine, notes, lambda: False)
    assert numbers(plan, State.DONE) == [0, 2, 4, 5]
    assert sorted(job.number for job, _ in plan.failed) == [1, 3]
    assert engine.started.count(2) == engine.started.count(3) == 3
    assert [again for number, again in notes.ended if number == 3] == [True, True, False]
    assert RunFolder(tmp_path / "run3").failure() == "its worker was killed by signal 9"
    assert json.loads((tmp_path / "run3" / "failed.json").read_text()).keys() >= {"reason", "when", "host", "traceback"}
    assert not (tmp_path / "run2").exists()


def test_a_store_that_cannot_be_written_stops_the_campaign(tmp_path: Path) -> None:
    full = StoreFailed("no space left")
    engine = Scripted({i: [full if i == 1 else finished(tmp_path, i)] for i in range(6)})
    plan = conduct(jobs(tmp_path, 6), engine, Notes(), lambda: False)
    assert plan.store is full
    assert numbers(plan, State.DONE) == [0]
    assert numbers(plan, State.INTERRUPTED) == [1, 2, 3, 4, 5]
    assert engine.started == [0, 1, 2]  # the third was under way
    assert not list(tmp_path.iterdir())


def test_a_stop_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    engine = Scripted({i: [finished(tmp_path, i)] for i in range(4)})
    plan = conduct(jobs(tmp_path, 4), engine, Notes(), lambda: len(engine.started) > 1)
    assert engine.started == [0, 1]
    assert numbers(plan, State.DONE) == [0]  # which had ended before the stop
    assert numbers(plan, State.INTERRUPTED) == [1, 2, 3]


class Clock:
    """Stands in for the module time: seconds pass in sleep alone, the first time as many as given."""

    def __init__(self, stall: float) -> None:
        self.now, self.stall = 0.0, stall

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += self.stall or seconds
        self.stall = 0.0


def test_a_worker_that_was_stopped_alone_is_replaced(tmp_path: Path) -> None:
    engine = Scripted({0: [Interrupted(""), finished(tmp_path, 0)], 1: [finished(tmp_path, 1)]})
    assert numbers(conduct(jobs(tmp_path, 2), engine, Notes(), lambda: False), State.DONE) == [0, 1]


@pytest.mark.parametrize("stall", [0.5, 10.0, 100.0])
def test_runs_of_other_processes_are_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stall: float) -> None:
    """One is finished there, one goes on there, two are given up: by a process that is gone, and by a silent machine.

    However long the driver stalls between its first looks: it learns nothing of the heartbeats in between.
    """
    clock = Clock(stall)
    monkeypatch.setattr(conducting, "time", clock)
    busy = Busy("another process is working on it")
    engine = Scripted({i: [busy, finished(tmp_path, i)] for i in range(4)})
    all_of_them = jobs(tmp_path, 4)
    for job in all_of_them:
        job.folder.path.mkdir()
    who = {"token": "x", "host": "elsewhere", "machine": "another boot", "pid": 1, "started": "1"}
    for number in (1, 3):
        (tmp_path / f"run{number}" / "claim").write_text(json.dumps(who) + "\n{}\n")
    (tmp_path / "run0" / "result.json").write_text("{}")
    beats = itertools.count(time.time())

    def poll(seconds: float) -> list[tuple[Job, Ending]]:
        os.utime(tmp_path / "run1" / "claim", (beat := next(beats), beat))
        return real(seconds)

    real, engine.ended = engine.ended, poll  # type: ignore[method-assign]
    plan = conduct(all_of_them, engine, Notes(), lambda: False)
    assert numbers(plan, State.DONE) == [0, 2, 3]
    assert numbers(plan, State.ELSEWHERE) == [1]
    assert engine.started == [0, 1, 2, 3, 2, 3]
    assert clock.now > claim.DEAD_SECONDS


def test_the_impatient_leave_them(tmp_path: Path) -> None:
    engine = Scripted({0: [Busy("another process is working on it")]})
    assert numbers(conduct(jobs(tmp_path, 1), engine, Notes(), lambda: False, patient=False), State.ELSEWHERE) == [0]


# Failures are recorded


def test_a_failed_run_is_left_out_until_it_is_asked_for(command: Callable, tmp_path: Path, store: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(
        "from nsbench.samplers.uniform import Uniform\n\n\nclass Failing(Uniform):\n"
        "    def sample(self, positives, view):\n        raise ZeroDivisionError('of its own making')\n"
    )
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f'protocol = "quick"\nseeds = 1\nset = ["protocol.steps=4"]\n[[grid]]\nkge = "transe"\n'
        f'dataset = "planted:small"\nsampler = ["{file}:Failing", "uniform"]\n'
    )
    first = command("sweep", str(grid), "--no-diagnostics")
    assert first.code == 1
    assert "ZeroDivisionError: of its own making" in first.err
    assert "1 of 2 runs failed (Failing-transe-planted_small-s0)" in first.err
    (failed,) = store.glob("*/failed.json")
    record = json.loads(failed.read_text())
    assert "failing.py" in record["traceback"]
    assert "failed: ZeroDivisionError: of its own making" in command("runs", "list").out

    again = command("sweep", str(grid), "--no-diagnostics")
    assert again.code == 0
    assert "Failing-transe-planted_small-s0" in again.err
    assert "--retry-failed" in again.err
    assert json.loads(failed.read_text()) == record
    assert "1 of 2 runs are done, 1 failed" in command("sweep", str(grid), "--plan").out

    retried = command("sweep", str(grid), "--no-diagnostics", "--retry-failed")
    assert retried.code == 1
    assert "1 of 2 runs failed" in retried.err


def test_success_removes_the_record(tmp_path: Path) -> None:
    short = ["protocol.steps=4"]
    (config,) = campaign.plan(["uniform"], ["transe"], ["planted:small"], [0], protocol="quick", settings=short)
    folder = campaign.folder_of(config, tmp_path)
    folder.record_failure(MemoryError())
    assert (folder.failure() or "").startswith("out of memory; use a smaller")
    campaign.carry_out(config, tmp_path)
    assert folder.complete
    assert folder.failure() is None
    assert not (folder.path / "failed.json").exists()


def test_several_runs_are_shown_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "QUIET_SECONDS", 0)
    shown = display.Display(3, lambda: 125.0)
    with shown:
        shown.begin("first", 3, 1)
        shown.begin("second", 3, 2)
        shown.hear({"stage": "training", "step": 10, "steps": 40, "seconds_left": 6.0}, 2)
        shown.hear({"stage": "validation"}, 1)
        shown.end("first: done", 1)
        shown.end("second: its worker is gone", 2, again=True)
        shown.begin("second", 2, 2)
        shown.end("second: done", 2)
    assert capsys.readouterr().err.splitlines() == [
        "second: step 10/40  6 s left  (2 min 05 s left for the whole)",
        "first: done  (2 min 05 s left for the whole)",
        "second: its worker is gone  (2 min 05 s left for the whole)",
        "second: done  (2 min 05 s left for the whole)",
    ]


def test_on_a_terminal_every_run_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, height=20)
    monkeypatch.setattr(display, "Console", lambda **_: screen)
    with display.Display(4, lambda: 60.0) as shown:
        shown.begin("first", 4, 1)
        shown.begin("second", 4, 2)
        shown.hear({"stage": "training", "step": 10, "steps": 40, "seconds_left": 6.0}, 2)
        assert [task.description for task in shown.bars.tasks] == ["all runs", "first", "second"]
        assert [task.completed for task in shown.bars.tasks] == [0, 0, 0.25]
        assert shown.bars.tasks[0].fields["text"] == "0/4  (1 min 00 s left for the whole)"
        shown.end("first: done", 1)
        assert [task.description for task in shown.bars.tasks] == ["all runs", "second"]
        assert shown.bars.tasks[0].completed == 1


def test_the_listener_counts_a_run_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "described", lambda config: "")
    one, other = (job._replace(config=SimpleNamespace(name=f"run{job.number}")) for job in jobs(tmp_path, 2))
    costs = Costs(tmp_path)
    told = reporter.Reporter([one, other], costs, "cpu")
    record = {"cost": {"seconds": 30.0, "peak_memory": 7}, "config": {"sampler": "uniform"}, "test": {"mrr": 0.5}}
    done = Result(tmp_path, record)
    assert told.ahead() is None
    told.begin(one)
    told.end(one, Busy("another process is working on it"), again=False)
    told.begin(other)
    told.end(other, Lost("its worker was killed"), again=True)
    told.begin(one)
    told.end(one, done, again=False)
    assert told.ahead() == 30.0
    assert told.memory(other) is None
    told.begin(other)
    told.end(other, done, again=False)
    assert told.todo == {}
    assert told.ahead() is None


# The time left for all runs


class Ticking:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], int], tuple[reporter.Reporter, Ticking]]:
    """A reporter of a run of each of these groups, with a clock."""
    clock = Ticking()
    monkeypatch.setattr(reporter, "time", clock)
    monkeypatch.setattr(reporter, "described", lambda config: "")

    def make(groups: list[str], slots: int) -> tuple[reporter.Reporter, Ticking]:
        named = [job._replace(config=SimpleNamespace(name=f"run{job.number}")) for job in jobs(tmp_path, len(groups))]
        made = reporter.Reporter([job._replace(group=g) for job, g in zip(named, groups)], Costs(tmp_path), "cpu")
        made.slots = slots
        return made, clock

    return make


def at(share: float, left: float) -> dict[str, Any]:
    return {"stage": "training", "step": 100 * share, "steps": 100, "seconds_left": left}


def begin(told: reporter.Reporter, number: int) -> Job:
    told.begin(job := told.todo[number])
    return job


def test_runs_under_way_tell_of_those_that_wait(told: Callable) -> None:
    """Four of one group, two at a time: each takes 100 seconds."""
    listener, clock = told(["a"] * 4, 2)
    first, second = begin(listener, 0), begin(listener, 1)
    assert listener.ahead() is None
    clock.now = 25.0
    listener.hear(first, at(0.25, 75.0))
    listener.hear(second, at(0.25, 75.0))
    assert listener.ahead() == pytest.approx((75 + 75 + 100 + 100) / 2)
    clock.now = 35.0  # nothing was heard since: the time goes on
    assert listener.ahead() == pytest.approx((65 + 65 + 100 + 100) / 2)
    listener.hear(first, {"stage": "validation"})
    assert listener.ahead() == pytest.approx((65 + 65 + 100 + 100) / 2)


def test_what_was_recorded_is_taken_at_the_pace_of_what_is_under_way(told: Callable) -> None:
    """Recorded are 40 and 10 seconds; now the machine is half as fast. Of the third group nothing is known: as the mean."""
    listener, clock = told(["a", "a", "b", "c"], 1)
    for group, seconds in (("a", 40.0), ("b", 10.0)):
        listener.costs._seconds[group], listener.costs._memory[group] = [seconds], [0]
    assert listener.ahead() == pytest.approx(40 + 40 + 10 + 25)
    first = begin(listener, 0)
    clock.now = 8.0
    listener.hear(first, at(0.1, 72.0))
    assert listener.ahead() == pytest.approx(72 + 80 + 20 + 50)


def test_what_a_sampler_does_before_the_first_step_does_not_count_as_a_faster_pace(told: Callable) -> None:
    """Recorded are 100 seconds of both; of the one under way 80 went by before its steps, which take another 20."""
    listener, clock = told(["pretrained", "a"], 1)
    for group in ("pretrained", "a"):
        listener.costs._seconds[group], listener.costs._memory[group] = [100.0], [0]
    first = begin(listener, 0)
    clock.now = 82.0
    listener.hear(first, at(0.1, 18.0))
    assert listener.ahead() == pytest.approx(18 + 100)


def test_a_group_of_its_own_does_not_count_as_a_change_of_pace(told: Callable) -> None:
    listener, clock = told(["slow", "slow", "a"], 1)
    listener.costs._seconds["a"], listener.costs._memory["a"] = [10.0], [0]
    first = begin(listener, 0)
    clock.now = 500.0
    listener.hear(first, at(0.5, 500.0))
    assert listener.ahead() == pytest.approx(500 + 1000 + 10)

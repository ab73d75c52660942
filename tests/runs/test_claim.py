"""A run folder has one holder: whatever the order of events, whoever dies, and on whichever machine."""

import errno
import functools
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbench import machine
from nsbench.errors import Busy
from nsbench.runs import claim
from nsbench.runs.claim import Claim
from nsbench.runs.folder import RunFolder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")


def left_by(folder: Path, token: str = "theirs", seconds_ago: float = 0.0, name: str = "claim", **changed: object) -> Path:
    """The claim of a process on another machine."""
    who = {"token": token, "host": "elsewhere", "machine": "another boot", "pid": os.getpid(), "started": "1", **changed}
    path = folder / name
    path.write_text(json.dumps(who) + "\n" + json.dumps({"stage": "training", "step": 7}) + "\n")
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def test_a_claim_is_refused_while_it_is_held_and_free_afterwards(tmp_path: Path) -> None:
    one = Claim(tmp_path)
    with pytest.raises(Busy, match=r"another process is working on \S+; wait for it or stop it$"):
        Claim(tmp_path)
    one.release()
    assert list(tmp_path.iterdir()) == []
    Claim(tmp_path).release()


@pytest.mark.parametrize(("seconds", "taken"), [(1, False), (50, False), (70, True), (10**6, True)])
def test_a_claim_of_another_machine_dies_with_its_heartbeat(tmp_path: Path, seconds: float, taken: bool) -> None:
    left_by(tmp_path, seconds_ago=seconds)
    if taken:
        mine = Claim(tmp_path)
        assert mine.ours()
        mine.release()
        assert list(tmp_path.iterdir()) == []
    else:
        with pytest.raises(Busy):
            Claim(tmp_path)
        held = claim.holder(tmp_path)
        assert held is not None
        assert (str(held), held.progress) == (f"elsewhere:{os.getpid()}", {"stage": "training", "step": 7})


def test_a_pid_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    left_by(tmp_path, machine=machine.boot(), pid=os.getppid(), started=machine.started(os.getppid()))
    with pytest.raises(Busy):
        Claim(tmp_path)
    left_by(tmp_path, machine=machine.boot(), pid=os.getppid(), started="1")
    Claim(tmp_path).release()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="only /proc tells a zombie")
def test_a_killed_holder_on_this_machine_is_succeeded_at_once_even_as_a_zombie(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        Claim(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
    while machine.started(child) is not None:
        time.sleep(0.01)
    assert (tmp_path / "claim").exists()
    mine = Claim(tmp_path)  # nobody has waited for the child yet
    os.waitpid(child, 0)
    assert mine.ours()
    mine.release()


def test_a_chain_of_dead_holders_is_read_to_its_end(tmp_path: Path) -> None:
    left_by(tmp_path, "a", 100)
    left_by(tmp_path, "b", 90, "claim.a")
    left_by(tmp_path, "stray", 80, "claim.z")
    left_by(tmp_path, "c", 1, "claim.b")
    with pytest.raises(Busy):
        Claim(tmp_path)
    left_by(tmp_path, "c", 70, "claim.b")
    mine = Claim(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"claim", "claim.a", "claim.b", "claim.c"}
    mine.release()
    assert list(tmp_path.iterdir()) == []


def test_who_was_succeeded_alive_cannot_write_any_more(tmp_path: Path) -> None:
    slow, fast = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with slow.claimed():
        slow.write_json("config.json", 1)
        slow.write_events([{"step": 1}])
        with open(slow.path / "events.jsonl", "a") as late:
            os.utime(slow.path / "claim", (0, 0))
            with fast.claimed():
                fast.write_json("config.json", 2)
                fast.write_events([])
                late.write("an event that was on its way\n")
                for write in (lambda: slow.write_json("config.json", 3), lambda: slow.append_event({"step": 2})):
                    with pytest.raises(Busy, match="was taken over by another process, which goes on"):
                        write()
                fast.append_event({"step": 1})
        with pytest.raises(Busy, match="was taken over"):
            slow.write_json("result.json", 3)
    assert {path.name for path in slow.path.iterdir()} == {"config.json", "events.jsonl"}
    assert (slow.path / "config.json").read_text() == "2\n"
    assert (slow.path / "events.jsonl").read_text() == '{"step": 1}\n'


def test_between_the_check_and_the_rename_a_successor_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", real)
        os.utime(slow.path / "claim", (0, 0))
        with fast.claimed():
            fast.write_json("result.json", "theirs")
            real(source, target)

    with slow.claimed():
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(Busy, match="was taken over"):
            slow.write_json("result.json", "mine")
    assert json.loads((slow.path / "result.json").read_text()) == "theirs"


def test_the_heartbeat_goes_on_and_says_how_far_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.02)
    began, mine = time.time(), Claim(tmp_path)
    (heartbeat,) = [thread for thread in threading.enumerate() if thread.name == f"heartbeat {tmp_path.name}"]
    mine.note({"stage": "training", "step": 30, "steps": 400, "seconds_left": 12.5, "loss": 0.5, "valid_mrr": None})
    os.utime(mine.path, (0, 0))
    deadline = time.monotonic() + 60
    while (held := claim.holder(tmp_path)) is None or not held.progress:
        assert time.monotonic() < deadline
    assert held.progress == {"stage": "training", "step": 30, "steps": 400, "seconds_left": 12.5}
    assert began - 1 < held.beat < time.time() + 1  # clocks of file systems are coarse
    mine.release()
    heartbeat.join(60)
    assert not heartbeat.is_alive()
    assert not (tmp_path / "claim").exists()  # a late heartbeat does not bring it back


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one = Claim(tmp_path)
    with pytest.raises(Busy):
        Claim(tmp_path)
    one.release()
    (tmp_path / "claim").write_bytes(b"")  # of a process that was killed before it had written it
    with pytest.raises(Busy):
        Claim(tmp_path)
    os.utime(tmp_path / "claim", (0, 0))
    two = Claim(tmp_path)
    assert two.ours()
    two.release()
    assert list(tmp_path.iterdir()) == []


# Every order of events


class Killed(BaseException):
    pass


class Stage:
    """Actors are threads that pass their gates one at a time, in an order drawn at random; some are killed at a gate."""

    def __init__(self, seed: int, kills: int) -> None:
        self.rng, self.kills = random.Random(seed), kills
        self.turns: dict[str, threading.Semaphore] = {}
        self.waiting: set[str] = set()
        self.killed: set[str] = set()
        self.reached = threading.Semaphore(0)
        self.problems: list[AssertionError] = []

    def gate(self) -> None:
        me = threading.current_thread().name
        if me not in self.turns or me in self.killed:  # the audience, and the dead while they leave
            return
        self.waiting.add(me)
        self.reached.release()
        self.turns[me].acquire()
        if me in self.killed:
            raise Killed

    def play(self, act: Callable[[], None], actors: int) -> None:
        threads = [threading.Thread(target=self._play, args=(act,), name=f"p{i}") for i in range(actors)]
        for thread in threads:
            self.turns[thread.name] = threading.Semaphore(0)
            thread.start()
            self.reached.acquire()
        while self.waiting:
            chosen = self.rng.choice(sorted(self.waiting))
            if self.kills and self.rng.random() < 0.05:
                self.kills -= 1
                self.killed.add(chosen)
            self.waiting.remove(chosen)
            self.turns[chosen].release()
            self.reached.acquire()
        for thread in threads:
            thread.join()

    def _play(self, act: Callable[[], None]) -> None:
        try:
            self.gate()
            act()
        except Killed:
            pass
        except AssertionError as problem:
            self.problems.append(problem)
        finally:
            self.reached.release()


def hold_once(stage: Stage, folder: Path, inside: set[str], served: set[str]) -> None:
    me = threading.current_thread().name
    for _ in range(100):
        try:
            mine = Claim(folder)
        except (Busy, FileNotFoundError):
            continue
        assert inside - stage.killed == set(), f"{inside - stage.killed} and {me} hold it at once"
        inside.add(me)
        stage.gate()
        assert mine.ours()
        inside.remove(me)
        mine.release()
        served.add(me)
        return


@pytest.mark.parametrize("chapter", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in (2, 3))])
def test_there_is_never_more_than_one_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chapter: int) -> None:
    """Two to four processes want a folder whose last holders, if any, are dead; some are killed; 100 random orders."""
    stage = Stage(0, 0)
    numbers = itertools.count()

    def watched(real: Callable) -> Callable:
        def call(*args: Path) -> object:
            stage.gate()
            return real(*args)

        return call

    for name in ("_read", "_create", "_remove"):
        monkeypatch.setattr(claim, name, watched(getattr(claim, name)))
    monkeypatch.setattr(claim.Holder, "dead", lambda held, now: held.token.partition("-")[0] in {"dead", *stage.killed})
    monkeypatch.setattr(Claim, "_beat", lambda self: None)
    monkeypatch.setattr("secrets.token_hex", lambda size: f"{threading.current_thread().name}-{next(numbers)}")

    for seed in range(100 * chapter, 100 * (chapter + 1)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for i in range(seed % 3):
            left_by(folder, f"dead-{i}", name="claim" if i == 0 else f"claim.dead-{i - 1}")
        stage = Stage(seed, kills=seed % 2)
        served: set[str] = set()
        stage.play(functools.partial(hold_once, stage, folder, set(), served), actors=2 + seed % 3)
        assert not stage.problems, f"order {seed}: {stage.problems[0]}"
        assert served == set(stage.turns) - stage.killed, f"order {seed}: somebody never got it"


# Processes that are really killed


@pytest.mark.parametrize("ahead", [300, -300])
@pytest.mark.parametrize(("seconds_ago", "alive"), [(1, True), (70, False)])
def test_heartbeats_are_judged_by_the_clock_that_stamps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, seconds_ago: int, alive: bool
) -> None:
    left_by(tmp_path, seconds_ago=seconds_ago)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)  # this machine's clock, not the file system's
    assert (claim.holder(tmp_path) is not None) == alive
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]

"""The time left, by a clock of our own: near the truth at constant load, and soon again after a change of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nsbench.campaign import plan as campaign
from nsbench.errors import Misuse
from nsbench.runs import checkpoint, runner
from nsbench.runs.runner import Interrupted, RunOptions
from nsbench.runs.time_left import WINDOW, TimeLeft
from nsbench.training.diagnostics import Diagnosis
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer


def test_the_pace_is_that_of_the_last_steps_without_the_first() -> None:
    left = TimeLeft()
    left.stepped(50.0)
    assert left.left(10, {"validation": 3}) is None
    left.stepped(1.0)
    assert left.left(10, {"validation": 3}) == 10.0
    assert left.left(10, {}) == 10.0
    for _ in range(100):
        left.stepped(1.0)
    for _ in range(round(WINDOW / 4)):
        left.stepped(4.0)
    assert left.left(10, {}) == 40.0


def test_a_part_is_worth_as_many_steps_as_when_it_was_measured() -> None:
    left = TimeLeft()
    left.took("diagnosis", 5.0)  # before the first step: as it is
    for _ in range(11):
        left.stepped(2.0)
    left.took("validation", 6.0)
    assert left.left(1, {"validation": 2, "diagnosis": 1}) == 2 + 12 + 5
    for _ in range(10):
        left.stepped(4.0)
    assert left.left(1, {"validation": 2, "diagnosis": 1}) == 4 + 24 + 5


STEPS, EVERY = 90, 15
TICK = 0.02  # seconds that a triple takes to be ranked
ALL = 376 * TICK  # validation triples of planted:small, and as many test triples


class Machine:
    """Its load says how many seconds pass for the work of one."""

    def __init__(self) -> None:
        self.now, self.load = 0.0, lambda now: 1.0
        self.heard: list[tuple[float, dict[str, Any]]] = []

    def works(self, seconds: float) -> None:
        self.now += seconds * self.load(self.now)

    def hear(self, event: dict[str, Any]) -> None:
        self.heard.append((self.now, event))

    def said(self) -> list[tuple[float, float, float]]:
        """(when, seconds left as said, truth) of every event of training; call it at the end of the run."""
        return [(when, e["seconds_left"], self.now - when) for when, e in self.heard if e["stage"] == "training"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A step takes a second, the first five; a diagnosis three; a triple to be ranked TICK."""
    made = Machine()
    clock = SimpleNamespace(monotonic=lambda: made.now)
    for module in (runner, checkpoint):
        monkeypatch.setattr(module, "time", clock)

    def slow(owner: type, name: str, seconds: Callable[[Any], float]) -> None:
        real = getattr(owner, name)

        def call(self: Any, *rest: Any) -> Any:
            made.works(seconds(self))
            return real(self, *rest)

        monkeypatch.setattr(owner, name, call)

    slow(Trainer, "step", lambda trainer: 1.0 if trainer.step_count else 5.0)
    slow(Diagnosis, "measure", lambda diagnosis: 3.0)
    slow(Ranking, "ranks", lambda ranking: len(ranking.triples) * TICK)
    return made


def carried_out(store: Path, machine: Machine, **more: Any) -> None:
    settings = [f"protocol.steps={STEPS}", f"protocol.validate_every={EVERY}", "protocol.width=8"]
    (config,) = campaign.plan(["uniform"], ["transe"], ["planted:small"], [0], protocol="quick", settings=settings)
    campaign.carry_out(config, store, RunOptions(device="cpu", checkpoint_seconds=1e9), machine.hear, **more)


def test_at_constant_load_it_is_near_the_truth_from_the_tenth_second_on(tmp_path: Path, machine: Machine) -> None:
    """With all that a run consists of: validations are a third of it, the test and two diagnoses come at its end."""
    carried_out(tmp_path, machine)
    assert machine.now == pytest.approx(STEPS + 4 + 3 * 3 + (STEPS // EVERY + 1) * ALL + 256 * TICK, rel=0.05)
    said = [(left, truth) for when, left, truth in machine.said() if when >= 10]
    assert len(said) > 0.9 * STEPS
    assert [(left, truth) for left, truth in said if left != pytest.approx(truth, rel=0.15)] == []


@pytest.mark.parametrize(("before", "after"), [(1.0, 6.0), (2.0, 1.0)])
def test_twenty_seconds_after_a_change_of_load_it_is_near_the_truth(
    tmp_path: Path, machine: Machine, before: float, after: float
) -> None:
    change = 50.0 * before
    machine.load = lambda now: before if now < change else after
    carried_out(tmp_path, machine)
    said = [(left, truth) for when, left, truth in machine.said() if when >= change + 20]
    assert len(said) > STEPS / 4
    assert [(left, truth) for left, truth in said if left != pytest.approx(truth, rel=0.3)] == []


@pytest.mark.parametrize(
    ("sampler", "protocol", "long", "refused"),
    [
        ("one_vs_all", 'extends = "cpu"\nminutes = 1\n', False, True),
        ("one_vs_all", 'extends = "cpu"\nminutes = 1\n', True, False),
        ("one_vs_all", 'extends = "cpu"\nminutes = 3.5\n', False, False),
        ("one_vs_all", 'extends = "cpu"\n', False, False),
        ("one_vs_all", 'extends = "quick"\n', False, False),
        ("uniform", 'extends = "cpu"\nminutes = 1\n', False, False),
    ],
)
def test_above_its_limit_what_compares_every_entity_is_refused(
    tmp_path: Path, machine: Machine, sampler: str, protocol: str, long: bool, refused: bool
) -> None:
    settings = [f"protocol.steps={STEPS}", f"protocol.validate_every={EVERY}", "protocol.width=8", "protocol.batch=64"]
    (tmp_path / "mine.toml").write_text(protocol)
    named = str(tmp_path / "mine.toml")
    (config,) = campaign.plan([sampler], ["transe"], ["planted:small"], [0], protocol=named, settings=settings)
    options = RunOptions(device="cpu", long=long)
    if not refused:
        campaign.carry_out(config, tmp_path, options)
        return
    with pytest.raises(Misuse, match=r"one_vs_all .* would take 2 minutes here, more than the 1 of protocol mine; --long"):
        campaign.carry_out(config, tmp_path, options)
    assert machine.now < 0.2 * STEPS
    campaign.carry_out(config, tmp_path, RunOptions(device="cpu"))  # asked for, in the same store


def test_a_run_that_goes_on_knows_what_is_behind_it(tmp_path: Path, machine: Machine) -> None:
    stop = iter([False] * 40)
    with pytest.raises(Interrupted):
        carried_out(tmp_path, machine, stopping=lambda: next(stop, True))
    machine.heard.clear()
    machine.now = 1000.0
    carried_out(tmp_path, machine)
    said = [(left, truth) for when, left, truth in machine.said() if when >= 1010]
    assert len(said) > 0.4 * STEPS
    assert [(left, truth) for left, truth in said if left != pytest.approx(truth, rel=0.15)] == []
    assert said[0][1] < 0.8 * (STEPS + (STEPS // EVERY) * ALL)

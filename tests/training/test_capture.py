"""Steps by CUDA graphs equal Python's, bit for bit; and samplers whose steps a graph would not repeat keep Python's.

The battery (tests/test_gpu.py) compares every sampler with every model; here are options, fusions and auxiliary losses that
lead a step another way, and what lies between steps. Needs a GPU, or the pretended one (tests/pretend/device.py).
"""

from __future__ import annotations

import collections
import io
import re
import warnings

import pytest
import torch

from nsbench.config.run import configure
from nsbench.contracts import Negatives, Sampler
from nsbench.registry import SAMPLERS
from nsbench.testing import check_sampler, registered, toy
from nsbench.testing.watch import first_different_state
from nsbench.training.diagnostics import Diagnosis
from nsbench.training.frozen import reason_against
from nsbench.training.trainer import Trainer

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, or -p tests.pretend.device")
SIZES = [f"protocol.{x}" for x in ("width=8", "batch=16", "negatives=4", "steps=40", "learning_rate=0.02")]

CASES = [  # sampler, model, fusion, settings
    ("dhns", "transe", "adamf", "sampler.timesteps=10"),
    ("dhns_released", "distmult", "adamf", "sampler.timesteps=10 aux.mat=1"),
    ("igan", "rotate", "none", "sampler.turns=step protocol.sides=per_slot"),
    (
        "kbgan",
        "distmult",
        "adamf",
        "sampler.baseline=epoch sampler.pretrain_epochs=2 aux.diffusion=1 aux.diffusion.timesteps=10",
    ),
    ("mans", "transe", "two_view", "sampler.strategy=T"),
    ("mans", "distmult", "two_view", "sampler.strategy=H sampler.side=bernoulli"),
    ("mmrns", "transe", "adamf", "sampler.variant=released"),
    ("mmrns", "rotate", "none", "sampler.variant=paper"),
    ("nscaching", "rotate", "none", "sampler.lazy=1 protocol.sides=alternate"),
    ("one_vs_all", "transe", "adamf", "aux.mat=1"),
    ("ns_kge", "distmult", "two_view", ""),
    ("pseudo_typed", "transe", "none", "protocol.subsampling=true protocol.temperature=1"),
    ("sans", "rotate", "adamf", "sampler.mode=rw aux.mat=1"),
    ("uniform", "rotate", "adamf", "aux.diffusion=1 aux.diffusion.timesteps=10 aux.mat=0.5 aux.mat.temperature=2"),
]
SLOW = [
    ("uniform", "transe", "none", "protocol.sides=alternate protocol.subsampling=true protocol.temperature=1"),
    ("bernoulli", "rotate", "two_view", "protocol.subsampling=true"),
    ("dhns", "rotate", "none", "sampler.timesteps=10 sampler.slots=structure sampler.chain=around"),
    ("dhns", "distmult", "adamf", "sampler.timesteps=10 sampler.slots=each sampler.denoiser=printed aux.mat=1"),
    ("dhns", "transe", "adamf", "sampler.timesteps=10 sampler.slots=attended sampler.levels=one_x4 sampler.hal=off"),
    ("dhns_released", "transe", "adamf", "sampler.timesteps=10 sampler.leak=false"),
    ("igan", "transe", "adamf", "sampler.turns=none aux.mat=1"),
    ("igan", "distmult", "two_view", "sampler.variant=paper"),
    ("kbgan", "transe", "two_view", "sampler.variant=released sampler.pretrain_epochs=2"),
    ("mans", "rotate", "two_view", "sampler.strategy=V"),
    ("mmrns", "distmult", "none", "sampler.components=features sampler.feedback=0"),
    ("mmrns", "transe", "none", "sampler.components=structure aux.diffusion=1 aux.diffusion.timesteps=10"),
    ("nscaching", "transe", "adamf", "sampler.variant=released aux.mat=1 protocol.sides=per_slot"),
    ("one_vs_all", "rotate", "none", "sampler.loss=logistic sampler.filtered=false"),
    ("sans", "transe", "two_view", "protocol.sides=alternate"),
]


def trainer_of(sampler: str, kge: str, fusion: str, settings: str, device: str = "cuda") -> Trainer:
    config = configure(sampler, kge, "planted:small", fusion=fusion, settings=[*SIZES, *settings.split()])
    trainer = Trainer(config, toy(features=config.wants_features), device)
    trainer.pretrain()
    return trainer


def both(*case: str) -> tuple[Trainer, Trainer]:
    """One trainer that steps in Python, one by graphs."""
    python, replayed = trainer_of(*case), trainer_of(*case)
    python.captured = None
    return python, replayed


def run(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.step()


@on_gpu
@pytest.mark.filterwarnings("ignore:dhns:UserWarning")  # T = 10 is short for the released levels
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids="-".join)
def test_captured_steps_are_pythons(case: tuple[str, str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    python, replayed = both(*case)
    replays: collections.Counter[int] = collections.Counter()
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.update([id(graph)]) or replay(graph))
    for _ in range(36):  # over four passes, and the decay of the learning rate
        python.step()
        replayed.step()
        assert first_different_state(python, replayed) is None, f"step {python.step_count}"
    assert len(replays) >= 2
    assert sum(replays.values()) >= 36 - 2 * (len(replays) + 2)  # two steps of each regime are Python's; some end too soon


class Plain(Sampler):
    """Uniform, in a way that a class of its own says; `weight` is what the tests change from step to step."""

    def weight(self, view) -> float:
        return 1.0

    def sample(self, positives, view):
        side = view.draw_side(positives)
        ids = view.graph.draw(positives.key(side), self.k, view.rng)
        return Negatives(side, ids=ids, coef=self.weight(view))


class Counts(Plain):
    count = 0

    def weight(self, view):
        self.count += 1
        return 1 / self.count


class CountsInALists(Plain):
    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.seen = {"steps": [0]}

    def weight(self, view):
        self.seen["steps"][0] += 1
        return 1 / self.seen["steps"][0]


class ReplacesABuffer(Plain):
    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.register_buffer("sum", torch.zeros(()))

    def sample(self, positives, view):
        self.sum = self.sum + 1
        block = super().sample(positives, view)
        block.margin_shift = (1 / self.sum).expand(block.ids.shape)
        return block


class ReadsTheStep(Plain):
    def weight(self, view):
        return 1 / (1 + view.step)


class HearsOfPasses(Plain):
    passes = 0

    def start_epoch(self, epoch):
        self.passes += 1

    def weight(self, view):
        return 1 / self.passes


class Waits(Plain):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.coef = 1 / (1 + float(block.ids.float().mean()))
        return block


class AsksAnUnknownGenerator(Plain):
    def __init__(self, setting, options):
        super().__init__(setting, options)
        self.hidden = [torch.Generator(device=setting.graph.device).manual_seed(1)]

    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.margin_shift = torch.rand(block.ids.shape, generator=self.hidden[0], device=view.device)
        return block


class Declares(Counts):
    captured = False


REFUSED = {
    Counts: "self.count in Python",
    CountsInALists: "self.seen.steps.0 in Python",
    ReplacesABuffer: "self.sum in Python",
    ReadsTheStep: "view.step in Python",
    HearsOfPasses: "start_epoch changes self.passes",
    Waits: "waits for the device",
    AsksAnUnknownGenerator: "recording fails: .* not registered",
    Declares: "captured = False",
}


@on_gpu
@pytest.mark.parametrize("component", REFUSED, ids=lambda component: component.__name__)
def test_what_a_graph_would_freeze_runs_in_python_with_a_word(component: type) -> None:
    with registered(SAMPLERS, "outsider", component), warnings.catch_warnings(record=True) as heard:
        python, replayed = both("outsider", "transe", "none", "")
        run(python, 30)
        run(replayed, 30)
    said = [str(warning.message) for warning in heard if "without CUDA graphs" in str(warning.message)]
    assert {re.search(REFUSED[component], text) is not None for text in said} == {True}
    assert replayed.captured is not None
    assert not replayed.captured.graphs
    assert first_different_state(python, replayed) is None


ON_A_CPU = [Counts, CountsInALists, ReplacesABuffer, ReadsTheStep]


@pytest.mark.parametrize("component", ON_A_CPU, ids=lambda component: component.__name__)
def test_a_cpu_tells_what_a_graph_would_freeze(component: type) -> None:
    with registered(SAMPLERS, "outsider", component):
        trainer = trainer_of("outsider", "transe", "none", "", device="cpu")
    trainer.step()
    reason = reason_against(trainer, trainer.step)
    assert reason is not None
    assert re.search(REFUSED[component], reason)


@pytest.mark.parametrize("sampler", ["uniform", "nscaching", "kbgan", "mmrns", "igan"])
def test_nothing_stands_against_graphs_of_built_in_samplers(sampler: str) -> None:
    trainer = trainer_of(sampler, "transe", "none", "sampler.pretrain_epochs=1" if sampler == "kbgan" else "", device="cpu")
    trainer.step()
    assert reason_against(trainer, trainer.step) is None


class TellsItsRegime(HearsOfPasses):
    def regime(self, view):
        return self.passes


class FollowsTheClock(Plain):
    def sample(self, positives, view):
        block = super().sample(positives, view)
        block.margin_shift = (1 / (1 + view.clock)).float().expand(block.ids.shape)
        return block


@on_gpu
@pytest.mark.parametrize("component", [Plain, TellsItsRegime, FollowsTheClock])
def test_who_says_what_changes_is_captured(component: type) -> None:
    with registered(SAMPLERS, "outsider", component), warnings.catch_warnings():
        warnings.simplefilter("error")
        python, replayed = both("outsider", "transe", "none", "")
        run(python, 30)
        run(replayed, 30)
    assert replayed.captured is not None
    assert replayed.captured.graphs
    assert first_different_state(python, replayed) is None


COUNT = [0]


class CountsWhereNobodyLooks(Plain):
    def weight(self, view):
        COUNT[0] += 1
        return 1 / (1 + COUNT[0] % 7)


@on_gpu
def test_the_battery_finds_what_nobody_recognised() -> None:
    findings = {f.rule: f for f in check_sampler(CountsWhereNobodyLooks, device="cuda")}
    assert findings["captured"].passed is False


@on_gpu
def test_the_battery_says_what_stands_against_graphs() -> None:
    for device in ("cpu", "cuda"):
        (found,) = (f for f in check_sampler(Counts, device=device) if f.rule == "captured")
        assert found.passed is None
        assert "self.count in Python" in found.words


@on_gpu
def test_a_diagnosis_between_captured_steps_changes_nothing() -> None:
    """It puts back what samplers and auxiliary losses have learnt, in other tensors."""
    python, replayed = both("dhns", "transe", "adamf", "sampler.timesteps=10 aux.mat=1")
    run(python, 30)
    run(replayed, 20)
    Diagnosis(replayed, toy(features=True)).measure()
    run(replayed, 10)
    assert first_different_state(python, replayed) is None


@on_gpu
def test_captured_steps_go_on_from_a_saved_state() -> None:
    case = ("kbgan", "rotate", "none", "sampler.pretrain_epochs=2")
    whole, continued = trainer_of(*case), trainer_of(*case)
    run(whole, 20)
    run(continued, 9)  # whatever it captured before is of another state
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    continued.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    run(whole, 12)
    run(continued, 12)
    assert first_different_state(whole, continued) is None


@on_gpu
def test_the_seconds_of_the_sampler_are_counted_in_replays() -> None:
    trainer = trainer_of("nscaching", "transe", "none", "")
    run(trainer, 8)
    before = trainer.sampler_clock.seconds()
    run(trainer, 30)
    after = trainer.sampler_clock.seconds()
    assert after > before > 0
    assert trainer.sampler_clock.seconds() == after

"""The rules of the contract, and the battery of checks that every sampler passes, built in or not.

A plugin's test:

    import pytest
    from nsbench.testing import assert_contract

    @pytest.mark.parametrize("kge", ["transe", "distmult", "rotate"])
    def test_contract(kge):
        assert_contract("./mine.py:Mine", kge=kge)

`check_sampler` returns what was found, rule by rule; `nsbench check NAME` prints it. The sampler runs under the real
trainer, with its `sample` and `feedback` watched from outside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import pickle
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nsbench.config.run import Config, check_needs, configure
from nsbench.contracts import KGE, Dataset, Need, Negatives, Objective
from nsbench.errors import Misuse
from nsbench.options import build_options
from nsbench.registry import MODELS, SAMPLERS
from nsbench.runs.device import pick_device
from nsbench.testing.toy import registered, toy
from nsbench.testing.watch import (
    Broken,
    SyncWatch,
    Watch,
    first_difference,
    first_different_state,
    global_state,
    process_kept,
    restore,
)
from nsbench.training.evaluation import Ranking
from nsbench.training.frozen import reason_against
from nsbench.training.seeds import generator
from nsbench.training.trainer import Trainer, place_of

STEPS = 80  # of the long run; the others take ten
CAPTURED = 30  # steps beside Python's: three passes and more over the toy graph
SIZES = ("width=8", "batch=16", "negatives=4", f"steps={STEPS}", "learning_rate=0.02")


@dataclass(frozen=True)
class Finding:
    """What the battery says about one rule."""

    rule: str
    passed: bool | None  # None: not checked, `words` say why
    words: str  # what the rule asks, or what is wrong and what to do about it


SAMPLER_RULES = {
    "declared": "version, Options, variants and requires are what the contract says, and unmet needs are refused",
    "runs": "the sampler trains without an exception",
    "shapes": "sample returns blocks of the declared shapes and types, one of them with K negatives",
    "range": "entity ids lie in 0 .. N-1",
    "device": "parameters, buffers and everything returned live on the view's device",
    "feedback": "feedback returns None or a finite scalar that something of the sampler's can learn from",
    "constants": "weight is finite and >= 0, delta has value 0, log_q of ids is <= 0, numbers are not nan",
    "sides": "both ends are replaced in the course of time, one end per row where the protocol says per_row",
    "positives": "a known training positive is never returned as valid, unless `filtered` is False",
    "generator": "random numbers come from view.rng alone",
    "model": "sample and feedback leave the model's parameters as they are, bit for bit",
    "gradient": "no gradient reaches the model from sample or feedback, unless Need.LIVE is declared",
    "buffers": "no buffer hangs on a graph, which would grow with every step",
    "finite": "the scores of valid negatives are finite",
    "ends": "the first and the last entity can be drawn",
    "learning": "training lifts training triples above uniform negatives",
    "fixed side": "the side is the protocol's where it fixes one (Positives.side), unless Need.SIDE is declared",
    "per slot": "works where the protocol draws a side per negative",
    "seeded": "the same seed gives the same negatives and the same model, bit for bit",
    "resume": "a run continued from a saved state equals the uninterrupted run, bit for bit",
    "batches": "works when a batch holds a triple twice, for a batch of one, and for one negative",
    "saturated": "a query that every entity answers gets no valid negative and harms no other row",
    "host sync": "no step waits for the device",
    "captured": "a CUDA graph can repeat its steps, bit for bit (on a CPU: nothing that Python keeps stands against it)",
}

OBJECTIVE_RULES = {
    "declared": SAMPLER_RULES["declared"],
    "runs": "the objective trains without an exception",
    "loss": "loss returns a finite scalar",
    "device": "parameters, buffers and the loss live on the view's device",
    "reach": "the loss has a gradient into the model's entities",
    "generator": SAMPLER_RULES["generator"],
    "model": "loss leaves the model's parameters and their gradients to the trainer",
    "buffers": SAMPLER_RULES["buffers"],
    "learning": SAMPLER_RULES["learning"],
    "evaluation": "ranking between two steps changes nothing",
    "seeded": "the same seed gives the same losses and the same model, bit for bit",
    "resume": SAMPLER_RULES["resume"],
    "batches": "works when a batch holds a triple twice, and for a batch of one",
    "saturated": "works where a query is answered by every entity",
    "host sync": SAMPLER_RULES["host sync"],
    "captured": SAMPLER_RULES["captured"],
}


def check_sampler(
    sampler: str | type, kge: str = "transe", *, fusion: str = "none", settings: Sequence[str] = (), device: str = "auto"
) -> list[Finding]:
    """Every rule's finding for a sampler or objective: a registered name, `./mine.py:Mine`, or the class itself.

    `settings` are `--set` texts. Raises Misuse where the sampler cannot be paired with this model or fusion.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_kept())
        name = sampler if isinstance(sampler, str) else stack.enter_context(_named(sampler))
        case = Case(name, kge, fusion, tuple(settings), pick_device(device))
        if set(case.component.requires) <= set(Need):  # else rule `declared` says so
            check_needs(case.config(), case.dataset())
        rules, checks = (OBJECTIVE_RULES, OBJECTIVE_CHECKS) if case.is_objective else (SAMPLER_RULES, SAMPLER_CHECKS)
        report = Report(rules)
        for check, decides in checks:
            report.carry_out(check, case, decides.split(", "))
            broken = [rule for rule in FUNDAMENTAL if report.failed(rule)]
            if broken:
                report.not_checked(f"not checked, because rule '{broken[0]}' is broken")
                break
        return report.findings()


def assert_contract(sampler: str | type, kge: str = "transe", **how: Any) -> None:
    """AssertionError that names every broken rule; arguments as `check_sampler`."""
    broken = [f for f in check_sampler(sampler, kge, **how) if f.passed is False]
    assert not broken, "\n".join(f"{f.rule}: {f.words}" for f in broken)


@contextlib.contextmanager
def _named(component: type) -> Iterator[str]:
    """The name that a class is registered under, or one for the time being."""
    for name in SAMPLERS.names():
        if SAMPLERS.get(name) is component:
            yield name
            return
    name = f"{component.__name__.lower()} under test"
    with registered(SAMPLERS, name, component):
        yield name


@dataclass(frozen=True)
class Case:
    """The experiment that is checked."""

    sampler: str
    kge: str
    fusion: str
    settings: tuple[str, ...]
    device: torch.device

    @property
    def is_objective(self) -> bool:
        return issubclass(self.component, Objective)

    @property
    def component(self) -> Any:
        return SAMPLERS.get(self.sampler)

    @property
    def needs(self) -> frozenset[Need]:
        return self.component.needs(self.config().sampler_options)

    def config(self, *changes: str) -> Config:
        """`changes` are protocol values, such as batch=1."""
        settings = [*(f"protocol.{x}" for x in SIZES), *self.settings, *(f"protocol.{x}" for x in changes)]
        return configure(self.sampler, self.kge, "toy", protocol="quick", fusion=self.fusion, settings=settings)

    def dataset(self, saturated: bool = False) -> Dataset:
        return toy(features=self.config().wants_features, saturated=saturated)

    def trainer(self, *changes: str, saturated: bool = False, captured: bool = False) -> Trainer:
        """A fresh trainer, the global generators at a fixed state: a sampler that uses them breaks one rule, not five."""
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        trainer = Trainer(self.config(*changes), self.dataset(saturated), self.device)
        if not captured:
            trainer.captured = None  # what watches a step does so in Python
        return trainer

    def watch(self, *changes: str, saturated: bool = False) -> Watch:
        """A fresh trainer, prepared and watched."""
        watch = Watch(self.trainer(*changes, saturated=saturated))
        watch.prepare()
        return watch


class NotChecked(Exception):
    """A rule does not apply, or cannot be checked here."""


FUNDAMENTAL = ("declared", "runs", "shapes", "range", "device", "feedback", "loss", "reach")  # others fail in their wake


def said(error: Exception, component: type) -> str:
    """An exception in one line, with the last place in the component's own file that it came through."""
    if isinstance(error, Misuse | Broken):
        return str(error)
    place = place_of(error, component)
    return f"{type(error).__name__}: {' '.join(str(error).split())}{f' ({place})' if place else ''}"


class Report:
    """Findings in the order of the rules; of several faults against one rule the first is kept."""

    def __init__(self, rules: dict[str, str]) -> None:
        self.rules = rules
        self.found: dict[str, Finding] = {}

    def fail(self, rule: str, words: str) -> None:
        if not self.failed(rule):
            self.found[rule] = Finding(rule, False, words)

    def failed(self, rule: str) -> bool:
        return rule in self.found and self.found[rule].passed is False

    def carry_out(self, check: Callable[[Case, Report], None], case: Case, decides: list[str]) -> None:
        """Run a check that decides these rules; an exception counts against the first of them."""
        try:
            check(case, self)
        except NotChecked as reason:
            self.found[decides[0]] = Finding(decides[0], None, str(reason))
        except Broken as fault:
            self.fail(fault.rule if fault.rule in decides else decides[0], fault.words)
        except Exception as error:
            self.fail(decides[0], f"fails: {said(error, case.component)}; the rule: {self.rules[decides[0]]}")
        else:
            for rule in decides:
                self.found.setdefault(rule, Finding(rule, True, self.rules[rule]))

    def not_checked(self, words: str) -> None:
        for rule in self.rules:
            self.found.setdefault(rule, Finding(rule, None, words))

    def findings(self) -> list[Finding]:
        return [self.found[rule] for rule in self.rules if rule in self.found]


# --- checks: each decides the rules that stand beside it in the lists at the end ---


def declared(case: Case, report: Report) -> None:
    component = case.component
    SAMPLERS.check_declared(case.sampler, component)
    for name, values in component.variants.items():
        build_options(component.Options, values, f"variant '{name}', sampler")
    for need in case.needs:
        _refused(case, need)


def _refused(case: Case, need: Need) -> None:
    """An experiment that lacks the need must not pass the configuration."""
    try:
        with contextlib.ExitStack() as stack:
            if need in (Need.QUERY, Need.GRAM):
                stack.enter_context(registered(MODELS, "poor", Poor))
                dataclasses.replace(
                    case, kge="poor", settings=tuple(s for s in case.settings if not s.startswith("kge."))
                ).config()
            elif need is Need.VIEWS:
                dataclasses.replace(case, fusion="none").config()
            elif need is Need.SIDE:
                case.config("sides=alternate")
            elif need is Need.FEATURES:
                check_needs(case.config(), toy())
            else:
                return  # LIVE: every trainer provides it
    except Misuse:
        return
    raise Broken("declared", f"an experiment without '{need}' is accepted although requires names it")


class Poor(KGE):
    """A model that provides nothing beyond scores; good for configurations alone."""

    provides: frozenset[Need] = frozenset()


def long_run(case: Case, report: Report) -> None:
    watch = case.watch()
    before = _probe(watch.trainer)
    try:
        watch.run(STEPS)
    finally:
        for rule, words in watch.faults.items():
            report.fail(rule, words)
    after = _probe(watch.trainer)
    if not after > before:  # nan too
        raise Broken(
            "learning",
            f"positives score above uniform negatives in {after:.0%} of cases after training, "
            f"in {before:.0%} before; check the signs of weight, coef and the loss",
        )
    if case.is_objective:
        return
    sides = torch.cat([block.side.flatten() for step in watch.steps for block in step.blocks])
    if sides.all() or not sides.any():
        end = "tail" if sides.all() else "head"
        report.fail("sides", f"the {end} is never replaced; use view.draw_side")
    ids = [
        x[block.valid] if block.valid is not None else x for s in watch.steps for block in s.blocks for x in block.all_ids
    ]
    if not ids:
        report.found["ends"] = Finding("ends", None, "not checked: the sampler returns vectors, not ids")
        return
    drawn = torch.cat([x.flatten() for x in ids])
    for entity in (0, watch.trainer.graph.num_entities - 1):
        if not (drawn == entity).any():
            raise Broken("ends", f"entity {entity} was never drawn in {len(drawn)} draws; check the ends of the range")


def _probe(trainer: Trainer) -> float:
    """How often a training triple scores above a uniform negative; unlike a loss, comparable for every sampler."""
    graph, rng = trainer.graph, generator(0, "probe", trainer.device)
    positives = graph.positives(torch.arange(len(graph), device=trainer.device))
    side = torch.arange(len(graph), device=trainer.device) % 2 == 0
    block = Negatives(side, ids=graph.draw(positives.key(side), 20, rng))
    s_pos, s_neg = trainer.scoring().block(positives, block)
    return (s_pos.unsqueeze(1) > s_neg).float().mean().item()


def fixed_side(case: Case, report: Report) -> None:
    if Need.SIDE in case.needs:
        raise NotChecked("not checked: the sampler declares Need.SIDE, so protocols that fix the side refuse it")
    for step in case.watch("sides=alternate").run(4).steps:
        assert step.positives.side is not None
        for block in step.blocks:
            if block.generated is not None:
                continue  # what is generated may be so for both ends at once, beside the negatives that the rule is about
            fixed = step.positives.side if block.side.dim() == 1 else step.positives.side.unsqueeze(1)
            if (block.side != fixed).any():
                raise Broken("fixed side", "a block replaces another end than Positives.side says; use view.draw_side")


def per_slot(case: Case, report: Report) -> None:
    case.watch("sides=per_slot").run(4)


def seeded(case: Case, report: Report) -> None:
    first, second = case.watch().run(10), case.watch().run(10)
    difference = first_difference(first, second)
    if difference:
        raise Broken("seeded", f"two runs of one seed differ in {difference}; look for hashes, clocks, unseeded generators")


def resume(case: Case, report: Report) -> None:
    """Steps 6 to 10 of one trainer against those of another that gets its state through a checkpoint file."""
    whole = case.watch().run(5)
    file = io.BytesIO()
    torch.save(whole.trainer.state_dict(), file)
    elsewhere = global_state()  # so that only the rule about generators is broken by using them
    whole.steps.clear()
    whole.run(5)

    continued = Watch(case.trainer())
    file.seek(0)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        what = f"a {kind[1]}" if kind else "an object"
        raise Broken(
            "resume",
            f"the saved state holds {what}, which checkpoints do not load; keep tensors, numbers, texts, "
            "lists and dicts in get_extra_state",
        ) from None
    continued.trainer.load_state_dict(state)
    restore(elsewhere)
    continued.run(5)
    difference = first_difference(whole, continued)
    if difference:
        raise Broken("resume", f"after a reload {difference} differs; keep state in buffers, parameters or get_extra_state")


def batches(case: Case, report: Report) -> None:
    twice = 2 * len(case.dataset().train) + 1
    for changes in ((f"batch={twice}",), ("batch=1",), ("negatives=1",)):
        try:
            watch = case.watch(*changes).run(2)
        except Exception as error:
            raise Broken("batches", f"with {changes[0]} (toy graph) it fails: {said(error, case.component)}") from None
        if not math.isfinite(watch.trainer.loss_sum.item()):
            raise Broken("batches", f"with {changes[0]} (toy graph) the loss is not finite")


def saturated(case: Case, report: Report) -> None:
    watch = case.watch(saturated=True).run(12)
    if not math.isfinite(watch.trainer.loss_sum.item()):
        raise Broken("saturated", "the loss is not finite when a query is answered by every entity")
    if "positives" in watch.faults and not report.failed("positives"):
        raise Broken(
            "saturated",
            "a negative of a query that every entity answers is marked valid; pass valid=view.graph.drawable(key, k)",
        )


def evaluation(case: Case, report: Report) -> None:
    plain, ranked = case.watch(), case.watch()
    plain.run(6)
    ranked.run(3)
    data, trainer = case.dataset(), ranked.trainer
    Ranking(data.test, data.known, data.num_entities, data.num_relations, case.device).ranks(trainer.scoring())
    ranked.run(3)
    difference = first_difference(plain, ranked)
    if difference:
        raise Broken("evaluation", f"ranking between two steps changes {difference}; scoring must not change any state")


def host_sync(case: Case, report: Report) -> None:
    trainer = case.trainer()
    trainer.pretrain()
    for _ in range(10):  # first steps may allocate and compile
        trainer.step()
    with SyncWatch():
        for _ in range(10):
            trainer.step()
    if case.device.type != "cuda":
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def captured(case: Case, report: Report) -> None:
    """Steps by CUDA graphs beside Python's; where there is no GPU, what Python keeps from step to step."""
    python = case.trainer()
    python.pretrain()
    python.step()
    reason = reason_against(python, python.step) if case.component.captured else "it says so (captured = False)"
    if reason is not None:
        raise NotChecked(f"on a GPU its steps run without CUDA graphs, and slower: {reason}")
    if case.device.type != "cuda":
        return
    replayed = case.trainer(captured=True)
    replayed.pretrain()
    for trainer, steps in ((python, CAPTURED - 2), (replayed, CAPTURED)):
        for _ in range(steps):
            trainer.step()
    assert replayed.captured is not None
    if replayed.captured.refused is not None:
        raise NotChecked(f"its steps run without CUDA graphs, and slower: {replayed.captured.refused}")
    difference = first_different_state(python, replayed)
    if difference:
        raise Broken("captured", f"steps by CUDA graphs end with another {difference}; see Sampler.regime")


SHARED_CHECKS: list[tuple[Callable[[Case, Report], None], str]] = [
    (seeded, "seeded"),
    (resume, "resume"),
    (batches, "batches"),
    (saturated, "saturated"),
    (host_sync, "host sync"),
    (captured, "captured"),
]

IN_THE_LONG_RUN = "runs, shapes, range, device, feedback, constants, sides, positives, generator, model, gradient, buffers"

SAMPLER_CHECKS = [  # each check with the rules that it decides
    (declared, "declared"),
    (long_run, f"{IN_THE_LONG_RUN}, finite, ends, learning"),
    (fixed_side, "fixed side"),
    (per_slot, "per slot"),
    *SHARED_CHECKS,
]

OBJECTIVE_CHECKS = [
    (declared, "declared"),
    (long_run, "runs, loss, device, reach, generator, model, buffers, learning"),
    (evaluation, "evaluation"),
    *SHARED_CHECKS,
]

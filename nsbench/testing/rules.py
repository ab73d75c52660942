"""The battery that every sampler passes, built in or not, and the toy graph that it runs on.

A plugin's test:

    import pytest
    from nsbench.testing.rules import assert_contract

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nsbench.config.run import Config, check_features, configure
from nsbench.contracts import Dataset, Need, Negatives, Objective, Positives, View, blocks_of
from nsbench.errors import Misuse
from nsbench.kge.models.transe import TransE
from nsbench.options import build_options
from nsbench.registry import MODELS, SAMPLERS, Registry
from nsbench.runs.device import pick_device
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer, generator, place_of

STEPS = 80  # of the long run; the others take ten
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
}


def check_sampler(
    sampler: str | type, kge: str = "transe", *, fusion: str = "none", settings: Sequence[str] = (), device: str = "auto"
) -> list[Finding]:
    """Every rule's finding for a sampler or objective: a registered name, `./mine.py:Mine`, or the class itself.

    `settings` are `--set` texts. Raises Misuse where the sampler cannot be paired with this model or fusion.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process_kept())
        name = sampler if isinstance(sampler, str) else stack.enter_context(_named(sampler))
        case = Case(name, kge, fusion, tuple(settings), pick_device(device))
        if set(case.component.requires) <= set(Need):  # else rule `declared` says so
            check_features(case.config(), case.dataset())
        rules, checks = (OBJECTIVE_RULES, OBJECTIVE_CHECKS) if case.is_objective else (SAMPLER_RULES, SAMPLER_CHECKS)
        report = Report(rules)
        for check, decides in checks:
            report.carry_out(check, case, decides)
            broken = [rule for rule in FUNDAMENTAL if report.failed(rule)]
            if broken:
                report.not_checked(f"not checked, because rule '{broken[0]}' is broken")
                break
        return report.findings()


def assert_contract(sampler: str | type, kge: str = "transe", **how: Any) -> None:
    """AssertionError that names every broken rule; arguments as `check_sampler`."""
    broken = [f for f in check_sampler(sampler, kge, **how) if f.passed is False]
    assert not broken, "\n".join(f"{f.rule}: {f.words}" for f in broken)


def toy(features: bool = False, saturated: bool = False) -> Dataset:
    """40 entities, 5 relations, 129 training triples, and most of what goes wrong in real graphs.

    Relations: 0 n-n with the self loop (5, 0, 5); 1 one-to-many, each of its heads with 4 tails; 2 many-to-one, 29
    heads of the hub 39; 3 one-to-one; 4 never in train. Entity 20 is never in train. `saturated`: (3, 0, ?) and
    (?, 0, 3) are answered by every entity. `features`: pooled "image" and token-level "text", each with gaps.
    """
    seen = [e for e in range(40) if e != 20]
    knows = {(h, 0, t) for h in seen for t in ((7 * h + 3) % 40, (11 * h + 5) % 40) if t != 20} | {(5, 0, 5)}
    parent_of = {(h, 1, t) for h, first in ((0, 10), (1, 14), (2, 21)) for t in range(first, first + 4)}
    born_in = {(h, 2, 39) for h in range(30) if h != 20} | {(h, 2, 38) for h in range(30, 35)}
    twin_of = {(h, 3, h + 5) for h in range(24, 30)}
    if saturated:
        knows |= {(3, 0, e) for e in range(40)} | {(e, 0, 3) for e in range(40)}
    train = knows | parent_of | born_in | twin_of
    held_out = [(h, 0, (h + 1) % 40) for h in range(24)] + [(20, 0, 1), (1, 2, 38), (2, 4, 3), (4, 4, 20)]
    held_out = [triple for triple in held_out if triple not in train]
    rng = torch.Generator().manual_seed(1)
    modalities = {"image": torch.randn(40, 6, generator=rng), "text": torch.randn(40, 3, 5, generator=rng)}
    present = {"image": torch.ones(40, dtype=torch.bool), "text": torch.ones(40, dtype=torch.bool)}
    present["image"][[7, 20]] = False
    present["text"][[0, 7, 11]] = False
    return Dataset(
        name="toy",
        train=torch.tensor(sorted(train)),
        valid=torch.tensor(held_out[::2]),
        test=torch.tensor(held_out[1::2]),
        entities=[f"entity {e}" for e in range(40)],
        relations=["knows", "parent of", "born in", "twin of", "unheard of"],
        features=modalities if features else {},
        present=present if features else {},
        feature_source="planted" if features else "none",
    )


@contextlib.contextmanager
def registered(registry: Registry, name: str, component: Any) -> Iterator[None]:
    """Make a component known under `name`, for the time of a test."""
    registry.register(name)(component)
    try:
        yield
    finally:
        del registry._found[name]  # nothing but a test ever takes a component back


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

    def config(self, *changes: str) -> Config:
        """`changes` are protocol values, such as batch=1."""
        settings = [*(f"protocol.{x}" for x in SIZES), *self.settings, *(f"protocol.{x}" for x in changes)]
        return configure(self.sampler, self.kge, "toy", protocol="quick", fusion=self.fusion, settings=settings)

    def dataset(self, saturated: bool = False) -> Dataset:
        return toy(features=self.config().wants_features, saturated=saturated)

    def trainer(self, *changes: str, saturated: bool = False) -> Trainer:
        """A fresh trainer, the global generators at a fixed state: a sampler that uses them breaks one rule, not five."""
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return Trainer(self.config(*changes), self.dataset(saturated), self.device)

    def watch(self, *changes: str, saturated: bool = False) -> Watch:
        """A fresh trainer, prepared and watched."""
        watch = Watch(self.trainer(*changes, saturated=saturated))
        watch.prepare()
        return watch


class Broken(Exception):
    """A rule is broken in a way that the run cannot go on from."""

    def __init__(self, rule: str, words: str) -> None:
        super().__init__(words)
        self.rule = rule
        self.words = words


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

    def carry_out(self, check: Callable[[Case, Report], None], case: Case, decides: tuple[str, ...]) -> None:
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


@dataclass(eq=False)
class Step:
    """What one step drew, copied, for later comparison."""

    positives: Positives
    blocks: list[Negatives] = field(default_factory=list)
    loss: Tensor | None = None  # an objective's

    def tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {} if self.loss is None else {"loss": self.loss}
        for number, block in enumerate(self.blocks):
            named |= {f"block {number}, {name}": value for name, value in _tensors(block).items()}
        return named


class Watch:
    """A trainer whose sampler is observed: what it draws, and which rules it breaks on the way."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.steps: list[Step] = []
        self.faults: dict[str, str] = {}  # rule -> what is wrong, the first time
        self.live = Need.LIVE in trainer.sampler.requires
        self.parameters = {
            **{f"kge.{name}": p for name, p in trainer.kge.named_parameters()},
            **{f"fusion.{name}": p for name, p in trainer.fusion.named_parameters()},
        }
        sampler: Any = trainer.sampler
        if isinstance(sampler, Objective):
            self._loss = sampler.loss
            sampler.loss = self.loss  # type: ignore[method-assign]
        else:
            self._sample, self._feedback = sampler.sample, sampler.feedback
            sampler.sample, sampler.feedback = self.sample, self.feedback

    def prepare(self) -> None:
        with self._generators_untouched("pretrain"), self._model_untouched("pretrain"):
            self.trainer.pretrain()
        device = self.trainer.device
        for name, x in [*self.trainer.sampler.named_parameters(), *self.trainer.sampler.named_buffers()]:
            if x.device.type != device.type:
                raise Broken("device", f"'{name}' is on {x.device}, not on {device}; register it as parameter or buffer")

    def run(self, steps: int) -> Watch:
        for _ in range(steps):
            with self._generators_untouched("a step"):
                self.trainer.step()
            leaked = [name for name, p in self.parameters.items() if p.grad is not None]
            if leaked:
                self.fault("gradient", f"after a step {leaked[0]} holds a gradient; detach what feedback uses of the model")
                self.trainer.model_adam.zero_grad(set_to_none=True)  # else it would break `resume` as well
            for name, x in self.trainer.sampler.named_buffers():
                if x.requires_grad:
                    self.fault("buffers", f"after a step '{name}' hangs on a graph; write to it under torch.no_grad()")
                    x.detach_()
        return self

    def fault(self, rule: str, words: str) -> None:
        self.faults.setdefault(rule, words)

    def sample(self, positives: Positives, view: View) -> Negatives | list[Negatives]:
        """The sampler's `sample`, watched."""
        with self._model_untouched("sample"):
            drawn = self._sample(positives, view)
        blocks = self._checked_blocks(drawn, positives)
        for block in blocks:
            self._check_values(block, positives, view)
        self.steps.append(Step(_copy(positives), [_copy(block) for block in blocks]))
        if not self.live:
            self._isolated("sample", [x for block in blocks for x in _tensors(block).values()])
        return drawn

    def feedback(self, negatives: Negatives, s_pos: Tensor, s_neg: Tensor) -> Tensor | None:
        """The sampler's `feedback`, watched."""
        with self._model_untouched("feedback"):
            loss = self._feedback(negatives, s_pos, s_neg)
        if loss is None:
            return None
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise Broken("feedback", "feedback must return None or a scalar tensor; reduce the loss with mean() or sum()")
        if not loss.requires_grad:
            raise Broken("feedback", "feedback returns a loss without gradient; return None if nothing is to be learnt")
        if not loss.isfinite():
            self.fault("feedback", f"feedback returns {loss.item()}; guard its logarithms and divisions")
        if not self.live:
            self._isolated("feedback", [loss])
        return loss

    def loss(self, positives: Positives, scoring: Any, view: View) -> Tensor:
        """An objective's `loss`, watched."""
        with self._model_untouched("loss"):
            loss = self._loss(positives, scoring, view)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise Broken("loss", "loss must return a scalar tensor; reduce it with mean() or sum()")
        if not loss.isfinite():
            raise Broken("loss", f"loss is {loss.item()}; guard its logarithms and divisions")
        if loss.device.type != self.trainer.device.type:
            raise Broken("device", f"the loss is on {loss.device}, not on {self.trainer.device}")
        if "kge.entity" not in _reached([loss], self.parameters):
            raise Broken("reach", "the loss has no gradient into kge.entity; score through `scoring`")
        self.steps.append(Step(_copy(positives), loss=loss.detach().clone()))
        return loss

    def _checked_blocks(self, drawn: Any, positives: Positives) -> list[Negatives]:
        """Shapes, device and range: whatever would make the scoring crash."""
        try:
            blocks = blocks_of(drawn, len(positives), self.trainer.setting.negatives)
        except ValueError as error:
            raise Broken("shapes", str(error)) from None
        for block in blocks:
            for name, x in _tensors(block).items():
                if x.device.type != self.trainer.device.type:
                    raise Broken("device", f"{name} is on {x.device}, not on {self.trainer.device}; make it on view.device")
            try:
                block.check_range(self.trainer.graph.num_entities)
            except ValueError as error:
                raise Broken("range", str(error)) from None
        return blocks

    def _check_values(self, block: Negatives, positives: Positives, view: View) -> None:
        for name, x in _tensors(block).items():
            if x.is_floating_point() and x.isnan().any():
                self.fault("constants", f"{name} holds nan")
        if block.weight is not None and not ((block.weight >= 0) & block.weight.isfinite()).all():
            self.fault("constants", "weight must be finite and at least 0; use coef for a sign")
        if block.delta is not None and block.delta.any():
            self.fault("constants", "delta must have value 0; subtract its own detached value")
        if block.log_q is not None and block.ids is not None and (block.log_q > 1e-5).any():
            self.fault("constants", "log_q of ids exceeds 0; it is the logarithm of a probability")

        side = block.side if block.side.dim() == 2 else block.side.unsqueeze(1)
        if view.sides == "per_row" and (side != side[:, :1]).any():
            self.fault("sides", "the protocol draws one side per row, the block mixes them; use view.draw_side")
        if self.trainer.sampler.filtered:
            for ids, counted in block.replacements(positives):
                counted = counted if block.valid is None else counted & block.valid
                self._check_filter(side.expand_as(ids), ids, counted, positives)
        with torch.no_grad():
            _, scores = view.scoring.detached().block(positives, block)
        scores = scores if block.valid is None else scores[block.valid]
        if not scores.isfinite().all():
            self.fault("finite", "a valid negative's score is nan or infinite; bound what `sample` generates")

    def _check_filter(self, side: Tensor, ids: Tensor, counted: Tensor, positives: Positives) -> None:
        h = torch.where(side, ids, positives.h.unsqueeze(1))
        t = torch.where(side, positives.t.unsqueeze(1), ids)
        hit = self.trainer.graph.is_positive(h, positives.r.unsqueeze(1), t) & counted
        if hit.any():
            row, slot = hit.nonzero()[0].tolist()
            triple = (int(h[row, slot]), int(positives.r[row]), int(t[row, slot]))
            self.fault(
                "positives",
                f"{triple} is a training triple and was returned as a negative; draw with "
                "view.graph.draw, mark it with valid=False, or declare filtered = False",
            )

    def _isolated(self, where: str, tensors: list[Tensor]) -> None:
        """No path from `tensors` to the model, and no gradient left on it. (Scores reach it, but are the trainer's.)"""
        reached = _reached(tensors, self.parameters)
        left = [name for name, p in self.parameters.items() if p.grad is not None]
        if reached or left:
            what = f"has a gradient path to {reached[0]}" if reached else f"leaves a gradient on {left[0]}"
            self.fault(
                "gradient",
                f"what {where} returns {what}; take vectors from the view, or declare Need.LIVE"
                if reached
                else f"{where} {what}; take vectors from the view, or declare Need.LIVE",
            )

    @contextlib.contextmanager
    def _model_untouched(self, where: str) -> Iterator[None]:
        before = self.trainer.model_state()
        yield
        changed = _different(before, self.trainer.model_state())
        if changed:
            self.fault("model", f"{where} changes {changed}; it may read the model, only the trainer writes it")

    @contextlib.contextmanager
    def _generators_untouched(self, where: str) -> Iterator[None]:
        before = _global_state()
        yield
        if not _equal_states(before, _global_state()):
            self.fault("generator", f"{where} draws from a global generator; pass generator=view.rng to every random call")


# --- checks: each decides the rules that stand beside it in the lists at the end ---


def declared(case: Case, report: Report) -> None:
    component = case.component
    if not isinstance(component.version, int) or component.version < 1:
        raise Broken("declared", f"version must be a whole number of at least 1, not {component.version!r}")
    if not (isinstance(component.Options, type) and dataclasses.is_dataclass(component.Options)):
        raise Broken("declared", "Options must be a frozen dataclass of nsbench.registry.option fields")
    unknown = [need for need in component.requires if need not in list(Need)]
    if unknown:
        raise Broken("declared", f"requires names {unknown[0]!r}; the needs are {', '.join(Need)}")
    for name, values in component.variants.items():
        build_options(component.Options, values, f"variant '{name}', sampler")
    for need in component.requires:
        _refused(case, need)


def _refused(case: Case, need: Need) -> None:
    """An experiment that lacks the need must not pass the configuration."""
    try:
        with contextlib.ExitStack() as stack:
            if need in (Need.QUERY, Need.GRAM):
                stack.enter_context(registered(MODELS, "poor", Poor))
                dataclasses.replace(case, kge="poor", settings=_without_kge(case.settings)).config()
            elif need is Need.VIEWS:
                dataclasses.replace(case, fusion="none").config()
            elif need is Need.SIDE:
                case.config("sides=alternate")
            elif need is Need.FEATURES:
                check_features(case.config(), toy())
            else:
                return  # LIVE: every trainer provides it
    except Misuse:
        return
    raise Broken("declared", f"an experiment without '{need}' is accepted although requires names it")


class Poor(TransE):
    """A model that provides nothing beyond scores."""

    provides: frozenset[Need] = frozenset()


def long_run(case: Case, report: Report) -> None:
    watch = case.watch()
    before = _probe(watch.trainer)
    try:
        watch.run(STEPS)
    finally:
        for rule, words in watch.faults.items():
            report.fail(rule, words)
    _check_learning(before, _probe(watch.trainer))
    if case.is_objective:
        return
    _check_both_ends_replaced(watch, report)
    ids = [x[block.valid] if block.valid is not None else x for s in watch.steps for block in s.blocks for x in _ids(block)]
    if not ids:
        report.found["ends"] = Finding("ends", None, "not checked: the sampler returns vectors, not ids")
        return
    drawn = torch.cat([x.flatten() for x in ids])
    for entity in (0, watch.trainer.graph.num_entities - 1):
        if not (drawn == entity).any():
            raise Broken("ends", f"entity {entity} was never drawn in {len(drawn)} draws; check the ends of the range")


def _check_learning(before: float, after: float) -> None:
    if not after > before:  # nan too
        raise Broken(
            "learning",
            f"positives score above uniform negatives in {after:.0%} of cases after training, "
            f"in {before:.0%} before; check the signs of weight, coef and the loss",
        )


def _check_both_ends_replaced(watch: Watch, report: Report) -> None:
    sides = torch.cat([block.side.flatten() for step in watch.steps for block in step.blocks])
    if sides.all() or not sides.any():
        end = "tail" if sides.all() else "head"
        report.fail("sides", f"the {end} is never replaced; use view.draw_side")


def _probe(trainer: Trainer) -> float:
    """How often a training triple scores above a uniform negative; unlike a loss, comparable for every sampler."""
    graph, rng = trainer.graph, generator(0, "probe", trainer.device)
    positives = graph.positives(torch.arange(len(graph), device=trainer.device))
    side = torch.arange(len(graph), device=trainer.device) % 2 == 0
    block = Negatives(side, ids=graph.draw(positives.key(side), 20, rng))
    s_pos, s_neg = trainer.scoring().block(positives, block)
    return (s_pos.unsqueeze(1) > s_neg).float().mean().item()


def fixed_side(case: Case, report: Report) -> None:
    if Need.SIDE in case.component.requires:
        raise NotChecked("not checked: the sampler declares Need.SIDE, so protocols that fix the side refuse it")
    for step in case.watch("sides=alternate").run(4).steps:
        assert step.positives.side is not None
        for block in step.blocks:
            if block.vectors is not None:
                continue  # what is generated may be so for both ends at once, beside the negatives that the rule is about
            fixed = step.positives.side if block.side.dim() == 1 else step.positives.side.unsqueeze(1)
            if (block.side != fixed).any():
                raise Broken("fixed side", "a block replaces another end than Positives.side says; use view.draw_side")


def per_slot(case: Case, report: Report) -> None:
    case.watch("sides=per_slot").run(4)


def seeded(case: Case, report: Report) -> None:
    first, second = case.watch().run(10), case.watch().run(10)
    difference = _first_difference(first, second)
    if difference:
        raise Broken("seeded", f"two runs of one seed differ in {difference}; look for hashes, clocks, unseeded generators")


def resume(case: Case, report: Report) -> None:
    """Steps 6 to 10 of one trainer against those of another that gets its state through a checkpoint file."""
    whole = case.watch().run(5)
    file = io.BytesIO()
    torch.save(whole.trainer.state_dict(), file)
    elsewhere = _global_state()  # so that only the rule about generators is broken by using them
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
    _restore(elsewhere)
    continued.run(5)
    difference = _first_difference(whole, continued)
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
    difference = _first_difference(plain, ranked)
    if difference:
        raise Broken("evaluation", f"ranking between two steps changes {difference}; scoring must not change any state")


class SyncWatch(TorchDispatchMode):
    """Raises where an operator runs that would make the host wait on a GPU; so the rule can be checked on a CPU too.

    Sees every operator that goes through torch's dispatcher; `tolist()` and `numpy()` of a CPU tensor do not.
    """

    ALWAYS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "bincount",
        "equal",
        "is_nonzero",
    )
    WORDS = {
        "_local_scalar_dense": "reading a tensor's value (item, int, float, bool, if)",
        "_unique2": "unique",
        "lift_fresh": "torch.tensor(...) of a list",
    }

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        masks = name == "index" and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        copies = name == "lift_fresh" and args[0].dim() > 0  # without dimensions it may be x[i] = 1.0, which copies nothing
        if name in self.ALWAYS or masks or repeats or copies:
            what = "indexing with a mask" if masks else self.WORDS.get(name, name)
            raise RuntimeError(f"{what} makes the host wait for a GPU; keep shapes fixed and values on the device")
        return function(*args, **kwargs)


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


SAMPLER_CHECKS: list[tuple[Callable[[Case, Report], None], tuple[str, ...]]] = [
    (declared, ("declared",)),
    (
        long_run,
        (
            "runs",
            "shapes",
            "range",
            "device",
            "feedback",
            "constants",
            "sides",
            "positives",
            "generator",
            "model",
            "gradient",
            "buffers",
            "finite",
            "ends",
            "learning",
        ),
    ),
    (fixed_side, ("fixed side",)),
    (per_slot, ("per slot",)),
    (seeded, ("seeded",)),
    (resume, ("resume",)),
    (batches, ("batches",)),
    (saturated, ("saturated",)),
    (host_sync, ("host sync",)),
]

OBJECTIVE_CHECKS: list[tuple[Callable[[Case, Report], None], tuple[str, ...]]] = [
    (declared, ("declared",)),
    (long_run, ("runs", "loss", "device", "reach", "generator", "model", "buffers", "learning")),
    (evaluation, ("evaluation",)),
    (seeded, ("seeded",)),
    (resume, ("resume",)),
    (batches, ("batches",)),
    (saturated, ("saturated",)),
    (host_sync, ("host sync",)),
]


# --- comparing and copying ---


def _tensors(block: Negatives) -> dict[str, Tensor]:
    """The block's tensors by name, without the private tape."""
    named = {f.name: getattr(block, f.name) for f in dataclasses.fields(block) if f.name not in ("tape", "view_ids")}
    named |= {f"view_ids {view}": ids for view, ids in (block.view_ids or {}).items()}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _ids(block: Negatives) -> list[Tensor]:
    return [block.ids] if block.ids is not None else list((block.view_ids or {}).values())


def _copy(record: Any) -> Any:
    """A Positives or Negatives with tensors of its own, out of the graph and safe from later changes."""
    values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "tape"}
    values = {name: x.detach().clone() if isinstance(x, Tensor) else x for name, x in values.items()}
    if values.get("view_ids"):
        values["view_ids"] = {view: ids.clone() for view, ids in values["view_ids"].items()}
    return type(record)(**values)


def _different(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The name of the first entry that is not equal, bit for bit."""
    if before.keys() != after.keys():
        return sorted(before.keys() ^ after.keys())[0]
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        if not same:
            return name
    return None


def _first_difference(one: Watch, other: Watch) -> str | None:
    """Where two watched runs part, in words."""
    for number, (a, b) in enumerate(zip(one.steps, other.steps), start=1):
        name = _different(a.tensors(), b.tensors())
        if name:
            return f"{name} of step {number}"
    name = _different(one.trainer.model_state(), other.trainer.model_state())
    return None if name is None else f"the model's {name}"


def _reached(tensors: Iterable[Tensor], parameters: dict[str, Tensor]) -> list[str]:
    """Names of the parameters that a backward pass from `tensors` would reach."""
    names = {id(p): name for name, p in parameters.items()}
    reached = {names[id(x)] for x in tensors if id(x) in names}
    stack = [x.grad_fn for x in tensors if x.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        leaf = getattr(node, "variable", None)  # of an AccumulateGrad node
        if leaf is not None and id(leaf) in names:
            reached.add(names[id(leaf)])
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return sorted(reached)


def _without_kge(settings: Iterable[str]) -> tuple[str, ...]:
    return tuple(s for s in settings if not s.startswith("kge."))


def _global_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def _restore(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])
    random.setstate(state[3])


def _equal_states(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    same_torch = torch.equal(one[0], other[0]) and all(torch.equal(a, b) for a, b in zip(one[1], other[1]))
    same_numpy = all(np.array_equal(a, b) for a, b in zip(one[2], other[2]))
    return same_torch and same_numpy and one[3] == other[3]


@contextlib.contextmanager
def _process_kept() -> Iterator[None]:
    """Global generators and thread count as they were; in between one thread, for the toy is too small for two."""
    state, threads = _global_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _restore(state)
        torch.set_num_threads(threads)

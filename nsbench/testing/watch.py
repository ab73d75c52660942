"""What watches a step of the real trainer: a sampler's methods, the global generators, and waits for the device."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nsbench.contracts import Generated, Negatives, Objective, Positives, View, blocks_of
from nsbench.training.trainer import Trainer


class Broken(Exception):
    """A rule is broken in a way that the run cannot go on from."""

    def __init__(self, rule: str, words: str) -> None:
        super().__init__(words)
        self.rule = rule
        self.words = words


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
        self.live = trainer.live
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
                self.trainer.model_adam.zero_grad()  # else it would break `resume` as well
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
        before = global_state()
        yield
        if not _equal_states(before, global_state()):
            self.fault("generator", f"{where} draws from a global generator; pass generator=view.rng to every random call")


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


def _tensors(block: Negatives) -> dict[str, Tensor]:
    """The block's tensors by name, without the private tape."""
    named = {name: value for name, value in vars(block).items() if name != "tape"}
    named |= {f"view_ids {view}": ids for view, ids in (block.view_ids or {}).items()}
    named |= {} if block.generated is None else vars(block.generated)
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _copy(record: Any) -> Any:
    """A Positives or Negatives with tensors of its own, out of the graph and safe from later changes."""
    if isinstance(record, Tensor):
        return record.detach().clone()
    if isinstance(record, Mapping):
        return {name: _copy(x) for name, x in record.items()}
    if isinstance(record, Positives | Negatives | Generated):
        values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "tape"}
        return type(record)(**_copy(values))
    return record


def _different(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The name of the first entry that is not equal, bit for bit."""
    if before.keys() != after.keys():
        return sorted(before.keys() ^ after.keys())[0]
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        if not same:
            return name
    return None


def first_difference(one: Watch, other: Watch) -> str | None:
    """Where two watched runs part, in words."""
    for number, (a, b) in enumerate(zip(one.steps, other.steps), start=1):
        name = _different(a.tensors(), b.tensors())
        if name:
            return f"{name} of step {number}"
    name = _different(one.trainer.model_state(), other.trainer.model_state())
    return None if name is None else f"the model's {name}"


def first_different_state(one: Trainer, other: Trainer) -> str | None:
    """Where two trainers differ, in words: model, sampler or auxiliary losses."""
    for part in ("model", "sampler", "auxiliaries"):
        states = [{k: x for k, x in t.state_dict()[part].items() if isinstance(x, Tensor)} for t in (one, other)]
        if name := _different(*states):
            return f"{part}, {name}"
    return None


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


def global_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()


def restore(state: tuple[Any, ...]) -> None:
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
def process_kept() -> Iterator[None]:
    """Global generators and thread count as they were; in between one thread, for the toy is too small for two."""
    state, threads = global_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        restore(state)
        torch.set_num_threads(threads)

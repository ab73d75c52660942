"""Trains one model with one sampler. Knows no sampler, model or dataset by name.

A step never waits for the device: everything it needs lies there, and what people want to read (loss, seconds) is read
between steps; the first alone looks at what the sampler drew. Streams of random numbers, each derived from the seed, keep
initial values, batch order, sampler and auxiliary losses apart, so that two samplers under one seed start from the same
model and see the same positives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nsbench.config.run import Config
from nsbench.contracts import (
    Dataset,
    Need,
    Negatives,
    Objective,
    Positives,
    Sampler,
    Scoring,
    Setting,
    TrainGraph,
    View,
    blocks_of,
)
from nsbench.errors import Misuse, OutOfMemory, RunFailed, out_of_memory
from nsbench.kernels.adam import Adam
from nsbench.machine import keep_freed_memory
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS
from nsbench.training.capture import Captured
from nsbench.training.clock import Stopwatch
from nsbench.training.losses import add_penalty_gradient, block_loss, importance_of
from nsbench.training.repeatable import repeatable
from nsbench.training.seeds import generator, global_seed

FEW = 16  # positives that by chance may all have no valid negative


class Trainer:
    """The state of a run between steps. `step()` advances it by one; `state_dict` holds all of it."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device | str = "cpu") -> None:
        keep_freed_memory()
        self.config = config
        self.protocol = protocol = config.protocol
        self.device = torch.device(device)
        self.graph = TrainGraph(dataset.train, dataset.num_entities, dataset.num_relations, self.device)
        model = MODELS.get(config.kge)
        self.kge = model(
            dataset.num_entities,
            dataset.num_relations,
            protocol.width,
            protocol.margin,
            config.kge_options,
            generator(config.seed, "initialisation"),
        ).to(self.device)
        self.setting = Setting(
            graph=self.graph,
            negatives=protocol.negatives,
            margin=protocol.margin,
            entity_width=self.kge.entity.shape[1],
            relation_width=self.kge.relation.shape[1],
            features={name: x.to(self.device) for name, x in dataset.features.items()},
            present={name: x.to(self.device) for name, x in dataset.present.items()},
        )
        with global_seed(config.seed, "modules"):  # torch.nn layers draw their initial values from the global generator
            self.fusion = FUSIONS.get(config.fusion)(self.setting, config.fusion_options).to(self.device)
            self.setting = dataclasses.replace(self.setting, slots=self.fusion.slot_count)
            self.auxiliaries = nn.ModuleDict(
                {name: AUXILIARIES.get(name)(self.setting, config.aux_options[name]) for name in config.aux}
            ).to(self.device)
            self.sampler = self._made().to(self.device)

        groups = [{"params": list(self.kge.parameters()), "lr": protocol.learning_rate}]
        groups += self.fusion.param_groups(protocol.learning_rate)
        if isinstance(self.sampler, Objective) and list(self.sampler.parameters()):
            groups.append({"params": list(self.sampler.parameters()), "lr": protocol.learning_rate})
        for auxiliary in self.auxiliaries.values():
            groups += auxiliary.param_groups(protocol.learning_rate)  # type: ignore[operator]
        self.model_adam = Adam(groups)
        self.base_rates = [group["lr"] for group in self.model_adam.param_groups]
        own = self.sampler.param_groups(protocol.learning_rate) if isinstance(self.sampler, Sampler) else []
        self.sampler_adam = Adam(own) if own else None

        self.live = Need.LIVE in self._component.needs(config.sampler_options)
        self.coupled = isinstance(self.sampler, Sampler) and (self.live or self.sampler.coupled)
        self.importance = importance_of(self.graph) if protocol.subsampling else None
        self.sampler_clock = Stopwatch(self.device)
        self.loss_sum = torch.zeros((), device=self.device)
        self.step_count = 0
        self.view = View(
            setting=self.setting,
            rng=generator(config.seed, "sampler", self.device),
            scoring=Scoring(self.kge, self.fusion, self.graph, live=False),
            sides=protocol.sides,
            total_steps=protocol.steps,
            total_epochs=-(-protocol.steps * protocol.batch // len(self.graph)),
        )
        self.auxiliary_rng = generator(config.seed, "auxiliaries", self.device)
        self._order: tuple[int, Tensor] | None = None
        self.unrepeatable: set[str] = set()  # operators of its steps whose sums may come in another order next time
        self.captured = Captured(self) if self.device.type == "cuda" else None  # None: all steps are Python's

    def _made(self) -> Any:  # as `Registry.get`: a sampler or an objective
        """The sampler. Misuse for a class that keeps too little of the contract to be used at all."""
        self._component = component = SAMPLERS.get(self.config.sampler)
        with self._noted():
            made = component(self.setting, self.config.sampler_options)
        if "_modules" not in vars(made):
            raise Misuse(
                self._blamed("its __init__ does not begin with super().__init__(setting, options)", component.__init__)
            )
        if changed := {"requires", "coupled"} & vars(made).keys():
            raise Misuse(
                self._blamed(
                    f"it sets self.{min(changed)}, which nobody reads; override the class method needs(options), and a "
                    "sampler that needs Need.LIVE is coupled",
                    component.__init__,
                )
            )
        for base, method in ((Sampler, "sample"), (Objective, "loss")):
            if getattr(getattr(made, method, None), "__func__", None) is getattr(base, method):
                raise Misuse(self._blamed(f"it has no method '{method}'; write one, as nsbench new-sampler shows"))
        return made

    def pretrain(self) -> None:
        """The sampler's own preparation, once, charged to it."""
        if isinstance(self.sampler, Sampler):
            with self.sampler_clock, self._noted(), repeatable(self.device):
                self.sampler.pretrain(self.view)

    def step(self) -> None:
        """One batch: sample, loss, backward and optimiser steps as the sampler's `coupled` and `phase` say."""
        self._set_learning_rate()
        with self._noted():
            if self.captured is None:
                self.advance(self._next_positives())
            else:
                self.captured.step()
        self.step_count += 1

    def advance(self, positives: Positives) -> None:
        """What the device does in a step."""
        with repeatable(self.device):
            few = self.device.type == "cpu" and self.sampler.few  # how many entities those are, a GPU must not be asked
            scoring = Scoring(self.kge, self.fusion, self.graph, few=few, absent=positives.rows)
            if isinstance(self.sampler, Objective):
                loss = self.sampler.loss(positives, scoring, self._view(scoring, live=True))
                self._model_step(loss, positives, scoring)
            else:
                self._sampled_step(self.sampler, positives, scoring)

    def draw(self, positives: Positives, rng: torch.Generator) -> list[Negatives]:
        """What the sampler answers to a batch outside the training stream; the caller puts the sampler's state back."""
        assert isinstance(self.sampler, Sampler)
        scoring = Scoring(self.kge, self.fusion, self.graph, self.live, absent=positives.rows)
        view = dataclasses.replace(self.view, step=self.step_count, epoch=self.epoch, scoring=scoring, rng=rng)
        with self._noted(), repeatable(self.device):
            return self._checked(self.sampler.sample(positives, view), positives)

    def _sampled_step(self, sampler: Sampler, positives: Positives, scoring: Scoring) -> None:
        blocks, phase = self._drawn(sampler, positives, self._view(scoring, live=self.live))
        importance = None if self.importance is None else self.importance[positives.rows]
        with torch.set_grad_enabled(phase != "sampler"):
            scores = [scoring.block(positives, block) for block in blocks]

        loss = None
        if phase != "sampler":
            terms = [
                block_loss(s_pos, s_neg, block, self.protocol.temperature, importance)
                for (s_pos, s_neg), block in zip(scores, blocks)
            ]
            loss = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
            if not self.coupled:
                self._model_step(loss, positives, scoring)

        if phase != "model":
            with self.sampler_clock:
                own = self._feedback(sampler, blocks, scores)
        else:
            own = None
        if self.coupled and loss is not None:
            self._model_step(loss if own is None else loss + own, positives, scoring)
        elif own is not None:
            with self.sampler_clock:
                own.backward()
            if self.coupled:  # in a sampler phase, feedback through a live view reaches the model too
                self.model_adam.zero_grad()
        if self.sampler_adam is not None and phase != "model":
            with self.sampler_clock:
                self.sampler_adam.step()
                self.sampler_adam.zero_grad()

    def _drawn(self, sampler: Sampler, positives: Positives, view: View) -> tuple[list[Negatives], str]:
        """The negatives of this step, and who learns in it."""
        with self.sampler_clock:
            drawn = sampler.sample(positives, view)
            phase = sampler.phase(view)
        return self._checked(drawn, positives), phase

    def _checked(self, drawn: Any, positives: Positives) -> list[Negatives]:
        """The blocks in what `sample` returned. RunFailed where they break the contract, as far as shapes tell."""
        try:
            blocks = blocks_of(drawn, len(positives), self.protocol.negatives)
            if self.step_count == 0:
                for block in blocks:
                    block.check_range(self.graph.num_entities)
                if len(positives) > FEW and not any(block.valid is None or block.valid.any() for block in blocks):
                    raise ValueError("no negative of the first batch is valid, and a model learns nothing without")
        except (ValueError, TypeError, AttributeError) as error:
            kind = "" if isinstance(error, ValueError) else f"what sample returns cannot be read, {type(error).__name__}: "
            raise RunFailed(self._blamed(f"{kind}{error}", self._component.sample)) from error
        return blocks

    def _blamed(self, words: str, method: Any = None) -> str:
        """What is wrong with the sampler, in a sentence that says where its method stands."""
        name, code = self.config.sampler, getattr(method, "__code__", None)
        place = f"{Path(code.co_filename).name}, line {code.co_firstlineno}; " if code else ""
        return f"sampler '{name}': {words} ({place}nsbench check {name} says more)"

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """An error that comes out of the sampler's own file says so in a note; where memory ran out, what takes less."""
        try:
            yield
        except SystemExit as error:
            raise RunFailed(
                self._blamed(f"it ends the process (SystemExit: {error.code}); raise another error there")
            ) from error
        except Exception as error:
            name = self.config.sampler
            if place := place_of(error, self._component):
                if out_of_memory(error):
                    less = self._component.frugal or "a smaller protocol.batch or protocol.negatives"
                    raise OutOfMemory(f"out of memory in sampler '{name}' ({place}); use {less}") from error
                error.add_note(f"sampler '{name}' in {place}; nsbench check {name} says more")
            raise

    @staticmethod
    def _feedback(sampler: Sampler, blocks: list[Negatives], scores: list[tuple[Tensor, Tensor]]) -> Tensor | None:
        losses = [sampler.feedback(b, s_pos.detach(), s_neg.detach()) for b, (s_pos, s_neg) in zip(blocks, scores)]
        own = [loss for loss in losses if loss is not None]
        return torch.stack(own).sum() if own else None

    def _model_step(self, loss: Tensor, positives: Positives, scoring: Scoring) -> None:
        """Add auxiliaries, back-propagate, add the regulariser's gradient, and step the model's Adam."""
        self.loss_sum += loss.detach()
        for name, weight in self.config.aux.items():
            view = self._view(scoring, live=True, rng=self.auxiliary_rng)  # not the sampler's stream
            extra = self.auxiliaries[name].loss(positives, view)  # type: ignore[operator]
            loss = loss + weight * extra
        loss.backward()
        if self.protocol.regularizer > 0:
            for table in (self.kge.entity, self.kge.relation):
                add_penalty_gradient(table, self.protocol.regularizer, self.protocol.regularizer_power)
        self.model_adam.step()
        self.model_adam.zero_grad()

    def _view(self, scoring: Scoring, live: bool, rng: torch.Generator | None = None) -> View:
        # A new one each time: a sampler may keep its own in a tape while an auxiliary gets a live one.
        scoring = scoring if live else scoring.detached()
        clock = None if self.captured is None else self.captured.clock
        now: dict[str, Any] = {"step": self.step_count, "epoch": self.epoch, "fed": clock, "scoring": scoring}
        self.view = dataclasses.replace(self.view, **now)
        return self.view if rng is None else dataclasses.replace(self.view, **now, rng=rng)

    @property
    def epoch(self) -> int:
        """Passes over the training triples begun before this step."""
        return self.step_count * self.protocol.batch // len(self.graph)

    def _next_positives(self) -> Positives:
        return self.graph.positives(self.next_rows(), self.fixed_side())

    def next_rows(self) -> Tensor:
        """[B], batch `step_count` of an endless stream of permutations: every triple equally often, no short batch."""
        n, batch = len(self.graph), self.protocol.batch
        epoch, offset = divmod(self.step_count * batch, n)
        if self.pass_begins and isinstance(self.sampler, Sampler):
            with self.sampler_clock:
                self.sampler.start_epoch(epoch)
        pieces = [self._permutation(epoch)[offset : offset + batch]]
        while (have := sum(map(len, pieces))) < batch:
            epoch += 1
            pieces.append(self._permutation(epoch)[: batch - have])
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def fixed_side(self) -> Tensor | None:
        """bool [B], the end that is replaced, where the protocol fixes it: tail first, as the RotatE code base."""
        if self.protocol.sides != "alternate":
            return None
        return torch.full((self.protocol.batch,), self.step_count % 2 == 1, device=self.device)

    @property
    def pass_begins(self) -> bool:
        """Whether this step's batch is the first that starts in its pass."""
        return self.step_count * self.protocol.batch % len(self.graph) < self.protocol.batch

    def _permutation(self, epoch: int) -> Tensor:
        """[n] row order of one pass, the same for every sampler; a function of seed and epoch, so nothing to checkpoint."""
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.graph), generator=generator(self.config.seed, f"order {epoch}"))
            if self.device.type == "cuda":
                order = order.pin_memory()  # else the copy would wait for the device
            self._order = (epoch, order.to(self.device, non_blocking=True))
        return self._order[1]

    def _set_learning_rate(self) -> None:
        decayed = self.step_count >= self.protocol.decay_at * self.protocol.steps
        for group, rate in zip(self.model_adam.param_groups, self.base_rates):
            group["lr"] = rate * self.protocol.decay_factor if decayed else rate

    def model_state(self) -> dict[str, Any]:
        """Copies of what scoring needs: model and fusion."""
        state = {f"kge.{k}": v for k, v in self.kge.state_dict().items()}
        state |= {f"fusion.{k}": v for k, v in self.fusion.state_dict().items()}
        return {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in state.items()}

    def load_model_state(self, state: dict[str, Any]) -> None:
        self.kge.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("kge.")})
        self.fusion.load_state_dict({k[7:]: v for k, v in state.items() if k.startswith("fusion.")})

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; tensors, numbers and strings only."""
        return {
            "step": self.step_count,
            "model": {**self.kge.state_dict(prefix="kge."), **self.fusion.state_dict(prefix="fusion.")},
            "auxiliaries": self.auxiliaries.state_dict(),
            "sampler": self.sampler.state_dict(),
            "model_adam": self.model_adam.state_dict(),
            "sampler_adam": None if self.sampler_adam is None else self.sampler_adam.state_dict(),
            "sampler_rng": self.view.rng.get_state(),
            "auxiliary_rng": self.auxiliary_rng.get_state(),
            "sampler_seconds": self.sampler_clock.seconds(),
            "loss_sum": self.loss_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step_count = state["step"]
        self.load_model_state(state["model"])
        self.auxiliaries.load_state_dict(state["auxiliaries"])
        self.sampler.load_state_dict(state["sampler"])
        self.model_adam.load_state_dict(state["model_adam"])
        if self.sampler_adam is not None:
            self.sampler_adam.load_state_dict(state["sampler_adam"])
        self.view.rng.set_state(state["sampler_rng"])
        self.auxiliary_rng.set_state(state["auxiliary_rng"])
        self.sampler_clock = Stopwatch(self.device, state["sampler_seconds"])
        self.loss_sum = state["loss_sum"].to(self.device)
        self.forget_captured()

    def how_stepped(self) -> dict[str, Any]:
        """For the record of a run: nothing on a CPU."""
        if self.device.type != "cuda":
            return {}
        reason = "it replays another run" if self.captured is None else self.captured.refused
        steps = "CUDA graphs" if reason is None else f"Python: {reason}"
        return {"steps": steps, **({"unrepeatable": sorted(self.unrepeatable)} if self.unrepeatable else {})}

    def forget_captured(self) -> None:
        """After tensors that a step uses were replaced by others."""
        if self.captured is not None:
            self.captured.forget()

    def sampler_bytes(self) -> int:
        """What the sampler holds on the device: buffers, parameters, and what Adam keeps of them, its own Adams included."""
        tensors = [*self.sampler.parameters(), *self.sampler.buffers()]
        if self.sampler_adam is not None:
            tensors += _floats(self.sampler_adam.state_dict())
        tensors += _floats([x for name, x in self.sampler.state_dict().items() if name.endswith("_extra_state")])
        return sum(x.numel() * x.element_size() for x in tensors)

    def scoring(self) -> Scoring:
        """The model as it stands, without gradients: what evaluation ranks with."""
        return Scoring(self.kge, self.fusion, self.graph, live=False)


def place_of(error: BaseException, component: type) -> str:
    """`mine.py, line 7`: where an error last came through the component's own file; nothing where it did not."""
    file = getattr(sys.modules.get(component.__module__), "__file__", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f"{Path(file).name}, line {lines[-1]}" if file and lines else ""


def _floats(state: Any) -> list[Tensor]:
    """The floating-point tensors in nested dicts and lists: an Adam's moments, but no generator's state."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [x for part in inside for x in _floats(part)]

"""Steps as CUDA graphs: what the device does in a step is recorded once, and replayed without Python.

Python feeds a step: the rows of its batch, its number (`View.clock`), and word of a new pass to the sampler. The rest is the
device's work. What Python decides in it is baked into the graph, so there is a graph for each *regime*: learning rates, a
fixed side, whose turn it is (`Sampler.phase`), and what the components say themselves (`Sampler.regime`).

The first step of a regime is Python's, for it makes what optimisers keep. The second is watched (nsbench.training.frozen),
the third recorded. A sampler whose steps a graph would not repeat keeps Python's, with a warning that says why.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nsbench.contracts import Sampler
from nsbench.training.clock import Laps
from nsbench.training.frozen import changed, decides, python_side, reason_against

if TYPE_CHECKING:
    from nsbench.training.trainer import Trainer


@dataclass
class Recorded:
    """A graph, and the seconds of the sampler in it."""

    graph: torch.cuda.CUDAGraph
    laps: Laps

    def replay(self) -> None:
        self.graph.replay()
        self.laps.count += 1


class Captured:
    """The steps of a trainer on a GPU. Whoever replaces a tensor that steps use, as loading a state does, calls `forget`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.rows = torch.zeros(trainer.protocol.batch, dtype=torch.int64, device=trainer.device)
        self.clock = torch.zeros((), dtype=torch.float64, device=trainer.device)
        self.stream = torch.cuda.Stream(trainer.device)  # the default one cannot be recorded
        self.pool = torch.cuda.graph_pool_handle()  # of memory: no two graphs run at a time, and none keeps anything there
        self.refused: str | None = None  # why all steps are Python's
        self.forget()
        if not all(component.captured for component in (*components(trainer), trainer.fusion)):
            self._refuse("it says so (captured = False)")

    def forget(self) -> None:
        self.graphs: dict[Hashable, Recorded] = {}
        self.met: Counter[Hashable] = Counter()

    def step(self) -> None:
        trainer = self.trainer
        self.rows.copy_(self._next_rows())
        self.clock.fill_(trainer.step_count)
        regime = self._regime()
        if regime in self.graphs:
            self.graphs[regime].replay()
            return
        self.met[regime] += 1
        if self.met[regime] == 2:
            reason = reason_against(trainer, self._python)
            if reason is not None and self.refused is None:
                self._refuse(reason)
        elif self.refused is not None or self.met[regime] == 1:
            self._python()
        elif (recorded := self._recorded()) is not None:
            self.graphs[regime] = recorded
            recorded.replay()
        else:
            self._python()

    def _regime(self) -> Hashable:
        trainer = self.trainer
        view = dataclasses.replace(trainer.view, step=trainer.step_count, epoch=trainer.epoch)
        parity = trainer.step_count % 2 if trainer.protocol.sides == "alternate" else 0
        phase = trainer.sampler.phase(view) if isinstance(trainer.sampler, Sampler) else ""
        rates = tuple(group["lr"] for group in trainer.model_adam.param_groups)
        return rates, parity, phase, *(component.regime(view) for component in components(trainer))

    def _work(self) -> None:
        trainer = self.trainer
        trainer.advance(trainer.graph.positives(self.rows, trainer.fixed_side()))

    def _python(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self._work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def _recorded(self) -> Recorded | None:
        """The work of a step, none of which is done yet; None, and all steps are Python's, where it cannot be recorded."""
        trainer, view = self.trainer, self.trainer.view
        graph = torch.cuda.CUDAGraph()
        for generator in generators(trainer):
            graph.register_generator_state(generator)
        try:
            with trainer.sampler_clock.recording() as laps, torch.cuda.graph(graph, self.pool, self.stream):
                self._work()
        except RuntimeError as error:
            self._refuse(f"recording fails: {' '.join(str(error).split())}")
            for module in (trainer.kge, trainer.fusion, trainer.sampler, trainer.auxiliaries):
                module.zero_grad(set_to_none=True)
            return None
        finally:
            trainer.view = view  # not one whose tables lie in the graph's memory
        return Recorded(graph, laps)

    def _next_rows(self) -> Tensor:
        """What `start_epoch` changes in Python, a graph does not see, unless the sampler says what it decides."""
        trainer = self.trainer
        before = None if self.refused or decides(trainer) or not trainer.pass_begins else python_side(trainer)
        rows = trainer.next_rows()
        if before is not None and (name := changed(before, python_side(trainer))):
            self._refuse(f"start_epoch changes {name} in Python; tell what it decides in `regime`")
        return rows

    def _refuse(self, reason: str) -> None:
        self.forget()
        self.refused = reason
        warnings.warn(f"steps of {self.trainer.config.sampler} run without CUDA graphs, and slower: {reason}", stacklevel=3)


def components(trainer: Trainer) -> list[Any]:
    return [trainer.sampler, *trainer.auxiliaries.values()]


def generators(trainer: Trainer) -> list[torch.Generator]:
    """Every stream of random numbers that a step draws from."""
    found = [trainer.view.rng, trainer.auxiliary_rng]
    found += [x for module in modules(trainer) for x in vars(module).values() if isinstance(x, torch.Generator)]
    return list({id(x): x for x in found}.values())


def modules(trainer: Trainer) -> Iterator[nn.Module]:
    for component in components(trainer):
        yield from component.modules()

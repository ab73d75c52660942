"""CUDA graphs on the pretended device: what runs while one is recorded is taken down, undone, and done again at each replay.

As on a GPU, recording leaves no trace: memory that existed before and generators are as they were. What a recording refuses
raises: a wait for the device, and a generator that is not registered with the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They make memory, and no values.
UNWRITTEN = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "lift_fresh"}


class Recording(TorchDispatchMode):
    """Every operator that runs inside, in order."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators
        self.calls: list[Callable[[], None]] = []
        self.kept: list[Any] = []  # results: a graph owns their memory
        self.own: set[int] = set()  # addresses of memory that the recording has made
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # address of memory written to -> itself, what was there

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, schema = function.overloadpacket.__name__, function._schema
        for x in (*args, *kwargs.values()):
            if isinstance(x, torch.Generator) and all(x._cdata != known._cdata for known in self.generators):
                raise RuntimeError(f"{name}: its generator is not registered with the graph")
        for x in written(schema, args, kwargs):
            address = x.untyped_storage().data_ptr()
            if address not in self.own and address not in self.before:
                memory = torch.empty(0, dtype=torch.uint8, device=x.device).set_(x.untyped_storage())
                self.before[address] = memory, memory.clone()
        result = function(*args, **kwargs)
        self.kept.append((args, kwargs, result))
        is_view = not schema.is_mutable and any(value.alias_info is not None for value in schema.returns)
        if name in UNWRITTEN or not (schema.is_mutable or is_view):
            self.own.update(x.untyped_storage().data_ptr() for x in tree_leaves(result) if isinstance(x, Tensor))
        if not is_view and name not in UNWRITTEN:
            mode = torch.get_deterministic_debug_mode()  # a graph keeps the kernels that were chosen by it
            self.calls.append(lambda: again(mode, function, args, kwargs, None if schema.is_mutable else result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        for memory, content in self.before.values():
            memory.copy_(content)


def written(schema: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that a call writes to."""
    given = {**{argument.name: x for argument, x in zip(schema.arguments, args)}, **kwargs}
    for argument in schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (x for x in tree_leaves(given.get(argument.name)) if isinstance(x, Tensor))


@torch.no_grad()
def again(mode: int, function: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Call once more; what was new then has the same memory now."""
    torch.set_deterministic_debug_mode(mode)
    for new, old in zip(tree_leaves(function(*args, **kwargs)), tree_leaves(result)):
        if isinstance(old, Tensor):
            old.detach().copy_(new)


class CUDAGraph:
    """torch.cuda.CUDAGraph."""

    recording: Recording

    def __init__(self) -> None:
        self.generators: list[torch.Generator] = []

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def replay(self) -> None:
        mode = torch.get_deterministic_debug_mode()
        for call in self.recording.calls:
            call()
        torch.set_deterministic_debug_mode(mode)


class graph:
    """torch.cuda.graph: records what is inside of the block."""

    current: Recording | None = None

    def __init__(self, cuda_graph: CUDAGraph, *_: Any) -> None:
        self.graph = cuda_graph

    def __enter__(self) -> None:
        self.states = [x.get_state() for x in self.graph.generators]
        torch.cuda.set_sync_debug_mode("error")
        graph.current = self.graph.recording = Recording(self.graph.generators)
        graph.current.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.graph.recording.__exit__(*error)
        graph.current = None
        torch.cuda.set_sync_debug_mode("default")
        self.graph.recording.undo()
        for x, state in zip(self.graph.generators, self.states):
            x.set_state(state)

"""What a CUDA graph would freeze of a step: whatever Python keeps, or asks for, from one step to the next.

A replayed graph never enters Python again. A counter that `sample` raises would stand still, a tensor that it replaces by
another would be the old one for good, and a branch on `view.step` would be taken as it was when the graph was recorded.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nsbench.contracts import Objective, Sampler
from nsbench.contracts.view import View

if TYPE_CHECKING:
    from nsbench.training.trainer import Trainer

PLAIN = (bool, int, float, complex, str, bytes, type(None))
WHOLE = (type, FunctionType, MethodType, ModuleType, torch.Generator, torch.device, torch.dtype)  # not looked into
OF_MODULES = ("_buffers.", "_parameters.", "_modules.")


def reason_against(trainer: Trainer, step: Callable[[], None]) -> str | None:
    """Take one step, and say why a graph of it would not be the step; None where it could be replayed."""
    before, asked = python_side(trainer), set[str]()
    trainer.view = _noting(trainer.view, asked)
    try:
        with _told(trainer.device) as told:
            step()
    finally:
        trainer.view = _noting(trainer.view, asked, View)
    trainer.unrepeatable |= {words.partition(" does not have")[0] for words in told if "deterministic" in words}
    waits = [words.partition(" (Triggered")[0] for words in told if "synchroniz" in words]
    if name := changed(before, python_side(trainer)):
        return f"a step changes {name} in Python; keep it in a buffer, and write to that in place"
    if asked and not decides(trainer):
        return f"it reads view.{min(asked)} in Python; tell what it decides in `regime`, or read view.clock on the device"
    return f"a step waits for the device ({waits[0]})" if waits else None


def decides(trainer: Trainer) -> bool:
    """Whether the sampler says itself what Python decides about a step."""
    own = type(trainer.sampler)
    return own.regime not in (Sampler.regime, Objective.regime) or getattr(own, "phase", None) not in (None, Sampler.phase)


def python_side(trainer: Trainer) -> dict[str, Any]:
    """Name -> number, text, or which tensor: all that sampler and auxiliary losses keep outside of tensors' values."""
    found: dict[str, Any] = {}
    met: set[int] = set()

    def look(name: str, x: Any) -> None:
        if isinstance(x, PLAIN):
            found[name] = repr(x)  # nan equals itself
        elif isinstance(x, Tensor):
            found[name] = (id(x), x.data_ptr(), _Held(x.detach()))
        elif isinstance(x, WHOLE):
            found[name] = id(x)
        elif id(x) not in met:
            met.add(id(x))
            inside = _inside(x)
            found[name] = (id(x), _Held(x)) if inside is not None else _written(x)
            for key, value in inside or ():
                look(f"{name}.{key}" if name else key, value)

    for component in (trainer.sampler, *trainer.auxiliaries.values()):
        look("", component)
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """A name with another value, or None; not that of a container where what is in it has one."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not names:
        return None
    name = max(names, key=len)
    for prefix in OF_MODULES:
        name = name.replace(prefix, "")
    return f"self.{name}"


class _Held:
    """Equals every other, and keeps a thing alive: else a later one could have its address."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    __hash__ = None  # type: ignore[assignment]


def _inside(x: Any) -> list[tuple[str, Any]] | None:
    """What a container or an object holds, by name; None where it cannot be looked into."""
    if isinstance(x, dict):
        return [(key if isinstance(key, str) else str(i), value) for i, (key, value) in enumerate(x.items())]
    if isinstance(x, (list, tuple, set, frozenset, deque)):
        return [(str(i), value) for i, value in enumerate(x)]
    return list(vars(x).items()) if hasattr(x, "__dict__") and not isinstance(x, random.Random) else None


def _written(x: Any) -> object:
    """Arrays, iterators and generators of random numbers, as pickle has them."""
    try:
        return pickle.dumps(x)
    except Exception:  # whatever a foreign class raises
        return id(x)


def _noting(view: View, asked: set[str], kind: type[View] | None = None) -> View:
    """The same view, which notes that it is asked for step or epoch; or, of the given kind, does not."""

    class Noting(View):
        def __getattribute__(self, name: str) -> Any:
            if name in ("step", "epoch"):
                asked.add(name)
            return super().__getattribute__(name)

    view = copy.copy(view)
    view.__class__ = kind or Noting  # type: ignore[assignment]
    return view


@contextlib.contextmanager
def _told(device: torch.device) -> Iterator[list[str]]:
    """What torch warns of inside: waits for the device, and operators that it cannot repeat. Other warnings pass."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in heard:
        words = str(warning.message)
        if "synchroniz" in words or "deterministic" in words:
            found.append(words)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

"""What `auto` stands for: the protocol by the device, the fusion by the samplers and the features at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from nsbench.config.protocol import Cell, resolve_protocol
from nsbench.errors import Misuse
from nsbench.registry import SAMPLERS

AUTO = "auto"


class Choice(NamedTuple):
    """A value, and why it was taken; "" where that needs no word."""

    value: str
    why: str = ""


def choose_protocol(asked: str, device: str) -> Choice:
    """`nsbench` on a GPU, `cpu` where there is none; `device` is cpu, cuda or cuda:1."""
    if asked != AUTO:
        return Choice(asked)
    if device.startswith("cuda"):
        return Choice("nsbench", "there is a GPU")
    return Choice("cpu", f"there is no GPU; protocol nsbench is {_work('nsbench') / _work('cpu'):.0f} times the work")


def _work(protocol: str) -> int:
    """Numbers that the training of a cell reads, in proportion."""
    values = resolve_protocol(protocol, Cell("transe", "mkg_y"), {})
    return values.steps * values.batch * values.negatives * values.width


def choose_fusion(asked: str, samplers: Sequence[str], has_features: Callable[[], bool]) -> Choice:
    """One fusion for all samplers of a call, so that their rows compare.

    It is the one that a sampler's paper builds its model with, where the dataset has features; else none. Misuse where two
    samplers are built with different ones.
    """
    if asked != AUTO:
        return Choice(asked)
    built = {SAMPLERS.get(name).fusion: name for name in samplers if SAMPLERS.get(name).fusion != "none"}
    if len(built) > 1:
        pairs = " and ".join(f"{name} is built on {fusion}" for fusion, name in sorted(built.items()))
        raise Misuse(f"{pairs}; run them apart, or name one fusion for both with --fusion")
    for fusion, name in built.items():
        return Choice(fusion, f"{name} is built on it") if has_features() else Choice("none", "the dataset has no features")
    return Choice("none")

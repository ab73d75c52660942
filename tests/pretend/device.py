"""A `cuda:0` without a GPU, for tests of what the code does on one: `pytest -p tests.pretend.device`.

Its memory and kernels are the CPU's (device.cpp), so values are real and the branches are a GPU's. What a GPU would refuse
raises: an operator that mixes devices, a generator of the other device and, under torch.cuda.set_sync_debug_mode("error"),
whatever makes the host wait. It shows no times, no races, and not CUDA's own rounding.

It leans on what is inside torch, and so is made for one version. Under any other every test is skipped by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from nsbench.files import cache_folder

TORCH = "2.13.0"
SOURCE = Path(__file__).with_name("device.cpp")


def missing() -> str | None:
    """Why there can be no pretended device here."""
    if "torch" in sys.modules:
        return "the pretended device comes before torch: python -m pytest -p tests.pretend.device"
    version = importlib.metadata.version("torch")
    if version.partition("+")[0] != TORCH or list(torch_folder().glob("lib/libtorch_cuda*")):
        return f"the pretended device is made for a CPU build of torch {TORCH}, and this is {version}"
    return None


def torch_folder() -> Path:
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def library() -> Path:
    """The compiled device, built if the cache does not have it; takes half a minute."""
    torch = torch_folder()
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", f"-I{torch}/include", f"-L{torch}/lib", f"-Wl,-rpath,{torch}/lib"]
    key = repr((SOURCE.read_bytes(), flags, importlib.metadata.version("torch")))
    built = cache_folder() / f"pretended-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:  # another process may be doing the same
            part = Path(folder) / built.name
            compiler = os.environ.get("CXX", "g++")
            subprocess.run([compiler, str(SOURCE), *flags, "-lc10", "-ltorch_cpu", "-o", str(part)], check=True)
            os.replace(part, built)
    return built


class Event:
    """torch.cuda.Event on a device that works at once."""

    def __init__(self, **_: Any) -> None:
        self.at = 0.0

    def record(self, *_: Any) -> None:
        from tests.pretend.graph import graph

        self.at = time.perf_counter()
        if graph.current is not None:
            graph.current.calls.append(self.record)

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)

    def synchronize(self) -> None:
        pass


class Stream:
    """torch.cuda.Stream: there is but one."""

    def __init__(self, *_: Any) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


def install() -> None:
    """Give torch the device."""
    device = ctypes.CDLL(str(library()))  # before torch, which asks at its import what there is
    import torch
    from torch import Tensor

    def mind_waiting(mode: str | int) -> None:
        device.pretended_waiting({"default": 0, "warn": 1, "error": 2}.get(mode, mode))

    copied = Tensor.__deepcopy__

    def deepcopy(x: Tensor, memo: dict[int, Any]) -> Tensor:  # torch's own asks for a storage class of CUDA
        if not x.is_cuda:
            return copied(x, memo)
        if id(x) not in memo:
            y = x.detach().clone()
            memo[id(x)] = torch.nn.Parameter(y, x.requires_grad) if isinstance(x, torch.nn.Parameter) else y
        return memo[id(x)]

    answers: dict[str, Any] = {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": False,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_name": "pretended",
        "synchronize": None,
        "empty_cache": None,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "mem_get_info": (64 << 30, 80 << 30),
        "graph_pool_handle": (0, 0),
        "get_rng_state_all": [],
        "set_rng_state_all": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    from tests.pretend import graph

    torch.cuda.Event, torch.cuda.Stream = Event, Stream  # type: ignore[misc, assignment]
    torch.cuda.CUDAGraph, torch.cuda.graph = graph.CUDAGraph, graph.graph  # type: ignore[misc, assignment]
    torch.cuda.current_stream = Stream  # type: ignore[assignment]
    torch.cuda.stream = contextlib.nullcontext  # type: ignore[assignment, misc]
    torch.cuda.set_sync_debug_mode = mind_waiting
    torch.cuda.get_sync_debug_mode = lambda: device.pretended_waiting_mode()
    Tensor.pin_memory = lambda self, *_: self.clone()  # type: ignore[method-assign]
    Tensor.__deepcopy__ = torch.nn.Parameter.__deepcopy__ = deepcopy  # type: ignore[method-assign]


MISSING = missing()
if MISSING is None:
    install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=MISSING))

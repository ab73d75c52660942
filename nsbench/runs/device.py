"""Where a run takes place: its device, the memory that it takes there, and what else its figures may depend on."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nsbench
from nsbench import machine
from nsbench.errors import Misuse
from nsbench.kernels import operators as kernels


def pick_device(name: str) -> torch.device:
    """`auto` is a CUDA device when there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise Misuse(f"unknown device '{name}'; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise Misuse(f"nsbench runs on cpu and cuda, not on '{name}'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Misuse("no CUDA device is available here; use --device cpu")
    if device.index is not None and device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise Misuse(f"there is no {name} here; the devices are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
        torch.cuda.set_device(device)  # events and synchronisation go by the current device
    return device


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        machine.reset_peak_memory()


def peak_memory(device: torch.device) -> int:
    """Bytes: of the process on a CPU, allocated by torch on a GPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else machine.peak_memory()


def environment(device: torch.device) -> dict[str, Any]:
    """What a result may depend on beside its configuration."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor()
    return {
        "nsbench": nsbench.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{device.type} {named}",
        "threads": torch.get_num_threads(),
        "kernels": kernels.name() if device.type == "cpu" else "eager",
    }


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this code runs from, with `+` when it is changed; None for an installed copy."""
    here = Path(__file__).resolve().parent
    try:
        git = functools.partial(subprocess.run, cwd=here, capture_output=True, text=True, timeout=10)
        tracked = git(["git", "ls-files", "--error-unmatch", Path(__file__).name])
        if tracked.returncode != 0:
            return None
        found = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return found + ("+" if changed else "") if found else None

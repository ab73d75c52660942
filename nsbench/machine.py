"""What this machine is, and what it has left: cores, memory, processor, processes. The one reader of /proc."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any


def cores() -> int:
    """How many this process may use: of those it may run on, as many as its control group has time for."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(number, _quota() or number))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole cores that the control group of a container is given; None where it sets no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2, version 1
        with contextlib.suppress(OSError, ValueError):
            quota, period = " ".join((root / file).read_text().strip() for file in files).split()
            return max(1, int(quota) // int(period)) if quota not in ("max", "-1") else None
    return None


def free_memory() -> int | None:
    """Bytes of main memory that processes can still have; None where that cannot be read."""
    return _kilobytes("/proc/meminfo", "MemAvailable")


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep the large blocks that a step frees: the system would hand them out again page by page, in zeros, which
    takes a tenth of a step and more. What the environment says (MALLOC_...) goes before.
    """
    mallopt = _from_libc("mallopt")
    if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt(-3, 1 << 26)  # M_MMAP_THRESHOLD: larger ones still go back, or two of them would stand in memory for one
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def _from_libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def reset_peak_memory() -> None:
    """Freed memory that this process keeps goes back first: what comes next would fill it without a trace in the peak."""
    if (malloc_trim := _from_libc("malloc_trim")) is not None:
        malloc_trim(0)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_memory() -> int:
    """Bytes of this process at most, since it began or since the last reset; interpreter and torch included."""
    if (peak := _kilobytes("/proc/self/status", "VmHWM")) is not None:
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@functools.cache
def processor() -> str:
    """Its model where the system tells it: seconds of two models must not share a column."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def cpu_facts() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core; empty where there is none."""
    return _facts("/proc/cpuinfo", until="\n\n")


@functools.cache
def boot() -> str:
    """One boot of one machine, and one process table on it: where a process id means something."""
    try:  # containers may share a host's name, and see other processes
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        import uuid

        return f"{socket.gethostname()} {uuid.getnode():x}"


def started(pid: int) -> str | None:
    """When the process began, in ticks of its machine; "" where that cannot be known, None if there is no such process."""
    if os.path.exists("/proc/self/stat"):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" and int(fields[17]) <= 1 else fields[19]  # its threads may outlive its first
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _kilobytes(path: str, name: str) -> int | None:
    found = _facts(path).get(name)
    return None if found is None else int(found.split()[0]) * 1024


def _facts(path: str, until: str = "\0") -> dict[str, str]:
    """The `name: value` lines of a file."""
    try:
        lines = Path(path).read_text().partition(until)[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): " ".join(value.split()) for name, _, value in pairs}

"""What a process may use of its machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsbench import machine


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_control_group(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine._quota(tmp_path) == cores


def test_cores_are_those_that_are_allowed_and_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3, 5}, raising=False)
    for quota, cores in ((None, 3), (2, 2), (64, 3)):
        monkeypatch.setattr(machine, "_quota", lambda quota=quota: quota)
        assert machine.cores() == cores


@pytest.mark.parametrize(("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_wait_asleep_unless_asked_otherwise(given: dict[str, str], found: str) -> None:
    """Before torch is loaded, which reads it."""
    code = "import os, sys, nsbench; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    said = subprocess.run([sys.executable, "-c", code], env=inherited | given, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [found, "False"]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be reset")
def test_the_peak_since_a_reset_sees_a_block_that_fits_into_memory_freed_before() -> None:
    """In a process of its own: what pytest's holds depends on the tests before."""
    code = """
import torch
from nsbench import machine
machine.keep_freed_memory()
blocks = [torch.ones(10_000_000) for _ in range(8)]
del blocks  # 320 MB, which the process keeps
machine.reset_peak_memory()
before = machine.peak_memory()
torch.ones(50_000_000)
print(machine.peak_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.9 * 200e6

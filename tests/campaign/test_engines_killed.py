"""A campaign with local workers, killed at random moments, ends as one that nobody disturbed; each run is done once."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from chaos import Campaign, children, harass, until

from nsbench import machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc"),
]

ENDLESS = 10_000_000  # steps: the run does not end before it is stopped


def test_five_kills_of_driver_and_workers_each(undisturbed_campaign: Campaign, campaign_of: Callable) -> None:
    campaign = campaign_of(seeds=10)
    interrupted = harass(campaign, 5, random.Random(0), "--workers", "2")
    assert campaign.outcome() == undisturbed_campaign.outcome()
    assert len(campaign.outcome()) == 60
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()
    assert len(interrupted) == 10
    assert all(campaign.resumed(name) for name in interrupted)


def checkpoints(campaign: Campaign) -> dict[str, int]:
    """Run -> step."""
    found = campaign.store.glob("*/checkpoint.pt")
    return {path.parent.name: torch.load(path, weights_only=True)["trainer"]["step"] for path in found}


def gone(workers: list[int]) -> None:
    until(lambda: not any(machine.started(worker) for worker in workers))


@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGINT, "group"), (signal.SIGTERM, "driver"), (signal.SIGKILL, "driver")]
)
def test_workers_leave_checkpoints_when_the_driver_is_stopped(campaign_of: Callable, number: int, whom: str) -> None:
    """Ctrl-C on a terminal reaches all; SIGTERM and SIGKILL only the driver. The same command goes on."""
    campaign = campaign_of(seeds=1, steps=ENDLESS)
    driver = campaign.start("--workers", "2")
    until(lambda: len(campaign.running()) == 2 and all(held.progress.get("step") for held in campaign.running().values()))
    workers, begun = children(driver.pid), set(campaign.running())
    assert len(workers) == 2
    (os.killpg if whom == "group" else os.kill)(driver.pid, number)
    assert driver.wait(60) == (-number if number == signal.SIGKILL else 130)
    gone(workers)
    before = checkpoints(campaign)
    assert set(before) == begun
    assert campaign.running() == {}
    if number != signal.SIGKILL:
        assert re.search(r"stopped; the same command goes on from \S+", campaign.log)
    driver = campaign.start("--workers", "2")
    until(lambda: set(campaign.running()) == begun, driver)
    workers = children(driver.pid)
    driver.kill()
    gone(workers)
    after = checkpoints(campaign)
    assert all(after[name] > before[name] for name in begun)


def test_two_drivers_on_one_store_do_every_run_once(undisturbed_campaign: Campaign, campaign_of: Callable) -> None:
    campaign = campaign_of(seeds=10)
    one = campaign.start("--workers", "2")
    until(lambda: one.pid in campaign.at_work(), one)
    one.send_signal(signal.SIGSTOP)  # its workers end the runs that they have, and leave some to the other
    other = campaign.start("--workers", "2")
    until(lambda: other.pid in campaign.at_work(), other)
    one.send_signal(signal.SIGCONT)
    assert [driver.wait(600) for driver in (one, other)] == [0, 0], campaign.log[-3000:]
    assert campaign.outcome() == undisturbed_campaign.outcome()
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()
    by = {int(line.split()[1]) for line in campaign.notes.read_text().splitlines()}
    assert by == {one.pid, other.pid}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be filled and made read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def remounted(disk: Path, how: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("full", r"(?i)Error: cannot write \S+ \(no space left"),
        ("read-only", r"Error: cannot write \S+ \(Read-only file system\)"),
    ],
)
def test_a_disk_that_fails_in_mid_campaign(
    disk: Path, undisturbed_campaign: Campaign, campaign_of: Callable, state: str, said: str
) -> None:
    """After some runs it is full, or read-only: one sentence, nothing lost, and the same command goes on."""
    campaign = campaign_of(seeds=2)
    campaign.store = disk / "runs"
    driver = campaign.start("--workers", "2")
    until(lambda: len(campaign.finished()) > 2, driver)
    driver.send_signal(signal.SIGSTOP)  # its workers go on with what they have
    if state == "full":
        fill(disk / "filler")
        until(lambda: not campaign.running())
        fill(disk / "more")  # what they had written by halves and removed
    else:
        until(lambda: remounted(disk, "ro"))  # refused while a file is being written
    driver.send_signal(signal.SIGCONT)
    assert driver.wait(60) == 1
    assert re.search(said, campaign.log)
    assert "Traceback" not in campaign.log
    before = campaign.outcome()
    assert 2 < len(before) < 12
    if state == "full":
        (disk / "filler").unlink()
        (disk / "more").unlink()
    else:
        assert remounted(disk, "rw")
    campaign.finish("--workers", "2")
    assert campaign.outcome() == undisturbed_campaign.outcome(seeds=2)
    assert campaign.outcome().items() >= before.items()
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()

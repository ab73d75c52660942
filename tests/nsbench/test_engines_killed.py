"""A campaign with local workers, killed at random moments, ends as one that nobody disturbed; each run is done once."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Campaign, children, harass

from nsbench import claim

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900),
              pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """60 runs in one process, one after another."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed") / "it", seeds=10)
    campaign.finish()
    return campaign


def test_five_kills_of_driver_and_workers_each(undisturbed: Campaign, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "killed", seeds=10)
    harass(campaign, 5, random.Random(0), "--workers", "2")
    assert campaign.outcome() == undisturbed.outcome()
    assert len(campaign.outcome()) == 60
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()


def until(happened, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(campaign: Campaign) -> set[str]:
    return {path.parent.name for path in campaign.store.glob("*/checkpoint.pt")}


@pytest.mark.parametrize(("number", "whom"), [
    (signal.SIGINT, "group"), (signal.SIGTERM, "driver"), (signal.SIGKILL, "driver"),
])  # fmt: skip
def test_workers_leave_checkpoints_when_the_driver_is_stopped(tmp_path: Path, number: signal.Signals, whom: str) -> None:
    """Ctrl-C on a terminal reaches all; SIGTERM and SIGKILL only the driver. The same command goes on."""
    campaign = Campaign(tmp_path / "it", seeds=1, steps=3000)
    driver = campaign.start("--workers", "2", "--checkpoint-every", "1000")
    until(lambda: len(campaign.running()) == 2 and all(held.progress.get("step") for held in campaign.running().values()))
    workers, begun = children(driver.pid), set(campaign.running())
    assert len(workers) == 2
    (os.killpg if whom == "group" else os.kill)(driver.pid, number)
    assert driver.wait(60) == (-number if number == signal.SIGKILL else 130)
    until(lambda: not any(claim._started(worker) for worker in workers))
    assert checkpoints(campaign) == begun
    assert campaign.running() == {}
    if number != signal.SIGKILL:
        assert re.search(r"stopped; the same command goes on from \S+", (campaign.folder / "log").read_text())
    driver = campaign.start("--workers", "2")
    until(lambda: set(campaign.running()) >= begun)
    driver.kill()
    driver.wait()


def test_two_drivers_on_one_store_do_every_run_once(undisturbed: Campaign, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "shared", seeds=10)
    drivers = [campaign.start("--workers", "2"), campaign.start("--workers", "2")]
    assert [driver.wait(600) for driver in drivers] == [0, 0], (campaign.folder / "log").read_text()[-3000:]
    assert campaign.outcome() == undisturbed.outcome()
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()
    by = [line.split()[1] for line in campaign.notes.read_text().splitlines()]
    assert len(set(by)) > 2  # both drivers had a share


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


@pytest.mark.parametrize(("state", "said"), [
    ("full", r"Error: no space left for \S+; free some and repeat the command, it goes on from here"),
    ("read-only", r"Error: cannot write \S+: Read-only file system; choose another store with --runs"),
])
def test_a_disk_that_fails_in_mid_campaign(disk: Path, undisturbed: Campaign, state: str, said: str) -> None:
    """After some runs it is full, or read-only: one sentence, nothing lost, and the same command goes on."""
    campaign = Campaign(disk.parent / "it", seeds=3)
    campaign.store = disk / "runs"
    driver = campaign.start("--workers", "2")
    until(lambda: len(campaign.finished()) > 5)
    if state == "full":
        fill(disk / "filler")
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert driver.wait(60) == 1
    log = (campaign.folder / "log").read_text()
    assert re.search(said, log)
    assert "Traceback" not in log
    before = campaign.outcome()
    assert len(before) < 18
    if state == "full":
        (disk / "filler").unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    campaign.finish("--workers", "2")
    assert campaign.outcome() == undisturbed.outcome(seeds=3)
    assert campaign.outcome().items() >= before.items()
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()

"""A campaign whose processes are killed at random moments, and the means to tell that nothing came of it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np

import nsbench.cli
from nsbench.campaign import sweep
from nsbench.campaign.conduct import LOSSES
from nsbench.runs import claim

GRID = """
protocol = "quick"
seeds = {seeds}
set = ["protocol.steps={steps}", "protocol.validate_every={every}", "protocol.width=16"]
[[grid]]
sampler = ["uniform", "bernoulli"]
kge = ["transe", "distmult", "rotate"]
dataset = "planted:small"
"""

# Every process of the campaign reads this when it starts, and notes which result.json it has written, and for which driver.
NOTING = """
import os
from nsbench.runs.folder import RunFolder
write = RunFolder.write
def noting(self, name, save):
    write(self, name, save)
    if name == "result.json":
        file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{self.path.name} {os.getppid()}\\n".encode())
RunFolder.write = noting
"""


class Campaign:
    """`nsbench sweep` of 6 x `seeds` runs in processes of its own."""

    def __init__(self, folder: Path, seeds: int, steps: int = 30) -> None:
        self.folder, self.store, self.notes = folder, folder / "runs", folder / "notes"
        folder.mkdir()
        self.grid = folder / "grid.toml"
        self.grid.write_text(GRID.format(seeds=seeds, steps=steps, every=steps // 3))
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(NOTING)
        checkout = Path(nsbench.cli.__file__).resolve().parent.parent
        self.environment = {**os.environ, "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{checkout}", "NOTES": str(self.notes)}
        self.drivers: list[subprocess.Popen] = []

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "nsbench", "sweep", str(self.grid), "--runs", str(self.store)]
        command += ["--threads", "1", "--no-diagnostics", *(arguments or ("--workers", "1"))]
        with open(self.folder / "log", "ab") as log:
            driver = subprocess.Popen(command, env=self.environment, stderr=log, stdout=log, start_new_session=True)
        self.drivers.append(driver)
        return driver

    def stop(self) -> None:
        """Kill every driver; its workers end by themselves."""
        for driver in self.drivers:
            driver.kill()
            driver.wait()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def finish(self, *arguments: str, seconds: float = 600) -> None:
        assert self.start(*arguments).wait(seconds) == 0, self.log[-3000:]

    def finished(self) -> Counter[str]:
        """How often each run was carried to its end."""
        return Counter(line.split()[0] for line in self.notes.read_text().splitlines()) if self.notes.exists() else Counter()

    def running(self) -> dict[str, claim.Holder]:
        return {path.parent.name: held for path in self.store.glob("*/claim") if (held := claim.holder(path.parent))}

    def at_work(self) -> set[int]:
        """The parents of processes that have a run: drivers, or the nodes of a cluster."""
        return {parent(held.pid) for held in self.running().values()}

    def amid(self, name: str) -> bool:
        """Whether the run has a checkpoint to go on from, and a third of its steps or more ahead."""
        folder = self.store / name
        with contextlib.suppress(FileNotFoundError):
            return (folder / "checkpoint.pt").exists() and len((folder / "events.jsonl").read_text().splitlines()) < 2
        return False

    def resumed(self, name: str) -> bool:
        return bool(json.loads((self.store / name / "result.json").read_text())["resumed_at"])

    def outcome(self, seeds: int = 10) -> dict[str, tuple]:
        """Of each run of these seeds: the bytes of its ranks, and its figures."""
        done = [path.parent for path in self.store.glob("*/result.json")]
        return {run.name: _outcome(run) for run in done if int(run.name.split("-s")[1][0]) < seeds}

    def remains(self) -> set[str]:
        """Files that no finished run has."""
        usual = {"config.json", "events.jsonl", "ranks.npz", "result.json", "reference.safetensors"}
        return {str(path.relative_to(self.store)) for path in self.store.glob("*/*") if path.name not in usual}


def _outcome(folder: Path) -> tuple:
    with np.load(folder / "ranks.npz") as arrays:
        ranks = tuple((name, arrays[name].tobytes()) for name in sorted(arrays))
    result = json.loads((folder / "result.json").read_text())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    history = [(event["step"], event["loss"], event["valid"]) for event in events]
    return ranks, json.dumps([history, result["test"], result["valid"], result["env"]["threads"]])


def parent(pid: int) -> int:
    """Zero if there is no such process any more."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def children(pid: int) -> list[int]:
    """Worker processes of a driver."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if parent(int(entry.name)) == pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def until(happened: Callable[[], object], driver: subprocess.Popen | None = None, seconds: float = 300) -> None:
    """Wait for it, as long as the driver lives."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert driver is None or driver.poll() is None, f"the driver ended too early, with exit code {driver.returncode}"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def seize(
    campaign: Campaign, driver: subprocess.Popen, rng: random.Random, spared: Container[str], mine: Callable[[int], object]
) -> tuple[str, int]:
    """Stop a worker (SIGSTOP) that is `mine` in the midst of a run that is not `spared`: the run's name, and the pid.

    What is true of a stopped process stays true until it is killed, however fast or busy the machine is.
    """
    found: list[tuple[str, int]] = []

    def stopped() -> bool:
        running = [(name, held) for name, held in campaign.running().items() if name not in spared and mine(held.pid)]
        for name, held in rng.sample(running, len(running)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(held.pid, signal.SIGSTOP)
                until(lambda: set(states(held.pid)) <= set("TZX"))  # noqa: B023
                now = claim.holder(campaign.store / name)
                if now is not None and now.token == held.token and campaign.amid(name):
                    found.append((name, held.pid))
                    return True
                os.kill(held.pid, signal.SIGCONT)
        return False

    until(stopped, driver)
    return found[0]


def states(pid: int) -> str:
    """A letter for each thread of the process: R, S, D, T for one that is stopped, Z or X for a dead one."""
    found = ""
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            found += task.read_text().rpartition(")")[2].split()[0]
    return found


def moments(campaign: Campaign, kills: int, rng: random.Random) -> list[int]:
    """Numbers of finished runs at which to kill: a fast machine is not done before the last of them."""
    return sorted(rng.sample(range(len(sweep.read(str(campaign.grid))) * 2 // 3), kills))


def harass(campaign: Campaign, kills: int, rng: random.Random, *arguments: str) -> list[str]:
    """Kill the driver and workers so often each, and go on with it; returns the runs that this interrupted.

    No run loses its worker so often under one driver that it counts as failed.
    """
    interrupted: list[str] = []
    lost: Counter[str] = Counter()  # how often each run's worker was, since the driver began
    driver = campaign.start(*arguments, "--checkpoint-every", "0")
    kinds = rng.sample(["driver", "worker"] * kills, 2 * kills)
    for moment, kind in zip(moments(campaign, 2 * kills, rng), kinds, strict=True):
        until(lambda: len(campaign.finished()) >= moment, driver)  # noqa: B023
        spared = {name for name, times in lost.items() if times == LOSSES - 1}
        name, worker = seize(campaign, driver, rng, spared, lambda pid: parent(pid) == driver.pid)  # noqa: B023
        interrupted.append(name)
        if kind == "worker":
            os.kill(worker, signal.SIGKILL)
            lost[name] += 1
        else:
            driver.kill()
            driver.wait()
            os.kill(worker, signal.SIGCONT)  # it finds its driver gone
            driver = campaign.start(*arguments, "--checkpoint-every", "0")
            lost.clear()
    assert driver.wait(600) == 0, campaign.log[-3000:]
    return interrupted

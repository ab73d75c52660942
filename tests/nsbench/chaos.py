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
from pathlib import Path

import numpy as np

import nsbench.cli
from nsbench import claim, sweep

GRID = """
protocol = "quick"
seeds = {seeds}
set = ["protocol.steps={steps}", "protocol.validate_every={every}", "protocol.width=16"]
[[grid]]
sampler = ["uniform", "bernoulli"]
kge = ["transe", "distmult", "rotate"]
dataset = "planted:small"
"""

# Every process of the campaign reads this when it starts, and notes which result.json it has written.
NOTING = """
import os
from nsbench.runfolder import RunFolder
write = RunFolder.write
def noting(self, name, save):
    write(self, name, save)
    if name == "result.json":
        file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{self.path.name} {os.getpid()}\\n".encode())
RunFolder.write = noting
"""


class Campaign:
    """`nsbench sweep` of 6 x `seeds` runs in processes of its own."""

    def __init__(self, folder: Path, seeds: int, steps: int = 60) -> None:
        self.folder, self.store, self.notes = folder, folder / "runs", folder / "notes"
        folder.mkdir()
        self.grid = folder / "grid.toml"
        self.grid.write_text(GRID.format(seeds=seeds, steps=steps, every=steps // 3))
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(NOTING)
        checkout = Path(nsbench.cli.__file__).resolve().parent.parent
        self.environment = {**os.environ, "PYTHONPATH": f"{folder / 'site'}{os.pathsep}{checkout}", "NOTES": str(self.notes)}
        self.log = open(folder / "log", "ab")  # noqa: SIM115

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "nsbench", "sweep", str(self.grid), "--runs", str(self.store), "--threads", "1",
                   "--checkpoint-every", "0.2", "--no-diagnostics", *arguments]  # fmt: skip
        return subprocess.Popen(command, env=self.environment, stderr=self.log, stdout=self.log, start_new_session=True)

    def finish(self, *arguments: str, seconds: float = 600) -> None:
        process = self.start(*arguments)
        assert process.wait(seconds) == 0, (self.folder / "log").read_text()[-3000:]

    def finished(self) -> Counter[str]:
        """How often each run was carried to its end."""
        return Counter(line.split()[0] for line in self.notes.read_text().splitlines()) if self.notes.exists() else Counter()

    def running(self) -> dict[str, claim.Holder]:
        return {path.parent.name: held for path in self.store.glob("*/claim") if (held := claim.holder(path.parent))}

    def missing(self) -> int:
        return len(sweep.read(str(self.grid))) - len(self.finished())

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


def harass(campaign: Campaign, kills: int, rng: random.Random, *arguments: str) -> None:
    """Kill the driver and workers so often each, at random moments of a campaign with local workers, and go on with it.

    A moment is a number of finished runs and a fraction of a second: a fast machine is not done before the last of them.
    """
    total = campaign.missing()
    moments = sorted(rng.sample(range(total * 3 // 4), 2 * kills))
    driver = campaign.start(*arguments)
    try:
        for moment, kind in zip(moments, rng.sample(["driver", "worker"] * kills, 2 * kills), strict=True):
            deadline = time.monotonic() + 300
            while total - campaign.missing() < moment or not children(driver.pid):
                assert driver.poll() is None and time.monotonic() < deadline, (campaign.folder / "log").read_text()[-3000:]
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            if kind == "driver":
                driver.kill()
                driver.wait()
                driver = campaign.start(*arguments)
            else:
                os.kill(rng.choice(children(driver.pid)), signal.SIGKILL)
        assert driver.wait(600) == 0, (campaign.folder / "log").read_text()[-3000:]
    finally:
        driver.kill()
        driver.wait()

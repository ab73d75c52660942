"""The script for a stay on a GPU machine, rehearsed; and what becomes of items that fail, hang, or come too late."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbench.results.store import read
from tools import gpu_trial as trial

SAYS = {
    trial.card: r"copy: .*\n.*product, torch.bfloat16: .*\n.*\n.*a launch: .* from Python, .* in a graph",
    trial.speed: r"nscaching rotate none +\d+\.\d+ +\d+\.\d+ +\d+ +\d+ +0\.0 +\d+%\n",
    trial.ranking: r"of 1504 ranks 0 differ",
    trial.profile: r"uniform: 4 steps, 0 copies \(1 passes at most\), 0 waits\n(.*\n)*dhns: 4 steps, 0 copies",
    trial.memory: r"uniform rotate none, 2000 entities: allocated 0 MiB, reserved 0, counted \d+",
    trial.repeats: r"the same ranks: {'whole': True, 'again': True, 'stopped': True, 'killed': True}",
}


@pytest.mark.filterwarnings("ignore")  # a profiler without a GPU
@pytest.mark.parametrize("item", SAYS, ids=lambda item: item.__name__)
def test_an_item_of_the_first_part(
    item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(trial.REHEARSAL, "1")
    monkeypatch.setattr(trial, "SIZES", trial.SMALL)
    item(tmp_path)
    assert re.search(SAYS[item], capsys.readouterr().out)


@pytest.mark.timeout(1200)
def test_the_second_part_whole(tmp_path: Path) -> None:
    """Runs of several processes that share a card, packed."""
    command = [sys.executable, "tools/gpu_trial.py", "2", "--rehearse", "--minutes", "30", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "gpu_trial_2.log").read_text()
    assert log == done.stdout
    assert "on cuda" in log
    assert str(tmp_path) not in log
    assert str(Path.cwd()) not in log
    assert "pack done" in log.splitlines()[-1]
    assert sorted(run.name.split("-planted")[0] for run in read(tmp_path / "gpu_trial.nsb").runs) == [
        "dhns-rotate",
        "mmrns-rotate",
        "nscaching-rotate",
        "uniform-rotate",
    ]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[trial.Log]:
    with open(tmp_path / "log", "w") as file:
        yield trial.Log(file, {"/a/b": "OUT"})


def test_an_item_that_fails_or_hangs_stops_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: trial.Log) -> None:
    """`deaf` does not hear the signal at its limit; `behind` leaves a process that goes on."""
    monkeypatch.setattr(trial, "GRACE", 0.2)
    sleep = "import time; time.sleep(600)"
    programs = {
        "good": "print('a')",
        "bad": "print('b', flush=True); raise SystemExit(3)",
        "deaf": f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {sleep}",
        "behind": f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{sleep}']); print('d')",
        "pack": "print('e')",
    }
    seen: list[str] = []
    commands = {name: [sys.executable, "-c", program] for name, program in programs.items()}
    items = [(name, 1.0 if name == "deaf" else 100.0) for name in programs]
    found = trial.stay(items, 100, commands.__getitem__, log, lambda: seen.append((tmp_path / "log").read_text()))
    assert [what.rpartition(",")[0] for what in found.values()] == [
        "done",
        "failed with exit code 3",
        "stopped at its limit of 1 s",
        "done",
        "done",
    ]
    for text, said in zip(seen, ["a", "b", "", "d", "e"]):  # in the file when the item ends
        assert not said or re.search(rf"^ *[\d.]+    {said}$", text.splitlines()[-2])


def test_what_comes_too_late_is_not_begun_but_what_is_kept_is(log: trial.Log) -> None:
    found = trial.stay([("speed", 100), ("pack", 100)], 1, lambda name: [sys.executable, "-c", "pass"], log, lambda: None)
    assert found["speed"] == "not begun: the time is over"  # a minute, of which 100 s are kept
    assert found["pack"].startswith("done")


def test_no_path_of_the_machine_is_logged(log: trial.Log, tmp_path: Path) -> None:
    log.say("in /a/b/c\n")
    assert (tmp_path / "log").read_text().endswith("  in OUT/c\n")


def test_wheels_are_installed_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "HERE = True\n")
        wheel.writestr("carried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr("carried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("carried-1.0.dist-info/RECORD", "")
    seen: list[str] = []
    stay = trial.stay

    def watched(items, minutes, command, log, after):
        found = stay(items, minutes, command, log, after)
        seen.append(subprocess.check_output([sys.executable, "-c", "import carried; print(carried.HERE)"], text=True))
        return found

    monkeypatch.setattr(trial, "stay", watched)
    monkeypatch.setattr(trial, "PARTS", {1: []})
    for name in ("PYTHONPATH", "PYTHONUNBUFFERED", "COLUMNS"):  # which the script sets
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["gpu_trial.py", "1", "--wheels", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        trial.main()
    assert end.value.code == 0
    assert seen == ["True\n"]

"""What is shown can be pasted, stands there as it is, and ends no work when nobody looks."""

import errno
import io
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from nsbench.campaign.plan import loaded
from nsbench.commands import display
from nsbench.commands.options import command as shell

TINY = ("--protocol", "quick", "--device", "cpu", "--set", "protocol.steps=2", "--set", "protocol.width=4")


def test_a_command_is_what_the_shell_makes_of_it() -> None:
    options = {"runs": Path("my runs"), "split": None, "protocol": "auto", "dataset": "./g'1;rm"}
    words = shlex.split(shell("runs list", options, ["protocol.steps=2", "aux.x=a b"]))
    assert words[:3] == ["nsbench", "runs", "list"]
    assert words[3:7] == ["--runs", "my runs", "--dataset", "./g'1;rm"]
    assert words[7:] == ["--set", "protocol.steps=2", "--set", "aux.x=a b"]


@pytest.mark.filterwarnings("ignore")
def test_what_comes_next_can_be_pasted(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my [red]graph :bug:"
    folder.mkdir()
    for step, (name, count) in enumerate((("train", 40), ("valid", 3), ("test", 3)), start=1):
        (folder / f"{name}.tsv").write_text("".join(f"e{i}\tr\te{(i + step) % 40}\n" for i in range(count)))
    monkeypatch.chdir(tmp_path)
    loaded.cache_clear()
    given = ("--dataset", f"./{folder.name}", "--runs", "my runs", "--set", "protocol.batch=8")
    said = command("run", "--sampler", "bernoulli", *given, *TINY)
    assert said.code == 0, said.err
    *_, baseline, last = said.out.splitlines()
    assert shlex.split(last.removeprefix("next: ")) == ["nsbench", "table", "--runs", "my runs"]
    _, *words = shlex.split(baseline.partition(": ")[2])
    assert command(*words, "--device", "cpu").code == 0
    assert len(list((tmp_path / "my runs").glob("*/result.json"))) == 2
    packed = command("runs", "pack", "a b.nsb", "--runs", "my runs").out
    assert shlex.split(packed.partition("machine: ")[2]) == ["nsbench", "runs", "merge", "a b.nsb"]


def test_names_that_look_like_markup_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    look = {"file": seen, "force_terminal": True, "color_system": None, "width": 150}
    monkeypatch.setattr(display, "Console", lambda stderr, **rules: Console(**{**rules, **look}))
    with display.Display(1) as shown:
        shown.begin("uniform-transe-g[red]x", 1)
        shown.hear({"stage": "ranking", "done": 1, "total": 2})
        shown.bars.refresh()
        shown.end("g[/red] :bug: is done")
    assert "uniform-transe-g[red]x" in seen.getvalue()
    assert "g[/red] :bug: is done" in seen.getvalue()


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_campaign_goes_on_when_nobody_reads_of_it(command: Callable, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as unread, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", unread)
        said = command("run", "--dataset", "planted:small", "--seeds", "2", *TINY)
    assert said.code == 0
    assert len(list(store.glob("*/result.json"))) == 2


@pytest.mark.parametrize("words", ["report -o old", "table --format csv -o old", "runs export old", "runs pack old"])
def test_a_full_disk_leaves_the_old_output(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("run", "--dataset", "planted:small", *TINY).code == 0
    Path("old").write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = command(*words.split())
    sentence = "Error: cannot write old (No space left on device); free some space or choose another place"
    assert (said.code, said.err.splitlines()[-1]) == (1, sentence)
    assert Path("old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "runs"]

"""What the command line prints, and how soon."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nsbench import cli
from nsbench.campaign.estimates import duration
from nsbench.commands import display
from nsbench.results import writers
from nsbench.results.tables.layouts import LAYOUTS
from nsbench.testing.rules import SAMPLER_RULES

TINY = ("--protocol", "quick", "--dataset", "planted:small", "--set", "protocol.steps=4", "--set", "protocol.width=8")


def answer(checkout: Path, *arguments: str) -> str:
    """Output of a command in a process of its own."""
    said = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=checkout, timeout=60)
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_the_command_line_imports_nothing_heavy(checkout: Path) -> None:
    code = "import sys, nsbench, nsbench.cli, nsbench.results; print(*sys.modules)"
    loaded = set(answer(checkout, "-c", code).split())
    assert "nsbench.cli" in loaded
    assert not {"torch", "numpy", "pandas", "scipy", "rich", "safetensors", "tabulate"} & loaded


def test_the_bare_command_names_three_to_try(command: Callable) -> None:
    said = command()
    assert (said.code, said.err) == (0, "")
    assert re.findall(r"^  nsbench (\w+)", said.out, re.MULTILINE) == ["demo", "run", "list"]


def test_list_names_everything_with_a_line_each(command: Callable) -> None:
    said = command("list")
    assert said.code == 0
    lines = dict(re.findall(r"^  (\w[\w, -]*?)  +(\S.*)$", said.out, re.MULTILINE))
    for name in ("uniform", "bernoulli", "transe", "distmult", "rotate", "none", "planted", "nsbench", "quick", "cpu"):
        assert len(lines[name]) > 20, name
    assert "Xu et al. 2022" in lines["db15k, mkg_w, mkg_y"]  # a sentence does not end at "al."
    assert re.findall(r"^\w.*$", said.out, re.MULTILINE)[:3] == ["samplers", "models", "fusions"]


def test_show_generates_options_from_their_declaration(command: Callable) -> None:
    said = command("show", "rotate")
    assert "model rotate (built-in)" in said.out
    assert "Sun et al., ICLR 2019" in said.out
    assert re.search(r"--set kge\.phase=scaled .* \(one of scaled, radians\)", said.out)
    assert command("show", "uniform").out.rstrip().endswith("no options")
    assert "width = 32" in command("show", "quick").out
    near = command("show", "rotat")
    assert (near.code, near.err.count("\n"), "'rotate'" in near.err) == (2, 1, True)


def test_a_plugin_file_is_shown_like_the_rest(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '"""Draws twice."""\nfrom nsbench.contracts import Sampler\nclass Twice(Sampler):\n    variants = {"paper": {}}\n'
    )
    said = command("show", f"{tmp_path / 'mine.py'}:Twice")
    assert said.code == 0, said.err
    assert said.out.splitlines()[0] == f"sampler {tmp_path / 'mine.py'}:Twice ({tmp_path / 'mine.py'})"
    assert "Draws twice." in said.out
    assert "--set sampler.variant=paper   sets nothing" in said.out


def test_a_run_says_what_it_uses_and_ends_with_its_figures(command: Callable, store: Path) -> None:
    said = command("run", *TINY, "--device", "cpu", "--save-model")
    assert said.code == 0
    (folder,) = store.iterdir()
    *row, last = said.out.splitlines()
    assert re.match(rf"test +MRR +[\d.]+  HITS@1 +[\d.]+  HITS@3 +[\d.]+  HITS@10 +[\d.]+  MR \d+   \({folder}\)$", row[0])
    assert last == "next: nsbench table"
    assert re.match(
        r"planted:small \(released split\): 800 entities, 28 relations, \d+/\d+/\d+ triples; no features; "
        r"fusion none; protocol quick; on cpu \(threads: \d+\)$",
        said.err.splitlines()[0],
    )
    assert {file.name for file in folder.iterdir()} >= {"model.safetensors", "sampler.safetensors"}


def test_lists_multiply_and_only_what_is_missing_runs(command: Callable, store: Path) -> None:
    said = command("run", "--sampler", "uniform,bernoulli", "--kge", "transe,distmult", "--no-diagnostics", *TINY)
    assert said.code == 0
    assert len(list(store.iterdir())) == 4
    assert "left for the whole" in said.err
    assert said.out == "next: nsbench table\n"
    more = command("run", "--sampler", "uniform", "--kge", "transe,distmult", "--seeds", "0,7", *TINY)
    assert len(list(store.iterdir())) == 6
    assert "2 of 4 runs were already done" in more.err
    assert len(re.findall(r"test MRR", more.err)) == 2


REMOTE = """
import torch
from nsbench.contracts import Generated, Negatives, Sampler


class Remote(Sampler):
    def sample(self, positives, view):
        side = view.draw_side(positives)
        ids = view.graph.draw(positives.key(side), self.k, view.rng)
        far = torch.full((len(positives), 1, view.setting.entity_width), 1e4)
        return [Negatives(side, ids=ids), Negatives(side, generated=Generated(far))]
"""


def test_a_run_ends_by_saying_that_its_generator_is_dead(command: Callable, store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REMOTE)
    arguments = ["run", "--sampler", f"{tmp_path / 'mine.py'}:Remote", *TINY, "--set", "protocol.sides=per_row"]
    said = command(*arguments)
    assert said.code == 0
    (folder,) = store.iterdir()
    (reason,) = json.loads((folder / "result.json").read_text())["dead"]
    assert f"dead generator: {reason}" in said.out.splitlines()
    assert "with a dead generator" in said.err
    again = command(*arguments, "--seeds", "2")  # of which one is done
    named = re.findall(rf"^dead generator of (\S+): {re.escape(reason)}$", again.out, re.MULTILINE)
    assert len(set(named)) == 2
    assert "dead" not in command("run", *TINY, "--set", "protocol.sides=per_row").out


def test_a_plan_runs_nothing(command: Callable, store: Path) -> None:
    arguments = ["run", "--seeds", "2", *TINY, "--plan"]
    first = command(*arguments)
    assert re.findall(r"^[a-z]+", first.out, re.MULTILINE) == ["missing", "missing"]
    assert first.out.endswith("0 of 2 runs are done\n")
    assert not store.exists()
    assert command("run", "--seed", "1", *TINY).code == 0
    (folder,) = store.iterdir()
    assert re.findall(r"^(\w+) +(.*)$", command(*arguments).out, re.MULTILINE)[1] == ("done", str(folder))


def test_without_a_terminal_lines_give_the_time_left(command: Callable, store: Path, monkeypatch) -> None:
    monkeypatch.setattr(display, "QUIET_SECONDS", 0)
    monkeypatch.setattr("nsbench.runs.runner.time", FastClock())
    said = command("run", *TINY, "--set", "protocol.validate_every=2")
    cell = "uniform-transe-planted_small-s0"
    assert re.search(rf"^{cell}: step 3/4  loss \d\.\d{{4}}  best valid MRR [\d.]+  \d+ s left$", said.err, re.MULTILINE)
    assert re.search(rf"^{cell}: ranking test queries (\d+)/\1$", said.err, re.MULTILINE)


class FastClock:
    """A second passes at every reading, so that every step is reported."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_a_run_that_turns_out_long_says_so(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """A sampler's first steps may be cheap: dhns warms up without its denoiser."""
    clock = itertools.count(0.0, 4.0)
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    listener = display.Display(1)
    listener.begin("a-run", 1)
    for left in (600.0, 600.0, 600.0, 7200.0, 7100.0):
        listener.hear({"stage": "training", "step": 1, "steps": 6000, "seconds_left": left, "loss": 1.0, "valid_mrr": None})
    said = [line for line in capsys.readouterr().err.splitlines() if ": about" in line]
    assert [line.split(";")[0] for line in said] == ["a-run: about 10 min 00 s", "a-run: about 2 h 00 min"]
    assert "`--protocol cpu`" in said[-1]


def test_durations() -> None:
    expected = {0.4: "0 s", 59.4: "59 s", 59.6: "1 min 00 s", 3599.6: "1 h 00 min", -3: "0 s", 7505: "2 h 05 min"}
    assert {seconds: duration(seconds) for seconds in expected} == expected


def test_the_table_of_a_store(command: Callable, store: Path, tmp_path: Path) -> None:
    assert command("run", "--sampler", "uniform,bernoulli", *TINY).code == 0
    plain = command("table")
    assert plain.code == 0
    assert re.search(r"transe +uniform +\S+", plain.out)
    for form in ("md", "latex", "csv"):
        assert command("table", "--format", form).out != plain.out
    written = command("table", "--where", "sampler=uniform", "-o", str(tmp_path / "table.md"))
    assert (written.code, written.out) == (0, "")
    assert "bernoulli" not in (tmp_path / "table.md").read_text()
    assert "| transe" in (tmp_path / "table.md").read_text()


def test_the_table_offers_all_layouts_and_formats(command: Callable) -> None:
    options = cli.cli.commands["table"].params
    assert [list(option.type.choices) for option in options if option.name == "fmt"] == [list(writers.FORMS)]
    described = re.findall(r"^  (\w+) {2,}[A-Za-z]", command("table", "--help").out, re.MULTILINE)
    assert described == list(LAYOUTS)


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_reader_of_a_list_may_leave(checkout: Path) -> None:
    program = [sys.executable, "-m", "nsbench", "list"]
    listing = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=checkout)
    assert listing.stdout is not None
    assert listing.stderr is not None
    assert listing.stdout.readline() == "samplers\n"
    listing.stdout.close()
    assert (listing.stderr.read(), listing.wait(60)) == ("", 0)


def test_every_option_says_what_it_is() -> None:
    groups, silent = [("nsbench", cli.cli)], []
    for path, group in groups:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                groups.append((f"{path} {name}", command))
            options = [each for each in command.params if each.param_type_name == "option"]
            silent += [f"{path} {name} {each.opts[0]}" for each in options if not each.help]
    assert silent == []


@pytest.mark.parametrize("content", [None, b"[]", b"\xff"])
def test_status_goes_on_past_damage(command: Callable, store: Path, content: bytes | None) -> None:
    """`None`: a folder stands where the file should."""
    assert command("run", *TINY, "--device", "cpu").code == 0
    for name in ("result.json", "claim"):
        path = store / f"damaged-{name}" / name
        path.parent.mkdir()
        path.mkdir() if content is None else path.write_bytes(content)
    said = command("status")
    assert said.code == 0, said.err
    assert f"failed   damaged-result.json: {store}/damaged-result.json/result.json is damaged; delete" in said.out
    assert ("its claim is damaged; delete" in said.out) == (content is None)
    assert said.out.splitlines()[-1].startswith("1 of 3 runs are done")


def test_a_protocol_file_is_shown(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('extends = "quick"\nwidth = 9\n')
    said = command("show", str(tmp_path / "mine.toml"))
    assert said.code == 0, said.err
    assert "\nwidth = 9\n" in said.out
    assert "\nbatch = 256\n" in said.out


def took(text: str) -> str:
    """What the demo says, but for its time."""
    shorter, count = re.subn(r"^All this took \d+ .*$", "", text, flags=re.MULTILINE)
    assert count == 1
    return shorter


def test_the_demo_goes_on_where_it_was(command: Callable, tmp_path: Path, monkeypatch) -> None:
    from nsbench.campaign import plan as campaign

    real = campaign.plan

    def few(samplers, models, datasets, seeds, *, protocol, **given):
        known = samplers in (["uniform"], ["bernoulli"]) and models == ["transe"]
        return (
            real(samplers, models, datasets, [0], protocol=protocol, settings=["protocol.steps=4"], **given) if known else []
        )

    monkeypatch.setattr(campaign, "plan", few)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = command("demo")
    assert said.code == 0, said.err
    (folder,) = tmp_path.glob("nsbench-demo-*")
    assert f"Runs are in {folder}\nTo make them anew, delete that folder" in said.out
    left = shutil.copytree(next(folder.glob("uniform-*")), folder / "uniform-of-an-older-version")
    for name in ("config.json", "result.json"):
        record = json.loads((left / name).read_text())
        record.get("config", record)["versions"]["sampler"] = 99
        (left / name).write_text(json.dumps(record))
    assert command("table", "--runs", str(folder)).code == 2  # all of them are no table
    before = snapshot(folder)
    again = command("demo")  # the same command finds what is there
    assert (again.code, took(again.out)) == (0, took(said.out))
    assert "2 of 2 runs were already done" in again.err
    assert snapshot(folder) == before


# Data


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    folder = tmp_path / "graph"
    folder.mkdir()
    (folder / "train.tsv").write_text("ann\tknows\tbob\nbob\tknows\tcem\ncem\tlikes\tann\n")
    (folder / "valid.tsv").write_text("ann\tlikes\tcem\n")
    (folder / "test.tsv").write_text("bob\tlikes\tcem\nann\tknows\tbob\n")
    return folder


def test_data_list_says_what_is_embedded(command: Callable, no_files: Path) -> None:
    said = command("data", "list")
    assert re.search(r"^mkg_y +embedded\n +features here: names128; mm: captions, wordpieces$", said.out, re.MULTILINE)
    assert "looked in" not in said.out


def test_data_list_says_what_is_missing_and_how_to_get_it(command: Callable, no_files: Path, unembedded: None) -> None:
    said = command("data", "list")
    assert said.code == 0
    assert "mkg_y      not on this machine; nsbench data fetch mkg_y" in said.out
    assert re.search(r"^planted +an embedded", said.out, re.MULTILINE)
    assert said.out.endswith(f"looked in {no_files} (NSBENCH_DATA)\n")
    folder = no_files / "MKG-Y"
    (folder / "features").mkdir(parents=True)
    for name in ("entity2id", "relation2id", "train2id", "valid2id", "test2id"):
        (folder / f"{name}.txt").write_text("")
    (folder / "features" / "mine.npy").write_bytes(b"")
    said = command("data", "list").out
    assert re.search(rf"^mkg_y +{folder}\n +features here: mine; mm: captions, wordpieces$", said, re.MULTILINE)


def test_data_audit_counts(command: Callable, graph: Path) -> None:
    said = command("data", "audit", str(graph))
    assert said.code == 0
    assert re.search(r"^entities +3$", said.out, re.MULTILINE)
    assert re.search(r"^distinct test triples that are in train +1 of 2 \(50\.0%\)$", said.out, re.MULTILINE)


def test_features_are_imported_and_then_used(command: Callable, graph: Path, tmp_path: Path) -> None:
    torch.save(torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]), tmp_path / "mine.pth")
    said = command("data", "import-features", str(graph), str(tmp_path / "mine.pth"), "--modality", "visual")
    kept = graph / "features" / "visual.npy"
    assert said.out == f"visual features [3 x 2] of {graph} are in {kept}; 1 of 3 rows are empty\n"
    assert np.array_equal(np.load(kept), [[1, 2], [0, 0], [3, 4]])
    assert re.search(r"with visual features +2 of 3 ", command("data", "audit", str(graph)).out)


def test_a_shared_triple_is_a_warning_of_one_line(command: Callable, graph: Path) -> None:
    sizes = [word for size in ("batch=2", "steps=2", "width=4") for word in ("--set", f"protocol.{size}")]
    said = command("run", "--dataset", str(graph), "--protocol", "quick", *sizes)
    assert said.code == 0
    warned = [line for line in said.err.splitlines() if line.startswith("Warning: ")]
    assert warned == [f"Warning: {graph}: 1 of 2 triples of test.tsv are in train.tsv too; see 'nsbench data audit {graph}'"]


def test_debug_shows_the_traceback_wherever_it_stands(command: Callable, store: Path, monkeypatch) -> None:
    for arguments in (["--debug", "show", "nothing"], ["show", "nothing", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["nsbench", *arguments])
        with pytest.raises(cli.Misuse, match="nothing is called 'nothing'"):
            cli.main()


def test_check_prints_every_rule_and_fails_on_a_broken_sampler(command: Callable, tmp_path: Path) -> None:
    kept = command("check", "uniform", "--kge", "transe")
    assert kept.code == 0
    assert all(f" {rule}" in kept.out for rule in SAMPLER_RULES)
    assert "BROKEN" not in kept.out
    (tmp_path / "bad.py").write_text(
        "import torch\nfrom nsbench.contracts import Negatives, Sampler\n\n\n"
        "class Bad(Sampler):\n"
        "    def sample(self, positives, view):\n"
        "        side = view.draw_side(positives)\n"
        "        return Negatives(side=side, ids=torch.randint(view.graph.num_entities, (len(positives), self.k)))\n"
    )
    broken = command("check", f"{tmp_path / 'bad.py'}:Bad", "--kge", "transe")
    assert broken.code == 1
    assert "BROKEN  generator" in broken.out
    assert "mend the sampler" in broken.err


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "many"])
def test_workers_are_auto_or_a_number(command: Callable, asked: str) -> None:
    refused = command("run", "--workers", asked)
    assert refused.code == 2
    assert f"--workers takes auto or a number from 1, not '{asked}'" in refused.err
    assert command("run", "--workers", "auto", "--plan", "--dataset", "planted:small").code == 0


@pytest.mark.parametrize(("asked", "variable", "used"), [((), None, 1), ((), "2", 2), (("--threads", "2"), None, 2)])
def test_an_only_small_run_takes_one_thread(command: Callable, store: Path, monkeypatch, asked, variable, used) -> None:
    """Two would wait for each other. Who asks for more gets more."""
    monkeypatch.setattr("nsbench.machine.cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    try:
        assert command("run", *TINY, "--device", "cpu", "--no-diagnostics", *asked).code == 0
    finally:
        torch.set_num_threads(before)
    (folder,) = store.iterdir()
    assert json.loads((folder / "result.json").read_text())["env"]["threads"] == used

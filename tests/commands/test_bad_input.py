"""What wrong input gets: one sentence that starts with `Error:`, an exit code, and nothing changed on disk."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nsbench.campaign import plan as campaign
from nsbench.runs.runner import RunOptions

MISUSE, FAILED = 2, 1
RUN = "run --protocol quick --set protocol.batch=2 --set protocol.steps=2 --set protocol.width=4 --device cpu"
PLANTED = "run --protocol quick --dataset planted:small --device cpu"


@dataclass(frozen=True)
class Case:
    """`prepare` spoils the folder, in which the command then runs; `{graph}` in it is the user's own graph."""

    name: str
    command: str
    expected: str  # a regular expression found in the sentence
    prepare: Callable[[Path], None] = lambda folder: None
    code: int = MISUSE


def edit(name: str, text: str | bytes) -> Callable[[Path], None]:
    """Give a file of the graph another content."""
    content = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "graph" / name).write_bytes(content) and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def tensor(value: Any, name: str = "mine.pth") -> Callable[[Path], None]:
    return lambda folder: torch.save(value, folder / name)


class Payload:
    """Unpickled by the ordinary unpickler, it would make a folder `executed`."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def finished(*settings: str, seed: int = 0) -> Callable[[Path], None]:
    """A complete run in the store."""

    def prepare(folder: Path) -> None:
        chosen = ["protocol.steps=2", "protocol.width=4", *settings]
        (config,) = campaign.plan(["uniform"], ["transe"], ["planted:small"], [seed], protocol="quick", settings=chosen)
        campaign.carry_out(config, folder / "runs", RunOptions(device="cpu"))

    return prepare


def both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [step(folder) for step in steps] and None


def damaged(file: str) -> Callable[[Path], None]:
    """A complete run of which one file is cut in half."""

    def prepare(folder: Path) -> None:
        finished()(folder)
        (path,) = (folder / "runs").glob(f"*/{file}")
        path.write_bytes(path.read_bytes()[:100])

    return prepare


def damaged_checkpoint(folder: Path) -> None:
    (config,) = campaign.plan(["uniform"], ["transe"], ["planted:small"], [0], protocol="quick")
    run = campaign.folder_of(config, folder / "runs")
    run.path.mkdir(parents=True)
    (run.path / "checkpoint.pt").write_bytes(b"no checkpoint")


def truncated(folder: Path) -> None:
    file = folder / "graph" / "train2id.txt"
    file.write_bytes(file.read_bytes()[:-6])


IMPORT = "data import-features {graph} mine.{0} --modality visual"
TINY = PLANTED + " --set protocol.steps=2 --set protocol.width=4"
OWN = PLANTED.replace("quick", "./my.toml")
PLUGIN = PLANTED + " --sampler ./mine.py:Mine"
ON_GRAPH = RUN + " --dataset {graph}"

RAISING = """from nsbench.contracts import Sampler
class Mine(Sampler):
    def sample(self, positives, view):
        raise ValueError('not\\n today')
"""

GRID = """[[grid]]
sampler = "uniform"
kge = "transe"
dataset = "planted:small"
"""

HEADER = """import torch
from nsbench.contracts import Negatives, Sampler
from nsbench.registry import option
def drawn(positives, view, k):
    side = view.draw_side(positives)
    return Negatives(side, ids=view.graph.draw(positives.key(side), k, view.rng))
class Mine(Sampler):
    def sample(self, positives, view):
        """


def sampler(body: str) -> Callable[[Path], None]:
    """A plugin; what stands after `body`'s first line is indented as a method."""
    return write("mine.py", HEADER + body + "\n")


SAID = r"sampler '\./mine\.py:Mine': {} \(mine\.py, line 8; nsbench check \./mine\.py:Mine says more\)$"
MISSHAPEN = PLUGIN + " --set protocol.steps=2 --set protocol.batch=32"
NO_BLOCK = "no block holds the K = 8 negatives per positive that every sampler is granted, but {}"

CASES = [
    # files of a graph
    Case("truncated file", ON_GRAPH, "is truncated: line 1 announces 6 lines and 5 follow", truncated),
    Case("folder without a graph", RUN + " --dataset ./empty", "empty holds no graph", lambda f: (f / "empty").mkdir()),
    Case("no such folder", RUN + " --dataset ./nowhere", "there is no folder ./nowhere"),
    # features
    Case("features with NaN", IMPORT, "not finite in float32 for 1", tensor(torch.tensor([[float("nan")]] + [[1.0]] * 4))),
    Case("features of wrong length", IMPORT, r"mine\.pth .*\b4\b.*\b5\b", tensor(torch.ones(4, 2))),
    Case("malicious pickle (.pth)", IMPORT, "reading it would run code or it is damaged", tensor(Payload())),
    Case("broken .h5", IMPORT.replace("{0}", "h5"), "is no readable .h5 file", write("mine.h5", "no HDF5")),
    Case("no feature file", IMPORT, "there is no feature file mine.pth"),
    Case("bad name of a modality", IMPORT.replace("visual", "../up"), "cannot name a modality", tensor(torch.ones(5, 2))),
    Case("features out of a damaged .pth", "data audit {graph}", "it is damaged", edit("graph-visual.pth", "no tensor")),
    # names
    Case("unknown sampler", PLANTED + " --sampler bernouli", "unknown sampler 'bernouli'; did you mean 'bernoulli'?"),
    Case("unknown dataset", RUN + " --dataset mkgy", "unknown dataset 'mkgy'; did you mean 'mkg_y'?"),
    Case("unknown fusion", PLANTED + " --fusion nonne", "unknown fusion 'nonne'; did you mean 'none'?"),
    Case("unknown option", PLANTED + " --samplr uniform", "unknown option --samplr; did you mean '--sampler'?"),
    Case("unknown command", "rnu", "unknown command 'rnu'; did you mean 'run'?"),
    Case("unknown name to show", "show rotat", "nothing is called 'rotat'; did you mean 'rotate'?"),
    Case(
        "unknown features to fetch", "data fetch mkg_y --features caption", "no caption features; did you mean 'captions'?"
    ),
    Case("files of a generated dataset", "data audit planted:small", "planted is generated, so there are no files"),
    Case("what cannot be fetched", "data fetch planted", "'planted' cannot be fetched"),
    Case("missing argument", "show", "Missing argument 'NAME'"),
    Case("an empty list", PLANTED + " --sampler ,", "an empty list of names"),
    Case("planted of no size", RUN + " --dataset planted:banana", "unknown size 'planted:banana'"),
    Case("planted too small", RUN + " --dataset planted:3", "planted has 500 to 1000000 entities, not '3'"),
    Case("argument of a public dataset", RUN + " --dataset mkg_y:5", "mkg_y takes no argument"),
    Case("split of a generated dataset", PLANTED + " --split clean", "planted has no split 'clean'"),
    # values
    Case("option that does not apply", PLANTED + " --set sampler.timesteps=3", "unknown option sampler.timesteps"),
    Case("a value that is nan", PLANTED + " --set protocol.margin=nan", "protocol.margin must be a finite number, not nan"),
    Case("batch larger than the data", PLANTED + " --set protocol.batch=9999", "the batch of 9999 is larger than the"),
    Case("seed below zero", PLANTED + " --seed -1", "Invalid value for '--seed'"),
    Case("seeds that are no numbers", PLANTED + " --seeds a,b", "--seeds takes a number"),
    Case("no seeds", PLANTED + " --seeds 0", "--seeds must be at least 1, not 0"),
    Case("seed and seeds", PLANTED + " --seed 1 --seeds 2", "give --seed or --seeds, not both"),
    Case("unknown split", PLANTED + " --split dirty", "'dirty' is not one of 'clean', 'released'"),
    Case("unknown features", PLANTED + " --features best", "planted:small has no best features"),
    Case("a modality that is not there", PLANTED + " --features txt --fusion adamf", "has no txt features; did you"),
    Case("unknown device", PLANTED.replace("cpu", "tpu9"), "unknown device 'tpu9'"),
    Case("device that is not supported", PLANTED.replace("cpu", "meta"), "nsbench runs on cpu and cuda, not on 'meta'"),
    Case("no threads", PLANTED + " --threads 0", "Invalid value for '--threads'"),
    Case("too many threads", PLANTED + " --threads 100000", r"--threads must be at most 1024, not 100000; this machine"),
    Case("one of the seeds beyond 64 bits", PLANTED + " --seeds 0,9223372036854775808", r"the seed must be below 2\^63"),
    Case("a seed for their number", PLANTED + " --seeds 1000000 --plan", "--seeds is how many, at most 10000, not 1000000"),
    Case("two fusions", PLANTED + " --fusion none,adamf", "--fusion takes one fusion a command, not 'none,adamf'"),
    # plugins and protocols in files
    Case("no plugin file", PLUGIN, "no file ./mine.py for sampler './mine.py:Mine'"),
    Case("plugin without the class", PLUGIN, "./mine.py defines no 'Mine'", write("mine.py", "x = 1\n")),
    Case("plugin of a wrong base class", PLUGIN, r"contracts\.Sampler", write("mine.py", "class Mine: pass\n")),
    Case("plugin with a failing import", PLUGIN, "nothing_of_this_name", write("mine.py", "import nothing_of_this_name\n")),
    Case("plugin that raises", PLUGIN, "ValueError: not today", write("mine.py", RAISING), FAILED),
    Case("plugin without its class", PLANTED + " --sampler ./mine.py", r"name the sampler's class", sampler("return None")),
    Case(
        "sample returns nothing",
        MISSHAPEN,
        SAID.format("sample must return a Negatives, .*, not None"),
        sampler("return None"),
        FAILED,
    ),
    Case(
        "ids that are a list",
        MISSHAPEN,
        SAID.format("what sample returns cannot be read, AttributeError: .*"),
        sampler("return Negatives(view.draw_side(positives), ids=[[0]])"),
        FAILED,
    ),
    Case(
        "too few negatives", MISSHAPEN, SAID.format(NO_BLOCK.format(3)), sampler("return drawn(positives, view, 3)"), FAILED
    ),
    Case(
        "no negative is valid",
        MISSHAPEN,
        SAID.format("no negative of the first batch is valid, .*"),
        sampler("block = drawn(positives, view, 8)\n        block.valid = block.ids < 0\n        return block"),
        FAILED,
    ),
    Case(
        "ids out of range",
        MISSHAPEN,
        SAID.format("ids reach from 800 to 800, entities from 0 to 799"),
        sampler("block = drawn(positives, view, 8)\n        block.ids = 0 * block.ids + 800\n        return block"),
        FAILED,
    ),
    Case("an error in the sampler", MISSHAPEN, r"KeyError: 3 \(sampler '\./mine.py:Mine' in", sampler("{}[3]"), FAILED),
    Case(
        "bernoulli where sides alternate",
        PLANTED + " --sampler bernoulli --set protocol.sides=alternate",
        "'bernoulli' chooses",
    ),
    Case("sweep for a protocol", OWN, "my.toml is a sweep", write("my.toml", GRID)),
    # sweeps
    *(
        Case(f"sweep with {name}", "sweep my.toml --plan", expected, write("my.toml", GRID + text))
        for name, text, expected in (
            ("a number for a protocol", "protocol = 3\n", "my.toml: protocol is a text, not 3"),
            ("a number for a split", "split = 3\n", "my.toml: split is a text, not 3"),
            ("a number for features", "features = 4\n", "my.toml: features is a text, not 4"),
            ("an empty factor", "fusion = []\n", "my.toml: fusion is an empty list, which makes no run; fill it"),
            ("true for seeds", "seeds = true\n", r"my.toml: seeds is a number up to 10000 \(5 means 0 to 4\) .*, not True"),
            ("true among seeds", "seeds = [true]\n", r"my.toml: seeds is a number up to 10000 .*, not \[True\]"),
            ("a million seeds", "seeds = 1000000\n", "my.toml: seeds is a number up to 10000 .*, not 1000000"),
            ("no seeds", "seeds = 0\n", "my.toml: seeds is a number up to 10000 .*, not 0"),
        )
    ),
    Case("sweep of numbers", "sweep my.toml", "my.toml has no .*grid.* block", write("my.toml", "grid = [1, 2]\n")),
    Case(
        "sweep that is no text",
        "sweep my.toml",
        "my.toml is not UTF-8 text \\(byte 0\\); convert it to UTF-8",
        lambda folder: (folder / "my.toml").write_bytes(b"\xff\xfe") and None,
    ),
    # the store
    Case("status of no store", "status", "no run in runs"),
    Case("status of a file", "status --runs afile", "afile", write("afile", "")),
    Case("report of no store", "report", "no complete run in runs"),
    Case(
        "merge of nothing",
        "runs merge ./graph",
        "graph holds no run",
        lambda folder: [file.unlink() for file in (folder / "graph").iterdir()] and None,
    ),
    Case("table of a damaged run", "table", "no complete run in runs .unfinished or damaged", damaged("result.json")),
    Case("run that is damaged", TINY, "result.json is damaged", damaged("result.json")),
    Case("table of mixed protocols", "table", "changed.steps", both(finished(), finished("protocol.steps=3", seed=1))),
    Case("filter without a value", "table --where dataset", "--where takes NAME=VALUE, not 'dataset'", finished()),
    Case("filter by nothing known", "table --where color=red", "cannot filter by 'color'", finished()),
    Case("baseline that is not there", "table --baseline dhns", "no row is the baseline 'dhns'", finished()),
    Case("table into a file", "table -o graph/train2id.txt/a.md", "cannot write .*a.md \\(", finished(), FAILED),
    Case(
        "number beyond 32 bits", PLANTED + " --set protocol.regularizer=1e300", "protocol.regularizer must be at most 3.4e"
    ),
    Case(
        "whole number beyond 32 bits",
        PLANTED + " --set protocol.steps=2147483648",
        "protocol.steps must be at most 21474836",
    ),
    Case("weight beyond 32 bits", PLANTED + " --set aux.mat=1e39", "aux.mat must be a finite number"),
    Case("no number of seconds", PLANTED + " --checkpoint-every nan", "--checkpoint-every takes a number, not nan"),
    Case("more runs than a list can hold", "sweep g.toml --only 0-99999999999", "has runs 0 to 4", write("g.toml", GRID)),
    Case("home of nobody", "table --runs ~no-such-user/x", "nobody's home folder is known for ~no-such-user/x"),
    Case("model of a run that is over", TINY + " --save-model", "its model was not kept", finished()),
    Case("damaged checkpoint", PLANTED, "checkpoint.pt is damaged or of another version", damaged_checkpoint),
    # runs that fail
    Case(
        "scores that are not finite",
        PLANTED + " --kge distmult --set protocol.learning_rate=1e38",
        "not finite",
        code=FAILED,
    ),
    Case("more memory than there is", PLANTED + " --set protocol.width=1000000000", "out of memory", code=FAILED),
]


def spoilt(case: Case, folder: Path) -> list[str]:
    """Prepare a folder with a good graph, spoil it as the case says, and return the words of the command."""
    graph = folder / "graph"
    graph.mkdir()
    for name, lines in {
        "entity2id": [f"e{i} {i}" for i in range(5)],
        "relation2id": ["r 0", "s 1"],
        "train2id": ["0 1 0", "1 2 0", "2 3 1", "3 0 1", "4 0 0", "2 4 1"],
        "valid2id": ["0 3 0"],
        "test2id": ["1 3 0", "4 1 1"],
    }.items():
        (graph / f"{name}.txt").write_text("\n".join([str(len(lines)), *lines]) + "\n")
    case.prepare(folder)
    return [word.replace("{graph}", "graph").replace("{0}", "pth") for word in case.command.split()]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            HEADER + "pass\n    def __init__(self, setting, options):\n        self.k = 3\n",
            r"its __init__ does not begin with super\(\).__init__\(setting, options\) \(mine.py, line 10; nsbench check",
        ),
        (
            HEADER + "pass\n    def __init__(self, setting, options):\n        self.x = torch.nn.Linear(3, 3)\n",
            r"AttributeError: cannot assign module .* \(sampler './mine.py:Mine' in mine.py, line 11; nsbench check",
        ),
        (
            "from nsbench.contracts import Sampler\nclass Mine(Sampler):\n    pass\n",
            "it has no method 'sample'; write one, as nsbench new-sampler shows",
        ),
        (
            "from nsbench.contracts import Objective\nclass Mine(Objective):\n    pass\n",
            "it has no method 'loss'; write one, as nsbench new-sampler shows",
        ),
    ],
)
def test_a_sampler_that_cannot_be_made(command, tmp_path, store, monkeypatch, source: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(source)
    said = command(*MISSHAPEN.split())
    assert re.search(expected, said.err.splitlines()[-1]), said.err
    assert said.code == (FAILED if "AttributeError" in expected else MISUSE)
    assert not list(store.glob("*/result.json"))


def contents(folder: Path) -> dict[str, bytes]:
    """Of all but byte code, which importing a plugin may leave."""
    made = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in made}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_wrong_input_gets_one_sentence(case: Case, command, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("wrong")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NSBENCH_RUNS", "runs")
    monkeypatch.setenv("NSBENCH_DATA", str(folder / "data"))
    words = spoilt(case, folder)
    before = contents(folder)
    said = command(*words)
    assert said.code == case.code, said.err
    assert said.out == ""
    *notices, sentence = said.err.splitlines()
    assert re.search(case.expected, sentence), sentence
    assert sentence.startswith("Error: ")
    if case.code == MISUSE:
        assert notices == []
        assert contents(folder) == before
    else:  # the run began and said so
        assert not any(path.endswith(("result.json", ".tmp")) for path in set(contents(folder)) - set(before))
    assert "Traceback" not in said.err
    assert not (folder / "executed").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device(command, store: Path) -> None:
    said = command(*PLANTED.replace("cpu", "cuda").split())
    assert (said.code, said.err) == (2, "Error: no CUDA device is available here; use --device cpu\n")
    assert not store.exists()

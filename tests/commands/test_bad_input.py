"""What wrong input gets: one sentence that starts with `Error:`, an exit code, and nothing changed on disk."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "graph" / name).unlink()


def tensor(value: Any, name: str = "mine.pth") -> Callable[[Path], None]:
    return lambda folder: torch.save(value, folder / name)


def array(value: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "mine.npy", value, allow_pickle=True)


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
    Case("wrong count line", ON_GRAPH, "line 1, announces 1 lines but 2 follow", edit("test2id.txt", "1\n0 1 0\n1 2 0\n")),
    Case("count line missing", ON_GRAPH, "line 1, must be the number of lines", edit("test2id.txt", "0 1 0\n1 2 0\n")),
    Case("entity id out of range", ON_GRAPH, r"line 2: entity id 5 is out of range", edit("test2id.txt", "1\n0 5 0\n")),
    Case("relation id out of range", ON_GRAPH, "relation id 2 is out of range", edit("test2id.txt", "2\n0 1 2\n1 3 0\n")),
    Case("negative id", ON_GRAPH, "entity id -1 is out of range", edit("valid2id.txt", "1\n-1 1 0\n")),
    Case("id that is no number", ON_GRAPH, "line 2: 'x' is not an id", edit("valid2id.txt", "1\nx 1 0\n")),
    Case("swapped columns", ON_GRAPH, "the columns look swapped", edit("test2id.txt", "2\n0 1 3\n1 0 4\n")),
    Case("two columns", ON_GRAPH, "has 2 columns", edit("test2id.txt", "1\n0 1\n")),
    Case("duplicate test triples", ON_GRAPH, "line 3, repeats the triple of", edit("test2id.txt", "2\n0 2 0\n0 2 0\n")),
    Case("duplicate entity id", ON_GRAPH, "id 0 is given twice", edit("entity2id.txt", "2\na 0\nb 0\n")),
    Case("empty split", ON_GRAPH, "valid2id.txt holds no triple", edit("valid2id.txt", "0\n")),
    Case("empty file", ON_GRAPH, "line 1, must be the number", edit("train2id.txt", "")),
    Case("missing file", ON_GRAPH, "test2id.txt is missing", remove("test2id.txt")),
    Case("not UTF-8", ON_GRAPH, "entity2id.txt is not UTF-8", edit("entity2id.txt", b"1\n\xff\xfe 0\n")),
    Case("names of another number", ON_GRAPH, "has 1 lines for 5 ids", edit("entity_names.txt", "one\n")),
    Case("folder without a graph", RUN + " --dataset ./empty", "empty holds no graph", lambda f: (f / "empty").mkdir()),
    Case("no such folder", RUN + " --dataset ./nowhere", "there is no folder ./nowhere"),
    # features
    Case("features with NaN", IMPORT, "not finite in float32 for 1", tensor(torch.tensor([[float("nan")]] + [[1.0]] * 4))),
    Case("features of wrong length", IMPORT, r"mine\.pth .*\b4\b.*\b5\b", tensor(torch.ones(4, 2))),
    Case("features of a wrong dtype", IMPORT, "mine.pth .*int64", tensor(torch.ones(5, 2, dtype=torch.int64))),
    Case("features of a wrong shape", IMPORT, r"mine.pth", tensor(torch.ones(5))),
    Case("features all zero", IMPORT, "holds only zeros", tensor(torch.zeros(5, 2))),
    Case("a dictionary for features", IMPORT, "holds a dict, not a tensor", tensor({"visual": torch.ones(5, 2)})),
    Case("malicious pickle (.pth)", IMPORT, "reading it would run code or it is damaged", tensor(Payload())),
    Case(
        "malicious pickle (.npy)", IMPORT.replace("{0}", "npy"), "would run code", array(np.array([Payload()], dtype=object))
    ),
    Case("broken .h5", IMPORT.replace("{0}", "h5"), "is no readable .h5 file", write("mine.h5", "no HDF5")),
    Case("unknown kind of file", IMPORT.replace("{0}", "csv"), "is of an unknown kind", write("mine.csv", "1,2")),
    Case("no feature file", IMPORT, "there is no feature file mine.pth"),
    Case("bad name of a modality", IMPORT.replace("visual", "../up"), "cannot name a modality", tensor(torch.ones(5, 2))),
    Case("features out of a damaged .pth", "data audit {graph}", "it is damaged", edit("graph-visual.pth", "no tensor")),
    # names
    Case("unknown sampler", PLANTED + " --sampler bernouli", "unknown sampler 'bernouli'; did you mean 'bernoulli'?"),
    Case("unknown model", PLANTED + " --kge rotat", "unknown model 'rotat'; did you mean 'rotate'?"),
    Case("unknown dataset", RUN + " --dataset mkgy", "unknown dataset 'mkgy'; did you mean 'mkg_y'?"),
    Case("unknown protocol", PLANTED.replace("quick", "quik"), "unknown protocol 'quik'; did you mean 'quick'?"),
    Case("unknown fusion", PLANTED + " --fusion nonne", "unknown fusion 'nonne'; did you mean 'none'?"),
    Case("unknown option", PLANTED + " --samplr uniform", "unknown option --samplr; did you mean '--sampler'?"),
    Case("unknown command", "rnu", "unknown command 'rnu'; did you mean 'run'?"),
    Case("unknown data command", "data ftech", "unknown command 'ftech'; did you mean 'fetch'?"),
    Case("unknown name to show", "show rotat", "nothing is called 'rotat'; did you mean 'rotate'?"),
    Case(
        "unknown features to fetch", "data fetch mkg_y --features caption", "no caption features; did you mean 'captions'?"
    ),
    Case("misspelt dataset to fetch", "data fetch mkgy", r"'mkgy' cannot be fetched; did you mean 'mkg_y'\?$"),
    Case("files of a generated dataset", "data audit planted:small", "planted is generated, so there are no files"),
    Case("what cannot be fetched", "data fetch planted", "'planted' cannot be fetched"),
    Case("missing argument", "show", "Missing argument 'NAME'"),
    Case("missing value", PLANTED + " --sampler", "'--sampler' requires an argument"),
    Case("an empty list", PLANTED + " --sampler ,", "an empty list of names"),
    Case("planted of no size", RUN + " --dataset planted:banana", "unknown size 'planted:banana'"),
    Case("planted too small", RUN + " --dataset planted:3", "planted has 500 to 1000000 entities, not '3'"),
    Case("argument of a public dataset", RUN + " --dataset mkg_y:5", "mkg_y takes no argument"),
    Case("split of a generated dataset", PLANTED + " --split clean", "planted has no split 'clean'"),
    # values
    Case("protocol value that is unknown", PLANTED + " --set protocol.step=3", "unknown option protocol.step; did you"),
    Case("option that does not apply", PLANTED + " --set sampler.timesteps=3", "unknown option sampler.timesteps"),
    Case("option of another model", PLANTED + " --set kge.phase=radians", "unknown option kge.phase"),
    Case("value that is no choice", PLANTED + " --kge rotate --set kge.phase=x", "kge.phase must be one of scaled,"),
    Case("margin below zero", PLANTED + " --set protocol.margin=-1", "protocol.margin must be at least 0, not -1"),
    Case("steps that are no number", PLANTED + " --set protocol.steps=many", "protocol.steps must be a whole number, not"),
    Case("no steps at all", PLANTED + " --set protocol.steps=0", "protocol.steps must be at least 1, not 0"),
    Case("a value that is nan", PLANTED + " --set protocol.margin=nan", "protocol.margin must be a finite number, not nan"),
    Case("batch larger than the data", PLANTED + " --set protocol.batch=9999", "the batch of 9999 is larger than the"),
    Case("another variant", PLANTED + " --set sampler.variant=old", "uniform has no variant 'old'"),
    Case("auxiliary loss that is unknown", PLANTED + " --set aux.magic=1", "unknown auxiliary loss 'magic'"),
    Case("weight that is no number", PLANTED + " --set aux.magic=much", "aux.magic must be a number, not 'much'"),
    Case("--set without a value", PLANTED + " --set protocol.steps", "--set takes GROUP.NAME=VALUE"),
    Case("--set without a group", PLANTED + " --set steps=3", "--set takes GROUP.NAME=VALUE"),
    Case("--set of an unknown group", PLANTED + " --set trainer.steps=3", "with GROUP one of sampler, kge, fusion,"),
    Case("seed below zero", PLANTED + " --seed -1", "Invalid value for '--seed'"),
    Case("seed that is no number", PLANTED + " --seed one", "Invalid value for '--seed'"),
    Case("seeds that are no numbers", PLANTED + " --seeds a,b", "--seeds takes a number"),
    Case("no seeds", PLANTED + " --seeds 0", "--seeds must be at least 1, not 0"),
    Case("a seed below zero among seeds", PLANTED + " --seeds 1,-2", "the seed must be at least 0, not -2"),
    Case("seed and seeds", PLANTED + " --seed 1 --seeds 2", "give --seed or --seeds, not both"),
    Case("unknown split", PLANTED + " --split dirty", "'dirty' is not one of 'clean', 'released'"),
    Case("unknown features", PLANTED + " --features best", "planted:small has no best features"),
    Case("a modality that is not there", PLANTED + " --features txt --fusion adamf", "has no txt features; did you"),
    Case("unknown device", PLANTED.replace("cpu", "tpu9"), "unknown device 'tpu9'"),
    Case("device that is not supported", PLANTED.replace("cpu", "meta"), "nsbench runs on cpu and cuda, not on 'meta'"),
    Case("no threads", PLANTED + " --threads 0", "Invalid value for '--threads'"),
    Case("too many threads", PLANTED + " --threads 100000", r"--threads must be at most 1024, not 100000; this machine"),
    Case("threads beyond all numbers", "bench --threads 100000000000000000000", "--threads must be at most 1024, not 10+;"),
    Case("a seed beyond 64 bits", PLANTED + " --seed 9223372036854775808", r"the seed must be below 2\^63, not 9223"),
    Case("one of the seeds beyond 64 bits", PLANTED + " --seeds 0,9223372036854775808", r"the seed must be below 2\^63"),
    Case("a seed for their number", PLANTED + " --seeds 1000000 --plan", "--seeds is how many, at most 10000, not 1000000"),
    Case("two fusions", PLANTED + " --fusion none,adamf", "--fusion takes one fusion a command, not 'none,adamf'"),
    # plugins and protocols in files
    Case("no plugin file", PLUGIN, "no file ./mine.py for sampler './mine.py:Mine'"),
    Case("plugin without the class", PLUGIN, "./mine.py defines no 'Mine'", write("mine.py", "x = 1\n")),
    Case("plugin of a wrong base class", PLUGIN, r"contracts\.Sampler", write("mine.py", "class Mine: pass\n")),
    Case("plugin with a syntax error", PLUGIN, r"mine\.py .*SyntaxError", write("mine.py", "class Mine(:\n")),
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
        "sample returns a tuple",
        MISSHAPEN,
        SAID.format("sample must return a Negatives, .*, not a tuple"),
        sampler("return drawn(positives, view, 8), drawn(positives, view, 8)"),
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
    Case("no negatives", MISSHAPEN, SAID.format(NO_BLOCK.format(0)), sampler("return drawn(positives, view, 0)"), FAILED),
    Case(
        "two blocks of odd sizes",
        MISSHAPEN,
        SAID.format(NO_BLOCK.format("9 and 7")),
        sampler("return [drawn(positives, view, k) for k in (9, 7)]"),
        FAILED,
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
        "Options that are no dataclass",
        PLUGIN,
        "Options must be a frozen dataclass",
        sampler("pass\n    class Options:\n        x = 3"),
    ),
    Case("requires that are texts", PLUGIN, "requires must be a frozenset of", sampler("pass\n    requires = {'vectors'}")),
    Case("requires that is a text", PLUGIN, "requires must be a frozenset of", sampler("pass\n    requires = 'query'")),
    Case("version that is no number", PLUGIN, "version must be a whole number of at", sampler("pass\n    version = '1.2'")),
    Case("protocol file that is not there", OWN, "no protocol file ./my.toml"),
    Case("damaged protocol file", OWN, "my.toml is not TOML", write("my.toml", "steps = \n")),
    Case("unknown key in a protocol file", OWN, "protocol.stepz", write("my.toml", "extends = 'quick'\nstepz = 3\n")),
    Case("protocol that extends nothing", OWN, "unknown protocol 'quik'; did you", write("my.toml", "extends = 'quik'\n")),
    Case(
        "bernoulli where sides alternate",
        PLANTED + " --sampler bernoulli --set protocol.sides=alternate",
        "'bernoulli' chooses",
    ),
    Case("protocol file that is empty", OWN, "my.toml is empty", write("my.toml", "# nothing yet\n")),
    Case(
        "cell that is misspelt", OWN, "'trasne'.*'transe'", write("my.toml", "extends = 'quick'\n[margin]\ntrasne = 12.0\n")
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
        "sweep my.toml is not TOML: 'utf-8' codec",
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
    Case("table of nothing", "table", "no complete run in runs"),
    Case("table of a damaged run", "table", "no complete run in runs .unfinished or damaged", damaged("result.json")),
    Case("run that is damaged", TINY, "result.json is damaged", damaged("result.json")),
    Case("table of mixed protocols", "table", "changed.steps", both(finished(), finished("protocol.steps=3", seed=1))),
    Case("filter without a value", "table --where dataset", "--where takes NAME=VALUE, not 'dataset'", finished()),
    Case("filter by nothing known", "table --where color=red", "cannot filter by 'color'", finished()),
    Case("filter that no run passes", "table --where dataset=mkg_w", "no run has dataset=mkg_w", finished()),
    Case("baseline that is not there", "table --baseline dhns", "no row is the baseline 'dhns'", finished()),
    Case("table into a folder that is not there", "table -o no/where.md", "cannot use no/where.md: No", finished(), FAILED),
    Case("model of a run that is over", TINY + " --save-model", "its model was not kept", finished()),
    Case("damaged checkpoint", PLANTED, "checkpoint.pt is damaged or of another version", damaged_checkpoint),
    Case(
        "file in the way of the store",
        PLANTED + " --runs afile/runs",
        "cannot write afile/runs/",
        write("afile", ""),
        FAILED,
    ),
    # runs that fail
    Case(
        "scores that are not finite",
        PLANTED + " --kge distmult --set protocol.learning_rate=1e38",
        "not finite",
        code=FAILED,
    ),
    Case("more memory than there is", PLANTED + " --set protocol.width=100000000000", "out of memory", code=FAILED),
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a tmpfs")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=16k", "cannot write .* .(?i:no space left)"),
        ("ro", "cannot write .* .Read-only file system"),
    ],
)
def test_a_full_and_a_read_only_disk(command, tmp_path: Path, options: str, expected: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        said = command(*PLANTED.split(), "--runs", str(disk), "--checkpoint-every", "0")
        assert not list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert said.code == FAILED
    assert re.match(f"Error: {expected}", said.err.splitlines()[-1])
    assert "Traceback" not in said.err

"""An outsider's packages, built outside the checkout and installed: found, run, tabled; and the broken ones survived."""

import csv
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nsbench.contracts import KGE, Need, Sampler
from nsbench.errors import Misuse
from nsbench.registry import DATASETS, FUSIONS, MODELS, SAMPLERS, Registry

MODEL_AND_DATA = '''"""Beads on a ring, and translation by half: score = gamma - |h + r/2 - t|."""

import torch

from nsbench.contracts import KGE, Dataset
from nsbench.kge.similarity import L1


class Half(KGE):
    def __init__(self, num_entities, num_relations, width, margin, options, rng):
        super().__init__(num_entities, num_relations, width, margin, options, rng)
        self.similarity = L1(margin)

    def query(self, e, r, side):
        return torch.where(side.unsqueeze(-1), e - r / 2, e + r / 2)


def ring(argument, split=None, features="auto"):
    size = int(argument or 30)
    step = [(e, r, (e + r + 1) % size) for e in range(size) for r in range(2)]
    train, valid, test = (torch.tensor(step[start::4]) for start in (0, 1, 2))
    return Dataset("ring", train, valid, test, [f"bead {e}" for e in range(size)], ["next", "next but one"])
'''

FILE_PLUGIN = '''"""Uniform, from a file."""

from nsbench.contracts import Negatives, Sampler


class Mine(Sampler):
    def sample(self, positives, view):
        side = view.draw_side(positives)
        key = positives.key(side)
        return Negatives(side=side, ids=view.graph.draw(key, self.k, view.rng), valid=view.graph.drawable(key, self.k))
'''

PROJECT = """[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "{package}"
version = "0.3"

[tool.setuptools]
py-modules = ["{module}"]
"""

SMALL = ("--protocol", "quick", "--set", "protocol.steps=20", "--set", "protocol.validate_every=10", "--device", "cpu")


@dataclass(frozen=True)
class Outside:
    """A working folder of its own, beside the folder that packages are installed to."""

    folder: Path
    environment: dict[str, str]

    def python(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            env=self.environment,
            timeout=300,
        )

    def nsbench(self, *arguments: str) -> str:
        said = self.python("-m", "nsbench", *arguments)
        assert said.returncode == 0, said.stdout + said.stderr
        return said.stdout

    def project(self, package: str, source: str, **entries: str) -> Path:
        """A package of one module; `entries` are name = "group class"."""
        folder, module = self.folder / package, package.replace("-", "_")
        folder.mkdir()
        (folder / f"{module}.py").write_text(source)
        groups = [
            f'[project.entry-points."nsbench.{group}"]\n{name} = "{module}:{component}"\n'
            for name, (group, component) in ((name, entry.split()) for name, entry in entries.items())
        ]
        (folder / "pyproject.toml").write_text("\n".join([PROJECT.format(package=package, module=module), *groups]))
        return folder


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """Four packages installed where Python finds them: two that work, two that do not."""
    try:
        importlib.metadata.distribution("nsbench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("an outsider has installed nsbench")
    target = tmp_path_factory.mktemp("installed")
    folder = tmp_path_factory.mktemp("outside")
    environment = {**os.environ, "PYTHONPATH": str(target), "NSBENCH_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    place = Outside(folder, environment)
    assert "pip install -e nsbench-near-misses" in place.nsbench("new-sampler", "near_misses")
    projects = [
        folder / "nsbench-near-misses",
        place.project("half-ring", MODEL_AND_DATA, half="kge Half", ring="datasets ring"),
        place.project("left-behind", "import a_module_that_nobody_has\n", left="samplers Left", behind="kge Behind"),
        place.project("odd-one", "class Odd:\n    pass\n", odd="samplers Odd"),
    ]
    isolation = [] if importlib.util.find_spec("setuptools") is None else ["--no-build-isolation"]
    install = ["-m", "pip", "install", "-q", "--no-deps", *isolation, "--target", str(target), *map(str, projects)]
    said = place.python(*install)
    assert said.returncode == 0, said.stderr
    return place


@pytest.mark.slow
def test_list_names_what_is_installed_and_what_cannot_be_loaded(outside: Outside) -> None:
    lines = outside.nsbench("list").splitlines()
    target = outside.environment["PYTHONPATH"]
    headings = [line for line in lines if not line.startswith(" ")]

    def line_of(name: str, heading: str) -> str:
        start = lines.index(heading)
        return next(line for line in lines[start + 1 :] if re.match(rf"  {name}\b", line))

    assert f"[{target}/nsbench_near_misses.py]" in line_of("near_misses", "samplers")
    assert "Frequent entities more often" in line_of("near_misses", "samplers")
    assert f"[{target}/half_ring.py]" in line_of("half", "models")
    assert f"[{target}/half_ring.py]" in line_of("ring", "datasets")
    assert headings[-1] == "installed, but cannot be loaded"
    reason = "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"
    assert lines[lines.index(headings[-1]) + 1 :] == [
        f"  left                 left-behind (left_behind:Left): {reason}",
        "  odd                  odd-one (odd_one:Odd): sampler 'odd' must be a subclass of "
        "nsbench.contracts.Sampler or Objective",
        f"  behind               left-behind (left_behind:Behind): {reason}",
    ]


@pytest.mark.slow
def test_the_sampler_runs_beside_a_built_in_one_and_is_in_the_table(outside: Outside) -> None:
    said = outside.nsbench("run", "--sampler", "near_misses,uniform", "--dataset", "planted:small", *SMALL)
    assert said == "next: nsbench table\n"
    rows = csv.DictReader(outside.nsbench("table", "--format", "csv").splitlines())
    mrr = {row["sampler"]: float(row["mean"]) for row in rows if row["metric"] == "mrr"}
    assert mrr.keys() >= {"near_misses", "uniform"}
    assert 0 < mrr["near_misses"] < 1
    assert mrr["near_misses"] != mrr["uniform"]
    assert "--set sampler.power=0.75" in outside.nsbench("show", "near_misses")


@pytest.mark.slow
def test_the_packages_own_tests_pass_and_the_battery_by_name(outside: Outside) -> None:
    said = outside.python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=outside.folder / "nsbench-near-misses")
    assert said.returncode == 0, said.stdout
    assert re.search(r"^6 passed", said.stdout, re.MULTILINE)
    checked = outside.nsbench("check", "near_misses", "--kge", "half")
    assert "near_misses with half\n  kept    declared" in checked
    assert "BROKEN" not in checked


@pytest.mark.slow
def test_a_sampler_of_a_file_a_model_and_a_dataset_train_together(outside: Outside) -> None:
    (outside.folder / "mine.py").write_text(FILE_PLUGIN)
    said = outside.nsbench(
        "run", "--sampler", "./mine.py:Mine", "--kge", "half", "--dataset", "ring:40", *SMALL, "--set", "protocol.batch=8"
    )
    (folder,) = re.findall(r"\((.*)\)$", said, re.MULTILINE)[:1]
    assert Path(folder).name.startswith("Mine-half-ring_40-s0-")
    assert re.search(r"test +MRR +\d", said)
    where = ("--where", "dataset=ring", "--where", "kge=half", "--baseline", "./mine.py:Mine", "--format", "md")
    assert re.search(r"^\| half +\| .*Mine", outside.nsbench("table", *where), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("run", "--sampler", "left", *SMALL), "sampler 'left' cannot be loaded: left-behind (left_behind:Left): ModuleNot"),
        (("check", "odd"), "sampler 'odd' cannot be loaded: odd-one (odd_one:Odd): sampler 'odd' must be a subclass"),
        (("show", "behind"), "model 'behind' cannot be loaded: left-behind (left_behind:Behind): ModuleNotFoundError"),
        (("new-sampler", "left"), "there is a sampler 'left' already (left-behind (left_behind:Left): ModuleNotFoundError"),
        (("new-sampler", "near_misses", "--into", "other"), "there is a sampler 'near_misses' already ("),
    ],
)
def test_only_whoever_asks_for_a_broken_plugin_is_refused(outside: Outside, command: tuple[str, ...], words: str) -> None:
    said = outside.python("-m", "nsbench", *command)
    assert said.returncode == 2
    assert said.stderr.startswith(f"Error: {words}")
    assert said.stderr.count("\n") == 1


# The same without an installation


@dataclass
class Entry:
    """Stands in for an installed distribution's entry point."""

    name: str
    component: object
    value: str = "outside:Component"
    dist: object = field(default=None)

    def load(self) -> object:
        if isinstance(self.component, Exception):
            raise self.component
        return self.component


class Outsiders(Sampler):
    pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    """registry(like, *entries): a fresh registry like SAMPLERS or MODELS, with these plugins installed."""

    def make(like: Registry, *entries: Entry) -> Registry:
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
        return Registry(like.kind, like.group, *like.bases)

    return make


@pytest.mark.parametrize("error", [ImportError("no\nmodule"), SyntaxError("oops"), RuntimeError("at import"), Misuse("no")])
def test_a_plugin_that_fails_to_import_harms_no_other(registry: Callable[..., Registry], error: Exception) -> None:
    found = registry(SAMPLERS, Entry("lost", error), Entry("outsiders", Outsiders))
    assert "outsiders" in found.names()
    assert "lost" not in found.names()
    kind = "" if isinstance(error, Misuse) else f"{type(error).__name__}: "
    reason = f"a package (outside:Component): {kind}{' '.join(str(error).split())}"
    assert found.broken == {"lost": reason}
    with pytest.raises(Misuse) as refused:
        found.get("lost")
    assert str(refused.value) == f"sampler 'lost' cannot be loaded: {reason}; mend or uninstall that package"
    with pytest.raises(Misuse, match="unknown sampler 'lots'"):
        found.get("lots")


def test_a_plugin_of_another_kind_harms_no_other(registry: Callable[..., Registry]) -> None:
    found = registry(FUSIONS, Entry("odd", dict), Entry("model", KGE))
    found.names()
    assert set(found.broken) == {"odd"}  # a model's class in the group of models and fusions is nothing wrong
    assert "must be a subclass of nsbench.contracts.Fusion" in found.broken["odd"]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"version": "1"}, "version must be a whole number of at least 1, not '1'"),
        ({"version": True}, "version must be a whole number of at least 1, not True"),
        ({"Options": dict}, "Options must be a frozen dataclass"),
        ({"requires": {"vectors"}}, "requires must be a frozenset of nsbench.contracts.Need"),
        ({"requires": Need.QUERY}, "requires must be a frozenset of nsbench.contracts.Need"),
    ],
)
def test_a_plugin_that_declares_nonsense_harms_no_other(registry: Callable[..., Registry], attributes, words) -> None:
    found = registry(SAMPLERS, Entry("odd", type("Odd", (Sampler,), attributes)), Entry("outsiders", Outsiders))
    assert "odd" not in found.names()
    assert found.get("outsiders") is Outsiders
    assert words in found.broken["odd"]


def test_a_model_of_an_earlier_contract_is_told_what_encode_takes(registry: Callable[..., Registry]) -> None:
    older = type("Older", (KGE,), {"encode": lambda self, table, graph: table})
    found = registry(MODELS, Entry("older", older), Entry("model", KGE))
    assert "older" not in found.names()
    assert "encode takes (table, relation, graph, absent)" in found.broken["older"]
    assert found.get("model") is KGE


def test_a_dataset_may_be_any_callable(registry: Callable[..., Registry]) -> None:
    found = registry(DATASETS, Entry("mine", len))
    assert found.get("mine") is len
    assert found.broken == {}


def test_broken_plugins_end_the_list_once_each(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be loaded" not in command("list").out
    for kind in (MODELS, FUSIONS):
        monkeypatch.setitem(kind.broken, "lost", "a-package (lost:Lost): ImportError: no")
    said = command("list")
    assert said.code == 0
    assert re.search(r"\ninstalled, but cannot be loaded\n  lost +a-package \(lost:Lost\): ImportError: no\n$", said.out)
    assert said.out.count("lost:Lost") == 1


def test_check_says_where_in_the_file_a_rule_was_broken(command: Callable, tmp_path: Path) -> None:
    """And nothing of the thousand words that torch has for a state which cannot be loaded."""
    source = FILE_PLUGIN.replace("        side =", "        {}['oops']\n        side =")
    (tmp_path / "mine.py").write_text(source)
    number = source.splitlines().index("        {}['oops']") + 1
    said = command("check", f"{tmp_path}/mine.py:Mine", "--kge", "transe")
    assert said.code == 1
    assert f"BROKEN  runs        fails: KeyError: 'oops' (mine.py, line {number}); the rule: the sampler trains" in said.out

    state = "def get_extra_state(self):\n        return range(3)\n\n    def set_extra_state(self, state):\n        pass\n"
    (tmp_path / "keeps.py").write_text(f"{FILE_PLUGIN}\n    {state}")
    said = command("check", f"{tmp_path}/keeps.py:Mine", "--kge", "transe")
    (line,) = (line for line in said.out.splitlines() if "BROKEN" in line)
    assert "resume      the saved state holds a range, " in line
    assert line.endswith("which checkpoints do not load; keep tensors, numbers, texts, lists and dicts in get_extra_state")

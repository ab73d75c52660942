"""`nsbench new-sampler`: what it writes, and what it refuses. That the package works is test_outsider.py's."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbench.commands import scaffold
from nsbench.registry import SAMPLERS
from nsbench.testing.rules import assert_contract

CHECKOUT = Path(__file__).resolve().parents[2]
MAPPED = ("samplers", "kge", "datasets", "results")  # folders of the checkout that install below nsbench
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.nsb")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_written_sampler_keeps_the_contract_and_has_an_option(command: Callable, here: Path) -> None:
    said = command("new-sampler", "near_misses")
    assert (said.code, said.err) == (0, "")
    files = {"pyproject.toml", "README.md", "nsbench_near_misses.py", "test_near_misses.py"}
    assert tree(here) == {"nsbench-near-misses"} | {f"nsbench-near-misses/{file}" for file in files}
    plugin = f"{here}/nsbench-near-misses/nsbench_near_misses.py:NearMissesSampler"
    assert_contract(plugin, device="cpu")
    assert_contract(plugin, settings=["sampler.power=0"], device="cpu")
    assert "--set sampler.power=0.75   exponent of the degree; 0: uniform" in command("show", plugin).out


def test_its_last_words_are_the_next_commands(command: Callable, here: Path) -> None:
    lines = command("new-sampler", "mine", "--into", "my folder").out.splitlines()
    assert lines[0] == "sampler 'mine' is in my folder/nsbench_mine.py; next:"
    assert [line.split()[0:2] for line in lines[1:]] == [
        ["pip", "install"],
        ["pytest", "'my"],
        ["nsbench", "check"],
        ["nsbench", "run"],
        ["nsbench", "table"],
    ]
    assert lines[1] == "  pip install -e 'my folder'"
    assert lines[4].split()[2:4] == ["--sampler", "mine,uniform"]


def test_the_names_inside_are_the_ones_asked_for(here: Path) -> None:
    scaffold.new_sampler("k_hop2", here)  # empty, and there already
    project = tomllib.loads((here / "pyproject.toml").read_text())
    assert project["project"]["name"] == "nsbench-k-hop2"
    assert project["project"]["entry-points"] == {"nsbench.samplers": {"k_hop2": "nsbench_k_hop2:KHop2Sampler"}}
    assert project["tool"]["setuptools"]["py-modules"] == ["nsbench_k_hop2"]
    module = ast.parse((here / "nsbench_k_hop2.py").read_text())
    assert ast.get_docstring(module)
    assert [node.name for node in module.body if isinstance(node, ast.ClassDef)] == ["KHop2Sampler"]
    assert "from nsbench_k_hop2 import KHop2Sampler" in (here / "test_k_hop2.py").read_text()
    readme = (here / "README.md").read_text()
    assert [line.split()[0] for line in readme.splitlines() if line.startswith("    ")] == ["pip", "pytest", "nsbench"]
    assert not any("$" in (here / file).read_text() for file in tree(here))


@pytest.mark.parametrize(
    "name",
    ["Mine", "my-sampler", "2fast", "_x", "x_", "a__b", "", "a.b", "a/b", "mine.py:Mine", "a,b", "é", "mine\n", "x" * 41],
)
def test_a_bad_name_is_refused(command: Callable, here: Path, name: str) -> None:
    said = command("new-sampler", "--", name)
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert tree(here) == set()


def test_a_name_with_an_owner_is_refused(command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = command("new-sampler", "bernoulli")
    assert (said.code, said.err) == (2, "Error: there is a sampler 'bernoulli' already (built-in); choose another name\n")
    monkeypatch.setitem(SAMPLERS.broken, "lost", "nsbench-lost (lost:Lost): ImportError: no")
    said = command("new-sampler", "lost")
    assert (said.code, said.err.startswith("Error: there is a sampler 'lost' already (nsbench-lost ")) == (2, True)
    assert tree(here) == set()


def test_a_folder_in_use_is_refused_and_left_alone(command: Callable, here: Path) -> None:
    (here / "full").mkdir()
    (here / "full" / ".hidden").write_text("mine")
    (here / "file").write_text("mine")
    before = tree(here)
    full, file = command("new-sampler", "mine", "--into", "full"), command("new-sampler", "mine", "--into", "file")
    below = command("new-sampler", "mine", "--into", "file/below")
    assert all((said.code, said.err.count("\n")) == (2, 1) for said in (full, file, below))
    assert tree(here) == before
    assert command("new-sampler", "mine").code == 0
    again = command("new-sampler", "mine")
    assert (again.code, "nsbench-mine is not empty" in again.err) == (2, True)


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_nothing(command: Callable, here: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    if existing:
        (here / "a" / "b").mkdir(parents=True)
    before = tree(here)
    real, written = Path.write_text, []

    def write(path: Path, text: str, **how: str) -> int:
        written.append(path.name)
        real(path, text[:10], **how)
        if len(written) == 3:
            raise OSError(28, "No space left on device", str(path))
        return len(text)

    monkeypatch.setattr(Path, "write_text", write)
    said = command("new-sampler", "mine", "--into", "a/b")
    assert len(written) == 3
    assert (said.code, said.out) == (2, "")
    assert "No space left on device; choose another folder" in said.err
    assert tree(here) == before


@pytest.mark.parametrize("name", ["a", "near_misses", "x" * scaffold.LONGEST])
def test_what_is_written_is_clean(here: Path, name: str) -> None:
    """By the rules of nsbench itself; its own configuration does not reach outside the checkout."""
    pytest.importorskip("ruff", reason="of the extra `dev`")
    scaffold.new_sampler(name, here)
    rules = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["ruff"]
    ruff = [sys.executable, "-m", "ruff"]
    length = ["--isolated", "--line-length", str(rules["line-length"])]
    for arguments in (["check", *length, "--select", ",".join(rules["lint"]["select"])], ["format", "--diff", *length]):
        said = subprocess.run([*ruff, *arguments, str(here)], capture_output=True, text=True)
        assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.slow
def test_the_types_are_right_outside(here: Path, tmp_path: Path) -> None:
    """Against an installed copy: mypy cannot follow an editable install."""
    pytest.importorskip("mypy", reason="of the extra `dev`")
    if not (CHECKOUT / "pyproject.toml").exists():
        pytest.skip("the mapped folders are a checkout's")
    installed = tmp_path / "installed"
    for folder in MAPPED:
        shutil.copytree(CHECKOUT / folder, installed / "nsbench" / folder, ignore=LEFT_OUT)
    shutil.copytree(CHECKOUT / "nsbench", installed / "nsbench", ignore=LEFT_OUT, dirs_exist_ok=True)
    scaffold.new_sampler("near_misses", here)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    said = subprocess.run(
        [*command, str(here)], capture_output=True, text=True, cwd=here, env={"MYPYPATH": str(installed), "PATH": ""}
    )
    assert said.returncode == 0, said.stdout + said.stderr

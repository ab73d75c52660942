"""What gets installed, and what a checkout may be asked."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SHIPPED = CHECKOUT / "results" / "runs"  # the runs behind figures: in the sdist, not in the wheel
MAPPED = ("samplers", "kge", "datasets", "results")  # folders of the checkout that install below nsbench

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import nsbench
import nsbench.registry as registry
modules = ["nsbench"] + [module.name for module in pkgutil.walk_packages(nsbench.__path__, "nsbench.")]
for name in modules:
    importlib.import_module(name)
kinds = (registry.SAMPLERS, registry.MODELS, registry.FUSIONS, registry.AUXILIARIES, registry.DATASETS)
for kind in kinds:
    for name in kind.names():
        assert kind.get(name) is not None
        assert kind.source(name) == "built-in"
        print("component", kind.kind, name)
from nsbench.config.protocol import protocol_names, read_protocol
from nsbench.datasets import places
from nsbench.results.tables import papers
for name in protocol_names():
    print("protocol", name, read_protocol(name)["steps"])
print("public", *places.manifest()["files"])
print("figures", len(papers.figures()))
for name in modules:
    print("module", name, sys.modules[name].__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves files beside its sources."""
    if not (CHECKOUT / "pyproject.toml").exists():
        pytest.skip("an installed copy cannot be built again")
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in ("nsbench", *MAPPED):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(CHECKOUT / name, copy / name)
    # Without an isolated environment no network is needed; that takes the build backend here.
    isolation = [] if importlib.util.find_spec("setuptools") is None else ["--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", str(out), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert built.returncode == 0, built.stderr
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_no_top_level_datasets(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for folder in ("nsbench", *MAPPED):
        inside = folder if folder == "nsbench" else f"nsbench/{folder}"
        for file in (checkout / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and not file.is_relative_to(SHIPPED):
                expected.add(f"{inside}/{file.relative_to(checkout / folder)}")
    for name in (
        "kernels/kernels.cpp",
        "datasets/manifest.json",
        "config/protocols/nsbench.toml",
        "py.typed",
        "results/published/published_results.csv",
    ):
        assert f"nsbench/{name}" in expected
    assert expected <= names
    assert not any(name.endswith(".nsb") for name in names)
    assert {name.split("/")[0] for name in names - expected} == {wheel.name.rsplit("-", 3)[0] + ".dist-info"}


@pytest.fixture
def target(wheel: Path, tmp_path: Path) -> Path:
    """The folder that the wheel is installed to."""
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True)
    return target


@pytest.mark.slow
def test_data_and_their_notice_are_in_the_wheel_and_may_be_taken_out(wheel: Path, target: Path, tmp_path: Path) -> None:
    assert wheel.stat().st_size <= 10_000_000
    nowhere = {"NSBENCH_DATA": str(tmp_path / "data"), "NSBENCH_MIRROR": "http://127.0.0.1:9"}
    environment = {**os.environ, "PYTHONPATH": str(target), **nowhere}
    command = [sys.executable, "-m", "nsbench", "data", "audit", "mkg_w"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert re.search(r"^train triples +34,196$", said.stdout, re.MULTILINE), said.stderr
    (about,) = target.glob("*.dist-info")
    metadata = (about / "METADATA").read_text("utf-8")
    assert "License-Expression: MIT AND BSD-3-Clause AND CC-BY-SA-3.0 AND CC-BY-4.0 AND CC0-1.0\n" in metadata
    folder, notice = target / "nsbench" / "datasets" / "embedded", about / "licenses" / "datasets" / "embedded" / "NOTICE"
    assert all(file.name in notice.read_text("utf-8") for file in folder.glob("*.xz"))
    shutil.rmtree(folder)
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert said.returncode == 2
    assert said.stderr.startswith("Error: cannot fetch mkg_w: no network to http://127.0.0.1:9/")


@pytest.mark.slow
def test_every_module_and_name_imports_outside_the_checkout(
    target: Path, wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    assert {path.name for path in target.iterdir()} <= {"nsbench", "bin", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    environment = {**os.environ, "PYTHONPATH": str(target)}
    said = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert said.returncode == 0, said.stderr
    lines = [line.split() for line in said.stdout.splitlines()]
    modules = {line[1]: Path(line[2]) for line in lines if line[0] == "module"}
    assert all(file.is_relative_to(target) for file in modules.values())
    files = [file.relative_to(checkout) for top in ("nsbench", *MAPPED) for file in (checkout / top).rglob("*.py")]
    sources = {".".join(["nsbench", *file.with_suffix("").parts]).replace("nsbench.nsbench", "nsbench") for file in files}
    assert set(modules) == {name.removesuffix(".__init__") for name in sources}
    components = {(line[-2], line[-1]) for line in lines if line[0] == "component"}
    assert {("sampler", "uniform"), ("model", "rotate"), ("fusion", "none"), ("dataset", "planted")} <= components
    protocols = {line[1] for line in lines if line[0] == "protocol"}
    assert protocols == {path.stem for path in (checkout / "nsbench" / "config" / "protocols").glob("*.toml")}
    assert "MKG-Y/train2id.txt" in next(line for line in lines if line[0] == "public")
    assert int(next(line for line in lines if line[0] == "figures")[1]) > 500
    without = subprocess.run(
        [sys.executable, "-c", "import datasets; print(datasets.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert str(target) not in without.stdout  # another library's, or none


@pytest.mark.parametrize("folder", MAPPED)
def test_a_checkout_finds_its_packages_below_nsbench_only(checkout: Path, folder: str) -> None:
    if not (checkout / "pyproject.toml").exists():
        pytest.skip("this is about a checkout")
    good, bad = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=checkout)
        for code in (f"import nsbench.{folder}; print(nsbench.{folder}.__file__)", f"import {folder}")
    )
    assert good.returncode == 0, good.stderr
    assert Path(good.stdout.strip()) == checkout / folder / "__init__.py"
    assert bad.returncode == 1
    assert bad.stderr.splitlines()[-1].startswith(f"ImportError: import nsbench.{folder}, not {folder}")


def test_without_installation_the_version_says_so(checkout: Path) -> None:
    """`python -S` hides everything that was installed."""
    said = subprocess.run(
        [sys.executable, "-S", "-c", "import nsbench; print(nsbench.__version__)"],
        capture_output=True,
        text=True,
        cwd=checkout,
    )
    assert (said.returncode, said.stdout.strip()) in {(0, "0+unknown"), (0, "0.1.0")}, said.stderr

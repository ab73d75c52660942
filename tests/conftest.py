"""What all tests share: one thread, a run store, and the command line as a function."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("nsbench", max_examples=40, deadline=None)  # a test that wants more says so
hypothesis.settings.load_profile("nsbench")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Toys are too small for more; two threads on a busy machine make them a hundred times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def checkout() -> Path:
    """The folder that holds the package: `python -m nsbench` works there whether it is installed or not."""
    import nsbench.cli

    return Path(nsbench.cli.__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run store, which commands use by default."""
    monkeypatch.setenv("NSBENCH_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def command(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`command("run", "--seed", "1")`: nsbench.cli.main in this process, as on a machine with one core: without workers."""
    import nsbench.cli
    from nsbench import machine

    monkeypatch.setattr(machine, "cores", lambda: 1)

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nsbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            nsbench.cli.main()
        printed = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def public_graph() -> Callable[[str], object]:
    """`public_graph("mkg_y")`: the released split."""
    from nsbench.datasets.loading import load_dataset

    return lambda name: load_dataset(name, split="released", features="none")


@pytest.fixture
def no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NSBENCH_DATA, a folder that is not there: public datasets are what the package holds of them."""
    monkeypatch.setenv("NSBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def unembedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package without its folder of data."""
    from nsbench.datasets import embedded

    monkeypatch.setattr(embedded, "FOLDER", tmp_path / "taken out")


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the files of DB15K, MKG-W and MKG-Y; nsbench reads from it alone during the test."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("NSBENCH_DATA") or beside)
    if not all((root / name / "train2id.txt").is_file() for name in ("DB15K", "MKG-W", "MKG-Y")):
        pytest.skip("the public datasets are not at hand (NSBENCH_DATA or ../shared/data)")
    monkeypatch.setenv("NSBENCH_DATA", str(root))
    return root

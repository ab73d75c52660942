"""The command line as a function, and campaigns as processes."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chaos import Campaign

import nsbench.cli

CHECKOUT = Path(nsbench.cli.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def checkout() -> Path:
    """The folder that holds the package: where `python -m nsbench` works whether it is installed or not."""
    return CHECKOUT


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty run store, which commands use by default."""
    monkeypatch.setenv("NSBENCH_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def command(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`command("run", "--seed", "1")`: nsbench.cli.main in this process."""

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nsbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            nsbench.cli.main()
        printed = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def undisturbed_campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """60 runs in one process, one after another."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed") / "it", seeds=10)
    campaign.finish()
    return campaign


@pytest.fixture
def campaign_of(tmp_path: Path) -> Iterator[Callable[..., Campaign]]:
    """`campaign_of(seeds=1)`: a Campaign whose drivers do not outlive the test."""
    made: list[Campaign] = []

    def make(**sizes: int) -> Campaign:
        made.append(Campaign(tmp_path / "campaign", **sizes))
        return made[-1]

    yield make
    for campaign in made:
        campaign.stop()

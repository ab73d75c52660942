"""A base protocol, a storage, and trials that only pretend to train."""

import pytest
from studying import BASE

from nsbench.tuning import trials
from nsbench.tuning.ledger import Ledger


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    return str(tmp_path / "base.toml")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "tune.db")


@pytest.fixture
def pretend(monkeypatch):
    """pretend(f) replaces the training of a trial by f(config) -> MRR; it records the configurations."""
    seen = []

    def install(mrr, seconds=lambda config: 1.0):
        def select(config, *_):
            seen.append(config)
            return {"valid": {"mrr": mrr(config)}, "seconds": seconds(config)}

        monkeypatch.setattr(trials, "select", select)
        return seen

    return install

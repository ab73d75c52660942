"""Campaigns as processes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos import Campaign


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

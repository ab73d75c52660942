"""Campaigns on real Ray: two nodes on this machine, which are killed in the middle; the results are those of one process."""

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import Campaign, moments, parent, seize, until

from nsbench.campaign import ray_engine
from nsbench.campaign.conduct import LOSSES
from nsbench.errors import Misuse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")


class Nodes:
    """A head without CPUs, and nodes of one CPU each that come and go."""

    def __init__(self, environment: dict[str, str]) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(environment)  # nodes pass theirs on to tasks
        quiet = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
        self.nodes = [self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]

    @property
    def address(self) -> str:
        return self.cluster.address

    def host(self, worker: int) -> Any:
        """The node that the process belongs to, or None."""
        pids = {node.all_processes["raylet"][0].process.pid: node for node in self.nodes}
        return pids.get(parent(worker))

    def kill(self, node: Any) -> None:
        """As if the power went; another one comes up."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))


@pytest.fixture
def campaign(campaign_of: Callable) -> Campaign:
    return campaign_of(seeds=10)


@pytest.fixture
def nodes(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    for name in ("PYTHONPATH", "NOTES"):  # and back again afterwards
        monkeypatch.setenv(name, campaign.environment[name])
    found = Nodes(campaign.environment)
    yield found
    found.cluster.shutdown()


@needs_ray
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
def test_five_nodes_are_killed_in_mid_campaign(undisturbed_campaign: Campaign, campaign: Campaign, nodes: Nodes) -> None:
    rng = random.Random(0)
    lost: Counter[str] = Counter()
    driver = campaign.start("--engine", "ray", "--address", nodes.address, "--checkpoint-every", "0")
    for moment in moments(campaign, 5, rng):
        until(lambda: len(campaign.finished()) >= moment, driver)  # noqa: B023
        spared = {name for name, times in lost.items() if times == LOSSES - 1}
        name, worker = seize(campaign, driver, rng, spared, nodes.host)
        nodes.kill(nodes.host(worker))
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)  # stopped as it is, it may not see that its node is gone
        lost[name] += 1
    assert driver.wait(600) == 0, campaign.log[-3000:]
    assert campaign.outcome() == undisturbed_campaign.outcome()
    assert len(campaign.outcome()) == 60
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()
    assert all(campaign.resumed(name) for name in lost)
    assert campaign.log.count("its Ray worker is gone (NodeDiedError); it will go on from its checkpoint") == 5
    assert "raylet" not in campaign.log


@needs_ray
def test_ctrl_c_leaves_checkpoints(campaign_of: Callable) -> None:
    campaign = campaign_of(seeds=1, steps=10_000_000)  # does not end before it is stopped
    driver = campaign.start("--engine", "ray", "--workers", "2")
    until(lambda: len(list(campaign.store.glob("*/events.jsonl"))) == 2, driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert len(list(campaign.store.glob("*/checkpoint.pt"))) == 2
    assert not list(campaign.store.glob("*/claim*"))
    assert not list(campaign.store.glob(".stop*"))
    assert "stopped; the same command goes on from" in campaign.log


def test_without_ray_the_extra_is_named(tmp_path: Path, campaign_of: Callable) -> None:
    command = "import sys; sys.modules['ray'] = None; from nsbench.cli import main; main()"
    grid = campaign_of(seeds=1).grid
    said = subprocess.run(
        [sys.executable, "-c", command, "sweep", str(grid), "--engine", "ray", "--runs", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2
    assert said.stderr == "Error: --engine ray needs the package ray; pip install 'nsbench[ray]'\n"


@needs_ray
def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        ray_engine.Cluster(tmp_path, "127.0.0.1:1", None, 1, "cpu", lambda job: None)

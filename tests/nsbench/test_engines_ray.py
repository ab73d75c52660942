"""Campaigns on real Ray: two nodes on this machine, which are killed in the middle; the results are those of one process."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import Campaign, parent

from nsbench import ray_engine
from nsbench.errors import Misuse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """60 runs in one process, one after another."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed") / "it", seeds=10)
    campaign.finish()
    return campaign


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

    def busy(self, campaign: Campaign) -> list[Any]:
        """Those where a run is under way."""
        hosts = {parent(held.pid) for held in campaign.running().values()}
        return [node for node in self.nodes if node.all_processes["raylet"][0].process.pid in hosts]

    def kill(self, node: Any) -> None:
        """As if the power went; another one comes up."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path / "it", seeds=10)


@pytest.fixture
def nodes(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    pytest.importorskip("ray")
    for name in ("PYTHONPATH", "NOTES"):  # and back again afterwards
        monkeypatch.setenv(name, campaign.environment[name])
    found = Nodes(campaign.environment)
    yield found
    found.cluster.shutdown()


def test_five_nodes_are_killed_in_mid_campaign(undisturbed: Campaign, campaign: Campaign, nodes: Nodes) -> None:
    rng = random.Random(0)
    driver = campaign.start("--engine", "ray", "--address", nodes.address)
    try:
        for _ in range(5):
            time.sleep(rng.uniform(0.0, 2.0))
            while not (busy := nodes.busy(campaign)):
                assert driver.poll() is None, (campaign.folder / "log").read_text()[-3000:]
                time.sleep(0.05)
            nodes.kill(rng.choice(busy))
        assert driver.wait(600) == 0, (campaign.folder / "log").read_text()[-3000:]
    finally:
        driver.kill()
        driver.wait()
    assert campaign.outcome() == undisturbed.outcome()
    assert len(campaign.outcome()) == 60
    assert set(campaign.finished().values()) == {1}
    assert campaign.remains() == set()
    log = (campaign.folder / "log").read_text()
    assert log.count("its Ray worker is gone (NodeDiedError); it will go on from its checkpoint") >= 4  # one may just end
    assert "raylet" not in log


def test_ctrl_c_leaves_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    campaign = Campaign(tmp_path / "it", seeds=1, steps=3000)
    driver = campaign.start("--engine", "ray", "--workers", "2", "--checkpoint-every", "1000")
    deadline = time.monotonic() + 120
    while len(list(campaign.store.glob("*/events.jsonl"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert len(list(campaign.store.glob("*/checkpoint.pt"))) == 2
    assert not list(campaign.store.glob("*/claim*"))
    assert not list(campaign.store.glob(".stop*"))
    assert "stopped; the same command goes on from" in (campaign.folder / "log").read_text()


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    command = "import sys; sys.modules['ray'] = None; from nsbench.cli import main; main()"
    grid = Campaign(tmp_path / "it", seeds=1).grid
    said = subprocess.run([sys.executable, "-c", command, "sweep", str(grid), "--engine", "ray", "--runs", str(tmp_path)],
                          capture_output=True, text=True)  # fmt: skip
    assert said.returncode == 2
    assert said.stderr == "Error: --engine ray needs the package ray; pip install 'nsbench[ray]'\n"


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(Misuse, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        ray_engine.Cluster(tmp_path, "127.0.0.1:1", None, 1, "cpu", lambda job: None)

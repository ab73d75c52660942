"""What is counted on tensors without memory is what steps on the pretended device do and take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nsbench.campaign.engines import Job
from nsbench.campaign.estimates import Costs
from nsbench.commands.reporter import Reporter
from nsbench.config.run import configure
from nsbench.contracts import Negatives, Sampler
from nsbench.registry import SAMPLERS
from nsbench.runs.folder import RunFolder
from nsbench.testing import registered, toy
from nsbench.training.counted import Counted, Shadow, gpu_memory
from nsbench.training.evaluation import GPU_CHUNK
from tests.pretend.test_ranking import Alive
from tests.training.test_capture import trainer_of

CASES = [
    ("uniform", "transe", "none", ""),
    ("kbgan", "rotate", "adamf", "sampler.pretrain_epochs=3 aux.mat=1"),
    ("dhns", "transe", "adamf", "sampler.timesteps=10"),
    ("one_vs_all", "distmult", "none", ""),
]


def shadow_of(case: tuple[str, str, str, str]) -> Shadow:
    trainer = trainer_of(*case, device="cpu")
    return Shadow(trainer.config, toy(features=trainer.config.wants_features))


@pytest.mark.filterwarnings("ignore:dhns:UserWarning")  # T = 10 is short for the released levels
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_step_without_memory_does_what_one_with_memory_does(case: tuple[str, str, str, str]) -> None:
    shadow = shadow_of(case)
    with Alive() as alive:
        real = trainer_of(*case)
        real.captured = None
        alive.most = 0  # what it took to make the trainer
        for number in (1, 30):
            real.step_count = number
            rows = real.next_rows()
            with Counted() as counted:
                real.advance(real.graph.positives(rows, real.fixed_side()))
            work = shadow.step(number)
            assert [one._replace(bytes=0) for one in work] == [one._replace(bytes=0) for one in counted.work]
            # The pretended device keeps a buffer for log-sigmoid, as a CPU; CUDA keeps none.
            assert sum(one.bytes for one in work) == pytest.approx(counted.bytes, rel=0.02)
    assert shadow.counted.most == pytest.approx(alive.most, rel=0.05)


def test_work_by_hand() -> None:
    """Tables of 10 rows of 3 float32, 120 bytes; 4 ids of 8 bytes."""
    table, ids = torch.zeros(10, 3, device="cuda"), torch.tensor([0, 2, 2, 9]).to("cuda")
    with Counted() as counted:
        rows = table.index_select(0, ids)
        rows.view(12).mul_(2.0)
        table @ table.T
        torch.rand(10, 3, generator=torch.Generator("cuda"), device="cuda")
        torch.use_deterministic_algorithms(True)
        table.index_add_(0, ids, rows)
        torch.use_deterministic_algorithms(False)
    assert [(work.operator, work.kernels, work.bytes, work.flop) for work in counted.work] == [
        ("index_select", 1, 4 * 12 * 2 + 4 * 8, 0),
        ("mul_", 1, 2 * 48, 0),
        ("mm", 1, 2 * 120 + 400, 2 * 10 * 10 * 3),
        ("rand", 1, 120, 0),
        ("index_add_", 8, 3 * 48 + 32, 0),
    ]
    assert table[2].tolist() == [0.0, 0.0, 0.0]
    with Counted():
        drawn = table.fill_(3.0).normal_(generator=torch.Generator("cuda").manual_seed(1)).clone()
    assert torch.equal(drawn, table.normal_(generator=torch.Generator("cuda").manual_seed(1)))  # counting changes nothing
    assert counted.work[2].seconds(launch=5e-6, bandwidth=1e9, rate=1e12) == 5e-6
    assert counted.work[2].seconds(launch=1e-9, bandwidth=1e9, rate=1e9) == pytest.approx((640 + 600) / 1e9)


def test_what_a_run_takes_grows_with_its_model() -> None:
    """Parameters, Adam's two moments, a gradient and the best model: five copies of the tables at least."""
    by_width = {}
    for width in (8, 4096):
        case = ("uniform", "distmult", "none", f"protocol.width={width}")
        by_width[width] = gpu_memory(trainer_of(*case, device="cpu").config, toy())
    tables = 4 * (40 + 5) * (4096 - 8)
    assert 5 * tables < by_width[4096] - by_width[8] < 30 * tables
    assert by_width[8] < 2**20 < GPU_CHUNK  # scores of so few entities need no more


class Waits(Sampler):
    def sample(self, positives, view):
        ids = view.graph.draw(positives.key(side := view.draw_side(positives)), self.k, view.rng)
        return Negatives(side, ids=ids, coef=1 + 0 * float(ids.float().mean()))


def test_a_replay_is_not_counted_as_the_run_alone() -> None:
    config = trainer_of("uniform", "transe", "none", "", device="cpu").config
    with pytest.raises(ValueError, match="replays another run"):
        gpu_memory(dataclasses.replace(config, replayed={}), toy())


def test_what_a_run_will_take_of_a_gpu_is_known_before_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["protocol.width=8", "protocol.batch=16", "protocol.negatives=4"]
    with registered(SAMPLERS, "waits", Waits):
        jobs = []
        for number, sampler in enumerate(["uniform", "uniform", "waits"]):
            config = configure(sampler, "transe", "planted:small", settings=small, seed=number)
            jobs.append(Job(number, config, RunFolder(tmp_path / str(number)), sampler))
        told = Reporter(jobs, Costs(tmp_path), "cuda")
        counted = told.memory(jobs[0])
        assert counted is not None
        assert counted > 4 * 8 * 800  # its entities' table
        assert told.counted.keys() == {"uniform"}
        told.counted["uniform"] = counted + 1  # counted once: that takes seconds
        assert told.memory(jobs[1]) == counted + 1
        told.counted["uniform"] = counted
        assert told.memory(jobs[2]) is None
    assert "waits-transe" in (said := capsys.readouterr().err)
    assert "has a GPU for itself" in said
    told.costs._memory["uniform"], told.costs._seconds["uniform"] = [2 * counted, counted // 2], [1.0, 1.0]
    assert told.memory(jobs[0]) == 2 * counted
    told.costs._memory["uniform"] = [counted // 2]
    assert told.memory(jobs[0]) == counted
    assert Reporter(jobs, Costs(tmp_path), "cpu").memory(jobs[0]) is None

"""The same code on a GPU: the battery for every built-in sampler, ranks as on the CPU, and whole runs.

What no other file runs in just this way runs on the CPU too, so that it is known to work when a GPU comes.
"""

from __future__ import annotations

import pytest
import torch

from nsbench.campaign import plan as campaign
from nsbench.config.run import configure
from nsbench.contracts import missing_needs
from nsbench.registry import MODELS, SAMPLERS
from nsbench.runs.runner import RunOptions
from nsbench.testing.rules import assert_contract, toy
from nsbench.training.evaluation import Ranking
from nsbench.training.trainer import Trainer

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
on_gpu = pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
on_both = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
MODEL_NAMES = ("transe", "distmult", "rotate")
SHORTER = {"dhns": ["timesteps=10"], "dhns_released": ["timesteps=10"], "kbgan": ["pretrain_epochs=10"]}


def trained(kge: str, device: str, steps: int = 30) -> Trainer:
    settings = ["protocol.width=8", "protocol.batch=16", "protocol.negatives=4", "protocol.learning_rate=0.02"]
    trainer = Trainer(configure("uniform", kge, "planted:small", settings=settings), toy(), device)
    for _ in range(steps):
        trainer.step()
    return trainer


@on_gpu
@pytest.mark.filterwarnings("ignore:dhns:UserWarning")  # T = 10 is short for the levels
@pytest.mark.parametrize("kge", MODEL_NAMES)
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS.names() if not SAMPLERS.get(name).needs_run])
def test_the_battery(sampler: str, kge: str, device: str) -> None:
    """Its rule `host sync` runs under torch's own watch here, and `captured` compares CUDA graphs with Python."""
    if "gram" in missing_needs(SAMPLERS.get(sampler).requires, MODELS.get(kge).provides):
        pytest.skip(f"{sampler} refuses {kge}")
    fusion = "two_view" if "views" in SAMPLERS.get(sampler).requires else "none"
    settings = [f"sampler.{option}" for option in SHORTER.get(sampler, ())]
    assert_contract(sampler, kge, fusion=fusion, device=device, settings=settings)


@on_both
@pytest.mark.filterwarnings("ignore:dhns:UserWarning")  # T = 10 is short for the released levels
@pytest.mark.parametrize(
    ("sampler", "fusion", "settings"),
    [
        ("dhns", "adamf", ["sampler.timesteps=10"]),
        ("dhns_released", "adamf", ["sampler.timesteps=10"]),
        ("mmrns", "none", ["sampler.variant=released"]),
        ("uniform", "adamf", ["aux.diffusion=1", "aux.diffusion.timesteps=10"]),
    ],
)
def test_the_battery_of_what_multimodal_samplers_have_beyond_defaults(
    sampler: str, fusion: str, settings: list[str], device: str
) -> None:
    assert_contract(sampler, "distmult", fusion=fusion, device=device, settings=settings)


@on_gpu
@pytest.mark.parametrize("kge", MODEL_NAMES)
def test_ranks_are_those_of_the_cpu(kge: str, device: str) -> None:
    """Up to near-ties: sums run in another order."""
    trainer, dataset = trained(kge, device), toy()
    on_cpu = trained(kge, "cpu", steps=0)
    on_cpu.load_model_state({name: x.cpu() for name, x in trainer.model_state().items()})
    found = []
    for which in (trainer, on_cpu):
        ranking = Ranking(dataset.test, dataset.known, dataset.num_entities, dataset.num_relations, which.device)
        found.append(ranking.ranks(which.scoring()))
    assert torch.equal(found[0][1], found[1][1])
    assert (found[0][0] - found[1][0]).abs().max() <= 1


@on_gpu
@pytest.mark.parametrize("sampler", ["uniform", "nscaching"])
def test_a_whole_run(sampler: str, device: str, tmp_path) -> None:
    config = configure(sampler, "transe", "planted:small", protocol="quick")
    result = campaign.carry_out(config, tmp_path, RunOptions(device=device))
    assert result.test["mrr"] > 0.2
    assert result.record["env"]["device"].startswith("cuda")

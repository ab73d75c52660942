"""Remakes ranks.npz, for when ranks or run ids were meant to change: `python tests/golden/make.py`, two minutes of one core.

A run here is 50 steps on planted:small. Between them they cover every variant of every sampler and every auxiliary loss with
each of FUSED that the code accepts, and uniform with every model and every other fusion.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from nsbench.campaign.plan import carry_out, folder_of
from nsbench.config.run import Config, configure
from nsbench.errors import Misuse
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS, Registry
from nsbench.runs.runner import RunOptions

FILE = Path(__file__).with_name("ranks.npz")
FUSED, MODELED = ("none", "adamf", "two_view"), ("transe", "distmult", "rotate")  # crossed with each other
PAPERS = {"rsme": "complex", "otkge": "complex"}  # the models of the other fusions, transe aside


def cases() -> dict[str, Config]:
    """By `sampler variant fusion model`, with the first model that the sampler accepts; an auxiliary loss comes last."""
    found: dict[str, Config] = {}

    def add(sampler: str, variant: str, fusion: str, model: str, *settings: str) -> bool:
        """Whether the code accepts it."""
        settings = (*settings, f"sampler.variant={variant}", "protocol.steps=50", "protocol.validate_every=50")
        try:
            config = configure(sampler, model, "planted:small", protocol="quick", fusion=fusion, settings=settings)
        except Misuse:
            return False
        found[" ".join([sampler, variant, fusion, model, *config.aux])] = config
        return True

    for fusion in FUSED:
        for sampler in built_in(SAMPLERS):
            for variant in ("recommended", *SAMPLERS.get(sampler).variants):
                any(add(sampler, variant, fusion, model) for model in MODELED)  # stops at the first
        for model in MODELED if fusion != "none" else built_in(MODELS):
            add("uniform", "recommended", fusion, model)
        for name in built_in(AUXILIARIES):
            add("uniform", "recommended", fusion, "transe", f"aux.{name}=0.1")
    for fusion in sorted({*built_in(FUSIONS)} - {*FUSED}):
        add("uniform", "recommended", fusion, PAPERS.get(fusion, "transe"))
    add("uniform", "recommended", "transae", "transe", "aux.reconstruct=0.1")
    return found


def built_in(registry: Registry) -> list[str]:
    """Names, without what is installed beside nsbench or registered by another test."""
    return [name for name in registry.names() if registry.source(name) == "built-in"]


def run_id(config: Config) -> str:
    """The run's folder, which ends in the id of its record."""
    return folder_of(config, Path()).path.name


def carried_out(config: Config) -> tuple[np.ndarray, str]:
    """Ranks of the test triples, [T, 2 (head, tail), 2 (optimistic, pessimistic)], and what their rounding depends on."""
    with tempfile.TemporaryDirectory() as store:
        result = carry_out(config, Path(store), RunOptions(device="cpu", diagnose=False))
        ranks = result.ranks()["ranks"]
    machine = {name: result.record["env"][name] for name in ("torch", "device", "threads", "kernels")}
    return ranks, str({**machine, "capability": torch.backends.cpu.get_cpu_capability()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    configs = cases()
    ranks, machines = zip(*map(carried_out, configs.values()))
    ids = [run_id(config) for config in configs.values()]
    np.savez_compressed(FILE, names=[*configs], ids=ids, ranks=np.array(ranks, dtype=np.int16), machine=machines[0])

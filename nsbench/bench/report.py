"""What `nsbench bench` shows of each configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nsbench.bench.peers import beside_pykeen
from nsbench.bench.speed import against, measure
from nsbench.campaign.plan import dataset_of
from nsbench.config.run import Config
from nsbench.runs.device import pick_device


def report(
    configs: list[Config], baseline: str, rounds: int, pairs: int, peers: bool, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One row per configuration, as soon as it is measured; beside PyKEEN, or beside the baseline sampler."""
    device = pick_device("cpu" if peers else "auto")
    for config in configs:
        dataset = dataset_of(config)
        say(f"measuring {config.name} ({rounds} rounds{' beside PyKEEN' if peers else ''})")
        row: dict[str, Any] = {"sampler": config.sampler, "kge": config.kge, "dataset": config.dataset}
        row |= {"entities": dataset.num_entities, **measure(config, dataset, device, rounds)}
        if peers:
            row |= beside_pykeen(config, dataset, rounds)
        elif config.sampler != baseline:
            row |= against(config, baseline, dataset, device, pairs)
        yield row

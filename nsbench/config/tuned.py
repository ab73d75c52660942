"""What `nsbench tune` chose: the [tuning] table that it writes into a protocol file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsbench.config.protocol import read_protocol


def tuning_of(protocol: str, study: str, asked: Mapping[str, str], plain: bool = True) -> dict[str, Any] | None:
    """The budget of a tuned protocol, and what it chose for one run, by the names of --set; None where nothing was tuned.

    No trials, and nothing chosen, where the run had no study: no study has this key, one of fusion, split and features
    is `asked` otherwise, or the run is not `plain` (a variant, or an auxiliary loss).
    """
    found = dict(read_protocol(protocol).get("tuning", {}))
    if not found:
        return None
    chosen = found.pop("studies", {}).get(study)
    if chosen is None or not plain or any(found.get(name, value) != value for name, value in asked.items()):
        return {**found, "trials": 0, "chosen": {}}
    return {**found, **chosen}


def chosen_by(tuning: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a tuned protocol sets for one sampler, model and dataset, by the names of --set."""
    return {} if tuning is None else tuning["chosen"]


def study_key(sampler: str, kge: str, dataset: str) -> str:
    """The name of a study in [tuning.studies]."""
    return f"{sampler}/{kge}/{dataset}"

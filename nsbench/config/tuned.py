"""What `nsbench tune` chose: the [tuning] table that it writes into a protocol file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nsbench.config.protocol import Cell, read_protocol
from nsbench.identity import marked
from nsbench.registry import known_as, same_component


def tuning_of(
    protocol: str, sampler: str, cell: Cell, asked: Mapping[str, str], features: Callable[[], str], plain: bool = True
) -> tuple[dict[str, Any] | None, str]:
    """The budget of a tuned protocol, and what it chose for one run, by the names of --set; None where nothing was tuned.

    No trials, and nothing chosen, where the run had no study, and why: no study is of its sampler, model, graph, fusion and
    features, whatever these are called, or it is not `plain` (a variant, or an auxiliary loss). `features` gives their
    fingerprint; studies of earlier versions go by the split and features that were `asked` for.
    """
    found = dict(read_protocol(protocol).get("tuning", {}))
    if not found:
        return None, ""
    studies = found.pop("studies", {})
    nothing = {**found, "trials": 0, "chosen": {}}
    if not plain:
        return nothing, "a variant or an auxiliary loss is tuned for itself"
    if not same_component(found.get("fusion", "none"), asked["fusion"]):
        return nothing, f"it was tuned with --fusion {found['fusion']}"
    for key, study in studies.items():
        of_sampler, _, rest = key.partition("/")
        of_kge, _, dataset = rest.partition("/")
        if not (same_component(of_sampler, sampler) and same_component(of_kge, cell.kge) and cell.means(dataset)):
            continue
        if "@" not in dataset and found.get("split", "") != asked["split"]:
            return nothing, f"it was tuned with --split {found.get('split') or 'left out'}"
        chosen = dict(study)
        alike = chosen.pop("feature_fingerprint", None)
        if alike != features() if alike is not None else found.get("features") != asked["features"]:
            return nothing, f"it was tuned with --features {found['features']}"
        return {**found, **chosen}, ""
    return nothing, f"its studies are {', '.join(studies)}"


def chosen_by(tuning: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a tuned protocol sets for one sampler, model and dataset, by the names of --set."""
    return {} if tuning is None else tuning["chosen"]


def dataset_key(name: str, fingerprint: str) -> str:
    """How a dataset is named where a protocol is written for it: `toy@3f9a1c2b`."""
    return marked(name.partition("@")[0], fingerprint)


def study_key(sampler: str, kge: str, dataset: str) -> str:
    """The name of a study in [tuning.studies]; `dataset` as `dataset_key` has it."""
    return f"{known_as(sampler)}/{known_as(kge)}/{dataset}"

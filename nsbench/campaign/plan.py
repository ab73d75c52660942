"""The plan of a campaign: every combination of samplers, models, datasets and seeds; and one run of it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nsbench.campaign.choices import AUTO, choose_fusion, choose_protocol
from nsbench.config.protocol import Content, read_protocol
from nsbench.config.run import Config, check_needs, configure, from_record, replaying
from nsbench.contracts import Dataset
from nsbench.datasets.loading import check_choice, is_folder, load_dataset
from nsbench.errors import Misuse
from nsbench.files import store_folder
from nsbench.registry import known_as
from nsbench.runs.device import pick_device
from nsbench.runs.folder import RunFolder
from nsbench.runs.inspection import check_same, find_run
from nsbench.runs.result import Result
from nsbench.runs.runner import Notify, RunOptions, Stopping, check_sizes, execute, never, unheard

REPLAY = "replay:"  # what follows is a run


def plan(
    samplers: Sequence[str],
    models: Sequence[str],
    datasets: Sequence[str],
    seeds: Iterable[int] | None,
    *,
    protocol: str = AUTO,
    fusion: str = AUTO,
    device: str = AUTO,
    store: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    **shared: Any,
) -> list[Config]:
    """Every combination once, checked; seeds None: as many as the protocol has. Cells of one dataset and model lie together.

    `auto` is chosen by nsbench.campaign.choices, and why it became what goes to `say`. `replay:RUN` among the samplers is
    looked up in the store, by default NSBENCH_RUNS or ./runs; what is `auto` is that run's.
    """
    chosen, why = choose_protocol(protocol, str(pick_device(device)))
    if why:
        say(f"protocol {chosen}: {why}")
    if seeds is None:
        seeds = range(read_protocol(chosen)["seeds"])
    drawing = [name for name in samplers if not name.startswith(REPLAY)]
    configs: dict[str, Config] = {}
    said = {""}
    for dataset in datasets:
        fused, why = choose_fusion(fusion, drawing, lambda: has_features(dataset, **shared))  # noqa: B023
        if why:
            say(f"fusion {fused}{f' on {dataset}' if len(datasets) > 1 else ''}: {why}")
        for kge, seed, sampler in itertools.product(models, seeds, samplers):
            if sampler.startswith(REPLAY):
                asked = {"protocol": protocol, "fusion": fusion, "seed": seed, **shared}
                config = _replay(sampler.removeprefix(REPLAY), store_folder(store), kge, dataset, **asked)
            else:
                names: dict[str, Any] = {"protocol": chosen, "fusion": fused, "seed": seed}
                config = configure(sampler, kge, dataset, identify=identify, **names, **shared)
            if config.untuned not in said:
                say(config.untuned)
                said.add(config.untuned)
            configs.setdefault(content(config), config)
    return [*configs.values()]


def content(config: Config) -> str:
    """The same for two spellings of one run."""
    names: dict[str, Any] = {part: known_as(getattr(config, part)) for part in ("sampler", "kge", "fusion")}
    if is_folder(config.dataset):
        names["dataset"] = str(Path(config.dataset).expanduser().resolve())
    return repr(replace(config, untuned="", **names))


def has_features(dataset: str, split: str | None = None, features: str = AUTO, **_: Any) -> bool:
    return bool(loaded(dataset, split, features, True).features)


def _replay(run: str, store: Path, kge: str, dataset: str, **shared: Any) -> Config:
    """A fresh model on the negatives of a finished run. Misuse where that run cannot be made again here."""
    folder = find_run(store, run)
    try:
        record = RunFolder(folder).result()["config"]
        if identify(dataset, shared.get("split") or record["split"], "none").graph != record["fingerprint"]:
            raise Misuse(f"{folder} was trained on other data than {dataset} is here; give --dataset")
        config = replaying(record, kge, dataset, identify=identify, **shared)
        check_same(folder, from_record(record).record(dataset_of(config)), record)
    except (KeyError, TypeError, AttributeError):
        raise Misuse(f"{folder / 'result.json'} is damaged; delete {folder} and make that run again") from None
    return config


def carry_out(
    config: Config, store: Path, options: RunOptions = RunOptions(), notify: Notify = unheard, stopping: Stopping = never
) -> Result:
    """One configured run with its dataset."""
    folder = execute(config, dataset_of(config), store, options, notify, stopping)
    return Result(folder.path, folder.result())


def dataset_of(config: Config, tested: bool = True) -> Dataset:
    """The run's dataset, with features only if something reads them; without test triples unless it is to be `tested`.

    Misuse where the two do not fit.
    """
    check_choice(config.dataset, config.features)  # what is wrong is refused even where nothing reads it
    dataset = loaded(config.dataset, config.split, config.features if config.wants_features else "none", tested)
    check_needs(config, dataset)
    check_sizes(config, dataset, tested)
    return dataset


def folder_of(config: Config, store: Path) -> RunFolder:
    """Where the run lies, or will."""
    return RunFolder(config.folder(store, dataset_of(config)))


@functools.lru_cache(maxsize=256)
def identify(name: str, split: str | None, features: str) -> Content:
    """For nsbench.config, which asks for the content behind a name."""
    dataset = loaded(name, split, features, True)
    return Content(dataset.fingerprint, dataset.feature_fingerprint)


@functools.lru_cache(maxsize=2)
def loaded(name: str, split: str | None, features: str, tested: bool) -> Dataset:
    dataset = load_dataset(name, split=split, features=features)
    return dataset if tested else dataset.untested()


def forget() -> None:
    """Folders may have changed since they were read."""
    identify.cache_clear()
    loaded.cache_clear()

"""Runs from Python and from the command line: one, or every combination of samplers, models, datasets and seeds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nsbench.config.protocol import read_protocol
from nsbench.config.run import Config, check_features, configure
from nsbench.contracts import Dataset
from nsbench.datasets.loading import choice_of, load_dataset
from nsbench.runs.folder import RunFolder
from nsbench.runs.runner import Notify, RunOptions, Stopping, check_sizes, execute, never, unheard


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    record: dict[str, Any]  # result.json

    @property
    def test(self) -> dict[str, float]:
        """mrr, mr, hits@1, hits@3, hits@10 and more, as fractions."""
        return self.record["test"]

    @property
    def valid(self) -> dict[str, float]:
        return self.record["valid"]

    def ranks(self) -> dict[str, np.ndarray]:
        """`ranks` [T, 2, 2], `candidates` [T, 2] and `triples` [T, 3] of the test split."""
        with np.load(self.folder / "ranks.npz") as arrays:
            return dict(arrays)


def store_folder(given: str | Path | None = None) -> Path:
    """Where runs lie: as given, else NSBENCH_RUNS, else ./runs."""
    from nsbench.results.store import default_folder

    return Path(given) if given else default_folder()


def run(
    sampler: str = "uniform",
    kge: str = "transe",
    dataset: str = "mkg_y",
    *,
    protocol: str = "nsbench",
    seed: int = 0,
    fusion: str = "none",
    split: str | None = None,
    features: str = "auto",
    options: dict[str, Any] | None = None,
    runs: str | Path | None = None,
    device: str = "auto",
    save_model: bool = False,
    notify: Notify = unheard,
) -> Result:
    """Train, select and test one configuration, or return what is already there.

    `options` are what `--set` takes: {"protocol.steps": 100, "sampler.variant": "paper"}. Raises nsbench.errors.Misuse
    for a configuration that cannot work and RunFailed for a run that could not be carried to its end.
    """
    _loaded.cache_clear()  # a folder may have changed since the last call
    settings = [f"{key}={value}" for key, value in (options or {}).items()]
    config = configure(
        sampler, kge, dataset, protocol=protocol, seed=seed, fusion=fusion, split=split, features=features, settings=settings
    )
    return carry_out(config, store_folder(runs), RunOptions(device=device, save_model=save_model), notify)


def plan(
    samplers: Sequence[str],
    models: Sequence[str],
    datasets: Sequence[str],
    seeds: Iterable[int] | None,
    *,
    protocol: str,
    **shared: Any,
) -> list[Config]:
    """Every combination, checked; seeds None: as many as the protocol has. Cells of one dataset and model lie together."""
    if seeds is None:
        seeds = range(read_protocol(protocol)["seeds"])
    return [
        configure(sampler, kge, dataset, protocol=protocol, seed=seed, **shared)
        for dataset, kge, seed, sampler in itertools.product(datasets, models, seeds, samplers)
    ]


def carry_out(
    config: Config,
    store: Path,
    options: RunOptions = RunOptions(),
    notify: Notify = unheard,
    stopping: Stopping = never,
) -> Result:
    """One configured run with its dataset."""
    folder = execute(config, dataset_of(config), store, options, notify, stopping)
    return Result(folder.path, folder.result())


def dataset_of(config: Config, tested: bool = True) -> Dataset:
    """The run's dataset, with features only if something reads them; without test triples unless it is to be `tested`.

    Misuse where the two do not fit.
    """
    choice_of(config.features)  # what is wrong is refused even where nothing reads it
    dataset = _loaded(config.dataset, config.split, config.features if config.wants_features else "none", tested)
    check_features(config, dataset)
    check_sizes(config, dataset, tested)
    return dataset


def folder_of(config: Config, store: Path) -> RunFolder:
    """Where the run lies, or will."""
    return RunFolder(store / config.folder_name(dataset_of(config)))


@functools.lru_cache(maxsize=2)
def _loaded(name: str, split: str | None, features: str, tested: bool) -> Dataset:
    dataset = load_dataset(name, split=split, features=features)
    return dataset if tested else dataset.untested()

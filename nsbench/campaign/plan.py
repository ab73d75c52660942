"""The plan of a campaign: every combination of samplers, models, datasets and seeds; and one run of it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from nsbench.campaign.choices import AUTO, choose_fusion, choose_protocol
from nsbench.config.protocol import read_protocol
from nsbench.config.run import Config, check_needs, configure, from_record, replaying
from nsbench.contracts import Dataset
from nsbench.datasets.loading import check_choice, load_dataset
from nsbench.errors import Misuse
from nsbench.files import store_folder
from nsbench.registry import plugin_file
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
    """Every combination, checked; seeds None: as many as the protocol has. Cells of one dataset and model lie together.

    `auto` is chosen by nsbench.campaign.choices, and why it became what goes to `say`. `replay:RUN` among the samplers is
    looked up in the store, by default NSBENCH_RUNS or ./runs; what is `auto` is that run's.
    """
    chosen, why = choose_protocol(protocol, str(pick_device(device)))
    if why:
        say(f"protocol {chosen}: {why}")
    if seeds is None:
        seeds = range(read_protocol(chosen)["seeds"])
    drawing = [name for name in samplers if not name.startswith(REPLAY)]
    configs, said = [], {""}
    for dataset in datasets:
        fused, why = choose_fusion(fusion, drawing, lambda: has_features(dataset, **shared))  # noqa: B023
        if why:
            say(f"fusion {fused}{f' on {dataset}' if len(datasets) > 1 else ''}: {why}")
        for kge, seed, sampler in itertools.product(models, seeds, samplers):
            if sampler.startswith(REPLAY):
                asked = {"protocol": protocol, "fusion": fusion, "seed": seed, **shared}
                config = _replay(sampler.removeprefix(REPLAY), store_folder(store), kge, dataset, **asked)
            else:
                names = {"protocol": chosen, "fusion": fused, "seed": seed}
                config = configure(sampler, kge, dataset, load=load, **names, **shared)
            if config.untuned not in said:
                say(config.untuned)
                said.add(config.untuned)
            configs.append(config)
    return configs


def has_features(dataset: str, split: str | None = None, features: str = AUTO, **_: Any) -> bool:
    return bool(loaded(dataset, split, features, True).features)


def _replay(run: str, store: Path, kge: str, dataset: str, **shared: Any) -> Config:
    """A fresh model on the negatives of a finished run. Misuse where that run cannot be made again here."""
    folder = find_run(store, run)
    try:
        record = RunFolder(folder).result()["config"]
        config = replaying(record, kge, dataset, load=load, **shared)
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


def load(name: str, split: str | None, features: str) -> Dataset:
    """For nsbench.config, which asks for the content behind a name."""
    return loaded(name, split, features, True)


def loaded(name: str, split: str | None, features: str, tested: bool) -> Dataset:
    return _loaded(name, split, features, tested, _state(name))


def _state(name: str) -> tuple[object, ...]:
    """What tells that a folder, or a file that makes a dataset, has been edited in the meantime."""
    path = plugin_file(name) or Path(name).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file())


@functools.lru_cache(maxsize=2)
def _loaded(name: str, split: str | None, features: str, tested: bool, state: tuple[object, ...]) -> Dataset:
    dataset = load_dataset(name, split=split, features=features)
    return dataset if tested else dataset.untested()

"""A grid of runs from a TOML file: samplers x models x datasets x fusions x auxiliary losses x seeds.

    protocol = "cpu"                      # for all blocks, unless one names its own
    seeds = 5                             # how many, or a list

    [[grid]]                              # as many blocks as needed
    sampler = ["uniform", "nscaching"]    # every list is a factor
    kge = ["transe", "distmult"]
    dataset = ["mkg_y"]
    fusion = ["none", "adamf"]            # left out: none
    aux = ["", "diffusion=1"]             # left out: no auxiliary loss
    change = ["", "sampler.weight=1"]     # left out: nothing; each is one or several --set, comma-separated
    set = ["protocol.steps=500"]          # for the whole block, as --set on the command line

Paths (./mine.py:Mine, ./graph, mine.toml) go by the file. What is missing is run, in the order of the file; several
processes may work on one store.
"""

from __future__ import annotations

import itertools
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from nsbench.campaign import plan
from nsbench.config.protocol import MOST_SEEDS, Protocol, read_protocol
from nsbench.config.run import Config
from nsbench.datasets.loading import is_folder
from nsbench.errors import Misuse, suggest
from nsbench.files import expanded, read_text
from nsbench.registry import DATASETS

FACTORS = ("sampler", "kge", "dataset", "fusion", "aux", "change")
PATHS = ("sampler", "kge", "dataset", "protocol")  # what may be a path
SHARED = ("protocol", "seeds", "split", "features", "set")


def names() -> list[str]:
    """The grids that come with the package."""
    folder = resources.files("nsbench.campaign") / "sweeps"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read(name: str, store: Path | None = None) -> list[Config]:
    """The runs of a TOML file, or of a grid in the package by its name; each once, checked. Misuse for what is amiss."""
    found = content(name)
    unknown = [key for key in found if key not in (*SHARED, "grid", "description")]
    if unknown:
        raise Misuse(f"{name}: unknown key '{unknown[0]}'{suggest(unknown[0], [*SHARED, 'grid'])}")
    blocks = found.get("grid")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise Misuse(f"{name} has no [[grid]] block; it names the samplers, models and datasets to run")
    shared = {key: found[key] for key in SHARED if key in found}
    configs: dict[str, Config] = {}
    for block in blocks:
        for config in _block(name, {**shared, **block}, store):
            configs.setdefault(plan.content(config), config)
    return list(configs.values())


def content(name: str) -> dict[str, Any]:
    """What the file says."""
    if name.endswith(".toml"):
        if not (file := expanded(name)).is_file():
            raise Misuse(f"no sweep file {name}; give the path of a TOML file, or one of {', '.join(names())}")
        text = read_text(file)
    elif name in names():
        text = (resources.files("nsbench.campaign") / "sweeps" / f"{name}.toml").read_text("utf-8")
    else:
        raise Misuse(f"unknown sweep '{name}'{suggest(name, names())}; give a TOML file, or one of {', '.join(names())}")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise Misuse(f"sweep {name} is not TOML: {error}") from None


def _block(name: str, block: dict[str, Any], store: Path | None) -> list[Config]:
    """The runs of one block: datasets, models and seeds outside, so that the rows of a cell grow together."""
    unknown = [key for key in block if key not in (*FACTORS, *SHARED)]
    if unknown:
        raise Misuse(f"{name}: unknown key '{unknown[0]}' in a [[grid]]{suggest(unknown[0], [*FACTORS, *SHARED])}")
    missing = [key for key in FACTORS[:3] if key not in block]
    if missing:
        raise Misuse(f'{name}: a [[grid]] names no {missing[0]}; add {missing[0]} = ["..."]')
    block = {key: _by_file(name, value) if key in PATHS else value for key, value in block.items()}
    lists = {key: _texts(name, key, block.get(key, {"fusion": "none", "aux": "", "change": ""}.get(key))) for key in FACTORS}
    empty = [key for key in FACTORS if not lists[key]]
    if empty:
        raise Misuse(f"{name}: {empty[0]} is an empty list, which makes no run; fill it or leave it out")
    given: dict[str, Any] = {"protocol": "nsbench", "split": None, "features": "auto"}
    for key in given.keys() & block.keys():
        if not isinstance(block[key], str):
            raise Misuse(f"{name}: {key} is a text, not {block[key]!r}")
        given[key] = block[key]
    asked = block.get("seeds", read_protocol(given["protocol"]).get("seeds", Protocol.seeds))
    seeds = range(asked) if type(asked) is int else asked  # true is no number
    if not (isinstance(seeds, list | range) and 0 < len(seeds) <= MOST_SEEDS and all(type(s) is int for s in seeds)):
        raise Misuse(f"{name}: seeds is a number up to {MOST_SEEDS} (5 means 0 to 4) or a list of numbers, not {asked!r}")
    settings = _texts(name, "set", block.get("set", []))
    configs = []
    for fusion, aux, change in itertools.product(lists["fusion"], lists["aux"], lists["change"]):
        added = [f"aux.{part}" for part in _parts(aux)] + _parts(change)
        given |= {"fusion": fusion, "settings": [*settings, *added]}
        configs += plan.plan(lists["sampler"], lists["kge"], lists["dataset"], seeds, store=store, **given)
    return configs


def _by_file(name: str, value: Any) -> Any:
    """The value with paths as seen from the sweep file; what is no path, and names in the package, stay."""
    folder = expanded(name).parent
    if isinstance(value, list):
        return [_by_file(name, one) for one in value]
    if not isinstance(value, str) or not name.endswith(".toml") or folder == Path() or value.startswith("~"):
        return value
    path = ".py:" in value or value.endswith(".toml") or is_folder(value) or (folder / value).is_dir()
    return str(folder / value) if path and value not in DATASETS.names() else value


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _texts(name: str, key: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Misuse(f"{name}: {key} is a text or a list of texts, not {value!r}")
    return texts

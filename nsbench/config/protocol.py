"""Protocols: what is equal for all samplers that are compared. TOML files, of the package or of the user."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nsbench.errors import Misuse, suggest
from nsbench.files import expanded, read_text
from nsbench.options import Range, build_options, option
from nsbench.registry import DATASETS, MODELS, SAMPLERS

PER_PAIR = (  # values that may be tables: by model, by dataset, or by MODEL/DATASET
    "margin",
    "regularizer",
    "temperature",
    "width",
    "batch",
    "negatives",
    "learning_rate",
    "steps",
    "validate_every",
)
MOST_SEEDS = 10_000  # of one configuration; whoever asks for more has mistaken a seed for their number


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Every value of a protocol, for one model and one dataset."""

    name: str = option("", "name of the protocol")
    version: int = option(1, "raised whenever a value, or what the trainer makes of it, changes", minimum=1)
    steps: int = option(6000, "training steps", minimum=1)
    batch: int = option(1024, "positives per step", minimum=1)
    negatives: int = option(20, "negatives per positive", minimum=1)
    width: int = option(200, "model dimension d", minimum=1)
    learning_rate: float = option(1e-3, "of Adam, for the model", minimum=0, search=Range(1e-4, 1e-1))
    decay_at: float = option(0.5, "share of the steps after which the learning rate drops", minimum=0)
    decay_factor: float = option(0.1, "what it is multiplied by then", minimum=0)
    sides: str = option("per_row", "granularity of the side draw", choices=("per_row", "per_slot", "alternate"))
    subsampling: bool = option(False, "weight triples by 1/sqrt(frequency)")
    validate_every: int = option(200, "steps between validations", minimum=1)
    selection: str = option("best", "tested model: of the best validation MRR, or the last", choices=("best", "last"))
    patience: int = option(0, "validations without a better MRR before stopping; 0: never", minimum=0)
    seeds: int = option(5, "runs of each configuration", minimum=1)
    margin: float = option(
        3.0,
        "gamma of distance models, and the range of initial values",
        minimum=0,
        search=(0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0),
    )
    regularizer: float = option(0.0, "coefficient on the full tables", minimum=0, search=(0.0, 1e-6, 5e-6, 1e-5, 5e-5, 1e-4))
    regularizer_power: int = option(3, "sum of |x|^2 or |x|^3", choices=(2, 3))
    temperature: float = option(0.0, "of self-adversarial weighting; 0: plain mean", minimum=0)


def resolve_protocol(name: str, kge: str, dataset: str, changes: Mapping[str, Any]) -> Protocol:
    """The protocol's values for one model and dataset, with `--set protocol.x` applied last."""
    values = read_protocol(name)
    for key in ("description", "sampler", "tuning"):  # the last two are read by `configure`
        values.pop(key, None)
    for key in PER_PAIR:
        table = values.get(key)
        if isinstance(table, Mapping):
            best = [k for k in (f"{kge}/{dataset}", dataset, kge, "default") if k in table]
            if not best:
                raise Misuse(f"protocol {name} has no {key} for {kge} on {dataset}; add a default to its [{key}]")
            values[key] = table[best[0]]
    if "name" in changes or "version" in changes:
        raise Misuse("protocol.name and protocol.version cannot be set; name another protocol with --protocol")
    return build_options(Protocol, {**values, "name": name_of(name), **changes}, "protocol")


@functools.cache
def protocol_names() -> list[str]:
    folder = resources.files("nsbench.config") / "protocols"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def name_of(protocol: str) -> str:
    """A protocol file of the user's own goes by its stem."""
    return Path(protocol).stem if protocol.endswith(".toml") else protocol


def _read(name: str) -> str:
    if name.endswith(".toml"):
        if not (file := expanded(name)).is_file():
            raise Misuse(f"no protocol file {name}; give the path of a TOML file, or one of {', '.join(protocol_names())}")
        return read_text(file)
    if name not in protocol_names():
        near = suggest(name, protocol_names()) or f"; there are {', '.join(protocol_names())}"
        raise Misuse(f"unknown protocol '{name}'{near}")
    return _shipped(name)


@functools.cache
def _shipped(name: str) -> str:
    """A campaign asks for its protocol at every run."""
    return (resources.files("nsbench.config") / "protocols" / f"{name}.toml").read_text(encoding="utf-8")


def read_protocol(name: str, _extended: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a protocol in the package, or of a TOML file, over those that it extends."""
    try:
        values = dict(_parsed(_read(name)))
    except ValueError as error:
        raise Misuse(f"protocol {name} is not TOML: {error}") from None
    if name.endswith(".toml"):
        _check_file(name, values)
    base = values.pop("extends", None)
    if base is None:
        return values
    if base.endswith(".toml") and name.endswith(".toml"):
        base = str(expanded(name).parent / expanded(base))  # as seen from the file that names it
    if base in (name, *_extended):
        raise Misuse(f"protocol {name} extends itself through {base}; name another one there")
    inherited = read_protocol(base, (*_extended, name))
    tables = {key: {**_table(inherited.get(key)), **value} for key, value in values.items() if isinstance(value, dict)}
    return {**inherited, **values, **tables}


_parsed = functools.lru_cache(maxsize=32)(tomllib.loads)


def _check_file(name: str, values: Mapping[str, Any]) -> None:
    """Misuse for what would silently have no effect: a value for a model, dataset or sampler that does not exist."""
    if "grid" in values:
        raise Misuse(f"{name} is a sweep and no protocol; run it with nsbench sweep {name}")
    if not values:
        raise Misuse(f'protocol {name} is empty; begin it with extends = "nsbench" and add what differs')
    if not isinstance(values.get("extends", ""), str):
        raise Misuse(f'protocol {name}: extends names another protocol, as extends = "nsbench", not {values["extends"]!r}')
    if not isinstance(values.get("tuning", {}), Mapping):
        raise Misuse(f"protocol {name}: tuning is a table that nsbench tune writes, not {values['tuning']!r}; leave it out")
    known = ["default", *MODELS.names(), *DATASETS.names()]
    known += [f"{kge}/{dataset}" for kge in MODELS.names() for dataset in DATASETS.names()]
    for key in PER_PAIR:
        table = values.get(key)
        for pair in table if isinstance(table, Mapping) else ():
            if not _names_a_pair(pair):
                near = suggest(pair, known) or "; name a model, a dataset, MODEL/DATASET or default"
                raise Misuse(f"protocol {name}: [{key}] is for '{pair}', which is not there{near} (nsbench list)")
    tables = values.get("sampler", {})
    for sampler, options in tables.items() if isinstance(tables, Mapping) else [("NAME", tables)]:
        if not isinstance(options, Mapping):
            raise Misuse(f"protocol {name}: options of a sampler are a table [sampler.{sampler}], not {options!r}")
        if ".py:" not in sampler and sampler not in SAMPLERS.names():
            near = suggest(sampler, SAMPLERS.names())
            raise Misuse(f"protocol {name}: [sampler.{sampler}] is of no sampler{near} (nsbench list)")


def _names_a_pair(key: str) -> bool:
    """Whether it may be a key of a table: default, a model, a dataset or MODEL/DATASET; files and folders pass."""
    first, slash, rest = key.partition("/")
    if ".py:" in key or first in ("", ".", "..", "~") or Path(key).is_dir():
        return True
    if not slash:
        return key == "default" or key in MODELS.names() or key.partition(":")[0] in DATASETS.names()
    if first in MODELS.names():
        return rest not in ("default", *MODELS.names()) and _names_a_pair(rest)
    return rest.partition(":")[0] not in DATASETS.names()  # a folder elsewhere; else a misspelt model


def _table(value: Any) -> dict[str, Any]:
    """A value of a protocol as a table by model and dataset."""
    return value if isinstance(value, dict) else {} if value is None else {"default": value}

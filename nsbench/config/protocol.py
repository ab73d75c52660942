"""Protocols: what is equal for all samplers that are compared. TOML files, of the package or of the user."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from nsbench.contracts import Dataset
from nsbench.errors import Misuse, suggest
from nsbench.files import expanded, read_text
from nsbench.identity import PUBLIC
from nsbench.options import Range, build_options, option
from nsbench.registry import DATASETS, MODELS, SAMPLERS, same_component

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


class Content(NamedTuple):
    """What a dataset is: fingerprints of its graph and of its features."""

    graph: str
    features: str


Identify = Callable[[str, str | None, str], Content]
"""Name, split and features, as a user writes them -> what they mean."""


def registered(name: str, split: str | None, features: str) -> Content:
    """Of a dataset with a registered name."""
    known, _, argument = name.partition(":")
    dataset: Dataset = DATASETS.get(known)(argument or None, split=split, features=features)
    return Content(dataset.fingerprint, dataset.feature_fingerprint)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model on one dataset, as the keys of a protocol's tables may mean it, by name or by content."""

    kge: str
    dataset: str
    split: str | None = None
    identify: Identify = registered

    @functools.cached_property
    def fingerprint(self) -> str:
        return self.identify(self.dataset, self.split, "none").graph

    def means(self, key: str) -> bool:
        """Whether `key` is this dataset: LABEL@FINGERPRINT, a folder or file that holds it, or a registered name."""
        if digits := re.search(r"@([0-9a-f]{8,})$", key):
            return self.fingerprint.startswith(digits[1])
        if key == self.dataset or (".py:" in key and ".py:" in self.dataset):
            return same_component(key, self.dataset)
        if _is_path(key):
            return self.identify(key, None, "none").graph == self.fingerprint
        return _is_path(self.dataset) and PUBLIC.get(self.fingerprint) == key

    def value(self, table: Mapping[str, Any]) -> Any:
        """The value of the most specific key, of the last of equals; KeyError where there is none."""
        best = -1, ""
        for key in table:
            model, dataset = _parts(key)
            if (model and same_component(model, self.kge)) or not model:
                if not dataset or self.means(dataset):
                    best = max(best, (2 * bool(dataset) + bool(model), key), key=lambda pair: pair[0])
            elif not dataset and ".py:" in self.dataset and self.means(model):  # a file that makes a dataset
                best = 2, key
        return table[best[1]]


def resolve_protocol(name: str, cell: Cell, changes: Mapping[str, Any]) -> Protocol:
    """The protocol's values for one model and dataset, with `--set protocol.x` applied last."""
    values = read_protocol(name)
    for key in ("description", "minutes", "sampler", "tuning"):  # the last three are read by `configure`
        values.pop(key, None)
    for key in PER_PAIR:
        table = values.get(key)
        if isinstance(table, Mapping):
            try:
                values[key] = cell.value(table)
            except KeyError:
                where = f"{cell.kge} on {cell.dataset}"
                raise Misuse(f"protocol {name} has no {key} for {where}; add a default to its [{key}]") from None
    if "name" in changes or "version" in changes:
        raise Misuse("protocol.name and protocol.version cannot be set; name another protocol with --protocol")
    return build_options(Protocol, {**values, "name": name_of(name), **changes}, "protocol")


@functools.cache
def protocol_names() -> list[str]:
    folder = resources.files("nsbench.config") / "protocols"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def name_of(protocol: str) -> str:
    """What a protocol is called: a copy of one in the package as that is, another file by its stem."""
    if not protocol.endswith(".toml"):
        return protocol
    content, stem = digest(protocol), Path(protocol).stem
    if copied := next((name for name in protocol_names() if _shipped_digest(name) == content), None):
        return copied
    if stem in protocol_names():
        raise Misuse(f"{protocol} differs from protocol {stem}, for which tables would take it; give the file another name")
    return stem


def digest(protocol: str) -> str:
    """SHA-256 over the values of a protocol: what it is, whatever its file is called."""
    values = {key: value for key, value in read_protocol(protocol).items() if key != "description"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


_shipped_digest = functools.cache(digest)


def sizes_of(protocol: str, sampler: str) -> dict[str, Any]:
    """The options that a protocol proposes for a sampler, so that it fits the budget."""
    tables = read_protocol(protocol).get("sampler", {})
    return {name: x for key, table in tables.items() if same_component(key, sampler) for name, x in table.items()}


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
        values |= {key: _by_file(name, key, values[key]) for key in (*PER_PAIR, "sampler") if key in values}
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
    minutes = values.get("minutes", 1)
    if type(minutes) not in (int, float) or not minutes > 0:
        raise Misuse(f"protocol {name}: minutes is how long a run may take on a CPU, a number above 0, not {minutes!r}")
    tables = values.get("sampler", {})
    for sampler, options in tables.items() if isinstance(tables, Mapping) else [("NAME", tables)]:
        if not isinstance(options, Mapping):
            raise Misuse(f"protocol {name}: options of a sampler are a table [sampler.{sampler}], not {options!r}")
        if ".py:" not in sampler and sampler not in SAMPLERS.names():
            near = suggest(sampler, SAMPLERS.names())
            raise Misuse(f"protocol {name}: [sampler.{sampler}] is of no sampler{near} (nsbench list)")


def _parts(key: str) -> tuple[str, str]:
    """Model and dataset of a table's key, "" for any. A file alone counts as a model, which a dataset may be too."""
    if key == "default":
        return "", ""
    first, _, rest = key.partition("/")
    if first in MODELS.names():
        return first, rest
    if file := re.match(r"(.*?\.py:[^/]*)/?(.*)$", key):
        return file[1], file[2]
    return "", key


def _is_path(name: str) -> bool:
    return "/" in name and ".py:" not in name


def _by_file(name: str, key: str, table: Any) -> Any:
    """A table with the paths among its keys as seen from the file `name`. Misuse for what is not there, or twice."""
    if not isinstance(table, Mapping):
        return table
    found: dict[str, Any] = {}
    for pair, value in table.items():
        model, dataset = _parts(pair)
        folder, is_pair = Path(name).parent, key != "sampler"
        whole = "/".join(filter(None, (_placed(model, folder), _placed(dataset, folder, is_pair)))) or "default"
        if not _is_there(whole if is_pair or ".py:" in whole else ""):
            known = ["default", *MODELS.names(), *DATASETS.names()]
            known += [f"{kge}/{dataset}" for kge in MODELS.names() for dataset in DATASETS.names()]
            near = (
                suggest(pair, known) or "; name a model, a dataset, MODEL/DATASET or default, folders as seen from the file"
            )
            raise Misuse(f"protocol {name}: [{key}] is for '{pair}', which is not there{near} (nsbench list)")
        if whole in found:
            raise Misuse(f"protocol {name}: [{key}] is for '{pair}' twice, under two spellings; leave one out")
        found[whole] = value
    return found


def _placed(name: str, folder: Path, may_be_folder: bool = False) -> str:
    """An absolute path where a file or a folder is named, as seen from `folder`."""
    if not name or "@" in name:
        return name
    if ".py:" in name:
        file, _, attribute = name.rpartition(":")
        return f"{(folder / Path(file).expanduser()).resolve()}:{attribute}"
    path = folder / Path(name).expanduser()
    named = name.partition(":")[0] in DATASETS.names()
    return str(path.resolve()) if may_be_folder and not named and (_is_path(name) or path.is_dir()) else name


def _is_there(key: str) -> bool:
    """Whether a key with absolute paths means something."""
    model, dataset = _parts(key)
    files = [part.rpartition(":")[0] for part in (model, dataset) if ".py:" in part and "@" not in part]
    if not all(Path(file).is_file() for file in files):
        return False
    if not dataset or ".py:" in dataset or "@" in dataset:
        return True
    return Path(dataset).is_dir() if _is_path(dataset) else dataset.partition(":")[0] in DATASETS.names()


def _table(value: Any) -> dict[str, Any]:
    """A value of a protocol as a table by model and dataset."""
    return value if isinstance(value, dict) else {} if value is None else {"default": value}

"""One run's configuration: protocol, components and their options, checked before any work, and the run's identity."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nsbench.contracts import Dataset, Need, Objective, missing_needs
from nsbench.errors import Misuse
from nsbench.registry import AUXILIARIES, DATASETS, FUSIONS, MODELS, SAMPLERS, Range, build_options, option, suggest

PER_PAIR = (  # may depend on model and dataset
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
MOST_SEEDS = 10_000  # of a cell; whoever asks for more has mistaken a seed for their number


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Everything that is equal for all samplers of a cell."""

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
    seeds: int = option(5, "runs per cell", minimum=1)
    margin: float = option(
        3.0,
        "gamma of distance models, and the range of initial values",
        minimum=0,
        search=(0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0),
    )
    regularizer: float = option(0.0, "coefficient on the full tables", minimum=0, search=(0.0, 1e-6, 5e-6, 1e-5, 5e-5, 1e-4))
    regularizer_power: int = option(3, "sum of |x|^2 or |x|^3", choices=(2, 3))
    temperature: float = option(0.0, "of self-adversarial weighting; 0: plain mean", minimum=0)


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, resolved: every value as it will be used."""

    sampler: str
    kge: str
    dataset: str
    protocol: Protocol
    changed: Mapping[str, Any]  # protocol values that --set changed
    seed: int = 0
    fusion: str = "none"
    split: str | None = None
    features: str = "auto"
    variant: str = "recommended"
    sampler_options: Any = None
    kge_options: Any = None
    fusion_options: Any = None
    aux: Mapping[str, float] = dataclasses.field(default_factory=dict)  # auxiliary -> weight
    aux_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None  # of a tuned protocol: budget, and what it chose; see `tuning_of`
    uniform_tuning: Mapping[str, Any] | None = None  # the same of uniform, the yardstick of diagnostics

    @property
    def name(self) -> str:
        """`sampler-kge-dataset-sN`, readable, not unique."""
        parts = [name.rpartition(":")[2] if ".py:" in name else name for name in (self.sampler, self.kge)]
        return "-".join([*parts, Path(self.dataset).resolve().name.replace(":", "_"), f"s{self.seed}"])

    def folder_name(self, dataset: Dataset) -> str:
        """The run's folder in a store: its name, and its id."""
        return f"{self.name}-{self.record(dataset)['id']}"

    @property
    def wants_features(self) -> bool:
        """Whether any component reads features; if not, none are loaded and the run says `none`."""
        needs = set(SAMPLERS.get(self.sampler).requires)
        for name in self.aux:
            needs |= AUXILIARIES.get(name).requires
        reads = getattr(SAMPLERS.get(self.sampler), "reads_features", False)
        return reads or self.fusion != "none" or Need.FEATURES in needs

    def record(self, dataset: Dataset) -> dict[str, Any]:
        """config.json: what a reader or a table needs to know, and the run's id."""
        versions = {"sampler": SAMPLERS.get(self.sampler).version, "kge": MODELS.get(self.kge).version}
        versions |= {"fusion": FUSIONS.get(self.fusion).version}
        versions |= {f"aux.{name}": AUXILIARIES.get(name).version for name in self.aux}
        record = {
            "sampler": self.sampler,
            "variant": self.variant,
            "kge": self.kge,
            "fusion": self.fusion,
            "aux": dict(self.aux),
            "dataset": dataset.name,
            "split": dataset.split,
            "fingerprint": dataset.fingerprint,
            "features": dataset.feature_source,
            "feature_fingerprint": dataset.feature_fingerprint,
            "modalities": sorted(dataset.features),
            "protocol": dataclasses.asdict(self.protocol),
            "changed": dict(self.changed),
            "options": {
                "sampler": non_default(self.sampler_options),
                "kge": non_default(self.kge_options),
                "fusion": non_default(self.fusion_options),
                "aux": {name: non_default(value) for name, value in self.aux_options.items()},
            },
            "versions": versions,
            "sources": self._sources(),
            "seed": self.seed,
        }
        if issubclass(SAMPLERS.get(self.sampler), Objective):
            record["own_loss"] = True
        if self.tuning is not None:
            record["tuning"] = dict(self.tuning)
        return record | {"id": run_id(record)}

    def _sources(self) -> dict[str, str]:
        """SHA-256 of the file behind each component that came as one: two states of ./mine.py are two samplers."""
        parts = {"sampler": SAMPLERS.get(self.sampler), "kge": MODELS.get(self.kge), "fusion": FUSIONS.get(self.fusion)}
        files = {part: getattr(component, "nsbench_file", None) for part, component in parts.items()}
        return {part: hashlib.sha256(Path(file).read_bytes()).hexdigest() for part, file in files.items() if file}


def from_record(record: Mapping[str, Any]) -> Config:
    """The configuration that wrote this config.json."""
    options = record["options"]
    source = record["features"] if record["features"] in ("official", "names", "none") else "auto"
    component, model, fuse = SAMPLERS.get(record["sampler"]), MODELS.get(record["kge"]), FUSIONS.get(record["fusion"])
    return Config(
        sampler=record["sampler"],
        kge=record["kge"],
        dataset=record["dataset"],
        fusion=record["fusion"],
        split=record["split"],
        seed=record["seed"],
        variant=record["variant"],
        features=":".join(filter(None, [source, ",".join(record["modalities"])])),
        protocol=Protocol(**record["protocol"]),
        changed=record["changed"],
        sampler_options=build_options(component.Options, options["sampler"], "sampler"),
        kge_options=build_options(model.Options, options["kge"], "kge"),
        fusion_options=build_options(fuse.Options, options["fusion"], "fusion"),
        aux=record["aux"],
        aux_options={n: build_options(AUXILIARIES.get(n).Options, v, f"aux.{n}") for n, v in options["aux"].items()},
        tuning=record.get("tuning"),
    )


def run_id(record: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of SHA-256 over everything that can change the result; never device, threads or paths."""
    names = {part: re.sub(r".*[/\\]", "", record[part]) for part in record["sources"]}  # ./a/mine.py:Mine is mine.py:Mine
    return hashlib.sha256(json.dumps({**record, **names}, sort_keys=True).encode()).hexdigest()[:8]


def non_default(options: Any) -> dict[str, Any]:
    """The fields of an options dataclass whose value is not their default."""
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    }


def configure(
    sampler: str,
    kge: str,
    dataset: str,
    *,
    protocol: str = "nsbench",
    seed: int = 0,
    fusion: str = "none",
    split: str | None = None,
    features: str = "auto",
    settings: Iterable[str] = (),
) -> Config:
    """A checked configuration. `settings` are `--set` texts: sampler.x=1, kge.x=1, protocol.steps=100, aux.NAME=0.1."""
    groups = _grouped(settings)
    component = SAMPLERS.get(sampler)
    model, fuse = MODELS.get(kge), FUSIONS.get(fusion)
    if seed < 0:
        raise Misuse(f"the seed must be at least 0, not {seed}")
    if seed >= 2**63:  # tables keep it in 64 bits
        raise Misuse(f"the seed must be below 2^63, not {seed}")

    variant = groups["sampler"].pop("variant", "recommended")
    presets = {"recommended": {}, **component.variants}
    if variant not in presets:
        raise Misuse(f"{sampler} has no variant '{variant}'; it has {', '.join(presets)}")
    proposed = read_protocol(protocol).get("sampler", {}).get(sampler, {})  # sizes that fit the protocol's budget
    tuning = tuning_of(protocol, sampler, kge, dataset, variant, fusion, split, features, bool(groups["aux"]))
    chosen = _by_group(chosen_by(tuning))
    if tuning is not None and any(field in groups[group] for group in GROUPS for field in chosen[group]):
        tuning = {**tuning, "trials": 0, "chosen": {}}  # --set has it otherwise
    sampler_options = {**presets[variant], **proposed, **chosen["sampler"], **groups["sampler"]}

    weights: dict[str, Any] = {}
    aux_options: dict[str, dict[str, str]] = {}
    for key, value in groups["aux"].items():
        name, _, field = key.partition(".")
        if field:
            aux_options.setdefault(name, {})[field] = value
        else:
            weights[name] = _number(value, f"aux.{name}")
    for name in aux_options:
        if name not in weights:
            raise Misuse(f"aux.{name} has options but no weight; add --set aux.{name}=1")

    plain = resolve_protocol(protocol, kge, dataset, chosen["protocol"])
    resolved = resolve_protocol(protocol, kge, dataset, {**chosen["protocol"], **groups["protocol"]})
    changed = {n: getattr(resolved, n) for n in groups["protocol"] if getattr(resolved, n) != getattr(plain, n)}
    config = Config(
        sampler=sampler,
        kge=kge,
        dataset=dataset,
        fusion=fusion,
        split=split,
        features=features,
        seed=seed,
        protocol=resolved,
        changed=changed,
        variant=variant,
        sampler_options=build_options(component.Options, sampler_options, "sampler"),
        kge_options=build_options(model.Options, groups["kge"], "kge"),
        fusion_options=build_options(fuse.Options, groups["fusion"], "fusion"),
        aux=weights,
        aux_options={n: build_options(AUXILIARIES.get(n).Options, aux_options.get(n, {}), f"aux.{n}") for n in weights},
        tuning=tuning,
        uniform_tuning=tuning_of(protocol, "uniform", kge, dataset, "recommended", fusion, split, features),
    )
    _check_needs(config)
    return config


def _check_needs(config: Config, dataset: Dataset | None = None) -> None:
    """Refuse pairs that cannot work. Features are checked once the dataset is there."""
    provided = {Need.LIVE} | MODELS.get(config.kge).provides | FUSIONS.get(config.fusion).provides
    if config.protocol.sides != "alternate":
        provided.add(Need.SIDE)
    if Need.VIEWS not in FUSIONS.get(config.fusion).provides:
        provided.add(Need.ONE_VIEW)
    if dataset is None or dataset.features:
        provided.add(Need.FEATURES)
    sampler = SAMPLERS.get(config.sampler)
    if Need.LIVE in sampler.requires and not getattr(sampler, "coupled", True):
        raise Misuse(f"sampler '{config.sampler}' declares Need.LIVE, so its feedback joins the loss: set coupled = True")
    components = [("sampler", config.sampler, SAMPLERS)] + [("auxiliary loss", name, AUXILIARIES) for name in config.aux]
    for kind, name, registry in components:
        for need in missing_needs(registry.get(name).requires, provided):
            raise Misuse(f"{kind} '{name}' {_WHY[need].format(**dataclasses.asdict(config), p=config.protocol.name)}")


_WHY = {
    Need.QUERY: "needs a model with a query vector, which '{kge}' has not; try --kge transe, distmult or rotate",
    Need.VIEWS: "needs two views of an entity; choose a fusion that has them with --fusion (nsbench list)",
    Need.ONE_VIEW: "needs one vector per entity, and '{fusion}' has several views; use --fusion none or adamf",
    Need.FEATURES: "needs features and '{dataset}' has none; see --features and nsbench data import-features",
    Need.SIDE: "chooses the side itself, which protocol '{p}' fixes by alternating; use --set protocol.sides=per_row",
    Need.SLOTS: "needs a fusion with a slot per modality, which '{fusion}' is not; use --fusion adamf",
    Need.GRAM: "needs a model whose squared scores sum in closed form, which '{kge}' is not; try --kge distmult",
}


def check_features(config: Config, dataset: Dataset) -> None:
    """Refuse, once the dataset is loaded, a sampler whose features are not there."""
    _check_needs(config, dataset)


def resolve_protocol(name: str, kge: str, dataset: str, changes: Mapping[str, Any]) -> Protocol:
    """The protocol's values for one model and dataset, with `--set protocol.x` applied last."""
    values = read_protocol(name)
    for key in ("description", "sampler", "tuning"):  # but for the first they are `configure`'s
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


def tuning_of(
    protocol: str,
    sampler: str,
    kge: str,
    dataset: str,
    variant: str,
    fusion: str,
    split: str | None = None,
    features: str = "auto",
    auxiliary: bool = False,
) -> dict[str, Any] | None:
    """The budget of a tuned protocol (nsbench.tuning.tune) and what it chose for one run, by the names of --set.

    None where nothing was tuned; no trials and nothing chosen for what had no study: another sampler, variant, fusion,
    split or choice of features, or an `auxiliary` loss beside.
    """
    found = dict(read_protocol(protocol).get("tuning", {}))
    if not found:
        return None
    study = found.pop("studies", {}).get(study_key(sampler, kge, dataset))
    asked = {"fusion": fusion, "split": split or "", "features": features}
    if study is None or variant != "recommended" or auxiliary or any(found.get(n, x) != x for n, x in asked.items()):
        return {**found, "trials": 0, "chosen": {}}
    return {**found, **study}


def chosen_by(tuning: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a tuned protocol sets for one sampler, model and dataset, by the names of --set."""
    return {} if tuning is None else tuning["chosen"]


def study_key(sampler: str, kge: str, dataset: str) -> str:
    return f"{sampler}/{kge}/{dataset}"


@functools.cache
def protocol_names() -> list[str]:
    folder = resources.files("nsbench.config") / "protocols"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def name_of(protocol: str) -> str:
    """A protocol file of the user's own goes by its stem."""
    return Path(protocol).stem if protocol.endswith(".toml") else protocol


def _read(name: str) -> str:
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise Misuse(f"no protocol file {name}; give the path of a TOML file, or one of {', '.join(protocol_names())}")
        return Path(name).read_text(encoding="utf-8")
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
    except ValueError as error:  # no TOML, or no text
        raise Misuse(f"protocol {name} is not TOML: {error}") from None
    if name.endswith(".toml"):
        _check_file(name, values)
    base = values.pop("extends", None)
    if base is None:
        return values
    if base.endswith(".toml") and name.endswith(".toml"):
        base = str(Path(name).parent / base)  # as seen from the file that names it
    if base in (name, *_extended):
        raise Misuse(f"protocol {name} extends itself through {base}; name another one there")
    inherited = read_protocol(base, (*_extended, name))
    tables = {key: {**_table(inherited.get(key)), **value} for key, value in values.items() if isinstance(value, dict)}
    return {**inherited, **values, **tables}


_parsed = functools.lru_cache(maxsize=32)(tomllib.loads)  # for a campaign, too


def _check_file(name: str, values: Mapping[str, Any]) -> None:
    """Misuse for what would be read over in a protocol file: a table for a cell or a sampler that there is not."""
    if "grid" in values:
        raise Misuse(f"{name} is a sweep and no protocol; run it with nsbench sweep {name}")
    if not values:
        raise Misuse(f'protocol {name} is empty; begin it with extends = "nsbench" and add what differs')
    if not isinstance(values.get("extends", ""), str):
        raise Misuse(f'protocol {name}: extends names another protocol, as extends = "nsbench", not {values["extends"]!r}')
    if not isinstance(values.get("tuning", {}), Mapping):
        raise Misuse(f"protocol {name}: tuning is a table that nsbench tune writes, not {values['tuning']!r}; leave it out")
    cells = ["default", *MODELS.names(), *DATASETS.names()]
    cells += [f"{kge}/{dataset}" for kge in MODELS.names() for dataset in DATASETS.names()]
    for key in PER_PAIR:
        table = values.get(key)
        for cell in table if isinstance(table, Mapping) else ():
            if not _is_cell(cell):
                near = suggest(cell, cells) or "; name a model, a dataset, MODEL/DATASET or default"
                raise Misuse(f"protocol {name}: [{key}] is for '{cell}', which is not there{near} (nsbench list)")
    tables = values.get("sampler", {})
    for sampler, options in tables.items() if isinstance(tables, Mapping) else [("NAME", tables)]:
        if not isinstance(options, Mapping):
            raise Misuse(f"protocol {name}: options of a sampler are a table [sampler.{sampler}], not {options!r}")
        if ".py:" not in sampler and sampler not in SAMPLERS.names():
            near = suggest(sampler, SAMPLERS.names())
            raise Misuse(f"protocol {name}: [sampler.{sampler}] is of no sampler{near} (nsbench list)")


def _is_cell(key: str) -> bool:
    """Whether a per-cell table may name it: default, a model, a dataset or MODEL/DATASET; files and folders pass."""
    first, slash, rest = key.partition("/")
    if ".py:" in key or first in ("", ".", "..", "~") or Path(key).is_dir():
        return True
    if not slash:
        return key == "default" or key in MODELS.names() or key.partition(":")[0] in DATASETS.names()
    if first in MODELS.names():
        return rest not in ("default", *MODELS.names()) and _is_cell(rest)
    return rest.partition(":")[0] not in DATASETS.names()  # a folder elsewhere; else a misspelt model


def _table(value: Any) -> dict[str, Any]:
    """A per-cell value of a protocol as a table."""
    return value if isinstance(value, dict) else {} if value is None else {"default": value}


GROUPS = ("sampler", "kge", "fusion", "protocol", "aux")


def _grouped(settings: Iterable[str]) -> dict[str, dict[str, Any]]:
    values = {}
    for text in settings:
        match = re.fullmatch(r"([a-z_]+)\.([\w.\-]+)=(.*)", text)
        if match is None or match[1] not in GROUPS:
            raise Misuse(f"--set takes GROUP.NAME=VALUE with GROUP one of {', '.join(GROUPS)}, not '{text}'")
        values[f"{match[1]}.{match[2]}"] = match[3]
    return _by_group(values)


def _by_group(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"sampler.tau": 1} as {"sampler": {"tau": 1}, ...}."""
    groups: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for name, value in values.items():
        group, _, field = name.partition(".")
        groups[group][field] = value
    return groups


def _number(text: str, label: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Misuse(f"{label} must be a number, not '{text}'") from None
    if not 0 <= value < float("inf"):
        raise Misuse(f"{label} must be a finite number of at least 0, not {text}")
    return value

"""One run's configuration: protocol, components and their options, checked before any work, and the run's identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nsbench.config import BESIDE
from nsbench.config.protocol import (
    Cell,
    Identify,
    Protocol,
    digest,
    protocol_names,
    read_protocol,
    registered,
    resolve_protocol,
    sizes_of,
)
from nsbench.config.tuned import chosen_by, tuning_of
from nsbench.contracts import Dataset, Need, Objective, missing_needs
from nsbench.errors import Misuse
from nsbench.identity import hash_of, plugin_label
from nsbench.options import LARGEST, build_options, non_default
from nsbench.registry import AUXILIARIES, DATASETS, FUSIONS, MODELS, SAMPLERS, plugin_file, same_component


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
    proposed: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # by the protocol, of the sampler's options
    kge_options: Any = None
    fusion_options: Any = None
    aux: Mapping[str, float] = dataclasses.field(default_factory=dict)  # auxiliary -> weight
    aux_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None  # of a tuned protocol: its budget, and what it chose
    uniform_tuning: Mapping[str, Any] | None = None  # the same of uniform, to which diagnostics refer
    replayed: Mapping[str, Any] | None = None  # config.json of the run whose negatives are replayed
    digest: str = ""  # of the protocol as a whole, by which tables know it under any name
    minutes: float | None = None  # that the protocol promises of a run on a CPU
    untuned: str = ""  # why a tuned protocol chose nothing, for the user; outside of the record

    @property
    def name(self) -> str:
        """`sampler-kge-dataset-sN`, readable, not unique."""
        return self.label_of(Path(self.dataset).resolve().name.replace(":", "_"))

    def label_of(self, dataset: str) -> str:
        """The run's name where the dataset is called so; "" leaves it out."""
        parts = [name.rpartition(":")[2] if ".py:" in name else name for name in (self.sampler, self.kge)]
        return "-".join(filter(None, [*parts, dataset, f"s{self.seed}"]))

    def folder(self, store: Path, dataset: Dataset) -> Path:
        """Where the run lies in a store, or will: `NAME-ID`, and under any name with its id if it is there already."""
        number = self.record(dataset)["id"]
        path = store / f"{self.name}-{number}"
        if dataset.name == self.dataset or path.exists():
            return path
        return next(iter(sorted(store.glob(f"*-s{self.seed}-{number}"))), path)

    @property
    def wants_features(self) -> bool:
        """Whether any component reads features; if not, none are loaded and the run says `none`."""
        if self.replayed is not None:
            return from_record(self.replayed).wants_features
        needs = set(SAMPLERS.get(self.sampler).needs(self.sampler_options))
        for name in self.aux:
            needs |= AUXILIARIES.get(name).needs(self.aux_options[name])
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
            "features": ",".join(dataset.modalities) or "none",
            "feature_fingerprint": dataset.feature_fingerprint,
            "modalities": dataset.modalities,
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
        if dataset.features:
            record["feature_bytes"] = dataset.feature_bytes
        if self.digest:
            record["protocol_digest"] = self.digest
        if self.proposed:
            record["proposed"] = dict(self.proposed)
        if self.replayed is not None:
            record["replayed"] = dict(self.replayed)
        record |= self._read(dataset)
        return record | {"id": run_id(record)}

    def _read(self, dataset: Dataset) -> dict[str, Any]:
        """What of an entity the negatives come from, and what the method is called where that is less than its paper has."""
        component = SAMPLERS.get(self.sampler)
        if issubclass(component, Objective):
            return {}
        modalities = dataset.modalities
        slots = modalities if Need.SLOTS in FUSIONS.get(self.fusion).provides else []
        reads, called = component.reads(self.sampler_options, modalities, slots)
        return ({"reads": list(reads)} if reads else {}) | ({"called": called} if called else {})

    def _sources(self) -> dict[str, str]:
        """SHA-256 of the file behind each component that came as one: two states of ./mine.py are two samplers."""
        names = {"sampler": self.sampler, "kge": self.kge, "fusion": self.fusion}
        return {part: hash_of(path) for part, name in names.items() if (path := plugin_file(name))}


def from_record(record: Mapping[str, Any]) -> Config:
    """The configuration that wrote this config.json."""
    options = record["options"]
    component, model, fuse = SAMPLERS.get(record["sampler"]), MODELS.get(record["kge"]), FUSIONS.get(record["fusion"])
    return Config(
        sampler=record["sampler"],
        kge=record["kge"],
        dataset=record["dataset"],
        fusion=record["fusion"],
        split=record["split"],
        seed=record["seed"],
        variant=record["variant"],
        features=_features_of(record),
        protocol=Protocol(**record["protocol"]),
        changed=record["changed"],
        sampler_options=build_options(component.Options, options["sampler"], "sampler"),
        kge_options=build_options(model.Options, options["kge"], "kge"),
        fusion_options=build_options(fuse.Options, options["fusion"], "fusion"),
        aux=record["aux"],
        aux_options={n: build_options(AUXILIARIES.get(n).Options, v, f"aux.{n}") for n, v in options["aux"].items()},
        tuning=record.get("tuning"),
        proposed=record.get("proposed", {}),
        replayed=record.get("replayed"),
        digest=record.get("protocol_digest", ""),
    )


def _features_of(record: Mapping[str, Any]) -> str:
    """The --features of a run. Earlier versions wrote where all came from (official, names, planted), and bare names."""
    prefix = "official:" if record["features"] == "official" else ""
    modalities = ["names"] if record["features"] == "names" else [prefix + name for name in record["modalities"]]
    return ",".join(sorted(modalities)) or "none"


def run_id(record: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of SHA-256 over everything that can change the result; never device, threads or paths."""
    return hashlib.sha256(json.dumps(content_of(record), sort_keys=True).encode()).hexdigest()[:8]


def content_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without labels: what a user calls a folder, a plugin's file or a protocol of his own may change."""
    record = {name: value for name, value in record.items() if name not in BESIDE}
    if "replayed" in record:
        record["replayed"] = record["replayed"]["id"]
    record |= {part: record[part].rpartition(":")[2] for part in record["sources"]}  # a class; `sources` has its file
    if record["dataset"].partition(":")[0] not in DATASETS.names():
        record["dataset"] = ""  # a folder's name; its fingerprint is there
    if record["protocol"]["name"] not in protocol_names():
        record["protocol"] = record["protocol"] | {"name": ""}
    if "tuning" in record and record["tuning"]["base"] not in protocol_names():
        record["tuning"] = record["tuning"] | {"base": ""}
    return record


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
    identify: Identify = registered,
) -> Config:
    """A checked configuration. `settings` are `--set` texts: sampler.x=1, kge.x=1, protocol.steps=100, aux.NAME=0.1.

    `identify` is for a protocol that knows datasets by content; by itself it knows those with a name of the registry.
    """
    groups = _grouped(settings)
    component = SAMPLERS.get(sampler)
    model, fuse = MODELS.get(kge), FUSIONS.get(fusion)
    _check_seed(seed)
    if component.needs_run:
        raise Misuse(f"{sampler} works beside a finished run; name one, by folder, name or id, with --sampler {sampler}:RUN")

    variant = groups["sampler"].pop("variant", "recommended")
    presets = {"recommended": {}, **component.variants}
    if variant not in presets:
        apart = f"{sampler}_{variant}"
        remedy = f"use --sampler {apart}" if apart in SAMPLERS.names() else f"it has {', '.join(presets)}"
        raise Misuse(f"{sampler} has no variant '{variant}'; {remedy}")
    sizes = sizes_of(protocol, sampler)
    proposed = {name: value for name, value in sizes.items() if name not in presets[variant]}  # a variant keeps its own
    features = _in_order(features)
    cell = Cell(kge, dataset, split, identify)

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

    values = read_protocol(protocol)

    def built(tuning: Mapping[str, Any] | None, **beside: Any) -> Config:
        chosen = _by_group(chosen_by(tuning))
        if tuning is not None and any(field in groups[group] for group in GROUPS for field in chosen[group]):
            tuning = {**tuning, "trials": 0, "chosen": {}}  # --set has it otherwise
        sampler_options = {**proposed, **presets[variant], **chosen["sampler"], **groups["sampler"]}
        unchanged = resolve_protocol(protocol, cell, chosen["protocol"])
        resolved = resolve_protocol(protocol, cell, {**chosen["protocol"], **groups["protocol"]})
        return Config(
            sampler=sampler,
            kge=kge,
            dataset=dataset,
            fusion=fusion,
            split=split,
            features=features,
            seed=seed,
            protocol=resolved,
            changed={n: getattr(resolved, n) for n in groups["protocol"] if getattr(resolved, n) != getattr(unchanged, n)},
            variant=variant,
            proposed=proposed,
            sampler_options=build_options(component.Options, sampler_options, "sampler"),
            kge_options=build_options(model.Options, groups["kge"], "kge"),
            fusion_options=build_options(fuse.Options, groups["fusion"], "fusion"),
            aux=weights,
            aux_options={n: build_options(AUXILIARIES.get(n).Options, aux_options.get(n, {}), f"aux.{n}") for n in weights},
            tuning=tuning,
            digest=digest(protocol),
            minutes=values.get("minutes"),
            **beside,
        )

    config = built(None)
    if "tuning" in values:
        asked = {"fusion": fusion, "split": split or "", "features": features}
        read = features if config.wants_features else "none"
        plain = variant == "recommended" and not groups["aux"]
        tuning, why = tuning_of(protocol, sampler, cell, asked, _features_read(cell, read), plain)
        said = f"{sampler} with {kge} on {dataset} is not tuned in {protocol}: {why}" if why else ""
        config = built(tuning, uniform_tuning=_uniform_tuning(protocol, cell, asked), untuned=said)
    check_needs(config)
    return config


def _features_read(cell: Cell, features: str) -> Callable[[], str]:
    """What gives the fingerprint of the features that a run reads."""
    return lambda: cell.identify(cell.dataset, cell.split, features).features


def _uniform_tuning(protocol: str, cell: Cell, asked: Mapping[str, str]) -> dict[str, Any] | None:
    """What the protocol chose for the uniform run that hardness refers to."""
    features = asked["features"] if asked["fusion"] != "none" else "none"
    return tuning_of(protocol, "uniform", cell, asked, _features_read(cell, features))[0]


def replaying(
    record: Mapping[str, Any],
    kge: str,
    dataset: str,
    *,
    protocol: str = "nsbench",
    seed: int = 0,
    fusion: str = "none",
    split: str | None = None,
    features: str = "auto",
    settings: Iterable[str] = (),
    identify: Identify = registered,
) -> Config:
    """As `configure`: a fresh model of `seed` on the negatives of the run that wrote `record`. All else is that run's.

    Misuse for a run that cannot be replayed, and for whatever is asked otherwise than the run has it.
    """
    source = from_record(record)
    run = f"{source.name}-{record['id']}"
    _check_seed(seed)
    if source.replayed is not None:
        raise Misuse(f"{run} is a replay itself; replay the run that it replays, {source.replayed['id']}")
    if issubclass(SAMPLERS.get(source.sampler), Objective):
        raise Misuse(f"{run} draws no negatives, because {source.sampler} is an objective; replay the run of a sampler")
    if list(settings):
        raise Misuse(f"a replay takes all options from its run, {run}; leave --set out")
    for name, given, has in (
        ("kge", kge, source.kge),
        ("fusion", source.fusion if fusion == "auto" else fusion, source.fusion),
        ("split", split or source.split, source.split),
        ("features", source.features if features == "auto" else _in_order(features), source.features),
    ):
        if not same_component(str(given), str(has)):
            raise Misuse(f"{run} was trained with --{name} {has}, and its replay must be too, not with {given}")
    cell = Cell(kge, dataset, split or source.split, identify)
    if protocol != "auto":
        here, chosen = resolve_protocol(protocol, cell, {}), {name.partition(".")[2] for name in chosen_by(source.tuning)}
        for field, value in dataclasses.asdict(source.protocol).items():
            if field not in {"name", *chosen, *source.changed} and getattr(here, field) != value:
                raise Misuse(
                    f"{run} was trained with --protocol {source.protocol.name} ({field} {value}), and its replay must be "
                    f"too, not with {here.name} ({field} {getattr(here, field)})"
                )
    asked = {"fusion": fusion, "split": split or "", "features": features}
    component = SAMPLERS.get("replay")
    return dataclasses.replace(
        source,
        sampler="replay",
        variant="recommended",
        sampler_options=component.Options(of=_described(source)),
        proposed={},
        dataset=dataset,
        seed=seed,
        replayed=record,
        uniform_tuning=_uniform_tuning(protocol, cell, asked) if protocol != "auto" else None,
    )


def _in_order(features: str) -> str:
    """A list of modalities as records have it."""
    return ",".join(sorted({word.strip() for word in features.split(",")}))


def _described(config: Config) -> str:
    """`nscaching`, or `sans paper hops=3`: the sampler of a run with whatever its protocol did not set, as rows name it."""
    tuned = {name.removeprefix("sampler.") for name in chosen_by(config.tuning)}
    options = {
        name: value
        for name, value in non_default(config.sampler_options).items()
        if name not in tuned and config.proposed.get(name) != value
    }
    variant = [] if config.variant == "recommended" else [config.variant]
    return " ".join([plugin_label(config.sampler), *variant, *(f"{name}={value}" for name, value in options.items())])


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise Misuse(f"the seed must be at least 0, not {seed}")
    if seed >= 2**63:  # tables keep it in 64 bits
        raise Misuse(f"the seed must be below 2^63, not {seed}")


def check_needs(config: Config, dataset: Dataset | None = None) -> None:
    """Refuse pairs that cannot work. Features are checked once the dataset is there."""
    MODELS.get(config.kge).check(config.kge_options, config.protocol.width)
    provided = {Need.LIVE} | MODELS.get(config.kge).provided(config.kge_options)
    provided |= FUSIONS.get(config.fusion).provided(config.fusion_options)
    if config.protocol.sides != "alternate":
        provided.add(Need.SIDE)
    if dataset is None or dataset.features:
        provided.add(Need.FEATURES)
    components = [("sampler", config.sampler, SAMPLERS.get(config.sampler).needs(config.sampler_options))]
    components.append(("fusion", config.fusion, FUSIONS.get(config.fusion).needs(config.fusion_options)))
    for name, options in config.aux_options.items():
        components.append(("auxiliary loss", name, AUXILIARIES.get(name).needs(options)))
    for kind, name, needs in components:
        for need in missing_needs(needs, provided):
            raise Misuse(f"{kind} '{name}' {_WHY[need].format(**dataclasses.asdict(config), p=config.protocol.name)}")


_WHY = {
    Need.QUERY: "needs a model with a query vector, which '{kge}' has not; try --kge transe, distmult or rotate",
    Need.VIEWS: "needs two views of an entity, scored in all four pairs alike; use --fusion two_view (nsbench list)",
    Need.ONE_VIEW: "needs one vector per entity, and '{fusion}' has several views; use --fusion none or adamf",
    Need.SQUARE: "needs a score of all pairs of views alike, which '{fusion}' has not; use --fusion none or adamf",
    Need.FEATURES: "needs features and '{dataset}' has none; see --features and nsbench data import-features",
    Need.SIDE: "chooses the side itself, which protocol '{p}' fixes by alternating; use --set protocol.sides=per_row",
    Need.SLOTS: "needs a fusion with a slot per modality, which '{fusion}' is not; use --fusion adamf",
    Need.PARTS: "needs a fusion whose entities have several slots, which '{fusion}' has not; use --fusion adamf or two_view",
    Need.CODE: "needs a fusion that encodes features, which '{fusion}' does not; use --fusion transae",
    Need.GRAM: "needs a model whose squared scores sum in closed form, which '{kge}' is not; try --kge distmult or complex",
    Need.ALONE: "makes entities without neighbours, which '{kge}' scores by their neighbours; use --set kge.context=none",
}


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
    if not 0 <= value <= LARGEST[float]:
        raise Misuse(f"{label} must be a finite number of at least 0, not {text}")
    return value

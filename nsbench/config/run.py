"""One run's configuration: protocol, components and their options, checked before any work, and the run's identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nsbench.config import BESIDE
from nsbench.config.protocol import Protocol, name_of, read_protocol, resolve_protocol
from nsbench.config.tuned import chosen_by, study_key, tuning_of
from nsbench.contracts import Dataset, Need, Objective, missing_needs
from nsbench.errors import Misuse
from nsbench.options import LARGEST, build_options, non_default
from nsbench.registry import AUXILIARIES, FUSIONS, MODELS, SAMPLERS, plugin_file


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
        return {part: hashlib.sha256(path.read_bytes()).hexdigest() for part, n in names.items() if (path := plugin_file(n))}


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
    )


def _features_of(record: Mapping[str, Any]) -> str:
    """The --features of a run. Earlier versions wrote where all came from (official, names, planted), and bare names."""
    prefix = "official:" if record["features"] == "official" else ""
    modalities = ["names"] if record["features"] == "names" else [prefix + name for name in record["modalities"]]
    return ",".join(sorted(modalities)) or "none"


def run_id(record: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of SHA-256 over everything that can change the result; never device, threads or paths."""
    record = {name: value for name, value in record.items() if name not in BESIDE}
    if "replayed" in record:
        record["replayed"] = record["replayed"]["id"]
    names = {part: re.sub(r".*[/\\]", "", record[part]) for part in record["sources"]}  # ./a/mine.py:Mine is mine.py:Mine
    return hashlib.sha256(json.dumps({**record, **names}, sort_keys=True).encode()).hexdigest()[:8]


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
    _check_seed(seed)
    if component.needs_run:
        raise Misuse(f"{sampler} works beside a finished run; name one, by folder, name or id, with --sampler {sampler}:RUN")

    variant = groups["sampler"].pop("variant", "recommended")
    presets = {"recommended": {}, **component.variants}
    if variant not in presets:
        apart = f"{sampler}_{variant}"
        remedy = f"use --sampler {apart}" if apart in SAMPLERS.names() else f"it has {', '.join(presets)}"
        raise Misuse(f"{sampler} has no variant '{variant}'; {remedy}")
    sizes = read_protocol(protocol).get("sampler", {}).get(sampler, {})  # that fit the protocol's budget
    proposed = {name: value for name, value in sizes.items() if name not in presets[variant]}  # a variant keeps its own
    features = _in_order(features)
    asked = {"fusion": fusion, "split": split or "", "features": features}
    plain = variant == "recommended" and not groups["aux"]
    tuning = tuning_of(protocol, study_key(sampler, kge, dataset), asked, plain)
    chosen = _by_group(chosen_by(tuning))
    if tuning is not None and any(field in groups[group] for group in GROUPS for field in chosen[group]):
        tuning = {**tuning, "trials": 0, "chosen": {}}  # --set has it otherwise
    sampler_options = {**proposed, **presets[variant], **chosen["sampler"], **groups["sampler"]}

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

    unchanged = resolve_protocol(protocol, kge, dataset, chosen["protocol"])
    resolved = resolve_protocol(protocol, kge, dataset, {**chosen["protocol"], **groups["protocol"]})
    changed = {n: getattr(resolved, n) for n in groups["protocol"] if getattr(resolved, n) != getattr(unchanged, n)}
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
        proposed=proposed,
        sampler_options=build_options(component.Options, sampler_options, "sampler"),
        kge_options=build_options(model.Options, groups["kge"], "kge"),
        fusion_options=build_options(fuse.Options, groups["fusion"], "fusion"),
        aux=weights,
        aux_options={n: build_options(AUXILIARIES.get(n).Options, aux_options.get(n, {}), f"aux.{n}") for n in weights},
        tuning=tuning,
        uniform_tuning=tuning_of(protocol, study_key("uniform", kge, dataset), asked),
    )
    check_needs(config)
    return config


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
    same_data = source.dataset in (dataset, Path(dataset).resolve().name)  # a folder is recorded by its name
    for name, given, has in (
        ("kge", kge, source.kge),
        ("dataset", source.dataset if same_data else dataset, source.dataset),
        ("protocol", source.protocol.name if protocol == "auto" else name_of(protocol), source.protocol.name),
        ("fusion", source.fusion if fusion == "auto" else fusion, source.fusion),
        ("split", split or source.split, source.split),
        ("features", source.features if features == "auto" else _in_order(features), source.features),
    ):
        if given != has:
            raise Misuse(f"{run} was trained with --{name} {has}, and its replay must be too, not with {given}")
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
        uniform_tuning=tuning_of(protocol, study_key("uniform", kge, dataset), asked),
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
    return " ".join([config.sampler, *variant, *(f"{name}={value}" for name, value in options.items())])


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

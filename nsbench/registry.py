"""Names to components, and the options of each.

Every component class may carry a nested frozen dataclass `Options`; `--set`, `nsbench show` and the run id read it.
Built-in components are the modules of the packages below nsbench; others come through entry points of the same group
name, or as a file: `./mine.py:Mine`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from nsbench.errors import Misuse

C = TypeVar("C")


class Registry:
    """One kind of component: the built-in ones are the modules of `packages`, others come through the entry-point group."""

    def __init__(self, kind: str, group: str, *bases: str, packages: Sequence[str] = ()) -> None:
        self.kind = kind
        self.group = group
        self.packages = packages or (group,)
        self.bases = bases  # contracts in nsbench.contracts, named because importing them loads torch; none: a function
        self.broken: dict[str, str] = {}  # names of installed plugins that cannot be used, with the reason; see `names`
        self._found: dict[str, Any] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make the component known as `name`. A second owner of a name is an error."""

        def add(component: C) -> C:
            self._check(name, component)
            other = self._found.get(name)
            if other is not None and _origin(other) != _origin(component):
                raise Misuse(f"two {self.kind}s are called '{name}': {_origin(other)} and {_origin(component)}; rename one")
            self._found[name] = component
            return component

        return add

    def get(self, name: str) -> Any:
        """The component called `name`, or given as `path/to/file.py:Class`."""
        if ".py:" in name:
            return self._from_file(name)
        if name.endswith(".py"):
            classes = [
                key
                for key, value in vars(self._module(name, name)).items()
                if self.accepts(value) and str(getattr(value, "__module__", "")).startswith("nsbench_file_")
            ]
            raise Misuse(f"name the {self.kind}'s class too: {name}:{classes[0] if classes else 'Class'}")
        if name not in self._found:
            self._load_all()
        if name in self._found:
            return self._found[name]
        if name in self.broken:
            raise Misuse(f"{self.kind} '{name}' cannot be loaded: {self.broken[name]}; mend or uninstall that package")
        raise Misuse(f"unknown {self.kind} '{name}'{suggest(name, self._found)} (nsbench list)")

    def names(self) -> list[str]:
        self._load_all()
        return sorted(self._found)

    def source(self, name: str) -> str:
        """Where the component comes from: 'built-in', a distribution, or a file."""
        component = self.get(name)
        module = component.__module__
        return "built-in" if module.startswith("nsbench.") else _origin(component)

    def accepts(self, component: Any) -> bool:
        """Whether it keeps this kind's contract."""
        if not self.bases:
            return True
        contracts = importlib.import_module("nsbench.contracts")
        allowed = tuple(getattr(contracts, base) for base in self.bases)
        return inspect.isclass(component) and issubclass(component, allowed)

    def _check(self, name: str, component: Any) -> None:
        if not self.accepts(component):
            raise Misuse(f"{self.kind} '{name}' must be a subclass of nsbench.contracts.{' or '.join(self.bases)}")

    def _check_declared(self, name: str, component: Any) -> None:
        """Misuse for a class from elsewhere whose attributes nothing could work with."""
        needs = list(importlib.import_module("nsbench.contracts").Need)
        version, options = getattr(component, "version", 1), getattr(component, "Options", None)
        if type(version) is not int or version < 1:
            raise Misuse(f"{self.kind} '{name}': version must be a whole number of at least 1, not {version!r}")
        if self.bases and not (inspect.isclass(options) and dataclasses.is_dataclass(options)):
            raise Misuse(f"{self.kind} '{name}': Options must be a frozen dataclass of nsbench.registry.option fields")
        for attribute in ("requires", "provides"):
            named = getattr(component, attribute, ())
            if isinstance(named, str) or any(need not in needs for need in named):
                have = ", ".join(need.name for need in needs)
                raise Misuse(f"{self.kind} '{name}': {attribute} must be a frozenset of nsbench.contracts.Need ({have})")

    def _load_all(self) -> None:
        if self._complete:
            return
        for name in self.packages:
            for module in pkgutil.iter_modules(importlib.import_module(name).__path__, name + "."):
                importlib.import_module(module.name)
        for entry in metadata.entry_points(group=self.group):
            self._load_entry(entry)
        self._complete = True

    def _load_entry(self, entry: metadata.EntryPoint) -> None:
        """Someone else's package: what is wrong with it is noted in `broken`, and harms nothing else."""
        try:
            component = entry.load()
            siblings = [kind for kind in (MODELS, FUSIONS, AUXILIARIES) if kind.bases != self.bases]
            if any(kind.group == self.group and kind.accepts(component) for kind in siblings):
                return  # models and fusions share a group
            self._check(entry.name, component)
            self._check_declared(entry.name, component)
        except Exception as error:
            package = entry.dist.name if entry.dist else "a package"
            reason = str(error) if isinstance(error, Misuse) else f"{type(error).__name__}: {error}"
            self.broken[entry.name] = f"{package} ({entry.value}): {' '.join(reason.split())}"
            return
        self.register(entry.name)(component)

    def _from_file(self, name: str) -> Any:
        file, _, attribute = name.rpartition(":")
        module = self._module(file, name)
        component = getattr(module, attribute, None)
        if component is None:
            raise Misuse(f"{file} defines no '{attribute}'{suggest(attribute, vars(module)) or '; name one of its classes'}")
        self._check(name, component)
        self._check_declared(name, component)
        component.nsbench_file = str(Path(file).resolve())
        return component

    def _module(self, file: str, name: str) -> types.ModuleType:
        """A file that a user named, executed."""
        path = Path(file)
        if not path.is_file():
            raise Misuse(f"no file {file} for {self.kind} '{name}'; give a path as ./mine.py:Class")
        known_by = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()[:12]
        module_name = f"nsbench_file_{path.stem}_{known_by}"  # a file that was edited is loaded again
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, path)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[module_name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
            try:
                spec.loader.exec_module(sys.modules[module_name])
            except Exception as error:
                del sys.modules[module_name]
                raise Misuse(f"{file} cannot be loaded ({type(error).__name__}: {error}); mend the file") from error
        return sys.modules[module_name]


SAMPLERS = Registry("sampler", "nsbench.samplers", "Sampler", "Objective")
MODELS = Registry("model", "nsbench.kge", "KGE", packages=("nsbench.kge.models",))
FUSIONS = Registry("fusion", "nsbench.kge", "Fusion", packages=("nsbench.kge.fusions",))
AUXILIARIES = Registry(
    "auxiliary loss", "nsbench.kge", "Auxiliary", packages=("nsbench.kge.auxiliaries", "nsbench.samplers")
)
DATASETS = Registry("dataset", "nsbench.datasets")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: as many in every decade."""

    low: float
    high: float
    log: bool = True

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', by decades' if self.log else ''}"


Search = Range | tuple
"""Where `nsbench tune` looks for the value of an option: in a range, or among the values of a tuple."""


def option(
    default: Any, help: str, *, minimum: float | None = None, choices: tuple | None = None, search: Search | None = None
) -> Any:
    """A field of an `Options` dataclass: its default, one line of help, what it may be, and where tuning looks for it."""
    rules = {"help": help, "minimum": minimum, "choices": choices, "search": search}
    return dataclasses.field(default=default, metadata=rules)


def searched(options: Any) -> dict[str, Search]:
    """The options of a dataclass, or of an instance, that say where to look for their value."""
    fields = dataclasses.fields(options)
    return {field.name: field.metadata["search"] for field in fields if field.metadata.get("search") is not None}


def shown(search: Search) -> str:
    """`10, 30, 50` or `0.01 to 100, by decades`."""
    return ", ".join(map(str, search)) if isinstance(search, tuple) else str(search)


def build_options(cls: type[C], values: Mapping[str, Any], prefix: str) -> C:
    """An instance of the options dataclass from `--set` texts or ready values; `prefix` names them in errors."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if name not in fields:
            have = f"; it has {', '.join(fields)}" if fields else "; it has no options"
            raise Misuse(f"unknown option {prefix}.{name}{suggest(name, fields) or have}")
        built[name] = _convert(value, hints[name], fields[name].metadata, f"{prefix}.{name}")
    return cls(**built)


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'dhns'?` when a near name exists, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _convert(value: Any, hint: Any, rule: Mapping[str, Any], label: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, str) and type(None) in kinds and value.lower() == "none":
        return None
    kind = next(k for k in kinds if k is not type(None))
    try:
        if kind is bool and isinstance(value, str):
            value = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}[value.lower()]
        elif kind is int and isinstance(value, float) and value == int(value):
            value = int(value)
        elif kind in (int, float) and not (kind is int and isinstance(value, float)):
            value = value if isinstance(value, bool) else kind(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise TypeError
    except (KeyError, ValueError, TypeError, OverflowError):
        raise Misuse(f"{label} must be {_article(kind)}, not '{value}'") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise Misuse(f"{label} must be a finite number, not {value}")
    if rule.get("minimum") is not None and value < rule["minimum"]:
        raise Misuse(f"{label} must be at least {rule['minimum']:g}, not {value:g}")
    if rule.get("choices") and value not in rule["choices"]:
        raise Misuse(f"{label} must be one of {', '.join(map(str, rule['choices']))}, not '{value}'")
    return value


def _article(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]


def _origin(component: Any) -> str:
    try:
        return inspect.getfile(component)
    except TypeError:
        return repr(component)


def card(component: Any) -> str:
    """What it is, in one sentence: the first of the docstring of its file."""
    text = sys.modules[component.__module__].__doc__ or component.__doc__ or ""
    return re.split(r"\.\s+(?=[A-Z])", text.split("\n\n")[0], maxsplit=1)[0].replace("\n", " ").strip().rstrip(".")

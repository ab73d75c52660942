"""Names to components. The built-in ones are modules of the packages below nsbench; others come through entry points,
or as a file: `./mine.py:Mine`.

A plugin needs two names of this module: the registry of its kind, and `option` for the fields of its `Options`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from nsbench.errors import Misuse, suggest
from nsbench.files import expanded
from nsbench.identity import hash_of, marked, plugin_label
from nsbench.options import Range, option

__all__ = ["AUXILIARIES", "DATASETS", "FUSIONS", "MODELS", "SAMPLERS", "Range", "Registry", "card", "option", "plugin_file"]

C = TypeVar("C")

MOVED = {  # what plugins imported before the modules were put into packages
    "nsbench.view": "nsbench.contracts",
    "nsbench.graph": "nsbench.contracts",
    "nsbench.scoring": "nsbench.contracts",
    "nsbench.allowed": "nsbench.samplers.parts.allowed",
    "nsbench.losses": "nsbench.training.losses",
    "nsbench.evaluation": "nsbench.training.evaluation",
    "nsbench.diagnostics": "nsbench.training.diagnostics",
    "nsbench.trainer": "nsbench.training.trainer",
    "nsbench.runner": "nsbench.runs.runner",
    "nsbench.kge.kernels": "nsbench.kernels.operators",
    "nsbench.samplers.attention": "nsbench.samplers.parts.attention",
    "nsbench.samplers.denoiser": "nsbench.samplers.parts.denoiser",
    "nsbench.samplers.diffusion": "nsbench.samplers.parts.chain",
    "nsbench.samplers.reinforce": "nsbench.samplers.parts.reinforce",
    **{f"nsbench.kge.{name}": f"nsbench.kge.models.{name}" for name in ("transe", "distmult", "rotate", "sides")},
    **{f"nsbench.kge.{name}": f"nsbench.kge.fusions.{name}" for name in ("none", "adamf", "two_view")},
    "nsbench.kge.mat": "nsbench.kge.auxiliaries.mat",
}


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
            module = self._module(name, name)
            found = {key: value for key, value in vars(module).items() if inspect.isclass(value) and self.accepts(value)}
            own = [key for key, value in found.items() if value.__module__ == module.__name__]
            raise Misuse(f"name the {self.kind}'s class too: {name}:{own[0] if own else 'Class'}")
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
        return "built-in" if component.__module__.startswith("nsbench.") else _origin(component)

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

    def check_declared(self, name: str, component: Any) -> None:
        """Misuse for a class from elsewhere whose attributes are not what its contract says."""
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
        if "KGE" in self.bases and "absent" not in inspect.signature(component.encode).parameters:
            raise Misuse(f"{self.kind} '{name}': encode takes (table, relation, graph, absent); add what it lacks")

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
        """A component of another package: what is wrong with it is noted in `broken`, and does no other harm."""
        try:
            component = entry.load()
            if any(kind.accepts(component) for kind in KINDS if kind.group == self.group and kind.bases != self.bases):
                return  # of another kind, which shares the group
            self._check(entry.name, component)
            self.check_declared(entry.name, component)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            package = entry.dist.name if entry.dist else "a package"
            self.broken[entry.name] = f"{package} ({entry.value}): {_reason(error)}"
            return
        self.register(entry.name)(component)

    def _from_file(self, name: str) -> Any:
        file, _, attribute = name.rpartition(":")
        module = self._module(file, name)
        component = getattr(module, attribute, None)
        if component is None:
            raise Misuse(f"{file} defines no '{attribute}'{suggest(attribute, vars(module)) or '; name one of its classes'}")
        self._check(name, component)
        self.check_declared(name, component)
        return component

    def _module(self, file: str, name: str) -> types.ModuleType:
        """A file that a user named, executed."""
        path = expanded(file)
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
            except BaseException as error:
                del sys.modules[module_name]
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise Misuse(f"{file} cannot be loaded ({_reason(error)}); mend the file") from error
        return sys.modules[module_name]


SAMPLERS = Registry("sampler", "nsbench.samplers", "Sampler", "Objective")
MODELS = Registry("model", "nsbench.kge", "KGE", packages=("nsbench.kge.models",))
FUSIONS = Registry("fusion", "nsbench.kge", "Fusion", packages=("nsbench.kge.fusions",))
AUXILIARIES = Registry(
    "auxiliary loss", "nsbench.kge", "Auxiliary", packages=("nsbench.kge.auxiliaries", "nsbench.samplers")
)
DATASETS = Registry("dataset", "nsbench.datasets")
KINDS = (SAMPLERS, MODELS, FUSIONS, AUXILIARIES, DATASETS)


def plugin_file(name: str) -> Path | None:
    """The file of a component that was named as `./mine.py:Mine`."""
    return expanded(name.rpartition(":")[0]) if ".py:" in name else None


def known_as(name: str) -> str:
    """What a component is, wherever its file lies: its name, or `mine.py:Mine@3f9a1c2b`, which may stand for it."""
    path = None if "@" in name.rpartition(":")[2] else plugin_file(name)
    return name if path is None else marked(plugin_label(name), hash_of(path))


def same_component(one: str, other: str) -> bool:
    """Whether two names, as a user writes them or as `known_as` has them, mean the same: a file's own name is a label."""
    return one == other or known_as(one).rpartition(".py:")[2] == known_as(other).rpartition(".py:")[2]


def _reason(error: BaseException) -> str:
    """Why a plugin cannot be loaded, in one line."""
    if isinstance(error, SystemExit):
        return f"it ends the process while it is imported, exit code {error.code}; keep that below if __name__ == ..."
    if isinstance(error, Misuse):
        return " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name in MOVED:
        return f"{error.name} has moved; import the same names from {MOVED[error.name]}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def _origin(component: Any) -> str:
    try:
        return inspect.getfile(component)
    except TypeError:
        return repr(component)


def card(component: Any) -> str:
    """What it is, in one sentence: the first of the docstring of its file."""
    text = sys.modules[component.__module__].__doc__ or component.__doc__ or ""
    return re.split(r"\.\s+(?=[A-Z])", text.split("\n\n")[0], maxsplit=1)[0].replace("\n", " ").strip().rstrip(".")

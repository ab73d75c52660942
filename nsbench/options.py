"""Options of a component: the fields of its frozen dataclass `Options`, read from --set, `nsbench show` and the run id."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from nsbench.errors import Misuse, suggest

C = TypeVar("C")

LARGEST = {bool: 1, int: 2**31 - 1, float: 3.4e38}  # what torch can count with, in 32 bits


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both positive and included, as many in every decade."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}, by decades"


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


def non_default(options: Any) -> dict[str, Any]:
    """The fields of an options dataclass whose value is not their default."""
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    }


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
    if isinstance(value, int | float) and abs(value) > (most := LARGEST[type(value)]):
        raise Misuse(f"{label} must be at most {most} in size, for numbers have 32 bits")
    if rule.get("minimum") is not None and value < rule["minimum"]:
        raise Misuse(f"{label} must be at least {rule['minimum']:g}, not {value:g}")
    if rule.get("choices") and value not in rule["choices"]:
        raise Misuse(f"{label} must be one of {', '.join(map(str, rule['choices']))}, not '{value}'")
    return value


def _article(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]

"""Filters: which runs of a store are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nsbench.errors import Misuse
from nsbench.identity import plugin_label
from nsbench.results.store.run import FIGURES, SETTINGS, UNKNOWN, Run, config_value

SCOPES = ("dataset", "sampler", "kge", "fusion", "aux")


def select(runs: Sequence[Run], filters: Mapping[str, Any]) -> list[Run]:
    """The runs that pass every filter: `{"dataset": "mkg_y", "protocol.steps": [2000, 6000], "split@db15k": "clean"}`.

    A filter names one of SETTINGS or, with dots, a value of config.json; after an @, it applies only to the runs of that
    dataset, sampler, model, fusion or auxiliary loss. It passes one value or any of a list, compared as text: "0,1" is as
    good as [0, 1], "none" is a value that is not there, eight digits of a fingerprint are enough.
    Misuse for one of FIGURES or an unknown name, and for a value that no run has.
    """
    left = list(runs)
    for filter_name, wanted in filters.items():
        name, _, scope = filter_name.partition("@")
        if figure := next((each for each in (filter_name, name) if each in FIGURES), None):
            raise Misuse(f"runs cannot be chosen by {figure}, a result: that biases every figure; choose by a setting")
        held = [comparable(name, value) for value in _values(left, name)]
        concerned = [not scope or scope in [run[part] for part in SCOPES] for run in left]
        there = {value for value, applies in zip(held, concerned) if applies and value != UNKNOWN}
        if isinstance(wanted, str):  # a list of modalities is one value
            wanted = [wanted] if wanted in there else wanted.split(",")
        chosen = {comparable(name, value) for value in (wanted if isinstance(wanted, Iterable) else [wanted])}
        if not chosen <= there:
            missing = ", ".join(sorted(chosen - there))
            raise Misuse(f"no run has {filter_name}={missing}; there is {', '.join(sorted(there)) or 'no such run'}")
        chosen.add(UNKNOWN)
        left = [run for run, value, applies in zip(left, held, concerned) if value in chosen or not applies]
    return left


def _values(runs: Sequence[Run], name: str) -> list[Any]:
    if name in SETTINGS:
        return [run[name] for run in runs]
    values = [config_value(run.config, name) for run in runs]
    if values and all(value is None for value in values):
        there = ", ".join(SETTINGS)
        raise Misuse(f"cannot filter by '{name}'; filter by {there}, or by a value of config.json as protocol.steps")
    return values


def comparable(name: str, value: Any) -> str:
    """A value as filters compare it: text, of a fingerprint the first eight digits, of a plugin's file its name."""
    text = plugin_label("none" if value is None else str(value))
    return text[:8] if name.endswith("fingerprint") else text

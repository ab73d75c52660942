"""What was chosen: the protocol file that `nsbench tune` writes, and what is said of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nsbench.campaign.plan import dataset_of
from nsbench.config.protocol import name_of, protocol_names, read_protocol
from nsbench.errors import Misuse
from nsbench.files import expanded
from nsbench.registry import known_as
from nsbench.tuning.space import size, space_hash
from nsbench.tuning.study import Study


def protocol_text(studies: Sequence[Study], output: Path) -> str:
    """A protocol file that extends the tuned one by what the studies chose. RunFailed where a study has nothing."""
    tuning = studies[0].tuning
    name = name_of(tuning.protocol)
    base = tuning.protocol
    base = os.path.relpath(expanded(base), output.parent) if base.endswith(".toml") else base
    lines = [
        "# Written by `nsbench tune`; the best trial of each study, by validation MRR.",
        f"description = {_toml(f'{name}, each sampler tuned by {tuning.trials} trials, backbone {tuning.backbone}')}",
        f"extends = {_toml(base)}",
    ]
    shared = [study for study in studies if study.backbone]
    for parameter in shared[0].space if shared else ():
        lines += ["", f"[{parameter.removeprefix('protocol.')}]"]
        keys = {f"{known_as(s.kge)}/{s.data}": s.best()[1].values[parameter] for s in shared}
        lines += [f"{_toml(key)} = {_toml(value)}" for key, value in keys.items()]
    lines += ["", "[tuning]", f"base = {_toml(name)}", f"budget = {tuning.trials}"]
    lines += [f"backbone = {_toml(tuning.backbone)}", f"search = {_toml(studies[0].ledger.search)}", f"seed = {tuning.seed}"]
    lines += [f"fusion = {_toml(known_as(tuning.fusion))}", f"split = {_toml(tuning.split or '')}"]
    lines += [f"features = {_toml(tuning.features)}"]
    for study in studies:
        if study.backbone:
            continue
        number, best = study.best()
        assert best.mrr is not None
        plain = study.configured({})
        lines += [
            "",
            f"[tuning.studies.{_toml(study.key)}]  # trial {number}, validation MRR {100 * best.mrr:.2f}",
            f"trials = {study.trials}",
            f"failed = {study.failed()}",
            f"steps = {plain.protocol.steps}",
            f"feature_fingerprint = {_toml(dataset_of(plain, tested=False).feature_fingerprint)}",
            f"space = {_toml(space_hash(study.space))}",
            f"[tuning.studies.{_toml(study.key)}.chosen]",
            *(f"{_toml(option)} = {_toml(value)}" for option, value in best.values.items()),
        ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A text, number or truth value as TOML has it."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def check_output(output: Path) -> None:
    """Refuse, before any work, a file that the result could not or should not be written to."""
    if output.suffix != ".toml":
        raise Misuse(f"the result is a protocol file, so its name ends in .toml, not '{output.name}'")
    if output.stem in protocol_names():
        raise Misuse(f"tables would take {output.name} for the protocol {output.stem}; give it another name")
    if not output.parent.is_dir():
        raise Misuse(f"there is no folder {output.parent}; make it, or write elsewhere with -o")
    if output.exists() and "tuning" not in read_protocol(str(output)):
        raise Misuse(f"{output} was not written by nsbench tune; give another name with -o")


def summary(studies: Iterable[Study]) -> list[str]:
    """One line per study: its budget, used and unused, and what it chose."""
    lines = []
    for study in studies:
        done = study.done()
        used = f"{study.trials} of {study.tuning.trials} trials"
        if study.trials < study.tuning.trials:
            why = f"its space has {size(study.space):.0f} points" if study.space else "it has no option to choose"
            used += f", {study.tuning.trials - study.trials} unused: {why}"
        if failed := study.failed():
            used += f", {failed} failed"
        number, best = study.best()
        assert best.mrr is not None
        chosen = ", ".join(f"{name}={value}" for name, value in best.values.items()) or "nothing to set"
        default = "failed" if done[0].mrr is None else f"{100 * done[0].mrr:.2f}"
        lines.append(
            f"{study.title}: {used}; validation MRR {100 * best.mrr:.2f} by trial {number} (defaults: {default}); {chosen}"
        )
    return lines

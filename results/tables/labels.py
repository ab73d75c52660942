"""How rows and their groups are named: by whatever differs between the runs, never by what the protocol sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nsbench.results import store
from nsbench.results.store import Run
from nsbench.results.store.run import flat

Identity = tuple[tuple[str, str], ...]  # every factor of a row apart from the scoring model: sorted (name, value) pairs


def trials(run: Run) -> int:
    """By which the run's sampler was tuned; none in a protocol that is not, or not for that sampler (nsbench.config.run)."""
    return store.config_value(run.config, "tuning.trials") or 0


def chosen(run: Run) -> dict[str, Any]:
    """What they chose, by the names of --set."""
    return store.config_value(run.config, "tuning.chosen") or {}


def proposed(run: Run) -> Mapping[str, Any]:
    """The options that the run's protocol set for its sampler; none in runs that do not say so."""
    return run.config.get("proposed", {})


def reads(run: Run) -> str:
    """What of an entity the run's negatives come from: `structure+image`; empty in runs that do not say so."""
    return "+".join(map(str, run.config.get("reads", ())))


def called(run: Run) -> str:
    """What the run's method is called where its negatives come from less than its paper has (nsbench.config.run), or ""."""
    return run.config.get("called", "")


def group_of(run: Run) -> str:
    """The scoring model with its non-default options: `transe` or `transe (norm=2)`."""
    options = flat(run.config["options"].get("kge", {}))
    return run["kge"] + (f" ({', '.join(f'{name}={value}' for name, value in options.items())})" if options else "")


def identity_of(run: Run) -> Identity:
    """Every factor that makes a row, apart from the scoring model."""
    config = run.config
    modalities = config.get("modalities", ())
    factors = {"sampler": run["sampler"], "variant": run["variant"], "fusion": run["fusion"]}
    factors["features"] = run["features"]
    if modalities and run["features"] != ",".join(modalities):  # earlier versions wrote where they come from
        factors["features"] += f":{'+'.join(modalities)}"
    if config.get("own_loss"):
        factors["own_loss"] = "true"
    factors |= flat(config.get("aux", {}), "aux.")
    for part in ("sampler", "fusion", "aux"):
        factors |= flat(config["options"].get(part, {}), f"{part}.")
    for name in chosen(run):  # the protocol's doing, as the steps are
        factors.pop(name, None)
    for name, value in flat(proposed(run), "sampler.").items():
        if factors.setdefault(name, "default") == value:
            del factors[name]
    return tuple(sorted(factors.items()))


def labels_of(identities: Iterable[Identity], called: Mapping[Identity, str]) -> dict[Identity, str]:
    """`uniform`, `uniform (k=40)`, `dhns (released, fusion=adamf)`: whatever differs between two rows shows.

    So does, always, what a row is `called` because its method is less than its paper's: `dhns (w/o MMC)`.

    Options in the store are the non-default ones. What a variant other than recommended sets, and what all rows share,
    stands in the caption and the notes (nsbench.results.tables.comparison).
    """
    rows = {identity: dict(identity) for identity in identities}
    labels = {}
    for identity, row in rows.items():
        peers = [other for other in rows.values() if preset(other) == preset(row)]
        parts = [] if row["variant"] == "recommended" else [row["variant"]]
        parts += [called[identity]] if called.get(identity) else []
        parts += ["own loss"] if "own_loss" in row else []
        for name, value in row.items():
            if name.startswith("sampler."):
                if row["variant"] == "recommended" or differs(name, peers):
                    parts.append(f"{name.removeprefix('sampler.')}={value}")
            elif name not in ("sampler", "variant", "own_loss") and value != "none" and differs(name, rows.values()):
                parts.append(f"{name}={value}")
        labels[identity] = row["sampler"] + (f" ({', '.join(parts)})" if parts else "")
    return labels


def preset(row: Mapping[str, str]) -> tuple[str, str]:
    return row["sampler"], row["variant"]


def implied(row: Mapping[str, str], rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The sampler's options that all rows of this row's variant share."""
    peers = [other for other in rows if preset(other) == preset(row)]
    return [name for name in row if name.startswith("sampler.") and not differs(name, peers)]


def cited(rows: Iterable[Identity], called: Mapping[Identity, str], by: Sequence[str] = ("sampler",)) -> set[Identity]:
    """For each sampler, or whatever it is `by`, the row that a paper's figures stand beside.

    That is the one of variant paper or recommended, with least added.
    One that is `called` otherwise, because it is less than the paper's, only where there is no other.
    """
    known = [dict(row) for row in rows]

    def place(row: Mapping[str, str]) -> tuple[bool, bool, int, bool]:
        variant, same = row["variant"], {"sampler", "variant", *implied(row, known)}
        added = [name for name, value in row.items() if name not in same and value != "none"]
        less = bool(called.get(tuple(row.items())))
        return less, variant not in ("paper", "recommended"), len(added), variant != "paper"

    first: dict[tuple[str, ...], Mapping[str, str]] = {}
    for row in sorted(known, key=place):
        first.setdefault(tuple(row[name] for name in by), row)
    return {tuple(row.items()) for row in first.values()}


def differs(name: str, rows: Iterable[Mapping[str, str]]) -> bool:
    return len({row.get(name) for row in rows}) > 1


def listed(values: Iterable[Any], separator: str = ",") -> str:
    return separator.join(map(str, values))

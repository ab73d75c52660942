"""What lies in a run store: the list of its runs, all of their figures as CSV, and how to be rid of some of them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsbench.errors import Misuse
from nsbench.results.store.packed import KEPT
from nsbench.results.store.reading import folders, read
from nsbench.results.store.run import CONFIG, COST, ENV, FIGURES, SETTINGS, Run
from nsbench.results.store.selection import select
from nsbench.results.tables.grid import flat
from nsbench.runs.folder import RunFolder

OWN = (*KEPT, "checkpoint.pt", "failed.json", "lock")  # files that a run writes, or wrote in earlier versions
MADE_BY_A_RUN = {"config.json", "result.json", "checkpoint.pt", "failed.json"}  # a folder with none of them is no run's
LISTED = ("sampler", "kge", "dataset", "seed", "protocol")


def listing(runs: Sequence[Run], folder: Path, skipped: Mapping[str, str]) -> str:
    """A line per run, MRR x100; below, a line for each of the unfinished and damaged folders."""
    from tabulate import tabulate

    rows = [
        [
            *(run[name] for name in LISTED),
            f"{100 * run['mrr']:.2f}",
            "yes" if run["converged"] else "no",
            megabytes(size(run.path)),
            run.name,
        ]
        for run in runs
    ]
    sides = ["left"] * 3 + ["right", "left", "right", "left", "right", "left"]
    header = ["sampler", "model", "dataset", "seed", "protocol", "MRR", "converged", "size", "folder"]
    parts = [tabulate(rows, header, disable_numparse=True, colalign=sides)] if rows else []
    if skipped:
        left_out = [[name, megabytes(size(folder / name)), reason] for name, reason in skipped.items()]
        left_out.sort(key=lambda line: (line[2], line[0]))
        heading = ["unfinished or damaged", "size", "reason"]
        parts.append(tabulate(left_out, heading, disable_numparse=True, colalign=("left", "right", "left")))
    return "\n\n".join(parts)


def size(folder: Path) -> int:
    """Bytes of the files in a folder; what cannot be seen counts nothing."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            total += entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    return total


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def export(runs: Sequence[Run]) -> str:
    """CSV (RFC 4180), a line per run: SETTINGS and FIGURES, then every other value of config.json and result.json.

    Nothing is rounded. Values of config.json have the names that filters take, as protocol.steps; those of result.json
    the path to them, as breakdown.side.head.mrr. A field is empty where a run has no such value.
    """
    plain = [*SETTINGS, *FIGURES]
    known = {*CONFIG.values(), *(f"env.{name}" for name in ENV), *(f"cost.{name}" for name in (*COST, "steps"))}
    lines: list[dict[str, Any]] = []
    for run in runs:
        line = {"folder": run.name, **run.values}
        rest = {name: part for name, part in run.record.items() if name not in ("config", "test", "valid")}
        values = flat(run.config) | flat(rest)
        lines.append(line | {name: value for name, value in values.items() if name not in known and name not in line})
    first = ["folder", *plain]
    further = {name for line in lines for name in line} - set(first)
    text = io.StringIO()
    writer = csv.DictWriter(text, first + sorted(further), restval="")
    writer.writeheader()
    writer.writerows({name: "" if value in (None, "null") else value for name, value in line.items()} for line in lines)
    return text.getvalue()


def chosen(folder: Path, names: Sequence[str], where: Mapping[str, Any]) -> list[Path]:
    """The run folders of these names that pass the filters; without names, the complete runs that do.

    Misuse unless each of them is a folder of the store with nothing in it but what runs write.
    """
    if not names and not where:
        raise Misuse("say which runs: their folders' names, or --where NAME=VALUE (nsbench runs list)")
    there = folders(folder)
    passing = [run.name for run in select(read(folder).runs, where)] if where else there
    given = [Path(name).name if Path(name).parent in (folder, Path()) else name for name in names]
    missing = [name for name in given if name not in there]
    if missing:
        raise Misuse(f"there is no folder {missing[0]} in {folder}; nsbench runs list shows those there are")
    paths = [folder / name for name in (dict.fromkeys(given) if names else passing) if name in passing]
    for path in paths:
        refuse_strangers(path)
    return paths


def refuse_strangers(path: Path) -> None:
    """Misuse unless the folder is a run's, and holds nothing else."""
    if path.is_symlink():
        raise Misuse(f"{path} is a link to a folder elsewhere; remove the link by hand")
    with os.scandir(path) as entries:
        held = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    strange = sorted(name for name, file in held.items() if not (file and _own(name)))
    if not MADE_BY_A_RUN & held.keys():
        raise Misuse(f"{path} is no run folder: it holds neither config.json nor result.json")
    if strange:
        raise Misuse(f"{path} holds {strange[0]}, which no run writes; move that away first")


def _own(name: str) -> bool:
    """Whether a run writes files of this name; of one that was killed in the middle of it, too."""
    unfinished = name.endswith(".tmp") and any(name.startswith(f"{own}.") for own in OWN)
    return name in OWN or unfinished or name == "claim" or name.startswith("claim.")


def remove(path: Path) -> None:
    """Delete a run's folder. Busy while another process works on it; Misuse as `refuse_strangers`."""
    refuse_strangers(path)
    folder = RunFolder(path)
    with folder.claimed():
        folder.remove("result.json")  # first what makes it complete
        for entry in list(path.iterdir()):
            if _own(entry.name) and not entry.name.startswith("claim"):
                folder.remove(entry.name)
    path.rmdir()  # refuses where something has come since

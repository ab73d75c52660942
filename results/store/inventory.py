"""What lies in a run store: the list of its runs, and all of their figures as CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nsbench.results.store.packed import packed
from nsbench.results.store.run import CONFIG, COST, ENV, FIGURES, SETTINGS, Run, flat

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
    """Bytes of the files in a run's folder, or its share of a packed store; what cannot be seen counts nothing."""
    if pack := packed(folder.parent):
        return folder.parent.stat().st_size // len(pack.runs)
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            total += entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    return total


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def export(runs: Sequence[Run]) -> str:
    """CSV (RFC 4180), a line per run: SETTINGS and FIGURES, then every other value of config.json and result.json.

    Nothing is rounded, and a spreadsheet takes no cell for a formula. Values of config.json have the names that filters
    take, as protocol.steps; those of result.json the path to them, as breakdown.side.head.mrr. A field is empty where a run
    has no such value.
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
    names = first + sorted(further)
    writer = csv.writer(text)
    writer.writerow(map(no_formula, names))
    for line in lines:
        writer.writerow("" if line.get(name) in (None, "null") else no_formula(line[name]) for name in names)
    return text.getvalue()


def no_formula(value: Any) -> Any:
    """What no spreadsheet computes: text that begins as a formula does, and is no number, gets an apostrophe."""
    if not (isinstance(value, str) and len(value) > 1 and value[0] in "=+-@\t\r"):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value

"""Where runs stand, read from their folders: done, running (and where, and how far), failed (and why), or missing."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from nsbench.campaign.estimates import duration
from nsbench.errors import Misuse
from nsbench.runs import claim
from nsbench.runs.folder import RunFolder, run_folders

KINDS = ("done", "running", "failed", "begun", "missing")


class State(NamedTuple):
    """Where one run stands; one that is `begun` has a checkpoint and nobody who works on it."""

    kind: str
    text: str = ""
    left: float | None = None  # seconds of training, for a run that is under way


def state(folder: RunFolder) -> State:
    if folder.complete:
        try:
            folder.result()
        except Misuse as damaged:
            return State("failed", str(damaged))
        return State("done")
    try:
        if (held := claim.holder(folder.path)) is not None:
            return _running(held)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):  # no file, or not what nsbench writes
        return State("failed", f"its claim is damaged; delete {folder.path / 'claim'} and repeat the command")
    if (reason := folder.failure()) is not None:
        return State("failed", reason)
    return State("begun" if (folder.path / "checkpoint.pt").exists() else "missing")


def _running(held: claim.Holder) -> State:
    progress = held.progress
    text, left = str(held), None
    if progress.get("stage") == "training":
        left = progress["seconds_left"]
        text += f", step {progress['step']}/{progress['steps']}, {duration(left)} left"
    elif "stage" in progress:
        text += f", {progress['stage']}"
    return State("running", text, left)


def summary(states: Iterable[State]) -> str:
    """`12 of 60 runs are done, 2 running, 1 failed`; the others are missing."""
    counts = collections.Counter(found.kind for found in states)
    rest = [f"{counts[kind]} {kind}" for kind in KINDS[1:-1] if counts[kind]]
    return ", ".join([f"{counts['done']} of {counts.total()} runs are done", *rest])


def lines(folders: Iterable[tuple[RunFolder, State]]) -> list[str]:
    """One for each run that is running, has failed or was begun."""
    width = max(map(len, KINDS))
    return [
        f"{found.kind:{width}}  {folder.path.name}{f': {found.text}' if found.text else ''}"
        for kind in ("running", "failed", "begun")
        for folder, found in folders
        if found.kind == kind
    ]


def of_store(store: Path) -> list[RunFolder]:
    """The run folders that are there. Misuse where none is."""
    if not (found := run_folders(store)):
        raise Misuse(f"no run in {store}; start with nsbench run, or name another store with --runs")
    return found

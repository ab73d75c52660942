"""A run's folder. Every file is written whole or not at all: to a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from nsbench import bugs, files
from nsbench.errors import Busy, Misuse, RunFailed, StoreFailed, sentence
from nsbench.runs.claim import Claim

REMEDY = "free some space or choose another store with --runs, and repeat the command: it goes on from its checkpoint"


class RunFolder:
    """config.json, events.jsonl, claim and checkpoint.pt while it runs; ranks.npz and, last of all, result.json.

    reference.safetensors beside them in the run that hardness refers to; failed.json where the last attempt failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._claim: Claim | None = None

    @property
    def complete(self) -> bool:
        return (self.path / "result.json").exists()

    def result(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise Misuse(f"{self.path / 'result.json'} is damaged; delete {self.path} and repeat the command")
        return found

    def tidy(self) -> None:
        """Remove what a process left that was killed after it had written the result."""
        if (self.path / "checkpoint.pt").exists() or (self.path / "claim").exists():
            with contextlib.suppress(OSError, Busy, RunFailed), self.claimed():  # a store that is read-only keeps it
                self.remove("checkpoint.pt")

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder: a second process on the same run is refused, and takes over if this one dies."""
        if self._claim is not None:
            yield
            return
        made, held = self._take()
        self._claim = held
        try:
            yield
        except Misuse:  # refused while it was being set up: a refusal leaves nothing behind
            if made and held.ours():
                self.remove("config.json")
            raise
        finally:
            with contextlib.suppress(OSError):
                held.release()
                if made:
                    self.path.rmdir()  # refuses where there is something to keep
            self._claim = None

    def _take(self) -> tuple[bool, Claim]:
        """Whether the folder had to be made, and the claim on it."""
        while True:
            made = not self.path.exists()
            with files.explained(self.path, REMEDY, StoreFailed):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    return made, Claim(self.path)
                except FileNotFoundError:  # another process has just given the folder up, and removed it with nothing in it
                    continue

    def note(self, event: Mapping[str, Any]) -> None:
        """Let the claim's heartbeat say how far the run is."""
        if self._claim is not None:
            self._claim.note(event)

    def failure(self) -> str | None:
        """Why the last attempt failed; None if it did not."""
        try:
            return json.loads((self.path / "failed.json").read_text())["reason"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            return "failed.json is damaged"

    def record_failure(self, error: BaseException) -> RunFailed:
        """Write failed.json, and return its reason as an error. Busy where somebody works on the run."""
        file = self.path / "failed.json"
        whose = getattr(error, "__notes__", ())  # a note names the sampler's file that it comes from
        hint = "; ".join([*whose, f"see {file}"]) if whose else f"a bug in nsbench; please report it with {file}"
        failure = error if isinstance(error, RunFailed) else RunFailed(sentence(error, hint))
        record = {
            "reason": str(failure),
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            **bugs.circumstances(error),
        }
        with self.claimed():
            self.write_json("failed.json", record)
        return failure

    def write(self, name: str, save: Callable[[IO[bytes]], Any]) -> None:
        """Call `save` with a binary file; afterwards the folder has the old file or the new one, never half of it."""
        with files.replacing(self.path / name, REMEDY, StoreFailed, self._check) as file:
            save(file)

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
        self.write(name, lambda file: file.write(text.encode()))

    def write_events(self, events: list[dict[str, Any]]) -> None:
        """The whole of events.jsonl: after a resume, nothing later than the checkpoint may stand in it."""
        lines = "".join(json.dumps(event) + "\n" for event in events)
        self.write("events.jsonl", lambda file: file.write(lines.encode()))

    def append_event(self, event: dict[str, Any]) -> None:
        path = self.path / "events.jsonl"
        with files.explained(path, REMEDY, StoreFailed), open(path, "a") as file:
            self._check()  # whoever takes over begins with a new file
            file.write(json.dumps(event) + "\n")

    def _check(self) -> None:
        if self._claim is not None:
            self._claim.check()

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


def run_folders(store: Path) -> list[RunFolder]:
    """All that are in the store, by name; none where there is no store."""
    return [RunFolder(path) for path in sorted(store.iterdir()) if path.is_dir()] if store.is_dir() else []

"""The checkpoint of an unfinished run: trainer, progress, and the machine that bit-identical ranks need."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import torch

from nsbench.errors import Misuse
from nsbench.kernels import operators as kernels
from nsbench.runs.folder import RunFolder
from nsbench.training.trainer import Trainer

FORMAT = 2  # another one is not read


@dataclasses.dataclass
class Progress:
    """What a run has been through, beside the trainer's own state."""

    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None  # {"step", "metrics", "state"} of the best validation
    stale: int = 0  # validations since then
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    diagnosis_seconds: float = 0.0  # in neither of the two above
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)  # start, middle, end: what Diagnosis found
    marked_step: int = 0  # the step of the last event ...
    marked_loss: float = 0.0  # ... and the sum of losses then
    finished: bool = False  # training is over

    def __post_init__(self) -> None:
        self._account, self._since = "", time.monotonic()

    @contextlib.contextmanager
    def charged(self, account: str) -> Iterator[None]:
        """Add the seconds inside to `account`, or to none if it is "", instead of to the account that surrounds it."""
        outer = self._account
        self._charge(account)
        try:
            yield
        finally:
            self._charge(outer)

    def _charge(self, account: str) -> None:
        now = time.monotonic()
        if self._account:
            setattr(self, self._account, getattr(self, self._account) + now - self._since)
        self._account, self._since = account, now

    def state(self) -> dict[str, Any]:
        """For `Progress(**state)`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def write_checkpoint(folder: RunFolder, device: torch.device, trainer: Trainer, progress: Progress) -> None:
    state = {
        "format": FORMAT,
        "threads": torch.get_num_threads(),
        "kernels": kernels.name(),
        "device": device.type,
        "trainer": trainer.state_dict(),
        "progress": progress.state(),
    }
    folder.write("checkpoint.pt", functools.partial(torch.save, state))


def read_checkpoint(folder: RunFolder) -> dict[str, Any] | None:
    """The saved state of an unfinished run, or None."""
    path = folder.path / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        known = saved["format"] == FORMAT
    except Exception:
        raise Misuse(f"{path} is damaged or of another version; delete it to start the run again") from None
    if not known:
        raise Misuse(f"{path} is of another version of nsbench; delete it to start the run again")
    return saved


def resumable(folder: RunFolder, target: torch.device) -> dict[str, Any] | None:
    """As `read_checkpoint`; Misuse for one of another device, where its random numbers cannot be continued."""
    saved = read_checkpoint(folder)
    if saved is not None and saved["device"] != target.type:
        raise Misuse(f"{folder.path} was begun on {saved['device']}; add --device {saved['device']}, or delete it")
    return saved


@contextlib.contextmanager
def machine_of(saved: dict[str, Any] | None) -> Iterator[None]:
    """Thread count and kernels of the checkpoint, which bit-identical ranks need, for the time of its run."""
    if saved is None:
        yield
        return
    threads, chosen = torch.get_num_threads(), kernels.chosen()
    torch.set_num_threads(saved["threads"])
    kernels.use(saved["kernels"])
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        kernels.use(chosen)

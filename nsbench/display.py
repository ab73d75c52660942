"""What people see while work goes on: live bars on a terminal, a line every few seconds elsewhere. Goes to stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

QUIET_SECONDS = 10  # between lines where there is no terminal
ESTIMATE_SECONDS = 3  # of training, after which the rest is estimated
LONG_SECONDS = 1800  # above this estimate a shorter protocol is named


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _bars(console: Console) -> Progress:
    text = TextColumn("{task.fields[text]}")
    return Progress(TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), text, console=console, transient=True,
                    disable=not console.is_terminal)


class Display:
    """Listens to a sequence of runs. Use as a context manager; call `begin` and `end` for each, `hear` for its events."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total = total
        self.live = self.console.is_terminal
        self.title = ""
        self.remaining = total
        self.durations: list[float] = []  # seconds of the runs so far
        self.began = self.spoken = 0.0
        self.training_since: float | None = None
        self.estimated = self.warned = False
        self.bars = _bars(self.console)

    def __enter__(self) -> Display:
        if self.live and self.total:
            self.bars.start()
            if self.total > 1:
                self.whole = self.bars.add_task("all runs", total=self.total, text="")
            self.bar = self.bars.add_task("", total=1.0, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, title: str, remaining: int) -> None:
        """A run starts; `remaining` runs are missing, this one included."""
        self.title, self.remaining = title, remaining
        self.began = self.spoken = time.monotonic()
        self.training_since, self.estimated, self.warned = None, False, False

    def end(self, text: str) -> None:
        """The run is done; `text` says how it went."""
        self.durations.append(time.monotonic() - self.began)
        self.began = time.monotonic()
        self.remaining -= 1
        self.say(text + self._whole())
        if self.live and self.total > 1:
            self.bars.update(self.whole, completed=self.total - self.remaining)

    def hear(self, event: dict[str, Any]) -> None:
        """An event of nsbench.runner."""
        stage = event["stage"]
        if stage == "training":
            share, left = event["step"] / event["steps"], event["seconds_left"]
            best = "" if event["valid_mrr"] is None else f"  best valid MRR {100 * event['valid_mrr']:.2f}"
            text = f"step {event['step']}/{event['steps']}  loss {event['loss']:.4f}{best}  {duration(left)} left"
            self._estimate(left)
        elif stage == "ranking":
            share, text = event["done"] / event["total"], f"ranking test queries {event['done']}/{event['total']}"
        else:
            share, text = None, stage
        if self.live and stage not in ("validation", "diagnosis", "checkpoint"):  # short, and they would hide the step
            self._update(share, text)
        elif share is not None and time.monotonic() - self.spoken >= QUIET_SECONDS:
            self.spoken = time.monotonic()
            self.say(f"{self.title}: {text}{self._whole()}")

    def _estimate(self, left: float) -> None:
        """Once per run, when its speed is known, and again when it turns out to be long; `left`: seconds of training."""
        now = time.monotonic()
        if self.training_since is None:
            self.training_since = now
        if self.warned or now - self.training_since < ESTIMATE_SECONDS:
            return
        if left > LONG_SECONDS:
            self.warned = True
            self.say(f"{self.title}: about {duration(left)}; `--protocol cpu` takes a small share of that, `quick` seconds")
        elif not self.estimated and not self.live and left > QUIET_SECONDS:
            self.say(f"{self.title}: about {duration(left)}")
        self.estimated = True

    def _update(self, share: float | None, text: str) -> None:
        fields: dict[str, Any] = {"text": text, "description": self.title}
        if share is not None:
            fields["completed"] = share
        self.bars.update(self.bar, **fields)
        if self.total > 1:
            self.bars.update(self.whole, text=f"{self.total - self.remaining}/{self.total}{self._whole()}")

    def _whole(self) -> str:
        """Time left for all missing runs, once one has been timed."""
        if not self.durations or not self.remaining:
            return ""
        mean = sum(self.durations) / len(self.durations)
        left = mean * self.remaining - (time.monotonic() - self.began)
        return f"  ({duration(left)} left for the whole)"


@contextlib.contextmanager
def counting(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that shows how far a piece of work is, and the time left for it."""
    console = Console(stderr=True, highlight=False)
    began = spoken = time.monotonic()
    with _bars(console) as bars:
        bar = bars.add_task(title, total=None, text="")

        def progress(done: int, total: int) -> None:
            nonlocal spoken
            now = time.monotonic()
            left = (now - began) / max(done, 1) * (total - done)
            text = f"{done:,}/{total:,} {unit}  {duration(left)} left"
            bars.update(bar, completed=done, total=total, text=text)
            if not console.is_terminal and now - spoken >= QUIET_SECONDS:
                spoken = now
                console.print(f"{title}: {text}", markup=False, soft_wrap=True)

        yield progress

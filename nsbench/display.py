"""What people see while runs go on: live bars on a terminal, a line every few seconds elsewhere. Goes to stderr."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

QUIET_SECONDS = 10  # between lines where there is no terminal
LONG_SECONDS = 1800  # above this estimate a shorter protocol is named


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Display:
    """Listens to a sequence of runs. Use as a context manager; call `begin` for each run and `hear` for its events."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.total = total
        self.live = self.console.is_terminal
        self.number = 0
        self.title = ""
        self.durations: list[float] = []  # seconds of the runs that were really carried out
        self.began = 0.0
        self.spoken = 0.0
        self.estimated = False
        self.bars = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"),
            console=self.console, transient=True,
        )

    def __enter__(self) -> Display:
        if self.live:
            self.bars.start()
            if self.total > 1:
                self.whole = self.bars.add_task("all runs", total=self.total, text="")
            self.bar = self.bars.add_task("", total=1.0, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def say(self, text: str) -> None:
        (self.bars.console if self.live else self.console).print(text, markup=False, soft_wrap=True)

    def begin(self, title: str, remaining: int) -> None:
        """A run starts; `remaining` runs are missing, this one included."""
        self.number += 1
        self.title = title
        self.remaining = remaining
        self.began = time.monotonic()
        self.estimated = False

    def end(self, carried_out: bool) -> None:
        if carried_out:
            self.durations.append(time.monotonic() - self.began)
        if self.live and self.total > 1:
            self.bars.update(self.whole, completed=self.number)

    def hear(self, event: dict[str, Any]) -> None:
        stage = event["stage"]
        if stage == "training":
            share, left = event["step"] / event["steps"], event["seconds_left"]
            best = "" if event["valid_mrr"] is None else f"  best valid MRR {100 * event['valid_mrr']:.2f}"
            text = f"step {event['step']}/{event['steps']}  loss {event['loss']:.4f}{best}  {duration(left)} left"
            if not self.estimated and time.monotonic() - self.began > 5:
                self.estimated = True
                self._estimate(left)
        elif stage == "ranking":
            share, text = event["done"] / event["total"], f"ranking test queries {event['done']}/{event['total']}"
        else:
            share, text = None, stage
        if self.live:
            self._update(share, text)
        elif stage == "training" and time.monotonic() - self.spoken > QUIET_SECONDS:
            self.spoken = time.monotonic()
            self.say(f"{self.title}: {text}{self._whole()}")

    def _estimate(self, left: float) -> None:
        if left > LONG_SECONDS:
            self.say(f"{self.title}: about {duration(left)}; `--protocol cpu` takes a small share of that, `quick` seconds")
        elif not self.live:
            self.say(f"{self.title}: about {duration(left)}")

    def _update(self, share: float | None, text: str) -> None:
        fields: dict[str, Any] = {"text": text, "description": self.title}
        if share is not None:
            fields["completed"] = share
        self.bars.update(self.bar, **fields)
        if self.total > 1:
            self.bars.update(self.whole, text=f"{self.number}/{self.total}{self._whole()}")

    def _whole(self) -> str:
        """Time left for all missing runs, once one has been timed."""
        if self.total <= 1 or not self.durations:
            return ""
        mean = sum(self.durations) / len(self.durations)
        left = mean * self.remaining - (time.monotonic() - self.began)
        return f"  ({duration(max(0.0, left))} left for the whole)"



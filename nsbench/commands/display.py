"""What people see while work goes on: live bars on a terminal, a line every few seconds elsewhere. Goes to stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nsbench.campaign.estimates import duration

QUIET_SECONDS = 10  # between lines where there is no terminal
ESTIMATE_SECONDS = 3  # of training, after which the rest is estimated
LONG_SECONDS = 1800  # above this estimate a shorter protocol is named


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),  # names may look like markup
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@dataclasses.dataclass
class _Shown:
    """A run under way."""

    title: str
    began: float
    spoken: float
    bar: Any = None
    training_since: float | None = None
    estimated: bool = False
    warned: bool = False


class Display:
    """Listens to runs, one or several at a time; `key` tells them apart. Use as a context manager.

    Call `begin` and `end` for each, `hear` for its events. `ahead` may say how many seconds are left for all of them.
    """

    def __init__(self, total: int, ahead: Callable[[], float | None] | None = None) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self.total = total
        self.live = self.console.is_terminal
        self.remaining = total
        self.ahead = ahead or self._by_the_mean
        self.durations: list[float] = []  # seconds of the runs so far
        self.shown: dict[Any, _Shown] = {}
        self.bars = _bars(self.console)

    def __enter__(self) -> Display:
        if self.live and self.total:
            self.bars.start()
            if self.total > 1:
                self.whole = self.bars.add_task("all runs", total=self.total, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def begin(self, title: str, remaining: int, key: Any = None) -> None:
        """A run starts; `remaining` runs have not ended, this one included."""
        self.remaining = remaining
        now = time.monotonic()
        self.shown[key] = _Shown(title, now, now, self.bars.add_task(title, total=1.0, text="") if self.live else None)

    def end(self, text: str, key: Any = None, again: bool = False) -> None:
        """The run has ended; `text` says how it went. It counts, unless it will be tried `again`."""
        run = self.shown.pop(key)
        if not again:
            self.durations.append(time.monotonic() - run.began)
            self.remaining -= 1
        self.say(text + self._whole())
        if self.live:
            self.bars.remove_task(run.bar)
            if self.total > 1:
                self.bars.update(self.whole, completed=self.total - self.remaining)

    def hear(self, event: Mapping[str, Any], key: Any = None) -> None:
        """An event of nsbench.runs.runner, or what a heartbeat says of it."""
        run, stage = self.shown[key], event["stage"]
        if stage == "training":
            share, left = event["step"] / event["steps"], event["seconds_left"]
            loss = f"  loss {event['loss']:.4f}" if "loss" in event else ""
            best = "" if event.get("valid_mrr") is None else f"  best valid MRR {100 * event['valid_mrr']:.2f}"
            text = f"step {event['step']}/{event['steps']}{loss}{best}  {duration(left)} left"
            self._estimate(run, left)
        elif stage == "ranking" and "total" in event:
            share, text = event["done"] / event["total"], f"ranking test queries {event['done']}/{event['total']}"
        else:
            share, text = None, stage
        if self.live and stage not in ("validation", "diagnosis", "checkpoint"):  # short, and they would hide the step
            self._update(run, share, text)
        elif share is not None and time.monotonic() - run.spoken >= QUIET_SECONDS:
            run.spoken = time.monotonic()
            self.say(f"{run.title}: {text}{self._whole()}")

    def _estimate(self, run: _Shown, left: float) -> None:
        """Once per run, when its speed is known, and again when it turns out to be long; `left`: seconds of training."""
        now = time.monotonic()
        if run.training_since is None:
            run.training_since = now
        if run.warned or now - run.training_since < ESTIMATE_SECONDS:
            return
        if left > LONG_SECONDS:
            run.warned = True
            self.say(f"{run.title}: about {duration(left)}; `--protocol cpu` takes a small share of that, `quick` seconds")
        elif not run.estimated and not self.live and left > QUIET_SECONDS:
            self.say(f"{run.title}: about {duration(left)}")
        run.estimated = True

    def _update(self, run: _Shown, share: float | None, text: str) -> None:
        fields: dict[str, Any] = {"text": text}
        if share is not None:
            fields["completed"] = share
        self.bars.update(run.bar, **fields)
        if self.total > 1:
            self.bars.update(self.whole, text=f"{self.total - self.remaining}/{self.total}{self._whole()}")

    def _whole(self) -> str:
        left = self.ahead() if self.remaining else None
        return "" if left is None else f"  ({duration(left)} left for the whole)"

    def _by_the_mean(self) -> float | None:
        """Seconds left for all, of runs that take turns, once one has been timed."""
        if not self.durations:
            return None
        elapsed = sum(time.monotonic() - run.began for run in self.shown.values())
        return sum(self.durations) / len(self.durations) * self.remaining - elapsed


@contextlib.contextmanager
def counting(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that shows how far a piece of work is, and the time left for it."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    began = spoken = time.monotonic()
    first: int | None = None  # what an earlier call had done
    with _bars(console) as bars:
        bar = bars.add_task(title, total=None, text="")

        def progress(done: int, total: int) -> None:
            nonlocal spoken, first
            now = time.monotonic()
            first = done if first is None else first
            left = (now - began) / max(done - first, 1) * (total - done)
            text = f"{done:,}/{total:,} {unit}  {duration(left)} left"
            bars.update(bar, completed=done, total=total, text=text)
            if not console.is_terminal and now - spoken >= QUIET_SECONDS:
                spoken = now
                console.print(f"{title}: {text}", soft_wrap=True)

        yield progress

"""Measuring seconds without making the host wait for the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

Lap = tuple[torch.cuda.Event, torch.cuda.Event]


@dataclass
class Laps:
    """Those in one CUDA graph. A replay takes them anew, so all replays since the last reading count as long as the last."""

    events: list[Lap] = field(default_factory=list)
    count: int = 0  # of replays since


class Stopwatch:
    """Seconds spent inside `with`. On a GPU events are recorded, and read only when `seconds` is called."""

    def __init__(self, device: torch.device, already: float = 0.0) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = already
        self._events: list[Lap] = []
        self._in_graphs: list[Laps] = []
        self._external = False  # events outlive the recording of a graph

    def __enter__(self) -> None:
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True, external=self._external) for _ in range(2))
            self._events.append((start, end))
            start.record()
        else:
            self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._start

    @contextlib.contextmanager
    def recording(self) -> Iterator[Laps]:
        """While a CUDA graph is recorded. Whoever replays it counts the replays."""
        laps = Laps()
        before, self._events, self._external = self._events, laps.events, True
        try:
            yield laps
            self._in_graphs.append(laps)
        finally:
            self._events, self._external = before, False

    def seconds(self) -> float:
        if self._events or any(laps.count for laps in self._in_graphs):
            torch.cuda.synchronize()
            self._seconds += _seconds(self._events)
            self._events.clear()
            for laps in self._in_graphs:
                if laps.count:
                    self._seconds += laps.count * _seconds(laps.events)
                    laps.count = 0
        return self._seconds


def _seconds(laps: list[Lap]) -> float:
    return sum(start.elapsed_time(end) for start, end in laps) / 1000

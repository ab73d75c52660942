"""Measuring seconds without making the host wait for the device."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds spent inside `with`. On a GPU events are recorded, and read only when `seconds` is called."""

    def __init__(self, device: torch.device, already: float = 0.0) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = already
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self._cuda:
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record()
        else:
            self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._start

    def seconds(self) -> float:
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1000
            self._events.clear()
        return self._seconds

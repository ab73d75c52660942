"""How long a run still takes: the pace of its last steps, and what lies between and behind the steps."""

from __future__ import annotations

import collections
from collections.abc import Mapping

WINDOW = (
    8.0  # seconds of steps that the pace is the mean of: several turns of a sampler that takes turns, and soon forgotten
)


class TimeLeft:
    """Hears what steps, and other parts of a run such as validations, have taken.

    A part counts as so many steps at the pace of its time. So a change of the load, which the pace shows within WINDOW,
    changes what is expected of every part.
    """

    def __init__(self) -> None:
        self._steps: collections.deque[float] = collections.deque()
        self._warm = False
        self._parts: dict[str, tuple[float, float | None]] = {}  # seconds, and the pace then

    @property
    def pace(self) -> float | None:
        """Seconds of a step; None before the second."""
        return sum(self._steps) / len(self._steps) if self._steps else None

    def stepped(self, seconds: float) -> None:
        if not self._warm:  # the first fills caches and compiles
            self._warm = True
            return
        self._steps.append(seconds)
        while sum(self._steps) - self._steps[0] >= WINDOW:
            self._steps.popleft()

    def took(self, part: str, seconds: float) -> None:
        self._parts[part] = seconds, self.pace

    def knows(self, part: str) -> bool:
        return part in self._parts

    def left(self, steps: int, parts: Mapping[str, float]) -> float | None:
        """Seconds that so many steps take, and each part so many times (unknown ones 0); None: there is no pace yet."""
        if (pace := self.pace) is None:
            return None
        seconds = pace * steps
        for part, times in parts.items():
            took, then = self._parts.get(part, (0.0, None))
            seconds += times * took * (pace / then if then else 1.0)
        return seconds

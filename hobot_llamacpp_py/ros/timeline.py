"""When something happened, and for how long."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rclpy.clock import Clock, ClockType

__all__ = ['Interval', 'Stopwatch', 'steady_clock']


def steady_clock() -> Clock:
    """Return a clock for timers that run on when ROS' time stands still or is set back."""
    return Clock(clock_type=ClockType.STEADY_TIME)


@dataclass(frozen=True)
class Interval:
    """A time by the wall clock; in nanoseconds, the start since 1970."""

    start: int
    duration: int

    @property
    def end(self) -> int:
        return self.start + self.duration

    def first(self, seconds: float) -> Interval:
        """Return the first part of it, at most all."""
        return Interval(self.start, min(round(seconds * 1e9), self.duration))

    def after(self, part: Interval) -> Interval:
        """Return what is left of it behind a part."""
        return Interval(part.end, self.end - part.end)


class Stopwatch:
    """Started when made; a wall clock that is set meanwhile does not change what it measures."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time_ns(), time.monotonic_ns()

    def read(self) -> Interval:
        """Return the time from the start until now."""
        return Interval(self._wall, time.monotonic_ns() - self._steady)

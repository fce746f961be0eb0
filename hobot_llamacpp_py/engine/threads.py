"""As many threads as others leave free.

llama.cpp's threads wait for each other after every operation: one that has to share its core holds
up all. How much its threads lack of the processor time that they want, measured at each call, is
how much others take; processors that idle are what can be taken back. Whether another number was
better is decided by the speed that comes of it.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hobot_llamacpp_py.health.machine import THIS

__all__ = ['IdleProcessors', 'ThreadGovernor', 'ThreadTimes', 'usable_cores', 'waiting_threads']

log = logging.getLogger(__name__)

MOST = 8  # threads, unless somebody asks for more: the interface's number
_WINDOW = 0.04  # seconds of computing that are looked at together
_IDLE_WINDOW = 0.15  # seconds in which processors idle before they are taken
_LOST = 0.25  # cores that others take from us, from which on fewer threads are tried
_IDLE = 0.75  # processors that idle, from which on more are tried
_WORSE, _BETTER = 0.95, 1.01  # speed after a change by that before: fewer, more threads
_HOLD = 2.0  # seconds for which a number that was worse is not tried again, at first
_MOST_HOLD = 60.0
_LOOKS, _LOOK_PAUSE = 4, 5e-4  # seconds: what runs for a moment only is nobody to make way for
STALE = 0.5  # seconds after which what was measured says nothing of now
_SEEK_PERIOD = 2.0  # seconds between two looks at which threads compute


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and the limit of its cgroup."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, round(quota)))


def _quota() -> float | None:
    """Return the cores' worth of time that the control group grants, None without a limit."""
    limits = []
    for folder, is_v1 in THIS.control_groups('cpu'):
        try:
            if is_v1:
                quota = (folder / 'cpu.cfs_quota_us').read_text()
                period = (folder / 'cpu.cfs_period_us').read_text()
            else:
                quota, period = (folder / 'cpu.max').read_text().split()
            if (numbers := (float(quota), float(period)))[0] > 0:
                limits.append(numbers[0] / numbers[1])
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(limits, default=None)


def waiting_threads() -> int:
    """Return how many threads of others want a processor now: the least of a few looks."""
    waiting = []
    for _ in range(_LOOKS):
        try:
            running = Path('/proc/loadavg').read_text().split()[3].partition('/')[0]
        except (OSError, IndexError):
            return 0
        waiting.append(int(running) - 1)  # we are one of them
        time.sleep(_LOOK_PAUSE)
    return max(0, min(waiting))


class IdleProcessors:
    """How many of the processors that we may use have idled, between two looks."""

    def __init__(self) -> None:
        self._names = {f'cpu{number}' for number in os.sched_getaffinity(0)}
        self._tick = 1 / os.sysconf('SC_CLK_TCK')
        self._last = (0.0, 0.0)

    def look(self, now: float) -> tuple[float, float]:
        """Return the seconds since the last look, and how many processors have idled in them."""
        try:
            with open('/proc/stat', 'rb') as file:
                lines = file.read().decode().splitlines()
        except OSError:
            return 0.0, 0.0
        idle = 0
        for line in lines:
            name, _, numbers = line.partition(' ')
            if name in self._names:
                idle += int(numbers.split()[3])
        before, self._last = self._last, (now, idle * self._tick)
        seconds = now - before[0]
        return seconds, (self._last[1] - before[1]) / seconds if seconds > 0 else 0.0


class ThreadTimes:
    """The processor time of the threads that llama.cpp computes with: the caller's, and workers.

    Workers are those that compute while the caller does, best those that were not there before the
    first call: an encoder's threads may compute as well. Threads of Python are none of them.
    """

    def __init__(self) -> None:
        self._earlier: set[int] | None = None
        self._workers: set[int] = set()
        self._before: dict[int, float] | None = None
        self._sought = 0.0

    def begin(self, now: float, n: int, is_change: bool) -> float:
        """Begin a call with n threads; return the time that they have had so far, in seconds.

        Args:
            is_change: it is the first one with so many, of which the times tell nothing.
        """
        self._n_workers, self._is_change = n - 1, is_change
        if self._earlier is None:
            self._earlier = _threads()
        if is_change or now - self._sought > _SEEK_PERIOD:
            self._sought = now
            self._before = {thread: _time_of(thread) for thread in _native_threads()}
        return self._read()

    def end(self) -> float | None:
        """End a call; return what `begin` returned, by now, or None if it tells nothing."""
        if self._before is not None:
            had = {t: _time_of(t) - self._before.get(t, 0.0) for t in _native_threads()}
            earlier = self._earlier or set()
            most = sorted(had, key=lambda t: (had[t] > 0 and t not in earlier, had[t]))[::-1]
            found = {thread for thread in most[: self._n_workers] if had[thread] > 0}
            self._before = None
            if found != self._workers:
                self._workers = found
                return None
        return None if self._is_change else self._read()

    def _read(self) -> float:
        return time.thread_time() + sum(map(_time_of, self._workers))


def _time_of(thread: int) -> float:
    """Return the processor time of a thread of ours, 0 if it has ended."""
    try:
        return time.clock_gettime(~thread << 3 | 6)  # its clock, as pthread_getcpuclockid has it
    except OSError:
        return 0.0


def _threads() -> set[int]:
    try:
        return {int(name) for name in os.listdir('/proc/self/task')}
    except OSError:
        return set()


def _native_threads() -> set[int]:
    """Return the threads that are none of Python's."""
    return _threads() - {thread.native_id for thread in threading.enumerate()}


class ThreadGovernor:
    """Chooses the number of threads for one kind of work.

    Args:
        most: threads at the most, with which it begins.
        name: of the work, for the log.
        tries_half: look once whether half of them are faster, as where some cores are slow.
        idle: looks for processors that idle, as `IdleProcessors.look`.
    """

    def __init__(
        self,
        most: int,
        name: str,
        tries_half: bool = True,
        idle: Callable[[float], tuple[float, float]] | None = None,
    ) -> None:
        self.n = most
        """The number for the next call."""
        self.used = -math.inf
        """When the last call ended, or began."""
        self._most, self._name, self._tries_half = most, name, tries_half and most > 1
        self._look = idle or IdleProcessors().look
        self._too_many = most + 1  # so many were no better than fewer
        self._too_few = 0  # so few were worse than more, when others were in the way
        self._rejected: tuple[int, float] | None = None  # the last of these, and its speed
        self._hold, self._until = _HOLD, 0.0  # how long that is believed, and until when
        self.restart(most)

    def restart(self, n: int) -> None:
        """Begin anew after a pause, with a number of threads."""
        self.n = min(n, self._most)
        self._wall = self._cpu = self._work = self._timed = 0.0
        self._start: int | None = None  # the number that is being left for a better one
        self._speeds: dict[int, float] = {}  # of the numbers on that way
        self._enough = 1.0
        self._idle_for = self._idled = 0.0  # seconds that processors have idled for, and how many
        self._look(time.perf_counter())

    def note(self, now: float, wall: float, cpu: float, work: float) -> None:
        """Note a call with `n` threads.

        Args:
            now: when it ended, in seconds of any clock.
            wall: the seconds that it took.
            cpu: the processor time that the threads had in it.
            work: how much it did, to compare speeds; 0 if it cannot be compared.
        """
        self._wall += wall
        self._cpu += cpu
        if work:
            self._work += work
            self._timed += wall
        if self._wall < _WINDOW:
            return
        lost, (seconds, idle) = self.n - self._cpu / self._wall, self._look(now)
        speed = self._work / self._timed if self._timed else 0.0
        self._wall = self._cpu = self._work = self._timed = 0.0
        if now > self._until:
            self._too_many, self._too_few = self._most + 1, 0
        self._idle_for, self._idled = (
            (self._idle_for + seconds, self._idled + idle * seconds) if idle > _LOST else (0, 0)
        )
        if lost > _LOST and idle > _LOST:
            return  # nobody is in the way: threads wait for each other on one core, for a moment
        n = self._next(now, lost, speed)
        if n != self.n:
            self._idle_for = self._idled = 0.0
            log.debug('%s: %d threads instead of %d', self._name, n, self.n)
            self.n = n

    def _next(self, now: float, lost: float, speed: float) -> int:
        n = self.n
        if self._start is not None and speed:
            self._speeds[n] = speed
            if n < self._start and lost > _LOST and (fewer := self._fewer(lost)) < n:
                return fewer
            best = self._best()
            if best != n:
                self._reject(now, n, speed, best, is_disturbed=lost > _LOST)
                return best
            self._hold, self._rejected = _HOLD, None
        if lost > _LOST:
            if self._rejected and 0 < speed < _WORSE * self._rejected[1]:
                better, self._rejected = self._rejected[0], None  # it is, by now
                return better
            return self._leave_for(self._fewer(lost), speed, enough=_WORSE)
        if self._tries_half and n == self._most and speed:
            # Nobody is in the way; but slow cores among fast ones are, and shared ones.
            self._tries_half = False
            return self._leave_for(n // 2, speed)
        most = min(self._most, self._too_many - 1)
        if n < most and self._idle_for >= _IDLE_WINDOW:
            idle = self._idled / self._idle_for
            return self._leave_for(min(most, n + math.floor(idle + 1 - _IDLE)), speed)
        return n

    def _leave_for(self, n: int, speed: float, enough: float = 1.0) -> int:
        """Leave for another number; fewer threads have to reach this share of the best speed."""
        if n != self.n and speed:
            self._start, self._speeds, self._enough = self.n, {self.n: speed}, enough
        return n

    def _best(self) -> int:
        """Return which of the numbers on the way is the best one; the way ends here."""
        n, start, speeds = self.n, self._start, self._speeds
        assert start is not None
        self._start = None
        if n > start:
            return n if speeds[n] >= _BETTER * speeds[start] else start
        best = max(speeds, key=lambda number: speeds[number])
        return n if speeds[n] >= self._enough * speeds[best] else best

    def _fewer(self, lost: float) -> int:
        """Return how many are left undisturbed: who shares a core with one of ours takes half."""
        fewer = self.n - max(1, round(2 * lost - 0.25))
        return min(self.n, max(1, self._too_few + 1, fewer))

    def _reject(
        self, now: float, worse: int, speed: float, better: int, *, is_disturbed: bool
    ) -> None:
        """Note that a number was worse, for a while that grows each time it shows again."""
        if worse > better:
            self._too_many = min(self._too_many, worse)
        elif is_disturbed:
            self._too_few, self._rejected = max(self._too_few, worse), (worse, speed)
        self._until = now + self._hold
        self._hold = min(2 * self._hold, _MOST_HOLD)

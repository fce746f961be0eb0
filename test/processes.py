"""What there is of a process, and what is left of one."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robot import TIMEOUT

__all__ = ['Traces', 'catches', 'children', 'files', 'stopped', 'wait_until']

# What a participant of Fast DDS shares, and holds open the lock of; what has `port` in its name
# belongs to all of them.
_SEGMENT = re.compile(r'/dev/shm/(fastrtps_[0-9a-f]{16})_el')


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and that run their own program by now."""
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    own = _command(pid)
    return [child for child in found if _command(child) not in ('', own)]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f'/proc/{pid}/cmdline').read_text()
    return ''


def files(pid: int) -> list[str]:
    """Return what a process has open."""
    found = []
    with suppress(OSError):
        for link in Path(f'/proc/{pid}/fd').iterdir():
            with suppress(OSError):
                found.append(os.readlink(link))
    return found


def catches(pid: int, number: int) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
    with suppress(OSError):
        for line in Path(f'/proc/{pid}/status').read_text().splitlines():
            if line.startswith('SigCgt:'):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def wait_until(done: Callable[[], object], what: str, every: float = 0.005) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + TIMEOUT
    while not done():
        assert time.monotonic() < deadline, f'{what} did not happen'
        time.sleep(every)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Have a process stand still meanwhile; it may have been ended in its sleep."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Traces:
    """What a process has beside itself, noted while it lives."""

    def __init__(self, pid: int) -> None:
        self.segments = set[str]()
        """The middleware's shared memory that belongs to it."""
        for name in files(pid):
            self.segments |= set(_SEGMENT.findall(name))
        self._children = [(child, os.pidfd_open(child)) for child in children(pid)]

    def wait_for_children(self) -> None:
        """Wait until its children have ended, too."""
        for child, descriptor in self._children:
            assert select.select([descriptor], [], [], TIMEOUT)[0], f'process {child} lives on'
            os.close(descriptor)
        self._children = []

    def left(self) -> set[str]:
        """Return which of its shared memory is still there."""
        names = {name + end for name in self.segments for end in ('', '_el')}
        return {name for name in names if Path('/dev/shm', name).exists()}

"""The signals that ask a process to end, and a main thread that waits for them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ['News', 'ignore_ends', 'on_end']

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
T = TypeVar('T')


class News(Generic[T]):
    """What the main thread waits for: items that any thread puts, or a signal's handler.

    The kernel may hand a signal to any thread, and Python's handlers run in the main one: if that
    waits for a lock, as a queue does, it goes on waiting. So it waits for a pipe, into which
    Python writes with each signal.

    To be made in the main thread, once in a process.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def put(self, item: T) -> None:
        """Add an item. From any thread, and from the handler of a signal."""
        self._items.append(item)
        with contextlib.suppress(BlockingIOError):  # full: then it wakes anyway
            os.write(self._writer, b'\0')

    def wait(self, timeout: float = 3600.0) -> bool:
        """Wait for an item, `timeout` seconds at most; tell whether there is one."""
        deadline = time.monotonic() + timeout
        while not self._items and (left := deadline - time.monotonic()) > 0:
            if select.select([self._reader], [], [], left)[0]:
                os.read(self._reader, 4096)
        return bool(self._items)

    def get(self) -> T:
        """Wait for an item, and take it."""
        while not self.wait():
            pass
        return self._items.popleft()


def on_end(handler: Callable[..., Any]) -> None:
    """Have Ctrl-C, SIGTERM, and a terminal that is closed call a handler.

    Under nohup a closed terminal ends nothing. (A shell has what it starts in the background
    ignore Ctrl-C; `ros2 launch` from a script must be able to end it all the same.)
    """
    for number in _ENDS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def ignore_ends() -> None:
    """Take no notice of them from now on: the end is near already."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)

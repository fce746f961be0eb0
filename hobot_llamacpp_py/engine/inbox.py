"""What waits for the inference thread: prompts and other requests, in order."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.vlm import Vlm
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['LONGEST', 'Inbox', 'Item', 'Look', 'Task', 'View', 'Work']


@dataclass(frozen=True)
class View:
    """What there is to see: the picture for the engine, and the pixels that it came from."""

    picture: Picture
    bgr: Callable[[], npt.NDArray[np.uint8]]


Look = Callable[[CancelToken], View]
"""Looks through the robot's eyes; raises ImageError where there is nothing to see."""


class Task(Protocol):
    """A request that brings its own way to be answered, for example from a network."""

    cancel: CancelToken
    """Ends it, from any thread."""

    def run(self, engine: Vlm, look: Look) -> None:
        """Do it, in the inference thread; whatever goes wrong is its own affair."""


Item = str | Task
"""A prompt, or a task."""


MOST_NOTES = 8
"""With the answer before them as many texts as whoever reads them holds, at the least: 10."""

LONGEST = 3600.0
"""Seconds to wait before looking again: what changes is notified of."""


class Work(Enum):
    """What there is to do."""

    ITEM = 'item'
    NOTE = 'note'
    SIGHT = 'sight'
    """The lookout has a frame encoded."""
    END = 'end'


class Inbox:
    """What waits for the inference thread, in order, and no more than a given number."""

    def __init__(self, size: int) -> None:
        self.refused = 0
        self.waited = 0.0
        """Seconds that waited what was taken last; 0 for work that nobody queued."""
        self.is_closed = False
        self.changed = threading.Condition()
        """Notified when there is something new to do, or no more."""
        self._size = size
        self._items: deque[tuple[Item, float]] = deque()  # and when it came
        self._notes: deque[Callable[[], object]] = deque()
        self._interruptible: CancelToken | None = None

    def __len__(self) -> int:
        return len(self._items)

    def refuses(self) -> bool:
        """Tell whether the queue is full: an item is refused then, and counted."""
        with self.changed:
            is_full = len(self._items) >= self._size
            self.refused += is_full
            return is_full

    def put(self, item: Item) -> bool:
        """Queue an item; False, and counted, if the queue is full."""
        with self.changed:
            if self.refuses():
                return False
            self._items.append((item, time.monotonic()))
            self._interrupt()
            self.changed.notify_all()
            return True

    def __contains__(self, item: object) -> bool:
        with self.changed:
            return any(waiting == item for waiting, _ in self._items)

    def put_note(self, note: Callable[[], object]) -> None:
        """Have something told before the next item, unless `MOST_NOTES` wait for that already."""
        with self.changed:
            if len(self._notes) < MOST_NOTES:
                self._notes.append(note)
                self.changed.notify_all()

    def withdraw(self, item: Item) -> None:
        """Take back what nobody wants any more, if it still waits."""
        with self.changed:
            self._items = deque(entry for entry in self._items if entry[0] is not item)

    def wait(
        self,
        has_sight: Callable[[], bool] = lambda: False,
        sight_from: Callable[[], float] = lambda: 0.0,
    ) -> Work:
        """Wait for a note or an item, else for a frame that was encoded.

        Args:
            sight_from: tells when such a frame may be taken, on the steady clock.
        """
        with self.changed:
            self.waited = 0.0
            while not self.is_closed:
                if self._notes:
                    return Work.NOTE
                if self._items:
                    return Work.ITEM
                delay = sight_from() - time.monotonic() if has_sight() else math.inf
                if delay <= 0:
                    return Work.SIGHT
                self.changed.wait(min(delay, LONGEST))
            return Work.END

    def take(self) -> Item | None:
        """Take the oldest item of those that wait; None if it was withdrawn."""
        with self.changed:
            if not self._items:
                return None
            item, came = self._items.popleft()
            self.waited = time.monotonic() - came
            return item

    def take_note(self) -> Callable[[], object]:
        """Take the oldest of what is to be told, of which there is something."""
        with self.changed:
            return self._notes.popleft()

    @contextmanager
    def interruptible(self) -> Iterator[CancelToken]:
        """Do what nobody waits for: its token is set when an item comes, or the end."""
        token = CancelToken()
        with self.changed:
            self._interruptible = token
            if self._items or self.is_closed:
                token.set()
        try:
            yield token
        finally:
            with self.changed:
                self._interruptible = None

    def _interrupt(self) -> None:
        if self._interruptible:
            self._interruptible.set()

    def notify(self) -> None:
        """Have waiting calls look again at what they wait for."""
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        """End all waiting, now and later."""
        with self.changed:
            self.is_closed = True
            self._interrupt()
            self.changed.notify_all()

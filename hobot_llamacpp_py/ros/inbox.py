"""What waits for the inference thread: prompts in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum

__all__ = ['Inbox', 'Work']


class Work(Enum):
    """What there is to do."""

    PROMPT = 'prompt'
    SIGHT = 'sight'
    """The lookout has a frame encoded."""
    END = 'end'


class Inbox:
    """What waits for the inference thread: prompts in order."""

    def __init__(self, prompt_queue_size: int) -> None:
        self.prompts_refused = 0
        self.is_closed = False
        self.changed = threading.Condition()
        """Notified when there is something new to do, or no more."""
        self._size = prompt_queue_size
        self._prompts: deque[str] = deque()

    @property
    def prompts_waiting(self) -> int:
        """How many prompts wait, the one that is being answered not among them."""
        with self.changed:
            return len(self._prompts)

    @property
    def is_full(self) -> bool:
        """Whether a prompt would be refused."""
        return self.prompts_waiting >= self._size

    def put_prompt(self, prompt: str) -> bool:
        """Queue a prompt; False, and counted, if the queue is full."""
        with self.changed:
            if len(self._prompts) >= self._size:
                self.prompts_refused += 1
                return False
            self._prompts.append(prompt)
            self.changed.notify_all()
            return True

    def wait(self, has_sight: Callable[[], bool]) -> Work:
        """Wait for a prompt, else for a frame that was encoded."""
        with self.changed:
            while not self.is_closed:
                if self._prompts:
                    return Work.PROMPT
                if has_sight():
                    return Work.SIGHT
                self.changed.wait()
            return Work.END

    def take_prompt(self) -> str:
        """Take the oldest prompt of those that wait."""
        with self.changed:
            return self._prompts.popleft()

    def notify(self) -> None:
        """Have waiting calls look again at what they wait for."""
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        """End all waiting, now and later."""
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

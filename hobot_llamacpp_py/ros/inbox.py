"""What waits for the inference thread: prompts in order, and the newest frame only."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from hobot_llamacpp_py.engine.decoder import CancelToken
from hobot_llamacpp_py.errors import CancelledError, ImageError
from hobot_llamacpp_py.ros.images import Frame

__all__ = ['Inbox', 'Work']


class Work(Enum):
    """What there is to do."""

    PROMPT = 'prompt'
    FRAME = 'frame'
    END = 'end'


class Inbox:
    """What waits for the inference thread: prompts in order, and the newest frame only."""

    def __init__(self, prompt_queue_size: int) -> None:
        self.image_source: Callable[[], str] = lambda: 'no image topic'
        """Says in words where images come from, for the error that none did."""
        self.frames_received = 0
        self.frames_dropped = 0
        self.prompts_refused = 0
        self._size = prompt_queue_size
        self._changed = threading.Condition()
        self._prompts: deque[str] = deque()
        self._frame: Frame | None = None
        self._frame_used = True
        self._closed = False

    def put_prompt(self, prompt: str) -> bool:
        """Queue a prompt; False, and counted, if the queue is full."""
        with self._changed:
            if len(self._prompts) >= self._size:
                self.prompts_refused += 1
                return False
            self._prompts.append(prompt)
            self._changed.notify_all()
            return True

    def put_frame(self, frame: Frame) -> None:
        """Replace the newest frame; one that no prompt has used counts as dropped."""
        with self._changed:
            self.frames_received += 1
            self.frames_dropped += not self._frame_used
            self._frame, self._frame_used = frame, False
            self._changed.notify_all()

    def wait(self, *, for_frame: bool = False, not_before: float = 0.0) -> Work:
        """Wait for a prompt, or else, if asked for, for a frame that nobody has used yet.

        A frame does not count before the steady clock shows `not_before`.
        """
        with self._changed:
            while not self._closed:
                if self._prompts:
                    return Work.PROMPT
                delay = not_before - time.monotonic()
                if for_frame and not self._frame_used and delay <= 0:
                    self._frame_used = True  # whatever comes of it: not again
                    return Work.FRAME
                self._changed.wait(delay if for_frame and delay > 0 else None)
            return Work.END

    def take_prompt(self) -> str:
        """Take the oldest prompt of those that wait."""
        with self._changed:
            return self._prompts.popleft()

    def take_frame(self, timeout: float, max_age: float, cancel: CancelToken) -> Frame:
        """Wait for a frame that is fresh enough, `timeout` seconds at most; `max_age` 0: any.

        Raises:
            ImageError: none came.
            CancelledError: the request was cancelled, or the inbox closed.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if self._closed or cancel.is_set():
                    raise CancelledError('cancelled while waiting for an image')
                if self._frame and self._frame.is_fresh(max_age):
                    self._frame_used = True
                    return self._frame
                now = time.monotonic()
                if now >= deadline:
                    break
                self._changed.wait(deadline - now)
            if self._frame is None:
                raise ImageError(
                    f'no image came within {timeout:g} s (image_timeout): {self.image_source()}'
                )
            age = time.monotonic() - self._frame.received
            raise ImageError(
                f'the newest image is {age:.1f} s old, more than max_image_age {max_age:g} s, and'
                f' no other came within {timeout:g} s (image_timeout)'
            )

    def notify(self) -> None:
        """Have waiting calls look again at what they wait for."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

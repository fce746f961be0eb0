"""What waits for the inference thread: prompts in order, and the newest frames only."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from hobot_llamacpp_py.engine.decoder import CancelToken
from hobot_llamacpp_py.errors import CancelledError, ImageError
from hobot_llamacpp_py.ros.images import Frame
from hobot_llamacpp_py.ros.timeline import Sight

__all__ = ['Inbox', 'Work']


class Work(Enum):
    """What there is to do."""

    PROMPT = 'prompt'
    FRAME = 'frame'
    END = 'end'


class Inbox:
    """What waits for the inference thread: prompts in order, and the newest frames only."""

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
        self._looked_at: Frame | None = None  # by the lookout, at this moment
        self._encoded: Sight | None = None
        self.last_failed = False
        """The newest frame that the lookout took could not be encoded."""
        self.is_closed = False

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

    def wait(self, *, for_frame: bool = False) -> Work:
        """Wait for a prompt, else an encoded frame or, `for_frame`, one that nobody has used."""
        with self._changed:
            while not self.is_closed:
                if self._prompts:
                    return Work.PROMPT
                if self._encoded:
                    return Work.FRAME
                if for_frame and not self._frame_used:
                    self._frame_used = True  # whatever comes of it: not again
                    return Work.FRAME
                self._changed.wait()
            return Work.END

    def next_frame(self, not_before: float) -> Frame | None:
        """Wait for a frame that nobody has used, for the lookout; None when the inbox closes.

        It is not taken before the steady clock shows `not_before`; `put_encoded` has to follow.
        """
        with self._changed:
            while not self.is_closed:
                delay = not_before - time.monotonic()
                if delay <= 0 and self._frame and not self._frame_used:
                    self._frame_used = True
                    self._looked_at = self._frame
                    return self._frame
                self._changed.wait(delay if delay > 0 else None)
            return None

    def put_encoded(self, sight: Sight | None) -> None:
        """Hand over the lookout's frame, or None if it could not be encoded."""
        with self._changed:
            self._looked_at = None
            # After a frame that could not be encoded, an older one would be old news.
            self._encoded = sight
            self.last_failed = sight is None
            self._changed.notify_all()

    def take_encoded(self, max_age: float, cancel: CancelToken | None = None) -> Sight | None:
        """Take the frame encoded last, if it is fresh enough; else None.

        With a token, a frame that is just being encoded is waited for.
        """
        with self._changed:
            while True:
                if self._encoded and self._encoded.is_fresh(max_age):
                    encoded, self._encoded = self._encoded, None
                    return encoded
                self._encoded = None
                awaited = cancel and self._looked_at and self._looked_at.is_fresh(max_age)
                if not awaited or self.is_closed or (cancel and cancel.is_set()):
                    return None
                self._changed.wait()

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
                if self.is_closed or cancel.is_set():
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
            self.is_closed = True
            self._changed.notify_all()

"""The newest frames of a camera: for questions, and for the lookout that has them encoded."""

from __future__ import annotations

import time
from collections.abc import Callable

from hobot_llamacpp_py.engine import CancelToken
from hobot_llamacpp_py.engine.inbox import LONGEST, Inbox
from hobot_llamacpp_py.errors import CancelledError, ImageError
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.ros.sight import Sight

__all__ = ['Frames', 'WantedFrom']

_POLL = 0.01  # seconds between two looks into the middleware, only while a frame is waited for


WantedFrom = Callable[[float, bool], float]
"""Tells from when on another frame is wanted, on the steady clock; infinity: not at all.

It is given when the last one was begun with, and whether somebody has taken that.
"""


class Frames:
    """The newest frames, taken when they are wanted.

    Questions are served in the inference thread; `next` and `put_encoded` are the lookout's.

    Args:
        take: returns the newest frame that has come since the last call, or None.
        source: says in words where images come from, for the error that none did.
        inbox: is woken by an encoded frame, and ends all waiting when it is closed.
    """

    def __init__(
        self, take: Callable[[], Frame | None], source: Callable[[], str], inbox: Inbox
    ) -> None:
        self.used = 0
        """Frames that a question or the lookout looked at."""
        self.last_failed = False
        """The newest frame that the lookout took could not be encoded."""
        self._take, self._source, self._inbox = take, source, inbox
        self._newest: Frame | None = None
        self._is_used = True
        self._shown = 0.0  # when the newest frame that a question was about was received
        self._looked_at: Frame | None = None  # by the lookout, at this moment
        self._encoded: Sight | None = None
        self._has_news = False

    @property
    def is_closed(self) -> bool:
        """Tell whether there are no more frames."""
        return self._inbox.is_closed

    def look(self) -> None:
        """Take what has come from the middleware."""
        frame = self._take()
        if frame is not None:
            with self._inbox.changed:
                # Several threads look: one that took before another may come here after it.
                if self._newest is None or frame.received >= self._newest.received:
                    self._newest, self._is_used = frame, False

    def newest(self) -> Frame | None:
        """Return the newest frame there is, without using it."""
        self.look()
        return self._newest

    @property
    def unused(self) -> int:
        """Frames that were taken and are still to be looked at: one at most."""
        return int(not self._is_used)

    def wait_for_newest(self, timeout: float, max_age: float, cancel: CancelToken) -> Frame:
        """Wait for a frame that is fresh enough, `timeout` seconds at most; `max_age` 0: any.

        Raises:
            ImageError: none came.
            CancelledError: the request was cancelled, or the inbox closed.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.look()
            with self._inbox.changed:
                if self._inbox.is_closed or cancel.is_set():
                    raise CancelledError('cancelled while waiting for an image')
                if self._newest and self._newest.is_fresh(max_age):
                    self._shown = self._newest.received
                    return self._use()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._inbox.changed.wait(min(remaining, _POLL))
        if self._newest is None:
            raise ImageError(
                f'no image came within {timeout:g} s (image_timeout): {self._source()}'
            )
        age = time.monotonic() - self._newest.received
        raise ImageError(
            f'the newest image is {age:.1f} s old, more than max_image_age {max_age:g} s, and'
            f' no other came within {timeout:g} s (image_timeout)'
        )

    def _use(self) -> Frame:
        assert self._newest is not None
        self.used += not self._is_used
        self._is_used = True
        return self._newest

    # -- frames that are encoded before they are wanted ------------------------------------------

    def next(self, begun: float, wanted_from: WantedFrom) -> Frame | None:
        """Wait for a frame that nobody has used, for the lookout; None when the inbox closes.

        Args:
            begun: when the last one was begun with, on the steady clock.
            wanted_from: is asked again at each `notify` of the inbox.
        """
        inbox = self._inbox
        while True:
            with inbox.changed:
                while not inbox.is_closed:
                    is_taken = self._encoded is None and not self.last_failed
                    delay = wanted_from(begun, is_taken) - time.monotonic()
                    if delay <= 0:
                        break
                    inbox.changed.wait(min(delay, LONGEST))
            self.look()
            with inbox.changed:
                if inbox.is_closed:
                    return None
                if not self._is_used:
                    self._looked_at = self._use()
                    return self._looked_at
                inbox.changed.wait(_POLL)

    def put_encoded(self, sight: Sight | None) -> None:
        """Hand over the lookout's frame, or None if it could not be encoded."""
        with self._inbox.changed:
            self._looked_at = None
            # After a frame that could not be encoded, an older one would be old news.
            self._encoded, self.last_failed = sight, sight is None
            self._has_news = True
            self._inbox.changed.notify_all()

    def has_news(self) -> bool:
        """Tell whether the lookout has handed over something since `take_encoded` was called."""
        return self._has_news

    def take_encoded(
        self, max_age: float, cancel: CancelToken | None = None, *, newest: bool = False
    ) -> Sight | None:
        """Take the frame encoded last if it is fresh enough, and not older than one shown before.

        Args:
            cancel: with a token, a frame that is just being encoded is waited for.
            newest: an encoded frame will not do if a newer one has come by now.
        """
        inbox = self._inbox
        if newest:
            self.look()

        def will_do(frame: Frame) -> bool:
            return frame.is_fresh(max_age) and (wanted is None or wanted is frame)

        with inbox.changed:
            wanted = self._newest if newest else None
            while True:
                sight, self._encoded, self._has_news = self._encoded, None, False
                inbox.changed.notify_all()  # an eager lookout waits for that
                frame = sight and sight.frame
                if frame and frame.received >= self._shown and will_do(frame):
                    self._shown = frame.received
                    return sight
                awaited = cancel and self._looked_at and will_do(self._looked_at)
                if not awaited or inbox.is_closed or (cancel and cancel.is_set()):
                    return None
                inbox.changed.wait()

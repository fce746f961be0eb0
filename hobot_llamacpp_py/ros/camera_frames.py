"""Pictures of a camera: the source of what questions are about, where that is an image topic."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.engine import CancelToken, Vlm
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.ros.frames import Frames
from hobot_llamacpp_py.ros.lookout import Lookout
from hobot_llamacpp_py.ros.parameters import Parameters
from hobot_llamacpp_py.ros.sight import Sight, see

__all__ = ['CameraFrames', 'Images']

Bgr = npt.NDArray[np.uint8]


class Images(Protocol):
    """A subscription to images, such as `ImageSubscription`."""

    taken: int
    published: int
    lost: int

    @property
    def description(self) -> str:
        """What is subscribed to, in words."""

    def take(self) -> Frame | None:
        """Return the newest image that has come since the last call, or None."""


class CameraFrames:
    """The frames of an image topic: a question is about a prepared one, or the newest.

    Args:
        images: the subscription.
        inbox: ends all waiting when it is closed.
        parameters: gives the settings of the moment.
    """

    def __init__(self, images: Images, inbox: Inbox, parameters: Callable[[], Parameters]) -> None:
        self._images, self._inbox, self._parameters = images, inbox, parameters
        self._frames = Frames(images.take, lambda: str(images.description), inbox)
        self._engine: Vlm | None = None
        self._prepared: Sight | None = None
        self._watched_from: Callable[[], float] | None = None
        self._lookout: Lookout | None = None
        self._lock = threading.Lock()  # of the lookout's beginning

    def open(self, engine: Vlm) -> Sight | None:
        self._engine = engine
        parameters = self._parameters()
        if parameters.continuous or parameters.prepares_ahead or self._watched_from:
            self._look_out()
        return None

    def watch(self, wanted_from: Callable[[], float]) -> None:
        """Have frames encoded for a watch. From any thread.

        Args:
            wanted_from: tells when the next one is wanted, on the steady clock; infinity: none is.
        """
        self._watched_from = wanted_from
        self._look_out()

    def _look_out(self) -> None:
        """Have frames encoded as they are wanted, from now on or when there is an engine."""
        with self._lock:
            if self._engine and not self._lookout:
                self._lookout = Lookout(self._engine, self._frames, self._wanted_from)
                self._lookout.start()

    def has_news(self) -> bool:
        return self._frames.has_news()

    def prepare(self, cancel: CancelToken) -> Sight | None:
        self._prepared = self._newest(cancel)
        return self._prepared

    def seen(self) -> Sight | None:
        encoded = self._frames.take_encoded(0)  # whoever asks for it looks at its age
        if encoded and self._parameters().prepares_ahead:
            self._prepared = encoded
        return encoded

    def next(self, cancel: CancelToken, *, newest: bool) -> Sight | None:
        max_age = self._parameters().max_image_age
        prepared, self._prepared = self._prepared, None  # one preparation, one question
        if prepared and prepared.is_fresh(max_age) and not self._frames.last_failed:
            return prepared
        return self.look(cancel, newest=newest)

    def look(self, cancel: CancelToken, *, newest: bool = True) -> Sight | None:
        max_age = self._parameters().max_image_age
        return self._frames.take_encoded(max_age, cancel, newest=newest) or self._newest(cancel)

    def forget_prepared(self) -> None:
        self._prepared = None

    @property
    def published(self) -> int:
        """Frames that were published so far, looked at or not."""
        return self._images.published

    def received(self) -> float | None:
        """Return when the newest frame was received, on the steady clock. From any thread."""
        frame = self._frames.newest()
        return None if frame is None else frame.received

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        frame = self._frames.newest()
        if frame is None or not frame.is_fresh(self._parameters().max_image_age):
            return None
        return frame.received, frame.bgr

    def describe(self, is_read: bool) -> Mapping[str, object]:
        images, frames = self._images, self._frames
        if is_read:  # else nobody wants to know whether frames come
            frames.look()
        return {
            'images': images.description,
            'frames received': images.taken,
            'frames dropped': images.taken - frames.used - frames.unused,
            'frames lost': images.lost,
        }

    def _newest(self, cancel: CancelToken) -> Sight:
        engine, parameters = self._engine, self._parameters()
        assert engine is not None
        frame = self._frames.wait_for_newest(
            parameters.image_timeout, parameters.max_image_age, cancel
        )
        return see(frame, frame.bgr, engine.picture)

    def _wanted_from(self, begun: float, is_taken: bool) -> float:
        parameters = self._parameters()
        watched_from = math.inf
        if self._watched_from and not len(self._inbox):  # a person gets the encoder first
            watched_from = self._watched_from()
        later, times = begun + parameters.pre_infer_period, [math.inf]
        if parameters.asks_again or parameters.prepares_ahead:
            times.append(later)
        if parameters.asks_again and is_taken:
            times.append(0.0)
        # One that waits to be judged is replaced by a fresher one.
        times.append(watched_from if is_taken else max(watched_from, later))
        return min(times)

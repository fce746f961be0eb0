"""The frames of a watch: which there were looks at, and which are still to be asked about."""

from __future__ import annotations

import math

from hobot_llamacpp_py.ros.camera_frames import CameraFrames
from hobot_llamacpp_py.ros.sight import Sight

__all__ = ['WatchFrames']


class WatchFrames:
    """What became of the frames; counted by one thread, from any one read and forgotten."""

    def __init__(self) -> None:
        self.judged = 0
        """Frames that were asked about."""
        self.begun: Sight | None = None
        """One whose round was interrupted, and goes on."""
        self._taken: Sight | None = None  # that somebody else took: the lookout does not see it
        self._source: CameraFrames | None = None
        self._published_before = 0  # frames that there were before the watch began
        self._looked = 0  # those asked about, and those that there was nothing to ask about
        self._newest = -math.inf  # when the newest of these was received

    def follow(self, source: CameraFrames) -> None:
        """Have these be a camera's, from now on."""
        self._source, self._published_before = source, source.published

    @property
    def are_followed(self) -> bool:
        """Whether there is a camera."""
        return self._source is not None

    def received(self) -> float | None:
        """Return when the newest frame was received, on the steady clock; None: there is none."""
        return self._source.received() if self._source else None

    def look(self, sight: Sight) -> None:
        """Count a frame, unless it was before."""
        if sight.frame and self._is_new(sight):
            self._newest = sight.frame.received
            self._looked += 1

    def _is_new(self, sight: Sight) -> bool:
        return sight.frame is not None and sight.frame.received > self._newest

    def skipped(self) -> int:
        """Return how many there were no looks at."""
        published = self._source.published if self._source else 0
        return max(0, published - self._published_before - self._looked)

    # -- what is left ----------------------------------------------------------------------------

    @property
    def has_left(self) -> bool:
        """Whether `take_left` may have something."""
        return bool(self.begun or self._taken)

    def note_taken(self, sight: Sight) -> None:
        """Note what a question is about, or will be, which nobody else looks at."""
        self._taken = sight

    def take_left(self, max_age: float) -> Sight | None:
        """Return what the rules are still to be asked about, None for nothing.

        That is a frame whose round was interrupted, else that of a question: if it still is the
        newest, so that no old news is told, and was received at most `max_age` seconds ago; 0: at
        any time.
        """
        begun, self.begun = self.begun, None
        if begun:
            return begun
        taken, self._taken = self._taken, None
        if taken and taken.frame and self._is_new(taken) and taken.is_fresh(max_age):
            return taken if taken.frame.received == self.received() else None
        return None

    def forget_left(self) -> None:
        """Leave out what was left, which is old news."""
        self.begun = self._taken = None

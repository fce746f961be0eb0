"""How often there is a look: not before a period is over, and no more than a share of the time."""

from __future__ import annotations

import math

__all__ = ['Pace']

_EARLY = 1.2  # of the time it takes: so much earlier is a frame encoded than it is judged


class Pace:
    """Tells when the next round may begin. Times are on the steady clock.

    A round that is interrupted goes on at once; it counts as one when it is over.
    """

    def __init__(self) -> None:
        self._begun, self._busy = -math.inf, 0.0  # of the last round
        self._seeing = 0.0
        self._running: float | None = None  # when the round began that is not over yet
        self._spent = 0.0  # in that one
        self._idle = -math.inf, 0.0  # when a look found nothing to ask, and what it cost

    def begin(self, now: float) -> None:
        """Note that a round begins, or goes on."""
        if self._running is None:
            self._running, self._spent = now, 0.0

    def interrupt(self, seconds: float) -> None:
        """Note that it will go on later."""
        self._spent += seconds

    def end(self, seconds: float, seeing: float) -> None:
        """Note that it is over.

        Args:
            seconds: since it began, or went on.
            seeing: what reading and encoding the frame had of the processor, beside the judging.
        """
        assert self._running is not None
        self._begun, self._running = self._running, None
        self._busy = max(self._spent + seconds, seeing)
        self._seeing = seeing

    def idle(self, now: float, seeing: float) -> None:
        """Note a look at a frame that there was nothing to ask about."""
        self._idle = now, seeing

    def look_from(self, period: float, max_load: float) -> float:
        """Return when there may be a look: at once where a round is to go on."""
        return -math.inf if self._running is not None else self.next(period, max_load)

    def next(self, period: float, max_load: float) -> float:
        """Return when the next round may begin; while one runs, when that is to be expected.

        Args:
            period: least seconds from one beginning to the next.
            max_load: the largest share of the time that rounds may take, above 0.
        """
        begun = self._begun if self._running is None else self._running
        looked, seeing = self._idle
        rest = seeing / max_load - seeing
        return max(begun + max(period, self._busy / max_load), looked + max(period, rest))

    def encode_from(self, period: float, max_load: float) -> float:
        """Return when to begin with encoding the next frame, so that it is fresh then."""
        if period <= 0 and max_load >= 1:
            return -math.inf  # all the time there is: as soon as the encoder is free
        return self.next(period, max_load) - _EARLY * self._seeing

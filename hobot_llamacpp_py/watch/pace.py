"""How often there is a look: not before a period is over, and no more than a share of the time."""

from __future__ import annotations

import math

__all__ = ['Pace']


class Pace:
    """Tells when the next round may begin. Times are on the steady clock."""

    def __init__(self) -> None:
        self._begun, self._ended = -math.inf, -math.inf

    def note(self, begun: float, ended: float) -> None:
        """Note a round; one that goes on after an interruption is another one."""
        self._begun, self._ended = begun, ended

    def next(self, period: float, max_load: float) -> float:
        """Return when the next round may begin.

        Args:
            period: least seconds from one beginning to the next.
            max_load: the largest share of the time that rounds may take, above 0.
        """
        if self._ended == -math.inf:
            return self._ended
        busy = self._ended - self._begun
        return max(self._begun + period, self._begun + busy / max_load)

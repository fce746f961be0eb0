"""A server that failed is left alone for a while."""

from __future__ import annotations

import time

from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.errors import CancelledError

__all__ = ['POLL', 'Backoff']

POLL = 0.02  # seconds between two looks at the cancel token
FIRST, LONGEST = 0.5, 8.0  # seconds, doubled with each failure


class Backoff:
    """When a server may be asked again: after each failure a while later."""

    def __init__(self) -> None:
        self._failures, self._until = 0, 0.0

    @property
    def rest(self) -> float:
        """Seconds until it may be asked."""
        return max(0.0, self._until - time.monotonic())

    def wait(self, cancel: CancelToken) -> None:
        """Wait until it may be asked.

        Raises:
            CancelledError: the token was set meanwhile.
        """
        while (rest := self.rest) > 0:
            if cancel.is_set():
                raise CancelledError('the request was cancelled')
            time.sleep(min(POLL, rest))

    def failed(self, retry_after: float = 0.0) -> None:
        """Note a failure, and for how long the server wants to be left alone."""
        own = min(FIRST * 2**self._failures, LONGEST)
        self._failures = min(self._failures + 1, 10)
        self._until = time.monotonic() + max(own, retry_after)

    def succeeded(self) -> None:
        """Note that it works."""
        self._failures, self._until = 0, 0.0

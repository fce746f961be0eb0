"""Waiting for what another thread works on."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import TypeVar

from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.errors import CancelledError

__all__ = ['result']

_CANCEL_POLL = 0.02  # seconds between two looks at the cancel token
T = TypeVar('T')


def result(future: Future[T], cancel: CancelToken) -> T:
    """Wait for what another thread works on; a cancel does not end that, so nothing is lost.

    Raises:
        CancelledError: the token was set.
    """
    while not future.done():
        if cancel.is_set():
            raise CancelledError('the request was cancelled')
        wait((future,), _CANCEL_POLL)
    return future.result()

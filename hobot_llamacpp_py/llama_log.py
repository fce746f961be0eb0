"""What llama.cpp logs: all goes to our log, and an error is the reason of the call that failed."""

from __future__ import annotations

import logging
import threading
from typing import Any

from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['Reason', 'on_llama_log']

log = logging.getLogger(__name__)

_LOG_LEVEL_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_thread = threading.local()


class Reason:
    """Why calls of llama.cpp failed, if they did: put them into a `with` block.

    It is the first error that this thread logs within the block: those that follow only say that
    the call failed, and those of other threads are about their own calls. May be used again.
    """

    text = ''
    _outer: Reason | None = None

    def __enter__(self) -> Reason:
        self.text = ''
        self._outer = getattr(_thread, 'reason', None)
        _thread.reason = self
        return self

    def __exit__(self, *_: object) -> None:
        _thread.reason = self._outer

    def __str__(self) -> str:
        return self.text or 'no reason given'


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def on_llama_log(level: int, text: bytes, _: Any) -> None:
    """Take a line of the log; give this to `llama_log_set` and `mtmd_log_set`."""
    message = text.decode('utf-8', 'replace').strip()
    reason = getattr(_thread, 'reason', None)
    if level == _LOG_LEVEL_ERROR and reason is not None:
        reason.text = reason.text or message
    if message:
        log.debug('llama.cpp: %s', message)

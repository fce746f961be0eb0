"""What llama.cpp logs: errors are kept as the reason of a failure, all of it goes to our log."""

from __future__ import annotations

import logging
from typing import Any

import llama_cpp

__all__ = ['first_error', 'forget_errors', 'on_llama_log']

log = logging.getLogger(__name__)

_LOG_LEVEL_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_errors: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def on_llama_log(level: int, text: bytes, _: Any) -> None:
    """Take a line of the log; give this to `llama_log_set` and `mtmd_log_set`."""
    message = text.decode('utf-8', 'replace').strip()
    if level == _LOG_LEVEL_ERROR:
        _errors.append(message)
    if message:
        log.debug('llama.cpp: %s', message)


def forget_errors() -> None:
    """Forget the errors so far, before a call that may fail."""
    _errors.clear()


def first_error() -> str:
    """Return the cause; the errors that follow it only say that the call failed."""
    return _errors[0] if _errors else 'no reason given'

"""The signals that ask a process to end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

__all__ = ['ignore_ends', 'on_end']

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_end(handler: Callable[..., Any]) -> None:
    """Have Ctrl-C, SIGTERM, and a terminal that is closed call a handler.

    Under nohup a closed terminal ends nothing. (A shell has what it starts in the background
    ignore Ctrl-C; `ros2 launch` from a script must be able to end it all the same.)
    """
    for number in _ENDS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def ignore_ends() -> None:
    """Take no notice of them from now on: the end is near already."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)

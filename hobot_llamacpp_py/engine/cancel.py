"""Cancelling a request, from any thread and within a token."""

from __future__ import annotations

import ctypes

__all__ = ['CancelToken']


class CancelToken:
    """Cancels one request: within a token, also in the middle of a prefill, from any thread."""

    def __init__(self) -> None:
        self.flag = ctypes.create_string_buffer(2)
        """What llama.cpp looks at between any two operations: a C string, empty until `set`."""

    def set(self) -> None:
        """Cancel the request."""
        self.flag[0] = b'\x01'

    def is_set(self) -> bool:
        """Tell whether the request was cancelled."""
        return self.flag[0] != b'\x00'

"""The C library's memory: what pictures take for a moment is given back."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ['give_back_large_blocks', 'give_back_pages']

LARGE = 2 << 20  # bytes: more than the sampler takes for a token, less than a frame of 720 lines
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def give_back_large_blocks() -> None:
    """Have large blocks of memory go back to the system as soon as they are free.

    Left alone, glibc takes the largest block that was ever freed for one that had better stay:
    frames then come from heaps, one for each thread, which fill with holes and never shrink.
    """
    with contextlib.suppress(AttributeError):  # another C library, which has no such habit
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, 4 * LARGE)  # else that would fall back to 128 kB
        mallopt(_M_ARENA_MAX, 1)  # few of our threads want memory at the same time


def give_back_pages() -> None:
    """Give back what lies free between blocks that are used, which takes a millisecond or two."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

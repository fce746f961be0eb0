"""Calls of llama.cpp, each with as many threads as pay at the moment."""

from __future__ import annotations

import time
from typing import Any

from hobot_llamacpp_py.engine.speculation import MAX_DRAFT
from hobot_llamacpp_py.engine.threads import STALE, ThreadGovernor, ThreadTimes, waiting_threads
from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['Governed']

_COMPARABLE = 32  # tokens of a prefill, from which on the time is theirs


class Governed:
    """Decodes batches, and notes what the number of threads gave.

    Args:
        n_threads: at the most.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._governors = (
            ThreadGovernor(n_threads, 'decode'),
            ThreadGovernor(n_threads, 'prefill', tries_half=False),
        )
        self._times = ThreadTimes()
        self._n_now = 0

    @property
    def n_threads_now(self) -> tuple[int, int]:
        """The threads that a decode and a prefill are computed with, at the moment."""
        return self._governors[0].n, self._governors[1].n

    def share(self) -> int:
        """Return how many threads an encoder on the CPU may take now.

        Half of what the decoder has while that works, else all that others leave free.
        """
        used = max(governor.used for governor in self._governors)
        if time.perf_counter() - used < STALE:
            return max(1, self._governors[0].n // 2)
        return max(1, self._n_threads - waiting_threads())

    def begin_anew(self) -> None:
        """Note that the context is another one: whatever its number of threads is, it is set."""
        self._n_now = 0

    def decode(self, context: Any, batch: Any) -> int:
        """Decode a batch; return llama.cpp's code."""
        n_tokens, times = batch.n_tokens, self._times
        is_prefill = n_tokens > 1 + MAX_DRAFT
        governor, other = self._governors[is_prefill], self._governors[not is_prefill]
        if (now := time.perf_counter()) - governor.used > STALE:
            # Begin with what the other kind of work has found, or what can be seen at once.
            fresh = now - other.used < STALE
            governor.restart(other.n if fresh else max(1, self._n_threads - waiting_threads()))
        if is_change := governor.n != self._n_now:
            self._n_now = governor.n
            llama_cpp.llama_set_n_threads(context, self._n_now, self._n_now)
        before = times.begin(now, self._n_now, is_change)
        started = time.perf_counter()
        code = int(llama_cpp.llama_decode(context, batch))
        now = governor.used = time.perf_counter()
        after = times.end()
        if after is not None and not code:
            # Speeds of batches of another size say nothing; those of prefills nearly are the same.
            work = n_tokens if n_tokens == 1 or n_tokens >= _COMPARABLE else 0
            governor.note(now, now - started, after - before, work)
        return code

"""Bringing the KV cache to hold a prompt: what it holds already is kept, the rest is decoded."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.kv_cache import (
    Element,
    ImageSpan,
    KvCache,
    count_positions,
    element_ids,
)
from hobot_llamacpp_py.engine.request import Stats
from hobot_llamacpp_py.engine.speculation import CONTEXT, Drafter
from hobot_llamacpp_py.engine.waiting import result
from hobot_llamacpp_py.vision.embedding_cache import Embeddings
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Prefill']


class Prefill:
    """Brings the conversation's sequence to hold a prompt.

    Args:
        drafter: is told what is held.
        encode: begins to encode a picture.

    Attributes:
        lender: another sequence, of which what is the same is taken over.
    """

    def __init__(
        self, cache: KvCache, drafter: Drafter, encode: Callable[[Picture], Future[Embeddings]]
    ) -> None:
        self.lender: KvCache | None = None
        self._cache, self._drafter, self._encode = cache, drafter, encode

    def run(
        self, elements: list[Element], stats: Stats, cancel: CancelToken, *, logits: bool = True
    ) -> None:
        """Hold these elements; if this raises, some of them are held."""
        cache = self._cache
        if self.lender is not None:
            cache.borrow(self.lender, elements, last_again=logits)
        cache.trim(cache.match(elements, last_again=logits))
        rest = elements[len(cache) :]
        stats.reused = cache.n_past
        self._drafter.begin(element_ids(cache.last(CONTEXT)), element_ids(rest))
        started = time.perf_counter()
        # The encoder works while what stands before its picture is decoded.
        images = {e.key: self._encode(e.picture) for e in rest if isinstance(e, ImageSpan)}

        def embeddings(span: ImageSpan) -> Embeddings:
            waiting = time.perf_counter()
            found = result(images[span.key], cancel)
            stats.encode_s += time.perf_counter() - waiting
            return found

        cache.prefill(rest, embeddings, logits=logits)
        stats.prefill_s = time.perf_counter() - started - stats.encode_s
        stats.prefilled = count_positions(rest)

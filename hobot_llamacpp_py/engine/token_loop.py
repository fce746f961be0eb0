"""The token loop: samples an answer token by token, and decodes what was sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from hobot_llamacpp_py.config import ChatConfig, SamplingConfig
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import KvCache
from hobot_llamacpp_py.engine.request import Stats
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.speculation import Drafter
from hobot_llamacpp_py.engine.thoughts import ThoughtSplitter

__all__ = ['TokenLoop']


class TokenLoop:
    """Continues what the KV cache holds.

    Attributes:
        drafter: remembers all that is decoded, and drafts from it.
    """

    def __init__(self, decoder: Decoder, cache: KvCache) -> None:
        self.drafter = Drafter()
        self._decoder, self._cache = decoder, cache
        self._sampler: Sampler | None = None

    def sample(
        self,
        config: ChatConfig,
        stats: Stats,
        splitter: ThoughtSplitter | None,
        check: Callable[[], None],
    ) -> Iterator[int]:
        """Sample token after token; each is decoded when the next is asked for.

        Drafted tokens are decoded in one batch with the token that they follow, and then sampled
        like all others: the draft only decides how many come from one batch. The iteration ends
        where the context is full.

        Args:
            splitter: parts a thought from the answer that follows it, which may be constrained.
            check: is called before anything is decoded; raises if the KV cache is another's now.

        Raises:
            CancelledError, InferenceError: as `Decoder.decode`.
        """
        cache, drafter = self._cache, self.drafter
        sampler = self._sampler_for(config.sampling)
        speculative = config.speculative and self._decoder.can_trim
        opening = None
        if splitter is not None:
            opening = self._decoder.vocabulary.special_id(splitter.markers.opens[0])
        draft: list[int] = []
        row = -1  # of the last decode's logits, which is how much of the draft was accepted
        while True:
            if splitter is None or splitter.is_over:
                token = sampler.sample(row)
            elif splitter.in_thought:
                token = sampler.sample_free(row)
            else:  # what the answer has to follow may come after a thought
                token = sampler.sample_unless(opening, row)
            yield token
            check()
            drafter.append(token)
            if 0 <= row < len(draft) and draft[row] == token:
                row += 1
                drafter.accept()
                stats.accepted += 1
            else:
                if draft:
                    cache.trim(len(cache) - (len(draft) - row))
                room = cache.room
                if not room:
                    return
                if speculative:
                    draft = drafter.draft(min(room - 1, config.max_tokens - stats.decoded - 2))
                started = time.perf_counter()
                cache.append(token, draft)
                drafter.account(time.perf_counter() - started, len(draft))
                stats.drafted += len(draft)
                row = 0
            stats.decoded += 1

    def close(self) -> None:
        """Free the sampler; closing again does no harm."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _sampler_for(self, config: SamplingConfig) -> Sampler:
        if self._sampler is None or self._sampler.config != config:
            self.close()
            self._sampler = self._decoder.sampler(config)
        self._sampler.reset()
        return self._sampler

"""The token loop: samples an answer token by token, and decodes what was sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from hobot_llamacpp_py.config import ChatConfig, SamplingConfig
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import KvCache
from hobot_llamacpp_py.engine.matcher import Matcher
from hobot_llamacpp_py.engine.request import Stats
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.speculation import MAX_DRAFT, Drafter
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
        matcher: Matcher | None,
        check: Callable[[], None],
    ) -> Iterator[int]:
        """Sample token after token; each is decoded when the next is asked for.

        Drafted tokens are decoded in one batch with the token that they follow, and then sampled
        like all others: the draft only decides how many come from one batch. So are those that
        the constraint leaves no choice about, which are not sampled. The iteration ends where the
        context is full.

        Args:
            splitter: parts a thought from the answer that follows it.
            matcher: what the answer has to follow, from where the thought has ended.
            check: is called before anything is decoded; raises if the KV cache is another's now.

        Raises:
            CancelledError, InferenceError: as `Decoder.decode`; or nothing may follow.
        """
        cache, drafter = self._cache, self.drafter
        sampler = self._sampler_for(config.sampling)
        speculative = config.speculative and self._decoder.can_trim
        draft: list[int] = []
        wanted: list[bool] | None = None
        row = -1  # of the last decode's logits, which is how much of the draft was accepted
        while True:
            if matcher is None:
                token = sampler.sample(row)
            else:
                token = self._pick(sampler, splitter, matcher, row)
            yield token
            check()
            drafter.append(token)
            if 0 <= row < len(draft) and draft[row] == token:
                row += 1
                stats.accepted += 1
                if wanted is None:
                    drafter.accept()
            else:
                if draft:
                    cache.trim(len(cache) - (len(draft) - row))
                if not cache.room:
                    return
                room = min(cache.room - 1, config.max_tokens - stats.decoded - 2)
                draft = drafter.draft(room) if speculative else []
                wanted = None
                if matcher is not None and (splitter is None or splitter.is_over):
                    draft, wanted = matcher.draft(draft, min(room, MAX_DRAFT))
                started = time.perf_counter()
                cache.append(token, draft, wanted)
                if wanted is None:  # what is forced says nothing of what drafts are worth
                    drafter.account(time.perf_counter() - started, len(draft))
                stats.drafted += len(draft)
                row = 0
            stats.decoded += 1

    def _pick(
        self, sampler: Sampler, splitter: ThoughtSplitter | None, matcher: Matcher, row: int
    ) -> int:
        """Pick the next token of an answer that has to follow something, but may think first."""
        if splitter is not None and not splitter.is_over:
            vocabulary = self._decoder.vocabulary
            if splitter.in_thought:
                token = sampler.sample(row)
                if not vocabulary.is_end(token):  # which ends a thought, but no answer
                    return token
            else:
                # The most likely token tells whether it wants to think, or to end a marker.
                token = sampler.most_likely(row)
                is_marker = vocabulary.is_special(token) or (
                    # Markers are text in this vocabulary: and this cannot be the answer's.
                    vocabulary.special_id(splitter.markers.tokens[0]) is None
                    and not matcher.allows(token)
                )
                if splitter.continues(token, is_marker):
                    sampler.accept(token)
                    return token
            splitter.begin_answer()
        return sampler.sample_allowed(matcher, row)

    def close(self) -> None:
        """Free the sampler; closing again does no harm."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _sampler_for(self, config: SamplingConfig) -> Sampler:
        config = replace(config, constraint=None)
        if self._sampler is None or self._sampler.config != config:
            self.close()
            self._sampler = self._decoder.sampler(config)
        self._sampler.reset()
        return self._sampler

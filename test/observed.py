"""An engine that can be watched and disturbed at a counted moment: the real one in all it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hobot_llamacpp_py.config import SamplingConfig
from hobot_llamacpp_py.engine import Answer, CancelToken, InferenceError, Request
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.engine import Engine
from hobot_llamacpp_py.engine.matcher import Matcher
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.vision.encoder import VisionEncoder

__all__ = ['Asked', 'Fuse', 'Observed', 'Pick', 'TroubledEncoder']

STEP = 1e-3  # seconds of a plain decode, as the drafter is told


class Pick(NamedTuple):
    """A token, and the logits that it was picked by; None where the constraint left no choice."""

    token: int
    logits: np.ndarray | None


@dataclass
class Asked:
    """A request, its answer, and how that came about."""

    request: Request
    answer: Answer
    picks: list[Pick] = field(default_factory=list)


class Observed(Engine):
    """An engine that notes each pick.

    What drafts are worth is not measured but computed: else how many tokens come from one batch
    would be another number at each run, and no failure could be shrunk.

    Attributes:
        asked: the last request that was not refused.
        wanted: the last request.
        given: logits to pick by in place of the decoder's, from the first pick on.
    """

    def __init__(self, decoder: Decoder, *arguments: Any, **options: Any) -> None:
        super().__init__(decoder, *arguments, **options)
        self.asked: Asked | None = None
        self.wanted: Request | None = None
        self.picks: list[Pick] = []
        self.given: Sequence[np.ndarray | None] = ()
        decoder.sampler = self._sampler  # type: ignore[method-assign]
        account = self.loop.drafter.account
        self.loop.drafter.account = lambda _, n: account(STEP * (1 + 0.05 * n), n)  # type: ignore

    def generate(self, request: Request, cancel: CancelToken | None = None) -> Answer:
        """Answer as ever."""
        self.wanted = request
        answer = super().generate(request, cancel)
        self.asked = asked = Asked(request, answer)
        answer.pieces = self._observe(answer.pieces, asked)
        return answer

    def _observe(self, pieces: Iterator[str], asked: Asked) -> Iterator[str]:
        self.picks = asked.picks
        yield from pieces

    def _sampler(self, config: SamplingConfig) -> Sampler:
        return _ObservedSampler(self, config)


class _ObservedSampler(Sampler):
    def __init__(self, engine: Observed, config: SamplingConfig) -> None:
        decoder = engine.decoder
        super().__init__(decoder.context, decoder.vocabulary.n_tokens, decoder.n_ctx, config)
        self._engine = engine
        self._seen: np.ndarray | None = None
        self._is_inside = False  # a method of the sampler that calls others of them

    def sample(self, row: int = -1) -> int:
        if self._is_inside:
            return super().sample(row)
        self._see(row)
        return self._note(super().sample(row))

    def sample_allowed(self, matcher: Matcher, row: int = -1) -> int:
        self._seen = None
        if not matcher.forced():
            self._see(row)
        self._is_inside = True
        try:
            token = super().sample_allowed(matcher, row)
        finally:
            self._is_inside = False
        return self._note(token)

    def most_likely(self, row: int = -1) -> int:
        if not self._is_inside:
            self._see(row)
        return super().most_likely(row)

    def accept(self, token: int) -> None:
        super().accept(token)
        if not self._is_inside:
            self._note(token)

    def _see(self, row: int) -> None:
        logits = self._logits(row)
        given = self._engine.given[len(self._engine.picks) :][:1]
        if given and given[0] is not None:
            logits[:] = given[0]
        self._seen = logits.copy()

    def _note(self, token: int) -> int:
        self._engine.picks.append(Pick(token, self._seen))
        return token


class Fuse:
    """Cancels what a decoder is at after a counted number of operations of llama.cpp.

    Between any two operations of its graphs llama.cpp asks whether to stop. Here it asks us.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.length: int | None = None
        """Operations until a cancel, None: none comes."""
        self._token = CancelToken()
        self._callback = llama_cpp.ggml_abort_callback(self._is_over)
        cancel_on = decoder.cancel_on

        def cancel_on_both(token: CancelToken) -> None:
            cancel_on(token)
            self._token = token
            llama_cpp.llama_set_abort_callback(decoder.context, self._callback, None)

        decoder.cancel_on = cancel_on_both  # type: ignore[method-assign]
        cancel_on_both(self._token)

    def cancel(self) -> None:
        """Cancel what the decoder is at."""
        self._token.set()

    def _is_over(self, _: object) -> bool:
        if self.length is not None:
            if self.length <= 0:
                self._token.set()
            self.length -= 1
        return self._token.is_set()


class TroubledEncoder:
    """A real encoder that fails as it is told to.

    Args:
        fuse: cancels what waits for it.

    Attributes:
        troubles: one for each picture that comes next: raise, nan, inf, shape, cancel, or none.
    """

    def __init__(self, encoder: VisionEncoder, fuse: Fuse | None = None) -> None:
        self._encoder, self._fuse = encoder, fuse
        self.input_size = encoder.input_size
        self.n_tokens, self.n_embd = encoder.n_tokens, encoder.n_embd
        self.troubles: list[str] = []

    def encode(self, fitted: np.ndarray) -> np.ndarray:
        trouble = self.troubles.pop(0) if self.troubles else ''
        if trouble == 'raise':
            raise InferenceError('the encoder was told to fail')
        embeddings = self._encoder.encode(fitted)
        if trouble == 'shape':
            return embeddings[:-1]
        if trouble in ('nan', 'inf'):
            embeddings = embeddings.copy()
            embeddings[-1, -1] = float(trouble)
        if trouble == 'cancel' and self._fuse is not None:
            self._fuse.cancel()
        return embeddings

    def close(self) -> None:
        """Leave the encoder to its owner."""

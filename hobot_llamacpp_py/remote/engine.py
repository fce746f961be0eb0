"""An engine that is a server somewhere else: conversations in, pieces of text out.

The server keeps nothing of a conversation: each request carries all of it, with its pictures.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, RemoteConfig, VisionConfig
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.request import (
    Answer,
    Inquiry,
    Request,
    Stats,
    Turn,
    Verdict,
    without_oldest,
)
from hobot_llamacpp_py.errors import CancelledError, RemoteError
from hobot_llamacpp_py.remote.backoff import Backoff
from hobot_llamacpp_py.remote.connection import CONNECT_TIMEOUT, Connection, Delta
from hobot_llamacpp_py.remote.data_urls import SIDE, DataUrls
from hobot_llamacpp_py.remote.protocol import body_of, response_format
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.vision.pictures import Fitter

__all__ = ['NO_WATCH', 'RemoteEngine']

NO_WATCH = 'standing questions need the models on this machine: a server cannot be held to answers'

log = logging.getLogger(__name__)

_TOO_LONG = re.compile(r'context|too long|too many tokens', re.IGNORECASE)


class _Answer(Answer):
    """An answer whose tokens are bytes: the server tells how many it really has."""

    @property
    def n_tokens(self) -> int:
        return self.stats.decoded


class RemoteEngine:
    """A `Vlm` that has a server answer. The tokens of its answers are the bytes of their UTF-8.

    Args:
        url: the server's address, such as http://host:8000/v1.

    Raises:
        RemoteError: OpenAI's client is not installed.
    """

    def __init__(
        self,
        url: str,
        config: RemoteConfig = RemoteConfig(),
        vision: VisionConfig = VisionConfig(),
    ) -> None:
        self.url, self._config, self._model = url, config, config.model
        self._connection = Connection(url, config.timeout)
        self._backoff = Backoff()
        self._urls = DataUrls(vision.embedding_cache_size)
        # A server fits pictures to its model itself.
        self._fitter = Fitter((SIDE, SIDE), dataclasses.replace(vision, resize_mode='letterbox'))

    @classmethod
    def open(cls, url: str, config: RemoteConfig, vision: VisionConfig) -> RemoteEngine:
        """Make one and greet the server; one that is down may come up later."""
        engine = cls(url, config, vision)
        try:
            names = engine._connection.models(CancelToken(), CONNECT_TIMEOUT)
        except RemoteError as error:
            log.warning('%s; each question is tried all the same', error)
            return engine
        if config.model and config.model not in names:
            log.warning('%s has no model %s, but: %s', url, config.model, ', '.join(names))
        elif names:
            engine._model = config.model or names[0]
            log.info('%s answers with %s', url, engine._model)
        return engine

    def picture(self, bgr: npt.NDArray[np.uint8]) -> Picture:
        """Shrink a BGR picture [h, w, 3] to what is sent, and give it an identity."""
        return self._fitter.picture(bgr)

    def encode_ahead(self, picture: Picture) -> Future[str]:
        """Encode a picture that a later request will be about; that takes milliseconds."""
        future = Future[str]()
        future.set_result(self._urls.of(picture))
        return future

    def generate(self, request: Request, cancel: CancelToken | None = None) -> Answer:
        """Answer the last turn of a request; work begins with the iteration over the answer.

        A cancelled answer ends early and keeps what was said.

        Raises:
            ConstraintError: servers cannot answer like that.
            RemoteError: while iterating, the server failed; it is then left alone for a while.
        """
        if request.config.sampling.constraint:
            response_format(request.config.sampling.constraint)
        answer = _Answer(turns=request.turns)
        answer.pieces = self._run(request, answer, cancel or CancelToken())
        return answer

    def prepare(self, request: Request, cancel: CancelToken | None = None) -> Stats:
        """Encode the picture of a request's last question: the rest is the server's affair."""
        stats = Stats()
        self._encode(request.turns[-1:], stats)
        return stats

    def judge(
        self,
        picture: Picture,
        inquiries: Sequence[Inquiry],
        config: ChatConfig = ChatConfig(),
        cancel: CancelToken | None = None,
    ) -> Iterator[Verdict]:
        """Refuse standing questions.

        Raises:
            RemoteError: always.
        """
        raise RemoteError(NO_WATCH)

    def tokenize(self, text: str) -> list[int]:
        """Return a text as the tokens of a turn's answer."""
        return list(text.encode('utf-8', 'replace'))

    def figures(self) -> dict[str, object]:
        """Return what there is to tell of this moment, by name. From any thread."""
        return {'remote model': self._model}

    def close(self) -> None:
        """End the connections; again does no harm."""
        self._connection.close()

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one request -----------------------------------------------------------------------------

    def _run(self, request: Request, answer: Answer, cancel: CancelToken) -> Iterator[str]:
        started, stats = time.perf_counter(), answer.stats
        first = None
        if (rest := self._backoff.rest) > max(self._config.timeout, CONNECT_TIMEOUT):
            raise RemoteError(f'{self.url} wants to be left alone for another {rest:.0f} s')
        try:
            self._backoff.wait(cancel)
            self._encode(request.turns, stats)
            for delta in self._deltas(request, answer, cancel):
                if first is None and (delta.text or delta.thought):
                    first = time.perf_counter()
                    stats.first_token_s = first - started
                    stats.prefill_s = stats.first_token_s - stats.encode_s
                yield from _take(delta, answer)
        except CancelledError:
            answer.finish = 'cancelled'
        except RemoteError as error:
            self._backoff.failed(error.retry_after)
            if error.status == 404 and not self._config.model:
                self._model = ''  # it may have another one now
            raise
        else:
            self._backoff.succeeded()
        finally:
            stats.decode_s = time.perf_counter() - (first or started)
            answer.is_thinking = bool(answer.thoughts) and not answer.text
            answer.tokens = self.tokenize(answer.text)
        if request.config.sampling.constraint and answer.finish == 'stop':
            self._check_json(answer.text)

    def _deltas(self, request: Request, answer: Answer, cancel: CancelToken) -> Iterator[Delta]:
        """Ask, with fewer turns where all of them are too much for the server's context."""
        self._model = self._model or self._first_model(cancel)
        while True:
            body = body_of(request, self._model, self._urls.of)
            try:
                yield from self._connection.stream(body, cancel)
                return
            except RemoteError as error:
                # llama-cpp-python's own server says nothing at all then.
                says_so = error.status == 400 and _TOO_LONG.search(str(error))
                if not (says_so or error.status == 200) or len(request.turns) == 1:
                    raise
            # Half of them at once: else the next question would be too long again.
            turns = request.turns
            while len(turns) > (len(request.turns) + 1) // 2:
                turns = without_oldest(turns)
            request, answer.turns = dataclasses.replace(request, turns=turns), turns

    def _first_model(self, cancel: CancelToken) -> str:
        names = self._connection.models(cancel)
        if not names:
            raise RemoteError(f'{self.url} has no models')
        return names[0]

    def _encode(self, turns: Sequence[Turn], stats: Stats) -> None:
        started = time.perf_counter()
        for turn in turns:
            if turn.image is not None:
                self._urls.of(turn.image)
        stats.encode_s = time.perf_counter() - started

    def _check_json(self, text: str) -> None:
        """Check that the server knows json_schema at all: some pass over what they do not."""
        try:
            json.loads(text)
        except ValueError:
            raise RemoteError(f'{self.url} does not keep to json_schema: {text[:100]}') from None


def _take(delta: Delta, answer: Answer) -> Iterator[str]:
    """Add a piece to an answer, and give what is to be said."""
    stats = answer.stats
    if delta.thought:
        answer.thoughts += delta.thought
        if answer.on_thought is not None:
            answer.on_thought(delta.thought)
    if delta.finish:
        answer.finish = 'length' if delta.finish == 'length' else 'stop'
    if delta.usage:
        stats.reused = delta.usage.cached
        stats.prefilled = max(0, delta.usage.prompt - delta.usage.cached)
        stats.decoded, stats.thinking = delta.usage.completion, delta.usage.reasoning
    elif delta.text or delta.thought:
        stats.decoded += 1  # as a guess, where the server does not count
    if delta.text:
        answer.text += delta.text
        yield delta.text

"""One request on its way through the inference thread, and what it tells while it is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import CancelToken, Request, Stats, Turn, Vlm
from hobot_llamacpp_py.engine.inbox import Look, View
from hobot_llamacpp_py.errors import (
    CancelledError,
    ConstraintError,
    ImageError,
    InferenceError,
    PromptError,
    VlmError,
    one_line,
)
from hobot_llamacpp_py.web.backend import Bgr
from hobot_llamacpp_py.web.chat_request import CAMERA, ChatRequest
from hobot_llamacpp_py.web.conversations import Conversations

__all__ = ['Begun', 'Completion', 'Done', 'Event', 'Failed', 'Piece', 'Seen', 'Thought']


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """The request's turn has come, after so many seconds; for figures, not for the client."""

    waited: float


@dataclass(frozen=True)
class Piece:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Seen:
    """The frame that was looked at for `camera:`; comes before the answer."""

    view: View


@dataclass(frozen=True)
class Done:
    """The end of an answer: why, in OpenAI's words, how many tokens it has, what it cost.

    `reason` is the engine's word for why; empty: a stop of the client's.
    """

    finish: str
    n_tokens: int
    stats: Stats
    reason: str = ''


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be answered: the HTTP status, and a line."""

    status: int
    message: str
    kind: str


Event = Begun | Piece | Thought | Seen | Done | Failed
_STATUS: Mapping[type, int] = {PromptError: 400, ImageError: 400, ConstraintError: 400}
_STATUS = {**_STATUS, InferenceError: 500, CancelledError: 503}
_FINISH = {'length': 'length', 'context': 'length'}


class Completion:
    """A `Task` that answers a chat request.

    Args:
        pictures: BGR pictures of the request by their data URL.
        tell: takes each event, in the inference thread; Done or Failed is the last.
    """

    def __init__(
        self,
        request: ChatRequest,
        defaults: ChatConfig,
        pictures: Mapping[str, Bgr],
        conversations: Conversations,
        tell: Callable[[Event], None],
    ) -> None:
        self.cancel = CancelToken()
        self._created = time.perf_counter()
        self._request, self._config = request, request.config(defaults)
        self._pictures, self._conversations, self._tell = pictures, conversations, tell

    def run(self, engine: Vlm, look: Look) -> None:
        self._tell(Begun(time.perf_counter() - self._created))
        log.info('request: %s', ' '.join(self._request.messages[-1].text.split())[:1000])
        try:
            if self.cancel.is_set():
                raise CancelledError('cancelled while it waited for its turn')
            self._answer(engine, look)
        except VlmError as error:
            status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 500)
            self._tell(Failed(status, one_line(error), type(error).__name__))
        except Exception as error:
            self._tell(Failed(500, one_line(error), 'internal'))

    def _answer(self, engine: Vlm, look: Look) -> None:
        request = self._request
        turns = self._turns(engine, look)
        if not turns[-1].question.strip():
            raise PromptError('the last message has no text')
        answer = engine.generate(Request(turns, self._config), self.cancel)
        answer.on_thought = lambda piece: self._tell(Thought(piece))
        scanner = _StopScanner(request.stops)
        said = ''
        for piece in scanner.cut(answer.pieces):
            said += piece
            self._tell(Piece(piece))
        if answer.finish == 'cancelled' and not answer.text:
            raise CancelledError('cancelled before the first word')
        tokens = answer.tokens
        if scanner.found:
            tokens = engine.tokenize(said)
        if tokens and answer.finish != 'cancelled':
            last = turns[-1]
            given = (*turns[:-1], Turn(last.question, last.image, tuple(tokens)))
            self._conversations.remember(request.messages, said, given)
        finish = _FINISH.get(answer.finish, 'stop')
        self._tell(Done(finish, answer.n_tokens, answer.stats, answer.finish))

    def _turns(self, engine: Vlm, look: Look) -> tuple[Turn, ...]:
        known, rest = self._conversations.find(self._request.messages)
        turns = list(known)
        shown = next((t.image for t in reversed(known) if t.image is not None), None)
        for message in rest:
            if message.role == 'assistant':
                last = turns.pop()
                tokens = engine.tokenize(message.text)
                turns.append(Turn(last.question, last.image, tuple(tokens)))
                continue
            picture = None
            if message.picture == CAMERA:
                view = look(self.cancel)
                self._tell(Seen(view))
                picture = view.picture
            elif message.picture:
                picture = engine.picture(self._pictures[message.picture])
            # What the conversation is about already is not shown again.
            if picture is not None and shown is not None and picture.key == shown.key:
                picture = None
            shown = picture or shown
            turns.append(Turn(message.text, picture))
        return tuple(turns)


class _StopScanner:
    """Ends a text before the first of some texts; what may be the start of one is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.found = False
        self._stops = stops

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        """Give the pieces up to the first stop."""
        held = ''
        for piece in pieces:
            held += piece
            at = min((i for s in self._stops if (i := held.find(s)) >= 0), default=-1)
            if at >= 0:
                self.found = True
                held = held[:at]
                break
            n = max((self._started(held, stop) for stop in self._stops), default=0)
            ready, held = held[: len(held) - n], held[len(held) - n :]
            if ready:
                yield ready
        if held:
            yield held

    @staticmethod
    def _started(text: str, stop: str) -> int:
        """Return how many characters at the end of a text are the start of a stop."""
        most = min(len(text), len(stop) - 1)
        return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)

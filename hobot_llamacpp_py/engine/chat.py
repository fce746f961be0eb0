"""A conversation: it remembers the turns and asks the engine the next question."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.request import Answer, Request, Stats, Turn, without_oldest
from hobot_llamacpp_py.engine.vlm import Vlm
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Chat']


class Chat:
    """A conversation with an engine.

    Args:
        engine: answers the questions; several chats may share one.
        config: system prompt, length of the history, sampling; may be replaced at any time.
    """

    def __init__(self, engine: Vlm, config: ChatConfig = ChatConfig()) -> None:
        self.config = config
        self.engine = engine
        self.turns: tuple[Turn, ...] = ()
        self._resets = 0
        self._lock = threading.Lock()  # `reset` may be called from any thread

    def ask(
        self, question: str, picture: Picture | None = None, cancel: CancelToken | None = None
    ) -> Answer:
        """Ask a question, about a picture if one is given.

        A picture that the conversation is about already is not shown again. The turn joins the
        history when its answer has ended and says something, also after a cancel.
        """
        resets = self._resets  # before the turns are read: a reset from now on counts
        answer = self.engine.generate(self._request(question, picture), cancel)
        answer.pieces = self._remember(answer, answer.pieces, resets)
        return answer

    def prepare(self, picture: Picture | None = None, cancel: CancelToken | None = None) -> Stats:
        """Do all the work of the next question, about this picture, that can be done before it."""
        return self.engine.prepare(self._request('', picture), cancel)

    def reset(self) -> None:
        """Forget the conversation, an answer that is just being given included."""
        with self._lock:
            self._resets += 1
            self.turns = ()

    def _request(self, question: str, picture: Picture | None) -> Request:
        turns, limit = self.turns, self.config.history_turns
        if limit == 0:
            turns = ()
        while len(turns) > limit > 0:
            turns = without_oldest(turns)
        newest = next((turn.image for turn in reversed(turns) if turn.image is not None), None)
        if picture is not None and newest is not None and newest.key == picture.key:
            picture = None
        return Request((*turns, Turn(question, picture)), self.config)

    def _remember(self, answer: Answer, pieces: Iterator[str], resets: int) -> Iterator[str]:
        yield from pieces
        if self.config.sampling.constraint and answer.finish != 'stop':
            return  # half of a JSON text is no example to follow
        *earlier, last = answer.turns
        given = Turn(last.question, last.image, tuple(answer.tokens))
        with self._lock:
            if answer.tokens and resets == self._resets:
                self.turns = (*earlier, given)

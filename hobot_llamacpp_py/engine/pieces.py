"""From the tokens of an answer to pieces of text: thoughts parted, halves of characters held."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from hobot_llamacpp_py.engine.repetition import NoGuard, RepetitionGuard
from hobot_llamacpp_py.engine.request import Answer
from hobot_llamacpp_py.engine.thoughts import ThoughtFormat, ThoughtSplitter
from hobot_llamacpp_py.engine.vocabulary import Vocabulary

__all__ = ['Pieces']


class Pieces:
    """Fills an answer with what its tokens say.

    Args:
        markers: how the model marks its thoughts; None for one that does not think.
        in_thought: the prompt ends within a thought.
        is_constrained: the answer has to follow something, and may repeat itself.

    Attributes:
        splitter: parts a thought from the answer, where the model thinks.
    """

    def __init__(
        self,
        answer: Answer,
        vocabulary: Vocabulary,
        markers: ThoughtFormat | None,
        in_thought: bool,
        is_constrained: bool,
    ) -> None:
        self.splitter: ThoughtSplitter | None = None
        self._answer, self._vocabulary = answer, vocabulary
        self._utf8 = codecs.getincrementaldecoder('utf-8')('replace')
        self._guard = NoGuard() if is_constrained else RepetitionGuard()
        self._n_shown = 0  # tokens whose text was given
        if markers is not None:
            pieces = (vocabulary.piece, vocabulary.special_piece)
            is_free = not is_constrained
            self.splitter = ThoughtSplitter(markers, *pieces, self._think, in_thought, is_free)

    @property
    def repeated(self) -> bool:
        """Whether the answer has begun to say again what it said."""
        return self._guard.repeated

    def feed(self, token: int) -> str:
        """Return the text that a token adds, which may be none yet."""
        if self.splitter is None or self.splitter.is_over:
            text = self._vocabulary.piece(token)
            self._answer.tokens.append(token)
        else:
            text = self.splitter.feed(token)
            self._answer.tokens += self.splitter.answer_tokens
        return self._show(self._guard.feed(self._utf8.decode(text)))

    def finish(self) -> Iterator[str]:
        """Yield what was held back as long as more could follow."""
        left = self._utf8.decode(self._held_back())
        for piece in (self._guard.feed(left), self._guard.finish()):
            if piece:
                yield self._show(piece)
        if self.repeated:
            self._answer.finish = 'repetition'
            # The model shall not read its own repetition in the next turn.
            del self._answer.tokens[self._n_shown :]

    def _show(self, piece: str) -> str:
        if piece:
            self._n_shown = len(self._answer.tokens)
            self._answer.text += piece
        return piece

    def _think(self, piece: str) -> None:
        self._answer.thoughts += piece
        if self._answer.on_thought is not None:
            self._answer.on_thought(piece)

    def _held_back(self) -> bytes:
        """Return what waited for the thought's end when the model ended its answer."""
        if self.splitter is None or self.splitter.is_over:
            return b''
        left = self.splitter.finish()
        self._answer.tokens += self.splitter.answer_tokens
        self._answer.is_thinking = self.splitter.in_thought
        return left

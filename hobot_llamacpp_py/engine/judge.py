"""Questions about one picture, each asked by itself at the same place of the KV cache.

The picture is decoded once, into a sequence of its own: a conversation's stays as it is. Each
question then costs its own few tokens, and all of them go through the model together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine.branches import Branch, Branches
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.choices import Choices, Search, spellings
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import Element, ImageSpan, KvCache, count_positions
from hobot_llamacpp_py.engine.prompt import PromptBuilder
from hobot_llamacpp_py.engine.request import Inquiry, Request, Turn, Verdict
from hobot_llamacpp_py.engine.vocabulary import Vocabulary, end_tokens
from hobot_llamacpp_py.engine.waiting import result
from hobot_llamacpp_py.errors import InferenceError, PromptError
from hobot_llamacpp_py.vision.embedding_cache import Embeddings
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Judge']

MOST_BRANCHES = 16  # questions that are decoded together
_SEQUENCES = range(2, 2 + MOST_BRANCHES)
_ROOM = 512  # positions that they take together, if none of them takes more
_KEPT = 256  # questions whose tokens are remembered
_BLANK = Picture('', np.zeros((1, 1, 3), np.uint8))


class _Prepared(NamedTuple):
    """An inquiry as the model reads it: the whole prompt, and the answers in tokens."""

    inquiry: Inquiry
    elements: list[Element]
    choices: Choices | None


class _Written:
    """Free text, the likeliest token at each place."""

    def __init__(self, vocabulary: Vocabulary, max_tokens: int) -> None:
        self.most_tokens = max_tokens
        self.wanted: list[int] | None = []
        self.text = ''
        self._vocabulary, self._bytes = vocabulary, b''

    def feed(self, logits: npt.NDArray[np.float32]) -> None:
        """Take the logits [n_vocab] of what follows."""
        assert self.wanted is not None
        token = int(logits.argmax())
        if not self._vocabulary.is_end(token):
            self._bytes += self._vocabulary.piece(token)
            self.wanted = [*self.wanted, token]
            if len(self.wanted) < self.most_tokens:
                return
        self.text, self.wanted = self._bytes.decode('utf-8', 'replace').strip(), None


class Judge:
    """Asks many questions about one picture after the other.

    Args:
        encode: begins to encode a picture.
        conversation: the other sequence, of which what is the same is taken over.
        on_renewed: is called when the context was made anew, and so is empty.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: PromptBuilder,
        encode: Callable[[Picture], Future[Embeddings]],
        conversation: KvCache,
        on_renewed: Callable[[], None],
    ) -> None:
        self.trunk = KvCache(decoder, 1)
        """The picture that was asked about last, and what stands before it."""
        self._decoder, self._prompts, self._encode = decoder, prompts, encode
        self._conversation, self._on_renewed = conversation, on_renewed
        self._running: object | None = None  # whoever the sequences of branches belong to
        self._prepared: dict[tuple[Inquiry, ChatConfig], _Prepared] = {}
        self._ends = end_tokens(decoder.vocabulary.handle)

    def ask(
        self,
        picture: Picture,
        inquiries: Sequence[Inquiry],
        config: ChatConfig,
        cancel: CancelToken,
    ) -> Iterator[Verdict]:
        """Yield the verdicts as they are found, those of free text last.

        Raises:
            CancelledError: the token was set; what was yielded until then holds.
            PromptError: a question cannot be asked; the others were before that.
            InferenceError: the encoder or the decoder failed.
        """
        config = replace(config, thinking='off')
        prepared, failed = [], None
        for inquiry in inquiries:
            try:
                prepared.append(self._prepare(picture, inquiry, config))
            except PromptError as error:
                failed = failed or PromptError(f'{error} (question: {inquiry.question[:60]!r})')
        if prepared:
            yield from self._ask(picture, prepared, cancel)
        if failed:
            raise failed

    def _ask(
        self, picture: Picture, prepared: Sequence[_Prepared], cancel: CancelToken
    ) -> Iterator[Verdict]:
        prompts = [_about(picture, entry.elements) for entry in prepared]
        trunk = _shared(prompts)
        vocabulary = self._decoder.vocabulary
        branches = [
            _Asked(_tokens(prompt[len(trunk) :]), entry.choices, entry.inquiry, vocabulary)
            for prompt, entry in zip(prompts, prepared, strict=True)
        ]
        branches.sort(key=lambda branch: not branch.inquiry.answers)
        longest = max(branch.n_most for branch in branches)
        room = -(-longest // _ROOM) * _ROOM
        self._reserve(count_positions(trunk) + room)
        self._decoder.cancel_on(cancel)
        self._running = running = object()
        self._hold(trunk, cancel)
        grown = Branches(
            self._decoder, self.trunk, _SEQUENCES, room, lambda: self._running is running
        )
        for branch in grown.grow(branches):
            assert isinstance(branch, _Asked)
            yield branch.verdict()

    def _reserve(self, n_positions: int) -> None:
        """Have sequences, and room for them; else the context is made anew."""
        try:
            if not self._decoder.reserve(_SEQUENCES.stop, n_positions):
                return
        except InferenceError:
            self._on_renewed()
            raise
        self._on_renewed()

    def _hold(self, trunk: list[Element], cancel: CancelToken) -> None:
        """Bring the judge's sequence to hold this, and nothing else."""
        held = self.trunk
        held.borrow(self._conversation, trunk, last_again=False)
        held.trim(held.match(trunk, last_again=False))
        rest = trunk[len(held) :]
        images = {e.key: self._encode(e.picture) for e in rest if isinstance(e, ImageSpan)}
        held.prefill(rest, lambda span: result(images[span.key], cancel), logits=False)

    def _prepare(self, picture: Picture, inquiry: Inquiry, config: ChatConfig) -> _Prepared:
        """Render a question once; of the prompt only the picture changes from then on."""
        key = (inquiry, config)
        if key not in self._prepared:
            if len(self._prepared) >= _KEPT:
                self._prepared.clear()
            self._prepared[key] = self._render(picture, inquiry, config)
        return self._prepared[key]

    def _render(self, picture: Picture, inquiry: Inquiry, config: ChatConfig) -> _Prepared:
        if not inquiry.question.strip():
            raise PromptError('the question is empty')
        bare = {answer.rstrip('.。').strip() for answer in inquiry.answers}
        if inquiry.answers and (len(bare) < max(2, len(inquiry.answers)) or '' in bare):
            raise PromptError('permitted answers are two or more, none empty, none there twice')
        prompt = self._prompts.build(Request((Turn(inquiry.question, picture),), config))
        elements = _about(_BLANK, prompt.elements)  # no picture is kept
        if not inquiry.answers:
            return _Prepared(inquiry, elements, None)
        # Where the prompt ends within a line (`Assistant:`), an answer begins with a space.
        last = prompt.elements[-1]
        piece = self._decoder.vocabulary.piece(last) if isinstance(last, int) else b''
        lead = ' ' if piece.strip() and not piece[-1:].isspace() else ''
        sequences = [
            (number, tokens)
            for number, answer in enumerate(inquiry.answers)
            for tokens in spellings(answer, lead, self._decoder.vocabulary.tokenize)
        ]
        return _Prepared(inquiry, elements, Choices(sequences, self._ends))


class _Asked(Branch):
    """The branch of an inquiry."""

    def __init__(
        self,
        tokens: Sequence[int],
        choices: Choices | None,
        inquiry: Inquiry,
        vocabulary: Vocabulary,
    ) -> None:
        self.inquiry = inquiry
        self.search = Search(choices) if choices else None
        self.written = None if choices else _Written(vocabulary, inquiry.max_tokens)
        continuation = self.search or self.written
        assert continuation is not None
        super().__init__(tokens, continuation)

    def verdict(self) -> Verdict:
        """Return what was found."""
        if self.search:
            answer = self.inquiry.answers[self.search.answer]
            return Verdict(self.inquiry, answer, self.search.probability, self.n_decoded)
        assert self.written is not None
        return Verdict(self.inquiry, self.written.text, None, self.n_decoded)


def _about(picture: Picture, elements: list[Element]) -> list[Element]:
    """Return a prompt with another picture."""
    return [
        replace(e, key=picture.key, picture=picture) if isinstance(e, ImageSpan) else e
        for e in elements
    ]


def _shared(prompts: Sequence[list[Element]]) -> list[Element]:
    """Return what all prompts begin with, but never a whole one."""
    first = prompts[0]
    n = min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        n = next((i for i in range(n) if prompt[i] != first[i]), n)
    if any(isinstance(element, ImageSpan) for prompt in prompts for element in prompt[n:]):
        raise InferenceError('the questions part before the picture')
    return first[:n] if len(prompts) > 1 else first[: _after_image(first)]


def _after_image(prompt: list[Element]) -> int:
    """Return where the text behind the last picture begins."""
    at = [i for i, element in enumerate(prompt) if isinstance(element, ImageSpan)]
    return at[-1] + 1 if at else 0


def _tokens(elements: list[Element]) -> list[int]:
    return [element for element in elements if isinstance(element, int)]

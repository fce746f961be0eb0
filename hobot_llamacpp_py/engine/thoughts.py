"""Models that think aloud: where a thought begins and ends, so that it is not read out.

A thought stands at the head of an answer, between markers that the chat template or the vocabulary
names. What follows it is the answer; from there on nothing is looked for any more.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ['ThoughtFormat', 'ThoughtSplitter', 'thought_format']


class Vocabulary(Protocol):
    """What must be known of the decoder's vocabulary."""

    def special_id(self, text: str) -> int | None:
        """Return the id of the special token with exactly this text, or None."""


@dataclass(frozen=True)
class ThoughtFormat:
    """How a family of models marks its thoughts."""

    opens: tuple[str, ...]
    close: str
    skipped: tuple[str, ...]
    """What may stand before the answer, and is no part of it."""
    none: str
    """What a prompt ends with so that no thought follows."""
    tokens: tuple[str, ...]
    """The special tokens that a vocabulary with such thoughts has."""

    def is_open(self, tail: str) -> bool:
        """Tell whether the end of a prompt has opened a thought and not closed it."""
        opened = max(tail.rfind(marker) for marker in self.opens)
        return opened > tail.rfind(self.close)

    def closing(self, tail: str) -> str:
        """Return what has to follow the end of a prompt so that the answer comes at once."""
        if self.is_open(tail):
            return f'\n{self.close}\n\n'
        return '' if tail.rstrip().endswith(self.close) else self.none


def _tags(opening: str, closing: str) -> ThoughtFormat:
    none = f'{opening}\n\n{closing}\n\n'
    return ThoughtFormat((opening,), closing, (closing,), none, (opening, closing))


_FINAL = '<|channel|>final<|message|>'
FORMATS = (
    _tags('<think>', '</think>'),
    _tags('<thinking>', '</thinking>'),
    _tags('<seed:think>', '</seed:think>'),
    _tags('<mm:think>', '</mm:think>'),
    _tags('[THINK]', '[/THINK]'),
    _tags('<|START_THINKING|>', '<|END_THINKING|>'),
    _tags('<|inner_prefix|>', '<|inner_suffix|>'),
    ThoughtFormat(
        opens=('<|channel>thought\n',),
        close='<channel|>',
        skipped=(),
        none='<|channel>thought\n<channel|>',
        tokens=('<|channel>', '<channel|>'),
    ),
    ThoughtFormat(
        # What is said on another channel before the answer is for tools.
        opens=('<|channel|>analysis<|message|>', '<|channel|>commentary<|message|>'),
        close='<|end|>',
        skipped=('<|start|>assistant', _FINAL),
        none=_FINAL,
        tokens=('<|channel|>', '<|message|>', '<|end|>'),
    ),
)


def thought_format(vocabulary: Vocabulary, template: str = '') -> ThoughtFormat | None:
    """Return how a model marks its thoughts, None if nothing says that it thinks.

    Args:
        template: its chat template, if that is used; else the markers must be special tokens.
    """
    for markers in FORMATS:
        # Templates put some markers together: the closing one stands as it is in all of them.
        if markers.close in template and markers.tokens[0] in template:
            return markers
    for markers in FORMATS:
        if all(vocabulary.special_id(text) is not None for text in markers.tokens):
            return markers
    return None


class ThoughtSplitter:
    """Parts the tokens of one answer into thought and answer.

    Args:
        markers: how the model marks thoughts.
        piece: the bytes of a token, none for a control token.
        special: the bytes of a control token.
        on_thought: called with each piece of the thought, as it is known.
        in_thought: the prompt has opened a thought already.
        is_free: what follows the thought is the answer, whatever it is. Else only what follows
            `begin_answer` is.
    """

    def __init__(
        self,
        markers: ThoughtFormat,
        piece: Callable[[int], bytes],
        special: Callable[[int], bytes],
        on_thought: Callable[[str], None],
        in_thought: bool,
        is_free: bool = True,
    ) -> None:
        self.markers, self._is_free = markers, is_free
        self.in_thought = in_thought
        """Whether what comes next belongs to a thought."""
        self.is_over = False
        """Whether the answer has begun: what follows need not be fed any more."""
        self._piece, self._special, self._on_thought = piece, special, on_thought
        self._utf8 = codecs.getincrementaldecoder('utf-8')('replace')
        self._opens = [marker.encode() for marker in markers.opens]
        self._close = markers.close.encode()
        self._heads = [*self._opens, *(skipped.encode() for skipped in markers.skipped)]
        self._known = b''.join((*self._heads, self._close))
        self._held = b''
        self._has_marker = in_thought  # only white space around markers is no part of the answer
        self._n_fed = 0
        self._begun: list[int] = []  # the tokens that the answer begins with, if it does now

    @property
    def answer_tokens(self) -> list[int]:
        """The tokens fed that the answer begins with, none as long as it has not begun."""
        return self._begun if self.is_over and self._is_free else []

    @property
    def n_thinking(self) -> int:
        """The tokens fed that are no part of the answer."""
        return self._n_fed - len(self.answer_tokens)

    def feed(self, token: int) -> bytes:
        """Take the next token; return what is known by now of the answer."""
        text = self._piece(token)
        if not text:  # a control token is shown where markers are made of it
            text = self._special(token)
            text = text if text in self._known else b''
        self._held += text
        self._n_fed += 1
        self._begun.append(token)
        while not self.is_over:
            if self.in_thought:
                at = self._held.find(self._close)
                if at < 0:
                    self._think(len(self._held) - _overlap(self._held, self._close))
                    break
                self._think(at)
                self._take(len(self._close))
                self.in_thought = False
                del self._begun[:-1]  # this one may hold the answer's beginning as well
            elif not self._skip_head():
                break
        if self._has_marker and not self.is_over and (self.in_thought or not self._held.strip()):
            self._begun.clear()
        return self._take(len(self._held)) if self.is_over and self._is_free else b''

    def continues(self, token: int, is_marker: bool) -> bool:
        """Tell whether a token begins or goes on with a marker before the answer.

        Args:
            is_marker: it may begin a marker, and not the answer: as special tokens, which text
                never becomes.
        """
        text = self._piece(token) or self._special(token)
        head = (self._held + text).lstrip()
        if not head:
            return self._has_marker  # the space around markers is no part of the answer
        if not self._held.strip() and not is_marker:
            return False  # text that happens to begin like a marker
        return any(marker.startswith(head) for marker in self._heads)

    def begin_answer(self) -> None:
        """Have the answer begin here; what is held, as half of a marker, is no part of it."""
        if self.in_thought:
            self._think(len(self._held))
        self.in_thought, self.is_over = False, True

    def finish(self) -> bytes:
        """Return what is left of the answer when there are no more tokens."""
        if self.in_thought:
            self._think(len(self._held))
        if not self._is_free:
            return b''
        if self._has_marker:
            self._held = self._held.lstrip()
        self.is_over = bool(self._held)
        return self._take(len(self._held))

    def _think(self, n: int) -> None:
        if piece := self._utf8.decode(self._take(n)):
            self._on_thought(piece)

    def _skip_head(self) -> bool:
        """Step over a marker before the answer; False where more has to come first."""
        head = self._held.lstrip()
        if not head:
            return False
        for marker in self._heads:
            if head.startswith(marker):
                self._held = head[len(marker) :]
                self._has_marker = True
                del self._begun[:-1]
                self.in_thought = marker in self._opens
                return True
        if any(marker.startswith(head) for marker in self._heads):
            return False
        self.is_over = True
        if self._has_marker:
            self._held = head
        return True

    def _take(self, n: int) -> bytes:
        taken, self._held = self._held[:n], self._held[n:]
        return taken


def _overlap(text: bytes, marker: bytes) -> int:
    """Return how many bytes at the end of a text may be the beginning of a marker."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)

"""From a conversation to prompt parts: special tokens, plain text, images and earlier answers.

A prompt is a list of parts and not a string, because a string cannot say which `<|im_end|>` is
the format's and which one was typed by a user. Only a `Special` part ever becomes a special token.
Neighbouring plain text, the format's and the user's, is tokenised together, as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hobot_llamacpp_py.config import Switch
from hobot_llamacpp_py.engine.request import Turn
from hobot_llamacpp_py.engine.thoughts import ThoughtFormat, thought_format
from hobot_llamacpp_py.families import SPECIAL, ModelFamily, check_vocabulary
from hobot_llamacpp_py.vision.picture import Picture

__all__ = [
    'FamilyFormat',
    'Image',
    'InThought',
    'Part',
    'PromptFormat',
    'Special',
    'Text',
    'Tokens',
    'Vocabulary',
    'begin_answer',
    'merged',
]


@dataclass(frozen=True)
class Special:
    """One special token, named by its text in the vocabulary."""

    text: str


@dataclass(frozen=True)
class Text:
    """Plain text: whatever it contains, it never becomes a special token."""

    text: str


@dataclass(frozen=True)
class Image:
    """The place of a picture's embeddings."""

    picture: Picture


@dataclass(frozen=True)
class Tokens:
    """Token ids as they were generated: an earlier answer is never tokenised again."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class InThought:
    """The end of a prompt that has opened a thought, which the model goes on with."""


Part = Special | Text | Image | Tokens | InThought


class Vocabulary(Protocol):
    """What a prompt format must know of the decoder's vocabulary."""

    def special_id(self, text: str) -> int | None:
        """Return the id of the token with exactly this text, or None."""

    def split_special(self, text: str) -> list[Special | Text]:
        """Split a trusted text, such as a rendered template, at its special tokens."""


class PromptFormat(Protocol):
    """Renders a conversation for one family of models."""

    thoughts: ThoughtFormat | None
    """How the model marks its thoughts, if it thinks aloud."""

    def render(self, system: str, turns: Sequence[Turn], thinking: Switch = 'auto') -> list[Part]:
        """Return the prompt's parts; the last turn has no answer and is asked for one."""


class FamilyFormat:
    """A vision-language family's own prompt format.

    Raises:
        ModelFileError: the vocabulary lacks the family's special tokens; says whose it has.
    """

    def __init__(self, family: ModelFamily, vocabulary: Vocabulary) -> None:
        check_vocabulary(family, lambda token: vocabulary.special_id(token) is not None)
        layout = family.prompt
        self.thoughts = thought_format(vocabulary)
        self._vocabulary, self._layout = vocabulary, layout
        self._image = next(form for form in layout.images if _has(vocabulary, *form))

    def render(self, system: str, turns: Sequence[Turn], thinking: Switch = 'auto') -> list[Part]:
        layout = self._layout
        parts = _parts(layout.start)
        if system:
            before, after = layout.system
            parts += [*_parts(before), Text(system), *_parts(after)]
        for turn in turns:
            if turn.image is not None:
                before, after = self._image
                parts += [*_parts(before), Image(turn.image), *_parts(after)]
            else:
                parts += _parts(layout.user)
            parts += [Text(turn.question), *_parts(layout.assistant)]
            if turn.answer is not None:
                parts += [Tokens(turn.answer), *_parts(layout.end)]
        parts += begin_answer('', self.thoughts, thinking, self._vocabulary)
        return list(merged(parts))


def _parts(trusted: str) -> list[Part]:
    """Split a text of a family's layout: every second piece is a special token."""
    pieces = SPECIAL.split(trusted)
    return [Special(piece) if i % 2 else Text(piece) for i, piece in enumerate(pieces)]


def _has(vocabulary: Vocabulary, *trusted: str) -> bool:
    """Tell whether the special tokens of some texts are all in a vocabulary."""
    tokens = [token for text in trusted for token in SPECIAL.findall(text)]
    return all(vocabulary.special_id(token) is not None for token in tokens)


def begin_answer(
    tail: str,
    thoughts: ThoughtFormat | None,
    thinking: Switch,
    vocabulary: Vocabulary,
    is_told: bool = False,
) -> list[Part]:
    """Return what has to follow the end of a prompt: the end of a thought, or word of one.

    Args:
        tail: the end of the prompt, as far as it is the format's own.
        is_told: the prompt was made by a template that knows whether to have the model think.
    """
    if thoughts is None:
        return []
    if thinking == 'off' and (not is_told or thoughts.is_open(tail)):
        return [*vocabulary.split_special(thoughts.closing(tail))]
    return [InThought()] if thoughts.is_open(tail) else []


def merged(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring plain texts and drop empty ones."""
    text = ''
    for part in parts:
        if isinstance(part, Text):
            text += part.text
            continue
        if text:
            yield Text(text)
            text = ''
        yield part
    if text:
        yield Text(text)

"""What is asked of the engine, what it answers, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.vision.picture import Picture

__all__ = [
    'Answer',
    'FinishReason',
    'Inquiry',
    'Request',
    'Stats',
    'Turn',
    'Verdict',
    'without_oldest',
]

FinishReason = Literal['', 'stop', 'length', 'context', 'repetition', 'cancelled']


@dataclass(frozen=True)
class Turn:
    """A question, the picture it came with (if any) and its answer (None: yet to be given)."""

    question: str
    image: Picture | None = None
    answer: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Request:
    """A conversation whose last turn is to be answered, and how."""

    turns: tuple[Turn, ...]
    config: ChatConfig = ChatConfig()


@dataclass
class Stats:
    """What an answer cost; times in seconds, counts in positions of the KV cache."""

    encode_s: float = 0.0
    """Waited for the image encoder; what it did meanwhile or before does not count."""
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    reused: int = 0
    prefilled: int = 0
    decoded: int = 0
    drafted: int = 0
    accepted: int = 0
    """Of the drafted tokens, those that the sampler picked as well."""
    thinking: int = 0
    """Of the decoded tokens, those of thoughts and their markers."""


@dataclass
class Answer:
    """An answer in the making: iterate over it for pieces of text as they are decoded.

    After the iteration `text` is the whole answer, `tokens` its token ids, `finish` why it ended.
    What a model thinks before it answers is in `thoughts` alone; `on_thought`, if set before the
    iteration, is called with each piece of it.
    """

    pieces: Iterator[str] = field(repr=False, default=iter(()))
    text: str = ''
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason = ''
    thoughts: str = ''
    is_thinking: bool = False
    """Whether the answer ended before the thought did: then there is no text."""
    on_thought: Callable[[str], None] | None = field(repr=False, default=None)
    turns: tuple[Turn, ...] = ()
    """The turns that were sent: the oldest may have been dropped to fit the context."""
    stats: Stats = field(default_factory=Stats)

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    @property
    def n_tokens(self) -> int:
        """How many tokens were generated for it, thoughts included."""
        return len(self.tokens) + self.stats.thinking


@dataclass(frozen=True)
class Inquiry:
    """A question, and how it may be answered.

    Attributes:
        answers: the permitted ones, of which one is chosen; none: free text.
        max_tokens: of free text.
    """

    question: str
    answers: tuple[str, ...] = ()
    max_tokens: int = 32


@dataclass(frozen=True)
class Verdict:
    """An answer to an inquiry.

    Attributes:
        probability: of the answer among the permitted ones; None for free text.
        n_decoded: tokens that it cost.
    """

    inquiry: Inquiry
    answer: str
    probability: float | None
    n_decoded: int


def without_oldest(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Drop the oldest of several turns; the newest picture stays: it moves to the next turn."""
    oldest, following, *rest = turns
    if oldest.image is not None and all(turn.image is None for turn in turns[1:]):
        following = replace(following, image=oldest.image)
    return (following, *rest)

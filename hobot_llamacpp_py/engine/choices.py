"""Which of the permitted answers a model gives, and how likely it is among them.

No answer is generated and hoped for: the permitted token sequences form a trie, and at each of
its forks the softmax over the tokens that may follow shares out the probability. Only the forks
that can still change the verdict are looked at, the likeliest first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import LogitsError

__all__ = ['Choices', 'Node', 'Search', 'spellings']

Logits = npt.NDArray[np.float32]
_END = -1  # in place of a token: the answer ends here


class Node:
    """A place in the trie: what may follow, and which answers that can become."""

    def __init__(self) -> None:
        self.following: dict[int, Node] = {}
        self.answers: set[int] = set()

    def add(self, answer: int, tokens: Sequence[int]) -> None:
        """Add a token sequence of an answer."""
        node = self
        node.answers.add(answer)
        for token in (*tokens, _END):
            node = node.following.setdefault(token, Node())
            node.answers.add(answer)


class Choices:
    """The permitted answers in a model's tokens.

    Args:
        sequences: the token sequences of each answer, by the answer's number.
        ends: the tokens that end an answer.
    """

    def __init__(
        self, sequences: Iterable[tuple[int, Sequence[int]]], ends: Sequence[int]
    ) -> None:
        self.root = Node()
        self.ends = list(ends)
        self.longest = 0
        """Tokens of the longest one."""
        for answer, tokens in sequences:
            self.root.add(answer, tokens)
            self.longest = max(self.longest, len(tokens))


def spellings(answer: str, lead: str, tokenize: Callable[[str], list[int]]) -> list[list[int]]:
    """Return the token sequences of an answer: as it stands, and as a sentence.

    Args:
        lead: what stands before an answer, a space or nothing.
    """
    return [tokenize(lead + answer), *(tokenize(lead + answer + stop) for stop in ('.', '。'))]


class Search:
    """The search for the likeliest answer: decode `wanted`, then `feed` it what came of that.

    Attributes:
        most_tokens: that are wanted at a time.
        wanted: the tokens that the next logits have to follow; None: the verdict is there.
        answer: the number of the likeliest answer.
        probability: its share among the permitted ones.
    """

    def __init__(self, choices: Choices) -> None:
        self._choices, self.most_tokens = choices, choices.longest
        self._found: dict[int, float] = {}  # what is certain of each answer's probability
        self._open: list[tuple[float, int, tuple[int, ...], Node]] = []  # forks, likeliest first
        self._count = 0
        self.wanted: tuple[int, ...] | None = None
        self.answer, self.probability = -1, 0.0
        self._reach((), choices.root, 1.0)
        self._next()

    def feed(self, logits: Logits) -> None:
        """Take the logits [n_vocab] of the position after `wanted`.

        Raises:
            LogitsError: those of the tokens that may follow are no numbers.
        """
        share, _, path, node = heapq.heappop(self._open)
        tokens = list(node.following)
        values = np.array([self._logit(logits, token) for token in tokens])
        if not np.isfinite(values).all():
            raise LogitsError
        shares = np.exp(values - values.max())
        shares *= -share / shares.sum()
        for token, part in zip(tokens, shares.tolist(), strict=True):
            self._reach((*path, token), node.following[token], part)
        self._next()

    def _logit(self, logits: Logits, token: int) -> float:
        if token != _END:
            return float(logits[token])
        # Any end will do: their probabilities are added up.
        ends = logits[self._choices.ends].astype(np.float64)
        top = ends.max(initial=-math.inf)
        return float(top + np.log(np.exp(ends - top).sum())) if np.isfinite(top) else float(top)

    def _reach(self, path: tuple[int, ...], node: Node, share: float) -> None:
        """Go on to the next fork; where no other answer is left, that is certain."""
        while len(node.answers) > 1 and len(node.following) == 1:
            token, node = next(iter(node.following.items()))
            path = (*path, token)
        if len(node.answers) == 1:
            answer = next(iter(node.answers))
            self._found[answer] = self._found.get(answer, 0.0) + share
            return
        self._count += 1
        heapq.heappush(self._open, (-share, self._count, path, node))

    def _next(self) -> None:
        """Want the likeliest fork, unless none can change the verdict any more."""
        possible = dict(self._found)
        for share, _, _, node in self._open:
            for answer in node.answers:
                possible[answer] = possible.get(answer, 0.0) - share
        ranked = sorted(possible, key=lambda answer: (-possible[answer], answer))
        best = ranked[0]
        is_certain = not any(best in node.answers for _, _, _, node in self._open)
        if is_certain:
            self.answer, self.probability, self.wanted = best, self._found[best], None
        else:
            self.wanted = self._open[0][2]

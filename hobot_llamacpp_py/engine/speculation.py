"""Speculative decoding from memory: what was said before is drafted again.

A batch of tokens costs less than the same tokens one by one (on a PC 16 at once cost as much as
seven), so a draft that the sampler then agrees with saves time. There is no draft model: the
`Drafter` remembers the tokens that went through the decoder, prompts and answers, and drafts what
followed the last time the same tokens came. (The method is known as prompt look-up decoding.)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

__all__ = ['CONTEXT', 'MAX_DRAFT', 'MEMORY', 'Drafter']

MAX_DRAFT = 15  # with the sampled token that makes a batch of 16
_AGREEING = 3  # tokens that must have come before, in this order, for anything to be drafted
CONTEXT = 16  # elements of the kept prefix to remember a continued prompt with
_CANDIDATES = 32  # earlier places that are compared
_COMPARED = 64  # tokens that a comparison goes back at most
MEMORY = 1 << 15  # tokens remembered
_CHAINS = 1 << 16  # of places whose last tokens have a hash in common
_BREAK = -1  # parts what did not follow each other; tokens are not negative
_COST_SHARE = 0.01  # of the time of plain decoding that drafts may lose
_SAVINGS = 8.0  # plain steps that may be lost on top, of what was gained before
_PROVEN, _TRUST = 4, 4.0  # after so many right guesses in a row, so many steps may be lost


class Drafter:
    """Drafts tokens from memory, and no more of them than pays.

    How many tokens agree with what came before decides how many are drafted: a first guess is
    short, and each one that was right makes the next longer. What drafts gain and lose is
    measured: when they have lost more than 1 % of the decoding time they stop until it has grown,
    or until guesses that were not tried have turned out right.
    """

    def __init__(self) -> None:
        # In arrays it takes less than a megabyte; in objects it would grow to some ten of them.
        self._tokens = array('q')
        # Where the last tokens, or others of their hash, last came: by the end of that place. And
        # for each end where they came before. 0: nowhere.
        self._last = _no_places()
        self._before = array('i')
        self._match = self._agreeing = 0  # where what follows now may stand, and on what grounds
        self._is_found = True  # or there is none
        self._right = 0  # guesses of one token, one after another, that were right
        self._step_s = 0.0  # seconds of a plain step, a running mean
        self._balance = 0.0  # seconds

    def __len__(self) -> int:
        """Return how many tokens are remembered: `MEMORY`, and what a request adds, at most."""
        return len(self._tokens)

    def begin(self, kept: list[int], new: Iterable[int]) -> None:
        """Remember a prompt: the end of what the KV cache holds already, then what is new.

        Images are negative numbers below -1, the same for the same picture.
        """
        if len(self._tokens) > MEMORY:
            tokens = self._tokens[-MEMORY // 2 :]
            self._tokens, self._last, self._before = array('q'), _no_places(), array('i')
            for token in tokens:
                self._remember(token)
        for token in (_BREAK, *kept, *new):
            self._remember(token)
        self._is_found = False  # the first token is waited for: look when that is there

    def append(self, token: int) -> None:
        """Remember a token of the answer."""
        if not self._is_found:
            self._find()
        tokens = self._tokens
        follows = self._match and tokens[self._match] == token
        self._remember(token)
        if follows:
            self._match += 1
            self._agreeing += 1
            self._right += 1
        else:
            self._find()

    def draft(self, most: int) -> list[int]:
        """Guess up to `most` tokens that follow; none without good grounds."""
        if not self._is_found:
            self._find()
        start = self._match
        least = -_TRUST * self._step_s if self._right >= _PROVEN else 0
        if not start or self._balance < least or not self._step_s:
            return []
        draft = self._tokens[start : start + min(self._agreeing, most, MAX_DRAFT)].tolist()
        for i, token in enumerate(draft):
            if token < 0:
                return draft[:i]
        return draft

    def account(self, seconds: float, n_drafted: int) -> None:
        """Note what it took to decode a sampled token and a draft, which may be empty."""
        step_s = self._step_s
        if n_drafted:
            one_by_one = n_drafted * step_s  # what takes longer was held up
            self._balance -= min(seconds - step_s, one_by_one)
        elif step_s:
            self._step_s += 0.1 * (min(seconds, 2 * step_s) - step_s)
            self._balance = min(self._balance, _SAVINGS * step_s) + _COST_SHARE * step_s
        else:
            self._step_s = seconds

    def accept(self) -> None:
        """Note that a drafted token was right: a plain step is saved."""
        self._balance = min(self._balance + self._step_s, _SAVINGS * self._step_s)

    def _remember(self, token: int) -> None:
        tokens = self._tokens
        tokens.append(token)
        chain = hash(tuple(tokens[-_AGREEING:])) % _CHAINS
        self._before.append(self._last[chain])
        self._last[chain] = len(tokens)

    def _find(self) -> None:
        """Find the earlier place that shares most of what came last; of equals the newest."""
        tokens, end = self._tokens, len(self._tokens)
        self._is_found = True
        self._match = self._agreeing = self._right = 0
        candidate = self._before[-1]
        for _ in range(_CANDIDATES):
            if not candidate:
                return
            agreeing, furthest = 0, min(candidate, _COMPARED)
            while (
                agreeing < furthest
                and tokens[candidate - agreeing - 1] == tokens[end - agreeing - 1]
            ):
                agreeing += 1
            if agreeing > max(self._agreeing, _AGREEING - 1):
                self._match, self._agreeing = candidate, agreeing
                if agreeing == _COMPARED:
                    return
            candidate = self._before[candidate - 1]


def _no_places() -> array[int]:
    return array('i', bytes(4 * _CHAINS))

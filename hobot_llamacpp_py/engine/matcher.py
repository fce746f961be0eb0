"""Follows one constrained answer: which tokens may come next, and which ones have to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import InferenceError

__all__ = ['Matcher']

_FEW = 256  # allowed tokens that are worth a list


class Vocabulary(Protocol):
    """What must be known of the vocabulary."""

    n_vocab: int
    ends: list[int]
    """The tokens that end an answer."""
    is_closed: bool
    """Whether it may be freed already."""

    def forget(self, compiled: Any) -> None:
        """Compile a constraint anew when it is asked for next: its matcher has failed."""


# For each byte of a mask what is added to its eight logits.
_ADDED: npt.NDArray[np.float32] = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder='little'), 0, -np.inf
).astype(np.float32)


class Matcher:
    """Follows one answer, token by token. Not thread-safe.

    Args:
        compiled: llguidance's matcher of a constraint, which stays as it is.

    Where the constraint leaves one way on, the tokens of that way are fixed at once, as the
    model's own tokenizer parts its text. Until they are accepted the mask allows each of them
    alone: decoded together or one by one, the answer is the same.
    """

    def __init__(self, compiled: Any, vocabulary: Vocabulary) -> None:
        self._compiled, self._vocabulary = compiled, vocabulary
        self._matcher = compiled.deep_copy()
        self._n_vocab, self._ends = vocabulary.n_vocab, vocabulary.ends
        self._bits = np.zeros(-(-(self._n_vocab + 1) // 64), np.uint64)
        self._bytes = self._bits.view(np.uint8)
        self._n_mask_bytes = -(-(self._n_vocab + 1) // 32) * 4
        self._added = np.empty((-(-self._n_vocab // 8), 8), np.float32)
        self._forced: tuple[int, ...] | None = None  # what is fixed from here on, if known
        self._before: list[tuple[int, ...]] = []  # what was fixed, before each accepted token
        self._is_masked = False
        self._has_ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return self._has_ended or (not self.forced() and bool(self._matcher.is_accepting()))

    @property
    def is_over(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._has_ended or (bool(self._matcher.is_stopped()) and self.is_complete)

    def forced(self) -> Sequence[int]:
        """Return the tokens that have to follow, none if there is a choice."""
        if self._forced is None:
            self._check_open()
            # Where the answer may end as well, nothing has to follow.
            forced = () if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()
            self._forced = tuple(forced)
        return self._forced

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Make the logits [n_vocab] of all tokens that may not follow minus infinity, in place.

        Raises:
            InferenceError: nothing may follow.
        """
        self._compute()
        np.take(_ADDED, self._bytes[: len(self._added)], axis=0, out=self._added, mode='clip')
        logits += self._added.reshape(-1)[: self._n_vocab]

    def few(self) -> npt.NDArray[np.int32] | None:
        """Return the tokens that may follow, None if there are many: then `mask` is faster.

        Raises:
            InferenceError: nothing may follow.
        """
        self._compute()
        words = np.flatnonzero(self._bits)
        if len(words) > _FEW:
            return None
        bits = np.unpackbits(self._bytes.reshape(-1, 8)[words].reshape(-1), bitorder='little')
        at = np.flatnonzero(bits)
        if len(at) > _FEW:
            return None
        tokens: npt.NDArray[np.int32] = ((words[at >> 6] << 6) + (at & 63)).astype(np.int32)
        return tokens

    def allows(self, token: int) -> bool:
        """Tell whether a token may follow."""
        if forced := self.forced():
            return token == forced[0]
        if token in self._ends:
            return self.is_complete
        return not self._has_ended and bool(self._matcher.validate_tokens([token]))

    def accept(self, token: int) -> None:
        """Take the token that follows.

        Raises:
            InferenceError: it may not follow.
        """
        forced = self.forced()
        if not self.allows(token):
            raise self._error(f'the constraint does not allow token {token} here')
        if token in self._ends:
            self._has_ended = True
        elif not self._matcher.consume_token(token) or self._matcher.is_error():
            raise self._error('the constraint cannot go on')
        self._before.append(tuple(forced))
        self._forced = tuple(forced[1:]) or None
        self._is_masked = False

    def rollback(self, n: int) -> None:
        """Take back the last n accepted tokens."""
        if not n:
            return
        self._forced = self._before[-n]
        del self._before[-n:]
        n -= self._has_ended
        self._has_ended = self._is_masked = False
        if n and not self._matcher.rollback(n):
            raise self._error('the constraint cannot go back')

    def draft(self, guess: Iterable[int], most: int) -> tuple[list[int], list[bool] | None]:
        """Return up to `most` tokens that follow: forced ones, and those of a guess between them.

        It ends where the guess is not what is forced, or is not allowed.

        Returns:
            the tokens, and of which token of the batch (the one that they follow, then they) the
            logits are needed: not where a forced one follows. None: of all, and nothing is forced.
        """
        tokens: list[int] = []
        wanted: list[bool] = []
        guesses = iter(guess)
        is_guessing = True
        while len(tokens) < most and not self.is_over:
            guessed = next(guesses, None) if is_guessing else None
            forced = self.forced()
            token = forced[0] if forced else guessed
            is_guessing = guessed is not None and token == guessed
            if token is None or token in self._ends or not self.allows(token):
                break
            self.accept(token)
            tokens.append(token)
            wanted.append(not forced)
        self.rollback(len(tokens))
        return tokens, None if all(wanted) else [*wanted, True]

    def _compute(self) -> None:
        """Make the mask's bits, unless they are those of this place already."""
        if self._is_masked:
            return
        if forced := self.forced():
            self._bits.fill(0)
            self._bytes[forced[0] >> 3] = 1 << (forced[0] & 7)
        else:
            self._check_open()
            if not self._has_ended:
                self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._n_mask_bytes)
            # At an error llguidance gives the mask of an end.
            if self._matcher.is_error():
                raise self._error('the constraint cannot go on')
            end = self._n_vocab
            if self._has_ended:
                self._bits.fill(0)
            if self._has_ended or self._bytes[end >> 3] >> (end & 7) & 1:
                self._bytes[end >> 3] &= ~(1 << (end & 7)) & 0xFF
                for token in self._ends:
                    self._bytes[token >> 3] |= 1 << (token & 7)
        self._is_masked = True

    def _check_open(self) -> None:
        if self._vocabulary.is_closed:  # the vocabulary may be freed
            raise InferenceError('the model is closed')

    def _error(self, what: str) -> InferenceError:
        from hobot_llamacpp_py.engine.constraint_trial import without_noise

        error = self._matcher.get_error()
        if not error:
            return InferenceError(what)
        self._vocabulary.forget(self._compiled)  # copies share a lexer, and its limits
        return InferenceError(f'{what}: {without_noise(error)}')

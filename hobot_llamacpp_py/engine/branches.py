"""Several ways on from one place of the KV cache, decoded together.

Each is a sequence of its own that shares the trunk with all others: what stands before the place
is held, and computed, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.engine.batch import Rows
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import KvCache

__all__ = ['Branch', 'Branches', 'Continuation']


class Continuation(Protocol):
    """What is wanted of a branch, step by step."""

    @property
    def most_tokens(self) -> int:
        """How many may be wanted at a time."""

    @property
    def wanted(self) -> Sequence[int] | None:
        """The tokens whose following logits are wanted next; None: there is no more to do."""

    def feed(self, logits: npt.NDArray[np.float32]) -> None:
        """Take the logits [n_vocab] of what follows `wanted`."""


@dataclass
class Branch:
    """A way on: a text, and what is to be found out behind it."""

    tokens: Sequence[int]
    continuation: Continuation
    n_decoded: int = 0
    held: list[int] = field(default_factory=list)

    @property
    def n_most(self) -> int:
        """Positions that it may take."""
        return len(self.tokens) + self.continuation.most_tokens

    @property
    def wanted(self) -> list[int] | None:
        """All tokens behind the trunk whose following logits are wanted."""
        more = self.continuation.wanted
        return None if more is None else [*self.tokens, *more]


class Branches:
    """Grows branches, as many at once as there are sequences and positions for.

    Args:
        trunk: the sequence that all of them go on from.
        sequences: the numbers of those for the branches.
        room: positions that the branches may take together.
        is_current: tells whether the sequences are still these branches'.
    """

    def __init__(
        self,
        decoder: Decoder,
        trunk: KvCache,
        sequences: Sequence[int],
        room: int,
        is_current: Callable[[], bool],
    ) -> None:
        self._decoder, self._trunk = decoder, trunk
        self._sequences, self._room, self._is_current = sequences, room, is_current
        for sequence in sequences:
            decoder.trim(0, sequence)  # what somebody has left who did not come to the end

    def grow(self, branches: Sequence[Branch]) -> Iterator[Branch]:
        """Give each branch what it wants; yield it when it wants no more.

        Raises:
            CancelledError, InferenceError: as `Decoder.decode_rows`; nothing is left behind.
        """
        waiting = list(branches)
        growing: dict[int, Branch] = {}  # by sequence
        try:
            while waiting or growing:
                self._begin(waiting, growing)
                self._step(growing)
                for sequence, branch in list(growing.items()):
                    if branch.wanted is None:
                        del growing[sequence]
                        self._decoder.trim(0, sequence)
                        yield branch
        finally:
            for sequence in growing if self._is_current() else ():
                self._decoder.trim(0, sequence)

    def _begin(self, waiting: list[Branch], growing: dict[int, Branch]) -> None:
        """Begin with as many branches as fit, one at least."""
        free = [sequence for sequence in self._sequences if sequence not in growing]
        taken = sum(branch.n_most for branch in growing.values())
        while waiting and free:
            size = waiting[0].n_most
            if growing and taken + size > self._room:
                return
            sequence, branch = free.pop(0), waiting.pop(0)
            growing[sequence], taken = branch, taken + size
            self._fork(sequence, branch)

    def _fork(self, sequence: int, branch: Branch) -> None:
        self._decoder.copy(self._trunk.sequence, sequence, self._trunk.n_past)
        branch.held = []

    def _step(self, growing: dict[int, Branch]) -> None:
        """Decode what all branches want in one batch, and give them what came of it."""
        decoder, n_past = self._decoder, self._trunk.n_past
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        rows: dict[int, int] = {}
        for sequence, branch in growing.items():
            wanted = branch.wanted or []
            same = _common(branch.held, wanted)
            if same < len(branch.held) and decoder.trim(n_past + same, sequence) != n_past + same:
                self._fork(sequence, branch)
                same = 0
            tokens += wanted[same:]
            positions += range(n_past + same, n_past + len(wanted))
            sequences += [sequence] * (len(wanted) - same)
            branch.held = wanted
            branch.n_decoded += len(wanted) - same
            rows[sequence] = len(tokens) - 1
        last = set(rows.values())
        wanted_rows = [i in last for i in range(len(tokens))]
        decoder.decode_rows(Rows(tokens, positions, sequences, wanted_rows))
        for sequence, branch in growing.items():
            branch.continuation.feed(decoder.logits(rows[sequence]))


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Return how many tokens are held already; not the last one, whose logits are wanted."""
    limit = min(len(held), len(wanted) - 1)
    return next((i for i in range(limit) if held[i] != wanted[i]), limit)

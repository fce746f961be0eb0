"""Batches of tokens in llama.cpp's form."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['FLOAT_P', 'INT32_P', 'INT8_P', 'Owners', 'Rows', 'Step', 'pointer']

INT32_P = ctypes.POINTER(ctypes.c_int32)
INT8_P = ctypes.POINTER(ctypes.c_int8)
FLOAT_P = ctypes.POINTER(ctypes.c_float)


class Owners:
    """Which sequence each token of a batch belongs to; without it, to sequence 0."""

    def __init__(self, sequences: Sequence[int]) -> None:
        self._sequences = np.array(sequences, np.int32)
        self._numbers = np.ones(len(sequences), np.int32)
        self._at = self._sequences.ctypes.data + 4 * np.arange(len(sequences), dtype=np.uint64)

    def put_into(self, batch: Any) -> None:
        """Point a batch to this, which must outlive its use."""
        batch.n_seq_id = pointer(self._numbers, INT32_P)
        batch.seq_id = pointer(self._at, ctypes.POINTER(INT32_P))


class Rows:
    """Tokens of several sequences.

    Attributes:
        batch: for `llama_decode`, as long as this object lives.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        wanted: Sequence[bool],
    ) -> None:
        self._tokens = np.array(tokens, np.int32)
        self._positions = np.array(positions, np.int32)
        self._wanted = np.array(wanted, np.int8)
        self._owners = Owners(sequences)
        self.batch: Any = llama_cpp.llama_batch(
            n_tokens=len(tokens),
            token=pointer(self._tokens, INT32_P),
            pos=pointer(self._positions, INT32_P),
            logits=pointer(self._wanted, INT8_P),
        )
        self._owners.put_into(self.batch)


class Step:
    """The batch of a sampled token and its draft: made once, so that a step only writes integers.

    Args:
        positions: int32, counted from 0.
        most: tokens of a batch.
    """

    def __init__(self, positions: npt.NDArray[np.int32], most: int) -> None:
        self._positions = positions
        self._positions_at: int = positions.ctypes.data
        self._tokens: Any = (ctypes.c_int32 * most)()
        self._flags: Any = (ctypes.c_int8 * most)(*[1] * most)
        self._has_flags = False  # others than ones
        self._batch: Any = llama_cpp.llama_batch(
            token=self._tokens, pos=(ctypes.c_int32 * most)(), logits=self._flags
        )

    def of(self, token: int, draft: Sequence[int], at: int, wanted: Sequence[bool] | None) -> Any:
        """Return the batch, which the next call changes.

        Args:
            at: the token's position.
            wanted: of which tokens the logits are; None: of all.
        """
        n = 1 + len(draft)
        self._tokens[0] = token
        if draft:
            self._tokens[1:n] = draft
        if wanted is not None:
            self._flags[:n] = wanted
        elif self._has_flags:
            ctypes.memset(self._flags, 1, len(self._flags))
        self._has_flags = wanted is not None
        ctypes.memmove(self._batch.pos, self._positions_at + 4 * at, 4 * n)
        self._batch.n_tokens = n
        return self._batch


def pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    """Return a C pointer to an array's data; the array must outlive its use."""
    return array.ctypes.data_as(kind)

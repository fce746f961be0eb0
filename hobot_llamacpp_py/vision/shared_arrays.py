"""The picture and its embeddings in memory that two processes share."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ['SharedArrays', 'checked_sizes']

_MOST_BYTES = 1 << 30


def checked_sizes(value: Any) -> tuple[tuple[int, int], int, int]:
    """Return input size, n_tokens and n_embd as the other process has told them.

    Raises:
        ValueError: they are none.
    """
    try:
        (width, height), n_tokens, n_embd = value
    except TypeError:
        raise ValueError(value) from None
    for number in (width, height, n_tokens, n_embd):
        if type(number) is not int or number < 1:
            raise ValueError(number)
    if max(width * height * 3, n_tokens * n_embd * 4) > _MOST_BYTES:
        raise ValueError(value)
    return (width, height), n_tokens, n_embd


class SharedArrays:
    """What an encoder process and its parent both map.

    Attributes:
        pixels: uint8, flat: room for a BGR picture of the encoder's input size.
        embeddings: float32 [n_tokens, n_embd].
    """

    def __init__(
        self, descriptor: int, input_size: tuple[int, int], n_tokens: int, n_embd: int
    ) -> None:
        width, height = input_size
        start = -(-width * height * 3 // mmap.PAGESIZE) * mmap.PAGESIZE
        size = start + n_tokens * n_embd * 4
        if os.fstat(descriptor).st_size != size:  # new, and empty
            os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        self.pixels = np.frombuffer(memory, np.uint8, width * height * 3)
        self.embeddings: npt.NDArray[np.float32] = np.frombuffer(
            memory, np.float32, n_tokens * n_embd, start
        ).reshape(n_tokens, n_embd)

    def picture(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Return the place of a BGR picture [height, width, 3]."""
        return self.pixels[: height * width * 3].reshape(height, width, 3)

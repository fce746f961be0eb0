"""What a vision encoder is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ['CpuEncoder', 'VisionEncoder']


class VisionEncoder(Protocol):
    """A ViT with its projector: a picture in, image embeddings out.

    Attributes:
        input_size: width and height of the picture that the model sees.
        n_tokens: image tokens for a picture.
        n_embd: width of an image token, to equal the decoder's.
    """

    input_size: tuple[int, int]
    n_tokens: int
    n_embd: int

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the image embeddings, float32 [n_tokens, n_embd], of a BGR picture.

        It is uint8 [h, w, 3], at most `input_size` large; it lies top-left, and the rest is black.
        """

    def close(self) -> None:
        """Free the model, also while `encode` runs in another thread; again does no harm."""


@runtime_checkable
class CpuEncoder(VisionEncoder, Protocol):
    """An encoder whose threads share the cores with the decoder's, and can be made fewer."""

    def use_threads(self, n: int) -> None:
        """Compute with n threads from the next picture on."""

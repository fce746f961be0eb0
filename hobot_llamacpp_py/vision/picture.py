"""A picture as the encoder sees it, with an identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ['Picture']


@dataclass(frozen=True, eq=False)
class Picture:
    """A BGR picture fitted to the encoder's input (uint8 [h, w, 3]) and the key that names it.

    Two pictures with the same key have the same pixels, so they have the same embeddings.
    """

    key: str
    pixels: npt.NDArray[np.uint8] = field(repr=False)

    @classmethod
    def of(cls, pixels: npt.NDArray[np.uint8]) -> Picture:
        """Name fitted pixels by a hash of their shape and content."""
        digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels).data)
        return cls(digest.hexdigest(), pixels)

    def resembles(self, pixels: npt.NDArray[np.uint8], threshold: float) -> bool:
        """Tell whether fitted pixels differ by less than `threshold` (0 to 255) on average."""
        if threshold <= 0 or pixels.shape != self.pixels.shape:
            return False
        return cv2.norm(pixels, self.pixels, cv2.NORM_L1) < threshold * pixels.size

"""The way of a picture into an encoder: fitted, given an identity, encoded once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import VisionConfig
from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.embedding_cache import EmbeddingCache, Embeddings
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.vision.preprocess import fit

__all__ = ['Fitter', 'Pictures']


class Fitter:
    """Fits pictures to a size and gives them an identity. Thread-safe.

    Args:
        size: width and height, as `fit` takes them.
    """

    def __init__(self, size: tuple[int, int], config: VisionConfig) -> None:
        self._size, self._config = size, config
        self._last: Picture | None = None
        self._lock = threading.Lock()

    def picture(self, bgr: npt.NDArray[np.uint8]) -> Picture:
        """Fit a BGR picture [h, w, 3] and give it an identity.

        With a `frame_reuse_threshold` that is the last picture's, if the two hardly differ.

        Raises:
            ImageError: that is no picture.
        """
        if not isinstance(bgr, np.ndarray) or bgr.ndim != 3 or bgr.shape[2] != 3:
            raise ImageError(
                'that is no BGR picture [h, w, 3]; cv2.imread gives None for what it cannot read'
            )
        pixels = fit(bgr, self._size, self._config.resize_mode)
        if pixels is bgr:
            pixels = bgr.copy()  # the caller may draw the next frame into the same array
        with self._lock:
            last = self._last
            if last is None or not last.resembles(pixels, self._config.frame_reuse_threshold):
                last = self._last = Picture.of(pixels)
            return last


class Pictures(Fitter):
    """Pictures for one encoder, which it closes. Thread-safe.

    Args:
        threads: as `EmbeddingCache` takes it.
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        config: VisionConfig,
        threads: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(encoder.input_size, config)
        self._embeddings = EmbeddingCache(encoder, config.embedding_cache_size, threads)

    def encode(self, picture: Picture) -> Future[Embeddings]:
        """Begin to encode a picture, unless its embeddings are there or under way."""
        return self._embeddings.start(picture)

    def close(self) -> None:
        """Free the encoder, once it has finished with a picture; closing again does no harm."""
        self._embeddings.close()

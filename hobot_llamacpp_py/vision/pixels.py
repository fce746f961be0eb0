"""Raw images as cameras give them: rows of numbers in one of many encodings, converted to BGR.

The encodings' names are those of ROS' sensor_msgs, and nv12.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import ImageError

__all__ = ['RawImage', 'nv12_to_bgr']

# encoding: number type, numbers a pixel, conversion to BGR (None: is BGR already)
_ENCODINGS: dict[str, tuple[type[Any], int, int | None]] = {
    'bgr8': (np.uint8, 3, None),
    '8UC3': (np.uint8, 3, None),
    'rgb8': (np.uint8, 3, cv2.COLOR_RGB2BGR),
    'bgra8': (np.uint8, 4, cv2.COLOR_BGRA2BGR),
    '8UC4': (np.uint8, 4, cv2.COLOR_BGRA2BGR),
    'rgba8': (np.uint8, 4, cv2.COLOR_RGBA2BGR),
    'mono8': (np.uint8, 1, cv2.COLOR_GRAY2BGR),
    '8UC1': (np.uint8, 1, cv2.COLOR_GRAY2BGR),
    'mono16': (np.uint16, 1, cv2.COLOR_GRAY2BGR),
    '16UC1': (np.uint16, 1, cv2.COLOR_GRAY2BGR),
    'yuv422': (np.uint8, 2, cv2.COLOR_YUV2BGR_UYVY),
    'uyvy': (np.uint8, 2, cv2.COLOR_YUV2BGR_UYVY),
    'yuv422_yuy2': (np.uint8, 2, cv2.COLOR_YUV2BGR_YUY2),
    'yuyv': (np.uint8, 2, cv2.COLOR_YUV2BGR_YUY2),
    # OpenCV names a Bayer pattern after its second row, ROS after its first.
    'bayer_rggb8': (np.uint8, 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr8': (np.uint8, 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg8': (np.uint8, 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg8': (np.uint8, 1, cv2.COLOR_BayerGB2BGR),
    'bayer_rggb16': (np.uint16, 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr16': (np.uint16, 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg16': (np.uint16, 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg16': (np.uint16, 1, cv2.COLOR_BayerGB2BGR),
}


@dataclass(frozen=True)
class RawImage:
    """The bytes of an image, not copied, and what they mean.

    Attributes:
        data: anything with the buffer protocol.
        step: bytes from one row to the next; 0: rows without padding.
    """

    data: Any = field(repr=False)
    encoding: str
    width: int
    height: int
    step: int = 0
    is_bigendian: bool = False

    def bgr(self) -> npt.NDArray[np.uint8]:
        """Convert to BGR [h, w, 3], without a copy where it is BGR already.

        Raises:
            ImageError: unknown encoding, or size, step and data do not fit each other.
        """
        if self.encoding == 'nv12':
            if self.width % 2 or self.height % 2:
                raise ImageError(f'{self._what} is impossible: both must be even')
            planes = self._view((self.height * 3 // 2, self.width, 1), np.uint8)
            return nv12_to_bgr(planes[:, :, 0])
        rows, (dtype, channels, conversion) = self.rows(), _ENCODINGS[self.encoding]
        if conversion is None:
            return rows
        if channels == 2 and self.width % 2:
            raise ImageError(f'an image with encoding {self.encoding} has odd width {self.width}')
        if dtype is np.uint16:
            if self.is_bigendian != (sys.byteorder == 'big'):
                rows = rows.byteswap()
            # OpenCV takes no rows that begin in the middle of a number, as with an odd step.
            rows = cv2.convertScaleAbs(np.require(rows, requirements='A'), alpha=255 / 65535)
        try:
            return cv2.cvtColor(rows, conversion)  # type: ignore[return-value]
        except cv2.error as error:
            raise ImageError(f'{self._what} cannot be converted: {error.err}') from None

    def rows(self) -> npt.NDArray[Any]:
        """View it as numbers [h, w, channels], of any encoding but nv12.

        Raises:
            ImageError: unknown encoding, or size, step and data do not fit each other.
        """
        if self.encoding not in _ENCODINGS:
            raise ImageError(
                f'images with encoding {self.encoding!r} are not supported; known are nv12,'
                f' {", ".join(_ENCODINGS)}'
            )
        dtype, channels, _ = _ENCODINGS[self.encoding]
        return self._view((self.height, self.width, channels), dtype)

    @property
    def is_bgr(self) -> bool:
        """Whether it needs no conversion."""
        return self.encoding in ('bgr8', '8UC3')

    @property
    def _what(self) -> str:
        return f'an image of {self.width}x{self.height} with encoding {self.encoding}'

    def _view(self, shape: tuple[int, int, int], dtype: type[Any]) -> npt.NDArray[Any]:
        """View the bytes as numbers [n_rows, width, channels], one row every `step` bytes."""
        data = np.frombuffer(self.data, np.uint8)
        n_rows, width, channels = shape
        item = np.dtype(dtype).itemsize
        row_bytes = width * channels * item
        step = self.step or row_bytes
        if not row_bytes or not n_rows or step < row_bytes:
            raise ImageError(
                f'{self._what} and step {step} is impossible: a row has {row_bytes} bytes'
            )
        needed = step * (n_rows - 1) + row_bytes
        if data.size < needed:
            raise ImageError(
                f'{self._what} and step {step} needs {needed} bytes, the message has {data.size}'
            )
        return np.ndarray(shape, dtype, data, strides=(step, channels * item, item))


def nv12_to_bgr(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert NV12 planes [h * 3 / 2, w] to BGR [h, w, 3]."""
    return cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12)  # type: ignore[return-value]

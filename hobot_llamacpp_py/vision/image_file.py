"""Local image files: encoded ones, and raw NV12."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import ImageError

__all__ = ['decoded', 'nv12_to_bgr', 'read_image', 'read_nv12']


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read an encoded picture (jpg, png, bmp, webp ...) as BGR [h, w, 3].

    Raises:
        ImageError: the file cannot be read or decoded.
    """
    bgr = decoded(_read(path))
    if bgr is None:
        raise ImageError(
            f'{path} is not a picture that OpenCV can decode; a raw NV12 file needs image_type:=1'
        )
    return bgr


def decoded(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode an encoded picture to BGR [h, w, 3]; None if it is none."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        return cv2.imdecode(buffer, cv2.IMREAD_COLOR) if buffer.size else None  # type: ignore[return-value]
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        return None


def read_nv12(path: str | Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Read a raw NV12 file as BGR [height, width, 3].

    Raises:
        ImageError: the size is not given or odd, or the file has another size.
    """
    if width <= 0 or height <= 0 or width % 2 or height % 2:
        raise ImageError(
            f'{path}: a raw NV12 file needs image_width and image_height, even and above zero;'
            f' they are {width} and {height}'
        )
    data = np.frombuffer(_read(path), np.uint8)
    expected = width * height * 3 // 2
    if data.size != expected:
        raise ImageError(
            f'{path} has {data.size} bytes; an NV12 picture of {width}x{height} has {expected}'
        )
    return nv12_to_bgr(data.reshape(height * 3 // 2, width))


def nv12_to_bgr(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert NV12 planes [h * 3 / 2, w] to BGR [h, w, 3]."""
    return cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12)  # type: ignore[return-value]


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f'{path} cannot be read: {error.strerror}') from None

"""Local image files: encoded ones, and raw NV12."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.pixels import nv12_to_bgr

__all__ = ['decoded', 'read_image', 'read_nv12']


def read_image(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read an encoded picture (jpg, png, bmp, webp ...) as BGR [h, w, 3].

    Raises:
        ImageError: the file cannot be read or decoded.
    """
    bgr = decoded(_read(path))
    if bgr is None:
        raise ImageError(
            f'{path} is not a picture that OpenCV can decode (of at most 100 megapixels), or is'
            ' raw NV12',
            setting='image_format',
            value='NV12',
        )
    return bgr


def decoded(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode an encoded picture to BGR [h, w, 3]; None if it is none."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        return cv2.imdecode(buffer, cv2.IMREAD_COLOR) if buffer.size else None  # type: ignore[return-value]
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        return None  # a header that promises more pixels than are allowed


def read_nv12(path: str | Path, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Read a raw NV12 file as BGR [height, width, 3].

    Raises:
        ImageError: the size is not given or odd, or the file has another size.
    """
    if width <= 0 or height <= 0 or width % 2 or height % 2:
        raise ImageError(
            f'{path}: a raw NV12 picture has an even width and height above zero; given are'
            f' {width} and {height}',
            setting='image_size',
        )
    data = np.frombuffer(_read(path), np.uint8)
    expected = width * height * 3 // 2
    if data.size != expected:
        raise ImageError(
            f'{path} has {data.size} bytes; an NV12 picture of {width}x{height} has {expected}'
        )
    return nv12_to_bgr(data.reshape(height * 3 // 2, width))


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f'{path} cannot be read: {error.strerror}') from None

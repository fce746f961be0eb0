"""Pictures in requests: data URLs, looked at before they cost anything."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable

import cv2

from hobot_llamacpp_py.vision.image_file import decoded
from hobot_llamacpp_py.web.backend import Bgr
from hobot_llamacpp_py.web.http_error import HttpError

__all__ = ['as_jpeg', 'read_data_urls']

FORMATS = ('JPEG', 'PNG', 'WEBP')
MOST_PIXELS = 50_000_000
# An MCP client takes no message over 1 MiB: these keep even noise below that, in base64.
JPEG_SIDE, JPEG_QUALITY = 1024, 80
_DATA_URL = re.compile(r'data:image/(?:jpeg|jpg|png|webp);base64,', re.IGNORECASE)


def read_data_urls(urls: Iterable[str]) -> dict[str, Bgr]:
    """Return the pictures of data URLs as BGR [h, w, 3].

    Raises:
        HttpError: one is none or of another format, or they have too many pixels together.
    """
    files = {url: _file(url) for url in urls}
    n_pixels = 0
    for data in files.values():
        width, height = _size(data)
        n_pixels += width * height
        if n_pixels > MOST_PIXELS:
            raise HttpError(
                413,
                f'a picture of {width}x{height} is too large: those of a request may have'
                f' {MOST_PIXELS // 10**6} megapixels together',
            )
    return {url: _pixels(data) for url, data in files.items()}


def _file(url: str) -> bytes:
    head = _DATA_URL.match(url)
    if head is None:
        raise HttpError(400, 'a picture must be data:image/jpeg, png or webp, in base64')
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except ValueError as error:
        raise HttpError(400, f'a picture is not base64: {error}') from None


def _pixels(data: bytes) -> Bgr:
    bgr = decoded(data)
    if bgr is None:
        raise HttpError(400, 'a picture cannot be decoded: it is damaged')
    return bgr


def as_jpeg(bgr: Bgr) -> bytes:
    """Return a BGR picture [h, w, 3] as a JPEG file, made smaller where it is large."""
    height, width = bgr.shape[:2]
    scale = JPEG_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height as the file's head tells them."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about many pixels: that is asked for here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise HttpError(400, 'a picture is no JPEG, PNG or WebP') from None
    except Image.DecompressionBombError as error:
        raise HttpError(413, f'a picture has too many pixels: {error}') from None

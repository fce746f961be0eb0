"""Pictures as they travel: a JPEG in a data URL."""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict

import cv2

from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['SIDE', 'DataUrls']

SIDE = 1024  # pixels; vision-language models see little more, and it would double the bytes
QUALITY = 90


class DataUrls:
    """The last few pictures as data URLs, each encoded once. Thread-safe.

    Args:
        size: pictures that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size, self._urls = size, OrderedDict[str, str]()
        self._lock = threading.Lock()

    def of(self, picture: Picture) -> str:
        """Return a picture's data URL: the same each time, so that servers know it again."""
        with self._lock:
            if picture.key not in self._urls:
                jpeg = cv2.imencode('.jpg', picture.pixels, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1]
                encoded = base64.b64encode(jpeg.data).decode()
                self._urls[picture.key] = f'data:image/jpeg;base64,{encoded}'
            self._urls.move_to_end(picture.key)
            while len(self._urls) > self._size:
                self._urls.popitem(last=False)
            return self._urls[picture.key]

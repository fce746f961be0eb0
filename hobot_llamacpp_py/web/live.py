"""The newest frame as a JPEG, made once for all who look."""

from __future__ import annotations

import asyncio
import hashlib
import time

import cv2
import numpy as np
from starlette.concurrency import run_in_threadpool

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.web.backend import Backend, Bgr
from hobot_llamacpp_py.web.http_error import HttpError

__all__ = ['Live']

MOST_WIDTH = 960
QUALITY = 80
PERIOD = 0.15  # seconds in which all who look see the same frame


class Live:
    """The newest frame, looked at only while somebody asks for it.

    Whoever asks for `get` again soon gets the same picture; a scene in which nothing moves is
    encoded and sent once.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = asyncio.Lock()
        self._identity: object = None
        self._looked = -PERIOD
        self._shown: Bgr | None = None
        self._digest, self._jpeg = '', b''

    async def get(self) -> tuple[str, bytes]:
        """Return a name of the picture, for as long as it looks the same, and the JPEG.

        Both are empty where there is nothing to see.

        Raises:
            HttpError: what there is cannot be shown.
        """
        async with self._turn:
            if time.monotonic() - self._looked >= PERIOD:
                try:
                    await run_in_threadpool(self._look)
                except ImageError as error:
                    raise HttpError(503, str(error), code='ImageError') from None
                self._looked = time.monotonic()
            return self._digest, self._jpeg

    def _look(self) -> None:
        newest = self._backend.newest()
        if newest is None:
            self._identity = self._shown = None
            self._digest, self._jpeg = '', b''
            return
        identity, bgr = newest
        if identity != self._identity:
            small = _scaled(bgr())
            if self._shown is None or not np.array_equal(small, self._shown):
                quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
                self._jpeg = cv2.imencode('.jpg', small, quality)[1].tobytes()
                self._digest = hashlib.blake2b(self._jpeg, digest_size=12).hexdigest()
            self._identity, self._shown = identity, small


def _scaled(bgr: Bgr) -> Bgr:
    height, width = bgr.shape[:2]
    if width <= MOST_WIDTH:
        return bgr
    size = (MOST_WIDTH, max(1, round(height * MOST_WIDTH / width)))
    return cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

"""Where the picture comes from that a question is about: a file, or nowhere; or a camera.

`describe` and `newest` may be called from any thread, all else by the inference thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.engine import CancelToken, Vlm
from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.ros.sight import Sight, see
from hobot_llamacpp_py.vision.image_file import read_image, read_nv12

__all__ = ['LocalPicture', 'NoPicture', 'PictureSource']

Bgr = npt.NDArray[np.uint8]


class PictureSource(Protocol):
    """Gives what a question is about."""

    def open(self, engine: Vlm) -> Sight | None:
        """Begin, now that there is an engine; return what can be prepared before any prompt."""

    def has_news(self) -> bool:
        """Tell whether there is something to prepare that nobody has asked for."""

    def prepare(self, cancel: CancelToken) -> Sight | None:
        """Return what the next question will be about, now that somebody is about to ask."""

    def seen(self) -> Sight | None:
        """Return what was encoded before anybody asked, if that is fresh enough."""

    def next(self, cancel: CancelToken, *, newest: bool) -> Sight | None:
        """Return what a question is about, None in a text chat.

        Args:
            newest: the newest there is, though something else may be encoded already.
        """

    def look(self, cancel: CancelToken) -> Sight | None:
        """Return the newest there is, for somebody else than those who it is prepared for."""

    def forget_prepared(self) -> None:
        """Prepare anew for the next question."""

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        """Return what there is to see now, with an identity; None for nothing. From any thread.

        A frame that is only looked at does not count as used.
        """

    def describe(self, is_read: bool) -> Mapping[str, object]:
        """Return figures for the diagnostics, which somebody reads or not."""


class NoPicture:
    """That of a text chat."""

    def open(self, engine: Vlm) -> Sight | None:
        return None

    def has_news(self) -> bool:
        return False

    def prepare(self, cancel: CancelToken) -> Sight | None:
        return None

    def seen(self) -> Sight | None:
        return None

    def next(self, cancel: CancelToken, *, newest: bool) -> Sight | None:
        return None

    def look(self, cancel: CancelToken) -> Sight | None:
        return None

    def forget_prepared(self) -> None:
        pass

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        return None

    def describe(self, is_read: bool) -> Mapping[str, object]:
        return {}


class LocalPicture:
    """A file, read once: all questions are about it.

    Args:
        nv12_size: width and height of a raw NV12 file; None: an encoded one.
    """

    def __init__(self, path: str, nv12_size: tuple[int, int] | None = None) -> None:
        self._path, self._nv12_size = path, nv12_size
        self._sight: Sight | None = None
        self._modified: int | None = None  # when it was, as of the first reading

    def open(self, engine: Vlm) -> Sight | None:
        self._sight = see(None, self._read, engine.picture)
        return self._sight

    def has_news(self) -> bool:
        return False

    def prepare(self, cancel: CancelToken) -> Sight | None:
        return None  # it was, at the start

    def seen(self) -> Sight | None:
        return None

    def next(self, cancel: CancelToken, *, newest: bool) -> Sight | None:
        return self._sight

    def look(self, cancel: CancelToken) -> Sight | None:
        return self._sight

    def forget_prepared(self) -> None:
        pass

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        return self._path, self._read

    def describe(self, is_read: bool) -> Mapping[str, object]:
        return {}

    def _read(self) -> Bgr:
        size = self._nv12_size
        bgr = read_image(self._path) if size is None else read_nv12(self._path, *size)
        modified = os.stat(self._path).st_mtime_ns
        if modified != (self._modified or modified):
            raise ImageError(f'{self._path} has changed since it was read')
        self._modified = modified
        return bgr

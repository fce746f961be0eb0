"""Pictures one after the other: of a file, a folder, a video or a webcam."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.image_file import read_image

__all__ = ['Frame', 'frames_of']

Bgr = npt.NDArray[np.uint8]
PICTURES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')


class Frame(NamedTuple):
    """A picture, and the name of its file; none for one of a video."""

    name: str
    bgr: Bgr


def frames_of(
    source: Path, warn: Callable[[str], object], *, loops: bool = False
) -> tuple[Iterator[Frame], float]:
    """Return the pictures of a source, and how many a second it has.

    Args:
        source: a picture, a folder of them, a video, or a webcam such as /dev/video0.
        warn: is told of each picture of a folder that cannot be read, once.
        loops: begin again after the last one.

    Raises:
        ImageError: it cannot be read; those of the iteration: no picture of a folder can.
    """
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURES)
        named: set[Path] = set()
        return _again(lambda: _readable(paths, named, warn), loops and bool(paths)), 10.0
    if source.suffix.lower() in PICTURES:
        picture = read_image(source)
        frame = Frame(source.name, picture)
        return (itertools.repeat(frame) if loops else iter([frame])), 10.0
    capture = cv2.VideoCapture(str(source))
    if not capture.isOpened():
        raise ImageError(f'{source} is neither a picture nor a video or camera that OpenCV opens')
    rate = capture.get(cv2.CAP_PROP_FPS) or 30.0

    def video() -> Iterator[Frame]:
        capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        while (found := capture.read())[0]:
            yield Frame('', found[1])  # type: ignore[arg-type]

    return _again(video, loops and not source.is_char_device()), rate


def _readable(
    paths: list[Path], named: set[Path], warn: Callable[[str], object]
) -> Iterator[Frame]:
    """Give the pictures that can be read; warn of each other one that was not named yet."""
    broken = 0
    for path in paths:
        try:
            bgr = read_image(path)
        except ImageError as error:
            broken += 1
            if path not in named:
                warn(f'left out: {error}')
            named.add(path)
        else:
            yield Frame(path.name, bgr)
    if paths and broken == len(paths):
        raise ImageError(f'{paths[0].parent}: none of its pictures can be read')


def _again(read: Callable[[], Iterator[Frame]], loops: bool) -> Iterator[Frame]:
    yield from read()
    while loops:
        yield from read()

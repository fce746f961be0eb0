"""What a question is about: a picture, when it was seen, and the steps up to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from std_msgs.msg import Header

from hobot_llamacpp_py.engine import Picture, Stats
from hobot_llamacpp_py.ros.timeline import Interval, Stopwatch

if TYPE_CHECKING:
    from hobot_llamacpp_py.ros.frame import Frame

__all__ = ['Sight', 'header_of', 'see', 'steps']

Bgr = npt.NDArray[np.uint8]


@dataclass
class Sight:
    """What a question is about: a picture, the frame that it came with, and when it was seen."""

    picture: Picture
    frame: Frame | None
    read: Callable[[], Bgr]
    """Reads the whole picture again, BGR; an ImageError where that cannot be done any more."""
    preprocess: Interval
    infer: Interval | None = None
    """When the encoder ran, if that was before the question."""
    age: float = 0.0
    """Seconds that its frame had been there when it was read."""

    def is_fresh(self, max_age: float) -> bool:
        """Tell whether its frame was received at most `max_age` seconds ago; 0: any age."""
        return self.frame is None or self.frame.is_fresh(max_age)

    def was_fresh(self, max_age: float) -> bool:
        """Tell that of when it was read: how long the encoder took makes nothing old news."""
        return not 0 < max_age < self.age


def see(frame: Frame | None, read: Callable[[], Bgr], fit: Callable[[Bgr], Picture]) -> Sight:
    """Read a picture, fit it to the encoder, and note when that was."""
    watch, age = Stopwatch(), time.monotonic() - frame.received if frame else 0.0
    return Sight(fit(read()), frame, read, watch.read(), age=age)


def header_of(sight: Sight | None) -> Header:
    """Return the header of what an answer is about; that of a file is the C++ node's."""
    if sight is None:
        return Header()
    return Header(frame_id='feedback') if sight.frame is None else sight.frame.header()


def steps(sight: Sight | None, answering: Interval, stats: Stats) -> dict[str, Interval]:
    """Part an answer into steps, named as TogetheROS names them; none overlaps another.

    preprocess: the picture is read or converted and fitted to the encoder's input.
    predict_infer: the encoder runs; next to no time if it knows the picture already.
    predict_parse: the prompt is decoded, up to the first token of the answer.
    postprocess: the rest of the answer is decoded and published.

    The first two are missing in a text chat. They lie before the question where the picture was
    prepared; otherwise they follow each other without a gap worth mentioning.
    """
    encoding = answering.first(stats.encode_s)
    until_first_token = answering.first(max(stats.first_token_s, stats.encode_s))
    found = {
        'predict_parse': until_first_token.after(encoding),
        'postprocess': answering.after(until_first_token),
    }
    if sight is None:
        return found
    # Where the picture was prepared, the encoder has nothing left to do now.
    infer = max(sight.infer or encoding, encoding, key=lambda interval: interval.duration)
    return {'preprocess': sight.preprocess, 'predict_infer': infer, **found}

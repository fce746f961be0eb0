"""The lookout thread: it has frames encoded as they come, whatever the decoder does meanwhile."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import replace

from hobot_llamacpp_py.engine import Vlm
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.ros.frames import Frames, WantedFrom
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.sight import Sight, see
from hobot_llamacpp_py.ros.timeline import Stopwatch

__all__ = ['Lookout']

log = logging.getLogger(__name__)


class Lookout(threading.Thread):
    """Has the newest frame encoded, again and again, until there are no more frames.

    Args:
        wanted_from: tells when the next frame is wanted.
    """

    def __init__(self, engine: Vlm, frames: Frames, wanted_from: WantedFrom) -> None:
        super().__init__(name='lookout', daemon=True)
        self._engine, self._frames, self._wanted_from = engine, frames, wanted_from

    def _see(self, frame: Frame) -> Sight:
        return see(frame, frame.bgr, self._engine.picture)

    def run(self) -> None:
        begun, last_error = -math.inf, ''
        while (frame := self._frames.next(begun, self._wanted_from)) is not None:
            begun = time.monotonic()
            sight = None
            try:
                seen = self._see(frame)
                watch = Stopwatch()
                # Waited for, so that the encoder is never asked for more than one frame ahead.
                self._engine.encode_ahead(seen.picture).result()
                sight = replace(seen, infer=watch.read())
            except Exception as error:
                line = explained(error)
                if line != last_error and not self._frames.is_closed:
                    log.warning('a frame cannot be prepared: %s', line)
                last_error = line
            else:
                last_error = ''
            self._frames.put_encoded(sight)

"""The lookout thread: it has frames encoded as they come, whatever the decoder does meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from hobot_llamacpp_py.engine import Vlm
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.ros.frames import Demand, Frames
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.sight import Sight, see
from hobot_llamacpp_py.ros.timeline import Stopwatch

__all__ = ['Lookout']

log = logging.getLogger(__name__)


class Lookout(threading.Thread):
    """Has the newest frame encoded, again and again, until there are no more frames.

    Args:
        period: least seconds between two frames, if not asked for eagerly.
        demand: tells whether the next frame is wanted.
    """

    def __init__(
        self, engine: Vlm, frames: Frames, period: float, demand: Callable[[], Demand]
    ) -> None:
        super().__init__(name='lookout', daemon=True)
        self._engine, self._frames = engine, frames
        self._period, self._demand = period, demand

    def _see(self, frame: Frame) -> Sight:
        return see(frame, frame.bgr, self._engine.picture)

    def run(self) -> None:
        next_time, last_error = 0.0, ''
        while (frame := self._frames.next(next_time, self._demand)) is not None:
            next_time = time.monotonic() + self._period
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

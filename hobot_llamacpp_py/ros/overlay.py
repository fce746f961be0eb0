"""The picture that was asked about, with question and answer beneath it, as an image topic."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from hobot_llamacpp_py.drawing.caption import caption
from hobot_llamacpp_py.drawing.fonts import Fonts
from hobot_llamacpp_py.engine import Answer
from hobot_llamacpp_py.errors import DrawingError, ImageError
from hobot_llamacpp_py.ros.frame import bgr_to_compressed, bgr_to_image
from hobot_llamacpp_py.ros.log_forwarding import log_as
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.sight import Sight, header_of
from hobot_llamacpp_py.ros.timeline import Interval
from hobot_llamacpp_py.ros.worker import Listener

__all__ = ['Overlay']

Bgr = npt.NDArray[np.uint8]

# RELIABLE matches every subscription. What got lost is sent again some seconds later, if it is
# still there: two answers' last pictures are, for a JPEG is small.
JPEGS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
PERIOD = 0.2  # seconds from one drawing to the next, at least
MOST_OF_THE_TIME = 0.2  # that is spent drawing: the decoder needs the processors, too
NO_PICTURE = (480, 640, 3)


@dataclass(eq=False)
class _Asked:
    """A question, what it is about, and its answer so far."""

    question: str
    sight: Sight | None = None
    pieces: list[str] = field(default_factory=list)
    is_error: bool = False
    is_over: bool = False
    is_shown: bool = False
    """It was handed over to the thread that draws."""
    drawn: tuple[bool, int] | None = None
    """Whether it was over when it was drawn, and with how many pieces; the thread's own."""
    bgr: Bgr | None = None
    """The whole picture; the thread's own."""


class Overlay:
    """Draws what the inference thread tells it, and tells it to another listener.

    A thread draws while an answer is given and somebody subscribes, else there is none. It leaves
    out what it cannot keep up with.

    Args:
        then: the listener that is told after it.
    """

    def __init__(self, node: Node, then: Listener) -> None:
        self._logger, self._then = node.get_logger(), then
        self._compressed = node.create_publisher(CompressedImage, '~/overlay/compressed', JPEGS)
        self._raw = node.create_publisher(Image, '~/overlay', NEWEST)
        self._fonts = Fonts()
        self._asked: _Asked | None = None  # the inference thread's
        self._changed = threading.Condition()
        self._waiting: deque[_Asked] = deque(maxlen=2)  # the running one, and the one before
        self._thread: threading.Thread | None = None
        self._is_closing = self._has_failed = False

    def close(self, timeout: float) -> bool:
        """Draw what is over, and end; False if that takes too long. From any thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout)
        for publisher in self._compressed, self._raw:
            publisher.wait_for_all_acked(Duration(seconds=timeout))
        return not thread.is_alive()

    # -- called by the inference thread ----------------------------------------------------------

    def on_ready(self) -> None:
        self._then.on_ready()

    def on_fatal(self, error: str) -> None:
        self._then.on_fatal(error)

    def on_prompt(self, prompt: str) -> None:
        self._asked = _Asked(prompt)
        self._then.on_prompt(prompt)

    def on_sight(self, sight: Sight | None) -> None:
        if self._asked:
            self._asked.sight = sight
            self._show(self._asked)
        self._then.on_sight(sight)

    def on_piece(self, piece: str) -> None:
        if self._asked:
            self._asked.pieces.append(piece)
            self._show(self._asked)
        self._then.on_piece(piece)

    def on_thought(self, piece: str) -> None:
        self._then.on_thought(piece)

    def on_answer(self, answer: Answer, sight: Sight | None, answering: Interval) -> None:
        cut = '' if answer.finish == 'stop' else f'\n(the answer was cut: {answer.finish})'
        self._end(self._asked or _Asked(''), answer.text + cut)
        self._then.on_answer(answer, sight, answering)

    def on_cancelled(self, prompt: str, reason: str) -> None:
        self._fail(prompt, reason)
        self._then.on_cancelled(prompt, reason)

    def on_error(self, prompt: str, error: Exception) -> None:
        self._fail(prompt, explained(error))
        self._then.on_error(prompt, error)

    def _fail(self, prompt: str, error: str) -> None:
        """Have an error drawn in place of the answer."""
        # A prompt may fail before its turn is told, and then has no picture.
        asked = self._asked or _Asked(prompt)
        asked.is_error = True
        self._end(asked, f'[error] {error}')

    def _end(self, asked: _Asked, text: str) -> None:
        """Have the answer drawn with its whole text."""
        self._asked = None
        asked.pieces = [text]
        asked.is_over = True
        self._show(asked)

    def _show(self, asked: _Asked) -> None:
        """Hand it over to the thread that draws, once, if somebody looks."""
        if asked.is_shown or self._has_failed or not self._is_watched():
            return
        asked.is_shown = True
        with self._changed:
            if self._is_closing:
                return
            self._waiting.append(asked)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name='overlay', daemon=True)
                self._thread.start()

    def _is_watched(self) -> bool:
        return any(p.get_subscription_count() for p in (self._compressed, self._raw))

    # -- the thread that draws -------------------------------------------------------------------

    def _run(self) -> None:
        log_as(self._logger)
        while (asked := self._next()) is not None:
            started, is_done = time.monotonic(), asked.is_over
            try:
                self._draw(asked)
            except Exception as error:
                is_done, self._has_failed = True, isinstance(error, DrawingError)
                until = ' until the node is started again' if self._has_failed else ''
                self._logger.warning(f'nothing is drawn on ~/overlay{until}: {explained(error)}')
            pause = (time.monotonic() - started) * (1 / MOST_OF_THE_TIME - 1)
            with self._changed:
                if is_done and asked in self._waiting:
                    self._waiting.remove(asked)
                self._changed.wait_for(lambda: self._is_closing, max(PERIOD, pause))

    def _next(self) -> _Asked | None:
        """Return what is to be drawn now, None if the thread is to end."""
        with self._changed:
            asked = self._waiting[0] if self._waiting else None
            if asked and not self._has_failed and (asked.is_over or not self._is_closing):
                return asked
            self._waiting.clear()
            self._thread = None
            return None

    def _draw(self, asked: _Asked) -> None:
        """Draw and publish it, if there is something new and somebody looks."""
        state = (asked.is_over, len(asked.pieces))
        if state == asked.drawn or not self._is_watched():
            return
        asked.drawn = state
        if asked.bgr is None:
            asked.bgr = _picture(asked.sight)
        text = ''.join(asked.pieces) or '…'
        drawn = caption(asked.bgr, asked.question, text, self._fonts, is_error=asked.is_error)
        header = header_of(asked.sight)
        if self._compressed.get_subscription_count():
            self._compressed.publish(bgr_to_compressed(drawn, header))
        if self._raw.get_subscription_count():
            self._raw.publish(bgr_to_image(drawn, header))


def _picture(sight: Sight | None) -> Bgr:
    """Return the whole picture; what the encoder saw of it, if it is gone; black for none."""
    if sight is None:
        return np.zeros(NO_PICTURE, np.uint8)
    try:
        return sight.read()
    except ImageError:
        return sight.picture.pixels

"""Frames and the two threads that want them: with a real engine, and a camera of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Queue
from typing import Any

import numpy as np
import pytest
from nano import MODELS, answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
from image_messages import image_message

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig
from hobot_llamacpp_py.engine import Answer, CancelToken, Engine
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.ros.camera_frames import CameraFrames
from hobot_llamacpp_py.ros.frame import Frame, Unreadable
from hobot_llamacpp_py.ros.frames import Frames
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.ros.sight import Sight
from hobot_llamacpp_py.ros.timeline import Interval
from hobot_llamacpp_py.ros.worker import Worker

TIMEOUT = 60.0
DESCRIBE, DESCRIBE_ZH = 'Describe the image.', '描述一下这张图片。'


class Camera:
    """Shows one scene after the other, each once, when it is told to."""

    taken = published = lost = 0
    description = 'the camera'

    def __init__(self) -> None:
        self._frames: Queue[Frame] = Queue()

    def show(self, bgr: np.ndarray) -> Frame:
        return self.put(image_message(bgr, 'bgr8'))

    def put(self, message: Any) -> Frame:
        frame = Frame(message, time.monotonic())
        self._frames.put(frame)
        return frame

    def take(self) -> Frame | None:
        frame = None
        while not self._frames.empty():
            frame = self._frames.get()
        return frame


class Robot:
    """A worker with what it needs, and a listener that a test can hold up."""

    def __init__(self, **parameters: Any) -> None:
        self.camera, self.inbox = Camera(), Inbox(8)
        self.answers: Queue[tuple[str, Frame | None]] = Queue()
        self.encoded: Queue[threading.Event] = Queue()
        self.answering = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.current = Parameters(feed_type=1, temperature=0.0, cute_words='', **parameters)
        source = CameraFrames(self.camera, self.inbox, lambda: self.current)
        self.worker = Worker(self._load, self, self.inbox, source, listener=self)
        self.worker.start()

    def _load(self) -> Engine:
        encoder, decoder, kind = MODELS['internvl']
        config = DecoderConfig(n_threads=1)
        engine = Engine.open(decoder, encoder, family=kind, config=config)
        assert engine.encoder is not None
        self._encode = engine.encoder.encode
        engine.encoder.encode = self._note  # type: ignore[method-assign]
        return engine

    def _note(self, fitted: np.ndarray) -> np.ndarray:
        """Encode when the test says so."""
        gate = threading.Event()
        self.encoded.put(gate)
        assert gate.wait(TIMEOUT)
        return self._encode(fitted)

    def encode_next(self) -> None:
        """Wait until a frame is to be encoded; let it be."""
        self.encoded.get(timeout=TIMEOUT).set()

    def next_answer(self) -> tuple[str, Frame | None]:
        return self.answers.get(timeout=TIMEOUT)

    def chat_config(self) -> ChatConfig:
        return self.current.chat_config(self.current.system_prompt)

    def on_ready(self) -> None:
        pass

    def on_fatal(self, error: str) -> None:
        self.answers.put((error, None))

    def on_prompt(self, prompt: str) -> None:
        pass

    def on_sight(self, sight: Sight | None) -> None:
        pass

    def on_piece(self, piece: str) -> None:
        self.answering.set()
        assert self.go_on.wait(TIMEOUT)

    def on_thought(self, piece: str) -> None:
        pass

    def on_answer(self, answer: Answer, sight: Sight, answering: Interval) -> None:
        self.answers.put((answer.text, sight.frame))

    def on_cancelled(self, prompt: str, reason: str) -> None:
        self.answers.put((reason, None))

    def on_error(self, prompt: str, error: Exception) -> None:
        self.answers.put((f'[error] {explained(error)}', None))


@pytest.fixture
def start() -> Iterator[Any]:
    robots: list[Robot] = []

    def start(**parameters: Any) -> Robot:
        robots.append(Robot(**parameters))
        return robots[-1]

    yield start
    for robot in robots:
        robot.go_on.set()
        while not robot.worker.close(0.1):
            while not robot.encoded.empty():
                robot.encoded.get().set()


def test_continuous_encodes_while_it_answers(start: Any) -> None:
    """With continuous alone the next frame is encoded before the present answer has ended."""
    robot = start(continuous=True, user_prompt=DESCRIBE)
    scenes = [draw_scene(90 + i) for i in range(4)]
    robot.camera.show(scenes[0][1])
    robot.encode_next()
    for (scene, _), (_, coming) in zip(scenes, scenes[1:], strict=False):
        robot.go_on.clear()
        robot.camera.show(coming)
        assert robot.answering.wait(TIMEOUT)
        robot.encode_next()  # while the answer is held up
        robot.answering.clear()
        robot.go_on.set()
        assert robot.next_answer()[0] == answer(scene, DESCRIBE)


def test_a_person_asks_about_the_newest_frame(start: Any) -> None:
    """Between two rounds of continuous a prompt is about the newest frame, not an encoded one."""
    robot = start(continuous=True, user_prompt=DESCRIBE, pre_infer_period=3600)
    scenes = [draw_scene(94 + i) for i in range(3)]
    frames = [robot.camera.show(scenes[0][1])]
    robot.go_on.clear()
    robot.encode_next()
    assert robot.answering.wait(TIMEOUT)
    frames.append(robot.camera.show(scenes[1][1]))
    robot.encode_next()  # ahead
    robot.inbox.put(DESCRIBE_ZH)
    frames.append(robot.camera.show(scenes[2][1]))
    robot.go_on.set()
    robot.encode_next()
    assert robot.next_answer() == (answer(scenes[0][0], DESCRIBE), frames[0])
    assert robot.next_answer() == (answer(scenes[2][0], DESCRIBE_ZH), frames[2])


def test_a_person_is_not_told_of_a_frame_that_is_being_encoded(start: Any) -> None:
    """A prompt is about the newest frame, though an older one is just being encoded.

    Nor does the next round of continuous show that older one.
    """
    robot = start(continuous=True, user_prompt=DESCRIBE)
    scenes = [draw_scene(101 + i) for i in range(4)]
    frames = [robot.camera.show(scenes[0][1])]
    robot.go_on.clear()
    robot.encode_next()
    assert robot.answering.wait(TIMEOUT)
    frames.append(robot.camera.show(scenes[1][1]))
    ahead = robot.encoded.get(timeout=TIMEOUT)
    robot.inbox.put(DESCRIBE_ZH)
    frames.append(robot.camera.show(scenes[2][1]))
    robot.go_on.set()
    assert robot.next_answer() == (answer(scenes[0][0], DESCRIBE), frames[0])
    ahead.set()
    robot.encode_next()
    assert robot.next_answer() == (answer(scenes[2][0], DESCRIBE_ZH), frames[2])
    assert robot.next_answer()[1] is frames[2]
    frames.append(robot.camera.show(scenes[3][1]))
    robot.encode_next()
    while (newer := robot.next_answer()[1]) is frames[2]:
        pass
    assert newer is frames[3]


def test_a_frame_that_cannot_be_read(start: Any) -> None:
    """A question about it gets the reason, and no answer about the one before."""
    robot = start()
    scene, bgr = draw_scene(7)
    robot.camera.show(bgr)
    robot.inbox.put(DESCRIBE)
    robot.encode_next()
    assert robot.next_answer()[0] == answer(scene, DESCRIBE)
    robot.camera.put(Unreadable('an image cannot be read'))
    robot.inbox.put(DESCRIBE)
    assert robot.next_answer()[0] == '[error] an image cannot be read'


def test_threads_that_look_at_once() -> None:
    """A thread that took a frame before another one does not put it in the place of a newer."""
    picture = image_message(np.zeros((2, 2, 3), np.uint8), 'bgr8')
    older, newer = Frame(picture, 1.0), Frame(picture, 2.0)
    taken = iter([older, newer, None])

    def take() -> Frame | None:
        frame = next(taken)
        if frame is older:
            frames.look()  # another thread is quicker
        return frame

    frames = Frames(take, lambda: 'the camera', Inbox(8))
    assert frames.wait_for_newest(0, 0, CancelToken()) is newer
    assert frames.used == 1


def test_continuous_with_a_wake_word(start: Any) -> None:
    """A wake word is one where a person says it; asked again and again it is a question."""
    robot = start(continuous=True, user_prompt='你好', pre_infer=1, wake_words='你好')
    for seed in (99, 100):
        frame = robot.camera.show(draw_scene(seed)[1])
        robot.encode_next()
        assert robot.next_answer()[1] is frame


def test_continuous_tells_what_it_cannot_see(start: Any) -> None:
    """A frame that cannot be converted is an error, once; the next one is answered."""
    robot = start(continuous=True, user_prompt=DESCRIBE, pre_infer_period=0)
    broken = robot.camera.show(np.zeros((4, 4, 3), np.uint8))
    broken.message.encoding = 'nonsense'
    assert robot.next_answer()[0].startswith("[error] images with encoding 'nonsense'")
    scene, bgr = draw_scene(98)
    frame = robot.camera.show(bgr)
    robot.encode_next()
    assert robot.next_answer() == (answer(scene, DESCRIBE), frame)

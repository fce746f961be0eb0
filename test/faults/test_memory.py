"""Memory that is short, by a limit: one line, no abort, no hang; and right answers afterwards."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
from nano import MODELS, answer, draw_scene
from robot import Robot
from sensor_msgs.msg import CompressedImage

Start = Callable[..., AbstractContextManager[Robot]]
DESCRIBE = 'Describe the image.'
MB = 1 << 20


def address_space(process: int) -> int:
    """Return the bytes of a process's address space."""
    with open(f'/proc/{process}/statm') as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()


def leave(process: int, room: int | None) -> None:
    """Leave a process so many bytes more than it has; None: as many as it wants."""
    unlimited = resource.RLIM_INFINITY
    soft = unlimited if room is None else address_space(process) + room
    resource.prlimit(process, resource.RLIMIT_AS, (soft, unlimited))


def test_context(start: Start, installed: Path, tmp_path: Path) -> None:
    """A context that there is no memory for ends the node with one line, and the words n_ctx."""
    encoder, decoder, _ = MODELS['internvl']
    models = dict(model_file_name=encoder, llm_model_name=decoder, feed_type=1)
    limited = ['prlimit', f'--as={1 << 30}']
    with Robot(installed, tmp_path, {**models, 'n_ctx': 1 << 20}, command=limited) as robot:
        assert robot.wait_for_end() == 1
        told = [line for line in robot.log.splitlines() if 'INFO' not in line]
        assert len(told) == 1 and 'n_ctx' in told[0], robot.log
    with start(feed_type=1, image_timeout=20.0) as robot:
        scene, bgr = draw_scene(5)
        robot.wait_until_ready().show(bgr)
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)


def test_picture(start: Start) -> None:
    """A picture that there is no room for fails in one line; then there is memory again."""
    scene, bgr = draw_scene(5)
    large = np.tile(cv2.resize(bgr, (1600, 1200)), (4, 4, 1))

    def png(picture: np.ndarray) -> CompressedImage:
        return CompressedImage(format='png', data=cv2.imencode('.png', picture)[1].tobytes())

    with start(feed_type=1, image_timeout=20.0) as robot:
        robot.wait_until_ready().publish(png(bgr))
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        process = robot.process.pid
        for room in (8 * MB, 16 * MB, 32 * MB):
            robot.publish(png(large))  # without memory for a message ROS itself ends the process
            leave(process, room)
            told = robot.ask('Describe the image. ' * 50)
            assert told.startswith('[error] ') and 'memory is short' in told, told
            assert '\n' not in told
            leave(process, None)
            robot.publish(png(bgr))
            assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        assert 'Traceback' not in robot.log and 'internal error' not in robot.log


def test_prefill(start: Start) -> None:
    """Next to nothing is left while pictures are encoded and long prompts decoded.

    Most of what that takes was taken when the models were loaded: an answer is right, or one line.
    """
    with start(feed_type=1, image_timeout=20.0) as robot:
        robot.wait_until_ready()
        for seed, room in enumerate((MB // 4, MB // 4, MB, 4 * MB), 5):
            scene, bgr = draw_scene(seed)
            right = answer(scene, DESCRIBE)
            robot.show(bgr)
            leave(robot.process.pid, room)
            long = robot.ask('Describe the image. ' * 600)
            assert long and '\n' not in long, long
            told = robot.ask(DESCRIBE)
            assert told == right or 'memory is short' in told, told
            leave(robot.process.pid, None)
            assert robot.ask(DESCRIBE) == right
        assert 'Traceback' not in robot.log and 'internal error' not in robot.log

"""A robot whose clock is set back and forth, or stands still: it answers rightly all the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from nano import answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('colcon_core', reason='needs colcon')
from diagnostic_msgs.msg import DiagnosticArray
from image_messages import image_message
from robot import Robot, install, starter
from rosgraph_msgs.msg import Clock
from served import free_port
from video import RULES
from wall_clock import WallClock

QUESTION = 'Describe the image.'
HOUR = 3600
# What depends on time: how old a picture may be, and what the rules are asked about.
AGED = dict(feed_type=1, image_timeout=30.0, max_image_age=20.0, watch_max_load=1.0)
Start = Callable[..., Robot]


@pytest.fixture(scope='module')
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    installed = install(tmp_path_factory.getbasetemp() / 'colcon')
    return starter(installed, lambda: tmp_path_factory.mktemp('node'))


class Checks:
    """Everything that a node does, asked for one thing after the other."""

    def __init__(self, robot: Robot, port: int) -> None:
        self._robot, self._url = robot, f'http://127.0.0.1:{port}'
        self._seed = 50
        self.stamps: list[float] = []
        robot.listen('/diagnostics', self._on_diagnostics, DiagnosticArray)
        robot.wait_until_ready()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        stamp = message.header.stamp
        self.stamps.append(stamp.sec + stamp.nanosec / 1e9)

    def all(self, stamp: int) -> None:
        """A new picture: a question, a client over HTTP and the rules see it, and nothing else."""
        self._seed += 1
        scene, bgr = draw_scene(self._seed)
        message = image_message(bgr, 'bgr8')
        message.header.stamp.sec = stamp
        judged = int(self._robot.status['watch frames judged'])
        self._robot.publish(message)
        assert self._robot.ask(QUESTION) == answer(scene, QUESTION)
        camera = {'type': 'image_url', 'image_url': {'url': 'camera:'}}
        content = [camera, {'type': 'text', 'text': QUESTION}]
        body = {'messages': [{'role': 'user', 'content': content}], 'temperature': 0}
        response = httpx2.post(f'{self._url}/v1/chat/completions', json=body, timeout=60)
        assert response.json()['choices'][0]['message']['content'] == answer(scene, QUESTION)
        self._robot.wait_for(
            lambda: int(self._robot.status['watch frames judged']) > judged, 'judging'
        )
        assert self._robot.status['watch'] == 'watching'
        count = len(self.stamps)
        self._robot.wait_for(lambda: len(self.stamps) >= count + 2, 'diagnostics')
        assert self._robot.texts == []


@pytest.fixture
def aged(tmp_path: Path) -> dict[str, Any]:
    rules = tmp_path / 'rules.yaml'
    rules.write_text(RULES, 'utf-8')
    return dict(AGED, watch_file=rules, http_port=free_port())


def test_wall_clock(
    start: Start, aged: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set by hours, to 1970 and far ahead, before, between and within questions."""
    clock = WallClock(tmp_path, monkeypatch)
    with start(**aged) as robot:
        checks = Checks(robot, aged['http_port'])
        checks.all(1)
        for number, offset in enumerate((HOUR, -3 * HOUR, 10**8, -(10**9), 0), 2):
            clock.set(offset)
            checks.all(number)
            robot.wait_for(
                lambda o=offset: abs(checks.stamps[-1] - time.time() - o) < 60, 'its time'
            )
        assert '[ERROR]' not in robot.log
        assert robot.stop()[0] == 0


def test_an_old_picture_stays_old(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set back makes no picture young again, one that is set on makes none old."""
    clock = WallClock(tmp_path, monkeypatch)
    with start(feed_type=1, image_timeout=0.5, max_image_age=5.0) as robot:
        scene, bgr = draw_scene(48)
        robot.wait_until_ready().show(bgr)
        clock.set(HOUR)
        assert robot.ask(QUESTION) == answer(scene, QUESTION)
        clock.set(-HOUR)
        until = time.monotonic() + 5.5
        robot.wait_for(lambda: time.monotonic() > until)
        assert 'more than max_image_age 5 s' in robot.ask(QUESTION)

        # Nor does it matter to who waits for the next one.
        assert robot.set_parameter('image_timeout', 60.0) == (True, '')
        scene, bgr = draw_scene(49)
        robot.say(QUESTION)
        robot.wait_for(lambda: robot.status['state'] == 'waiting for an image', 'the wait')
        clock.set(10**8)
        robot.status.clear()
        robot.wait_for(lambda: robot.status, 'diagnostics')
        clock.set(-(10**8))
        robot.show(bgr)
        assert robot.next_text() == answer(scene, QUESTION)


def test_sim_time(start: Start, aged: dict[str, Any]) -> None:
    """With use_sim_time: no time at all, then time that runs, jumps on, back, and stands still."""
    with start(use_sim_time=True, **aged) as robot:
        checks = Checks(robot, aged['http_port'])
        checks.all(1)
        assert checks.stamps[-1] == 0
        publisher = robot.client.create_publisher(Clock, '/clock', 10)
        robot.wait_for(publisher.get_subscription_count, 'listening to /clock')
        for now in (1000, 1001, 1000 + HOUR, 500, 1):
            message = Clock()
            message.clock.sec = now
            # Again and again, as a simulator does: it is no use to who was not there yet.
            robot.wait_for(
                lambda m=message: publisher.publish(m) or checks.stamps[-1] == m.clock.sec,
                'the time',
            )
            checks.all(now)
        robot.client.destroy_publisher(publisher)  # and nobody tells the time any more
        checks.all(2)
        assert checks.stamps[-1] == 1
        assert '[ERROR]' not in robot.log
        assert robot.stop()[0] == 0

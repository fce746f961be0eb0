"""Faults of the middleware, and of who publishes: a right answer follows each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nano import ROOT, answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('colcon_core', reason='needs colcon')
from image_messages import image_message
from robot import TIMEOUT, Robot, install, starter, without_stamps
from std_msgs.msg import Header

from hobot_llamacpp_py.ros.frame import bgr_to_compressed

QUESTION = 'Describe the image.'
ENDLESS = dict(max_tokens=30000, n_ctx=32768, temperature=100.0, top_k=0, top_p=1.0)
ENDLESS |= dict(min_p=0.0, seed=1)
# A node in a process in which somebody else shuts ROS down, when a file appears.
SCRIPT = """
import os, sys, threading, time
trigger = sys.argv.pop(1)
sys.argv[:] = sys.argv[1:]
import rclpy
from hobot_llamacpp_py.ros.main import run
def shut_down():
    while not os.path.exists(trigger):
        time.sleep(0.002)
    rclpy.shutdown()
threading.Thread(target=shut_down, daemon=True).start()
sys.exit(run())
"""
Start = Callable[..., Robot]


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.getbasetemp() / 'colcon')


@pytest.fixture(scope='module')
def start(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    return starter(installed, lambda: tmp_path_factory.mktemp('node'))


@pytest.mark.parametrize('moment', ['idle', 'answering'])
def test_shut_down_from_within(start: Start, tmp_path: Path, moment: str) -> None:
    """A node whose middleware is gone ends with one line and status 1; the next it answers."""
    trigger, (scene, bgr) = tmp_path / 'trigger', draw_scene(70)
    command = [sys.executable, '-c', SCRIPT, str(trigger)]
    with start(feed_type=1, command=command, **ENDLESS) as robot:
        robot.wait_until_ready().show(bgr)
        if moment == 'answering':
            robot.say(QUESTION)
            robot.wait_for(lambda: robot.partials, 'the first words')
            assert robot.texts == []
        trigger.touch()
        assert robot.wait_for_end() == 1
        fatal = [line for line in without_stamps(robot.log) if line.startswith('FATAL')]
        assert fatal == ['FATAL: ROS was shut down in this process: the node ends']
        assert 'Traceback' not in robot.log
        trigger.unlink()
        robot.texts.clear()
        robot._parameters |= dict(temperature=0.0, max_tokens=128)
        robot._start()
        robot.wait_until_ready().show(bgr)
        assert robot.ask(QUESTION) == answer(scene, QUESTION)
        assert robot.stop()[0] == 0


def test_link_down(installed: Path, tmp_path: Path) -> None:
    """The network goes down in the middle of an answer; when it is up again there are more."""
    isolate = ['unshare', '--net']
    if os.geteuid() != 0:
        isolate += ['--user', '--map-root-user']
    script = Path(__file__).with_name('link_down.py')
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    try:
        result = subprocess.run(
            [*isolate, sys.executable, str(script), str(installed), str(tmp_path)],
            env={**os.environ, 'PYTHONPATH': path},
            capture_output=True,
            text=True,
            timeout=3 * TIMEOUT,
        )
    except FileNotFoundError as error:
        pytest.skip(f'needs network namespaces: {error}')
    if result.stderr.startswith('unshare: ') or result.stdout.startswith('no network: '):
        pytest.skip(f'needs network namespaces: {(result.stderr or result.stdout).strip()}')
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == 2 * [answer(draw_scene(95)[0], QUESTION)]


def test_a_publisher_that_changes_its_type(start: Start) -> None:
    """A camera comes back under the same name with JPEG, with raw pictures, with JPEG again."""
    with start(feed_type=1) as robot:
        robot.wait_until_ready()

        def show(bgr: np.ndarray, kind: str) -> None:
            for publisher in robot._images.values():
                robot.client.destroy_publisher(publisher)
            robot._images.clear()
            is_jpeg = kind == 'jpeg'
            robot.publish(
                bgr_to_compressed(bgr, Header()) if is_jpeg else image_message(bgr, kind)
            )

        before, bgr = draw_scene(80)
        show(bgr, 'bgr8')
        assert robot.ask(QUESTION) == answer(before, QUESTION)
        for seed, kind in enumerate(['jpeg', 'nv12', 'jpeg', 'rgb8'], 81):
            scene, bgr = draw_scene(seed)
            robot.say(QUESTION)  # and in the middle of that
            show(bgr, kind)
            assert robot.next_text() in {answer(before, QUESTION), answer(scene, QUESTION)}
            assert robot.ask(QUESTION) == answer(scene, QUESTION), kind
            assert robot.texts == []
            before = scene
        assert '[ERROR]' not in robot.log
        assert robot.log.count('images come from /image') == 5


@pytest.mark.slow
def test_two_nodes_of_one_name(start: Start) -> None:
    """Both live and answer, and each says once what is wrong; the one that is left goes on."""
    told = 'another node is called /llamacpp_node, too: both answer each prompt'
    hello = 'Hello! How can I help you?'
    with start(feed_type=2) as one:
        one.wait_until_ready()
        with start(feed_type=2, beside=one) as two:
            two.wait_until_ready()
            one.wait_for(lambda: told in one.log and told in two.log, 'a warning')
            for node in (one, two):
                node.texts.clear()
            one.say('Hello')
            for node in (one, two):
                node.wait_for(lambda node=node: len(node.texts) == 2, 'both answers')
                assert node.texts == [hello, hello]
                # Whichever of them it is that replies.
                assert node.set_parameter('temperature', 0.0) == (True, '')
                assert node.call('reset').success
                node.wait_for(lambda node=node: node.status['state'] == 'idle', 'the end')
            assert one.log.count(told) == two.log.count(told) == 1
            assert two.stop()[0] == 0
        one.texts.clear()
        assert one.ask('Hello') == hello
        assert one.set_parameter('top_k', -1)[0] is False
        for log in (one.log, two.log):
            assert '[ERROR]' not in log
            assert 'Traceback' not in log

"""Standing questions over real DDS: what somebody is told who relies on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano import CONFIG, ROOT, answer, draw_scene
from video import RULES, TRUTHS, VideoFrame, video
from wall_clock import WallClock

pytest.importorskip('rclpy', reason='needs ROS 2')
from image_messages import image_message
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robot import Robot
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Bool, Int32, String
from std_srvs.srv import SetBool

from hobot_llamacpp_py.ros.frame import bgr_to_compressed, compressed_to_bgr

Start = Callable[..., AbstractContextManager[Robot]]
TYPES = {'circle': Bool, 'red': Bool, 'shapes': Int32, 'star_color': String, 'left': String}
LATCHED = QoSProfile(
    depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
WATCHING = dict(feed_type=1, watch_max_load=1.0, image_timeout=3600.0)
DESCRIBE, COUNT = 'Describe the image.', 'How many shapes are there?'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A file with the video's rules."""
    path = tmp_path / 'rules.yaml'
    path.write_text(RULES, 'utf-8')
    return path


class Watcher:
    """Somebody who listens to all that a node's standing questions tell."""

    def __init__(self, robot: Robot, types: dict[str, type] = TYPES) -> None:
        self.robot = robot
        self.evaluations: list[dict[str, Any]] = []
        self.states: list[str] = []
        self.values: dict[str, list[Any]] = {name: [] for name in types}
        self.pictures: list[CompressedImage] = []
        robot.listen('/llamacpp_node/watch', self._note)
        for name, kind in types.items():
            self.listen(name, kind)
        topic = '/llamacpp_node/watch/picture/compressed'
        robot.client.create_subscription(CompressedImage, topic, self.pictures.append, LATCHED)
        robot.wait_until_ready()
        robot.wait_for(lambda: robot.client.count_publishers('/llamacpp_node/watch'), 'watching')
        robot.call('reset')  # answered when the node knows the subscriptions
        self.states.clear()  # who was quick enough is told of the start
        self._n = 0

    def _note(self, message: String) -> None:
        event = json.loads(message.data)
        if 'state' in event:
            self.states.append(event['state'])
        else:
            self.evaluations.append(event)

    def listen(self, name: str, kind: type) -> list[Any]:
        values = self.values[name] = []
        topic = f'/llamacpp_node/watch/{name}'
        self.robot.client.create_subscription(
            kind, topic, lambda message: values.append(message.data), LATCHED
        )
        return values

    def show(self, bgr: np.ndarray, stamp: int = 0) -> int:
        """Publish a frame; return its stamp in seconds."""
        self._n += 1
        message = image_message(bgr, 'bgr8')
        message.header.stamp.sec = stamp or self._n
        message.header.frame_id = 'eye'
        self.robot.publish(message)
        return message.header.stamp.sec

    def judged(self, stamp: int, n_rules: int = len(TYPES)) -> list[dict[str, Any]]:
        """Wait until all rules were asked about a frame; return the evaluations."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.evaluations if e['stamp']['sec'] == stamp]

        self.robot.wait_for(lambda: len(found()) >= n_rules, f'judging frame {stamp}')
        return found()

    def see(self, bgr: np.ndarray, n_rules: int = len(TYPES)) -> list[dict[str, Any]]:
        return self.judged(self.show(bgr), n_rules)


def enable(robot: Robot, on: bool) -> SetBool.Response:
    return robot._call(SetBool, '/llamacpp_node/watch/enable', SetBool.Request(data=on))


def check_reports(watcher: Watcher, frames: dict[int, VideoFrame], hold: int = 2) -> None:
    """Hold the reports against the truth, by the frames that were judged."""
    for name, truth in TRUTHS.items():
        found = [e for e in watcher.evaluations if e['rule'] == name]
        state, candidate, in_a_row = None, None, 0
        for evaluation in found:
            true = truth(frames[evaluation['stamp']['sec']].scene)
            in_a_row = in_a_row + 1 if true == candidate else 1
            candidate = true
            # A change is told with the second judged frame that shows it, and nothing else is.
            is_change = true != state and in_a_row >= hold
            state = true if is_change else state
            said = f'{name}, frame {evaluation["stamp"]["sec"]}'
            assert evaluation['changed'] == is_change, said
            if is_change:
                assert evaluation['answer'] == true, said
        changes = [e['answer'] for e in found if e['changed']]
        values = watcher.values[name]
        # Of two changes in a moment the first one may be overtaken: it is no news any more.
        watcher.robot.wait_for(
            lambda v=values, c=changes: v[-1:] == c[-1:], f'the state of {name}'
        )
        left = iter(changes)
        assert all(value in left for value in values)


@pytest.mark.slow
@pytest.mark.parametrize('seed', [1])
def test_every_change_is_told(start: Start, rules: Path, family: str, seed: int) -> None:
    """In 500 frames each change is told within two judged frames, and none is invented."""
    with start(family, watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        frames = dict(enumerate(video(500, seed), 1))
        for stamp, frame in frames.items():
            assert watcher.show(frame.bgr) == stamp
            watcher.judged(stamp)
        check_reports(watcher, frames)
        assert sum(e['changed'] for e in watcher.evaluations) > 60
        assert all(
            0 < e['probability'] <= 1 and e['frame_id'] == 'eye' for e in watcher.evaluations
        )
        robot.wait_for(lambda: robot.status['watch frames judged'] == '500')
        assert robot.status['watch'] == 'watching'


@pytest.mark.slow
def test_frames_that_are_dropped(start: Start, rules: Path) -> None:
    """A camera that is faster than the rules is judged as far as time allows; what was missed is
    counted, never queued up, and nothing is invented.
    """
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        frames = dict(enumerate(video(300, seed=2, still=40), 1))
        for stamp, frame in frames.items():
            if stamp % 7 == 3:
                continue  # lost on the way
            watcher.show(frame.bgr, stamp)
        watcher.judged(300)
        check_reports(watcher, frames)
        robot.wait_for(lambda: robot.status['watch'] == 'watching')
        judged = len({e['stamp']['sec'] for e in watcher.evaluations})
        published = 300 - len([s for s in frames if s % 7 == 3])
        robot.wait_for(
            lambda: (
                robot.status['watch frames judged'] == str(judged)
                and robot.status['watch frames skipped'] == str(published - judged)
            )
        )


def test_late_subscriber(start: Start, rules: Path) -> None:
    """Who comes late has the state at once, and the frame that made it."""
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(3)
        watcher.see(bgr)
        watcher.see(np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8))
        assert all(robot.wait_for(lambda v=v: v) is None for v in watcher.values.values())
        late = watcher.listen('shapes', Int32)
        robot.wait_for(lambda: late, 'the state')
        assert late == [len(scene.shapes)]
        pictures: list[CompressedImage] = []
        topic = '/llamacpp_node/watch/picture/compressed'
        robot.client.create_subscription(CompressedImage, topic, pictures.append, LATCHED)
        robot.wait_for(lambda: pictures, 'the picture')
        assert pictures[0].header.stamp.sec == 2
        assert np.abs(compressed_to_bgr(pictures[0]).astype(int) - bgr).mean() < 6


def test_jpegs_are_passed_on_as_they_came(start: Start, rules: Path) -> None:
    """The frame of a change that came as a JPEG is published byte for byte."""
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        for seed in (3, 3):
            message = bgr_to_compressed(
                draw_scene(seed)[1], image_message(np.zeros((2, 2, 3), np.uint8), 'bgr8').header
            )
            message.header.stamp.sec = 7
            robot.publish(message)
        robot.wait_for(lambda: watcher.pictures, 'the picture')
        assert bytes(watcher.pictures[0].data) == bytes(message.data)
        assert watcher.pictures[0].header == message.header


def test_a_still_scene_is_not_asked_about(start: Start, rules: Path) -> None:
    """A frame that is the one before costs no question, and yet confirms what it shows; a rule
    with `every` is asked all the same.
    """
    with rules.open('a') as file:
        file.write('  - {name: often, question: "Is there a star?", every: 0.05, hold: 1}\n')
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot, {**TYPES, 'often': Bool})
        scene, bgr = draw_scene(4)
        watcher.see(bgr, len(TYPES) + 1)
        for _ in range(20):
            watcher.show(bgr)
            time.sleep(0.02)
        robot.wait_for(lambda: all(watcher.values.values()), 'the states')
        robot.wait_for(lambda: len([e for e in watcher.evaluations if e['rule'] == 'often']) > 3)
        for name, truth in TRUTHS.items():
            assert watcher.values[name] == [truth(scene)]
            asked = [e for e in watcher.evaluations if e['rule'] == name and e['ms'] > 0]
            assert len({e['stamp']['sec'] for e in asked if not e['changed']}) == 1


def test_a_camera_that_stops(start: Start, rules: Path) -> None:
    """Without images there is one clear state, and nobody is given old news; then it goes on."""
    with start(watch_file=rules, **{**WATCHING, 'image_timeout': 2.0}) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(5)
        other = np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8)
        watcher.see(bgr), watcher.see(other)
        robot.wait_for(lambda: watcher.values['shapes'] == [3], 'a state')
        robot.wait_for(lambda: watcher.states, 'no images')
        assert watcher.states == ['no images']
        robot.wait_for(lambda: robot.status['watch'] == 'no images')
        assert robot.status['watch shapes'] == 'unknown'
        late = watcher.listen('shapes', Int32)
        until = time.monotonic() + 3.5
        robot.wait_for(lambda: time.monotonic() > until)
        assert (late, watcher.states) == ([], ['no images'])
        assert robot.log.count('no image for') == 1

        watcher.show(bgr)
        robot.wait_for(lambda: watcher.states == ['no images', 'watching'], 'images again')
        watcher.see(other), watcher.see(bgr)
        robot.wait_for(lambda: late == [3], 'the state')


def test_a_camera_that_stopped_before(start: Start, rules: Path) -> None:
    """Whenever watching begins, the last frame of a camera that has stopped is old news.

    Neither the switch, nor a file that is set, nor a question makes it news.
    """
    options = {**WATCHING, 'image_timeout': 1.5}
    with start(watch_file=rules, **options) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(5)
        watcher.see(bgr)
        assert enable(robot, False).message == 'off'
        time.sleep(2)
        n = len(watcher.evaluations)
        late = watcher.listen('shapes', Int32)
        assert enable(robot, True).message == 'no images'
        assert robot.ask(COUNT) == answer(scene, COUNT)
        assert robot.set_parameter('watch_file', '') == (True, '')
        assert robot.set_parameter('watch_file', str(rules)) == (True, '')
        assert robot.ask(COUNT) == answer(scene, COUNT)
        robot.serve(2)
        robot.wait_for(lambda: robot.status['watch'] == 'no images')
        assert (len(watcher.evaluations), late) == (n, [])
        assert watcher.states == ['off', 'no images', 'off', 'no images']
        assert robot.log.count('no image for 1.5 s (image_timeout): nothing is watched') == 2
        assert 'no images to watch' in robot.message


def test_an_encoder_that_takes_long(start: Start, rules: Path) -> None:
    """How old a frame may be is asked when it is read: the time of the encoder does not count."""
    with start(watch_file=rules, max_image_age=0.004, **WATCHING) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(5)
        for level in range(200):
            watcher.show(np.clip(bgr.astype(int) + level % 3, 0, 255).astype(np.uint8))
            if watcher.values['shapes']:
                break
        robot.wait_for(lambda: watcher.values['shapes'] == [3], 'a state')


def test_the_pace_of_a_still_scene(start: Start, rules: Path) -> None:
    """Where there is nothing to ask, frames are looked at no more often than the period says."""
    with start(watch_file=rules, watch_period=1.5, **WATCHING) as robot:
        watcher, began = Watcher(robot), time.monotonic()
        bgr, shown = draw_scene(6)[1], 0
        while time.monotonic() < began + 6:
            watcher.show(bgr)
            shown += 1
            robot.serve(0.05)
        robot._status.clear()
        skipped = int(robot.status['watch frames skipped'])
        looks = (time.monotonic() - began) / 1.5 + 2
        assert shown - looks <= skipped < shown


def test_a_clock_that_is_set(
    start: Start, rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock of the robot is set back and forth: every change is told all the same."""
    clock = WallClock(tmp_path, monkeypatch)
    with start(watch_file=rules, **{**WATCHING, 'image_timeout': 20.0}) as robot:
        watcher = Watcher(robot)
        frames = dict(enumerate(video(40, seed=12, still=4), 1))
        for stamp, frame in frames.items():
            if stamp % 8 == 0:
                clock.set((-3600, 7200, -(10**8), 0, 60)[stamp // 8 - 1])
            watcher.show(frame.bgr)
            watcher.judged(stamp)
        check_reports(watcher, frames)
        assert watcher.states == []
        assert robot.ask(DESCRIBE) != ''


def test_stamps_that_go_back(start: Start, rules: Path) -> None:
    """A camera whose clock is set back is judged like any other, also where ROS has no time."""
    with start(watch_file=rules, use_sim_time=True, **WATCHING) as robot:
        watcher = Watcher(robot)
        stamps = [1000, 1001, 500, 501, 1, 2]
        frames = dict(zip(stamps, video(6, seed=6, still=2), strict=True))
        for stamp, frame in frames.items():
            watcher.show(frame.bgr, stamp)
            watcher.judged(stamp)
        check_reports(watcher, frames)


def test_rules_that_change_while_it_runs(start: Start, rules: Path) -> None:
    """A changed file counts at once, a wrong one changes nothing and is told once, with reason."""
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(7)
        other = np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8)
        watcher.see(bgr), watcher.see(other)
        robot.wait_for(lambda: all(watcher.values.values()), 'the states')

        rules.write_text(RULES.replace('range: [0, 3]', 'range: [3, 0]'), 'utf-8')
        wrong = f"{rules}: rule 'shapes': range [3, 0] is empty: first the smaller number"
        robot.wait_for(lambda: wrong in robot.log, 'the reason')
        evaluations = watcher.see(bgr)
        assert len(evaluations) == 5
        assert not any(e['changed'] for e in evaluations)

        stars = '  - {name: star, question: "Is there a star?", hold: 1}\n'
        rules.write_text(RULES.replace('name: red', 'name: rot') + stars, 'utf-8')
        robot.wait_for(lambda: '6 rules' in robot.log, 'the change')
        new = watcher.listen('star', Bool)
        found = {e['rule']: e for e in watcher.see(other, 6)}
        assert set(found) == {'circle', 'rot', 'shapes', 'star_color', 'left', 'star'}
        robot.wait_for(lambda: new == [scene.find('star') is not None], 'the new rule')
        assert not found['circle']['changed']  # it kept its state
        assert robot.log.count(wrong) == 1

        done, reason = robot.set_parameter('watch_file', 'nowhere.yaml')
        assert (done, 'watch_file: no such file' in reason) == (False, True)
        done, reason = robot.set_parameter('watch_file', str(CONFIG / 'params.yaml'))
        assert (done, 'must hold `rules:`' in reason) == (False, True)
        assert len(watcher.see(bgr, 6)) == 6
        assert robot.set_parameter('watch_file', '') == (True, '')
        watcher.show(other)
        robot.wait_for(lambda: robot.status['watch'] == 'off')
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)


def test_set_while_it_runs(start: Start, rules: Path) -> None:
    """A node that was started without rules gets some, in the middle of its work."""
    with start(feed_type=1, image_timeout=3600.0) as robot:
        robot.wait_until_ready()
        scene, bgr = draw_scene(8)
        robot.show(bgr)
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        assert 'watch' not in robot.status
        assert robot.set_parameter('watch_max_load', 1.0) == (True, '')
        assert robot.set_parameter('watch_file', str(rules)) == (True, '')
        watcher = Watcher(robot)
        watcher.see(bgr)
        watcher.see(np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8))
        robot.wait_for(lambda: watcher.values['shapes'] == [3], 'a state')
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)


def test_a_rule_of_another_kind(start: Start, rules: Path) -> None:
    """A rule that becomes one of another kind has another topic, without a trace of the old."""
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot, {})
        scene, bgr = draw_scene(13)
        watcher.see(bgr), watcher.see(np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8))
        robot.wait_for(lambda: robot.status['watch shapes'] == '3', 'a state')
        kinds = 'question: Is there a shape?\n    hold: 1'
        text = RULES.replace('question: How many shapes are there?', kinds)
        rules.write_text(text.replace('    kind: integer\n    range: [0, 3]\n', ''), 'utf-8')
        for n in range(1000):  # frames go on meanwhile
            watcher.show(np.clip(bgr.astype(int) + n % 3, 0, 255).astype(np.uint8))
            if 'has changed' in robot.log:
                break
            time.sleep(0.02)
        new = watcher.listen('shapes', Bool)
        watcher.see(np.clip(bgr.astype(int) + 5, 0, 255).astype(np.uint8))  # not like any before
        robot.wait_for(lambda: new == [True], 'the new state')
        assert 'unexpected' not in robot.log


def test_its_pace(start: Start, rules: Path) -> None:
    """However many frames come, there is no look before the period is over."""
    with start(watch_file=rules, watch_period=1.5, **WATCHING) as robot:
        watcher = Watcher(robot)
        frames, began = dict(enumerate(video(200, seed=14), 1)), time.monotonic()
        for frame in frames.values():
            watcher.show(frame.bgr)
            robot.wait_for(lambda: True)
            if time.monotonic() > began + 5:
                break
            time.sleep(0.02)
        robot.wait_for(lambda: len({e['stamp']['sec'] for e in watcher.evaluations}) > 2)
        seconds = time.monotonic() - began
        judged = {e['stamp']['sec'] for e in watcher.evaluations}
        assert len(judged) <= seconds / 1.5 + 1
        assert set(robot.status) >= {'watch frames judged', 'watch frames skipped'}


def test_enable(start: Start, rules: Path) -> None:
    """The service stops and starts it; while it is off nothing is asked, and nothing is known."""
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        bgr = draw_scene(9)[1]
        watcher.see(bgr), watcher.see(np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8))
        assert enable(robot, False) == SetBool.Response(success=True, message='off')
        robot.wait_for(lambda: watcher.states == ['off'], 'the state')
        n = len(watcher.evaluations)
        for _ in range(5):
            watcher.show(bgr)
            time.sleep(0.05)
        late = watcher.listen('shapes', Int32)
        robot.wait_for(lambda: robot.status['watch'] == 'off')
        assert (len(watcher.evaluations), late) == (n, [])
        assert enable(robot, True) == SetBool.Response(success=True, message='watching')
        watcher.see(bgr), watcher.see(np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8))
        robot.wait_for(lambda: late == [3], 'the state')


def test_a_question_comes_first(start: Start, rules: Path) -> None:
    """A person is answered about the newest frame, while the rules go on about all of them."""
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        frames = dict(enumerate(video(60, seed=15, still=6), 1))
        for stamp, frame in frames.items():
            watcher.show(frame.bgr)
            if stamp % 3 == 0:
                assert robot.ask(COUNT) == answer(frame.scene, COUNT)
            watcher.judged(stamp)
        check_reports(watcher, frames)


def test_a_question_interrupts_a_round(start: Start, rules: Path) -> None:
    """A person does not wait for the rules that are still to be asked about a frame."""
    n = 60
    with rules.open('a') as file:
        for i in range(n):
            file.write(f'  - {{name: t{i}, question: "Describe it, {i}.", kind: text}}\n')
    with start(watch_file=rules, **WATCHING) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(12)
        watcher.show(bgr)
        robot.wait_for(lambda: len(watcher.evaluations) > len(TYPES), 'the first text')
        assert robot.ask(COUNT) == answer(scene, COUNT)
        assert len(watcher.evaluations) < len(TYPES) + n
        watcher.judged(1, len(TYPES) + n)


@pytest.mark.parametrize('stops', [False, True])
def test_a_question_makes_no_old_news(start: Start, rules: Path, stops: bool) -> None:
    """What a question was about is not judged when something newer is there, or nothing is."""
    options = {**WATCHING, 'image_timeout': 1.5 if stops else 60.0}
    with start(watch_file=rules, watch_period=3.0, **options) as robot:
        watcher = Watcher(robot)
        watcher.see(draw_scene(5)[1])
        scene, bgr = draw_scene(6)
        watcher.show(bgr)
        assert robot.ask(COUNT) == answer(scene, COUNT)
        if stops:
            robot.wait_for(lambda: 'no images' in watcher.states, 'no images')
        newest = watcher.show(draw_scene(8)[1])
        watcher.judged(newest)
        assert {e['stamp']['sec'] for e in watcher.evaluations} == {1, newest}


def test_a_wake_word_makes_no_old_news(start: Start, rules: Path) -> None:
    """What it prepares is judged if nothing else is there, and not when the question comes."""
    with start(watch_file=rules, pre_infer=1, **WATCHING) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(5)
        robot.say('你好')
        robot.wait_for(lambda: robot.status['state'] == 'preparing', 'the wake word')
        watcher.see(bgr)
        watcher.see(draw_scene(6)[1])
        n = len(watcher.evaluations)
        assert robot.ask(COUNT) == answer(scene, COUNT)
        robot.serve(0.5)
        assert len(watcher.evaluations) == n


def test_perception_targets(start: Start, rules: Path) -> None:
    """With ai_msgs a change is told there, too, with its probability."""
    with start(watch_file=rules, togetheros=True, **WATCHING) as robot:
        watcher = Watcher(robot)
        scene, bgr = draw_scene(11)
        watcher.see(bgr), watcher.see(np.clip(bgr.astype(int) + 2, 0, 255).astype(np.uint8))
        robot.wait_for(lambda: len(robot.targets) == 5, 'the changes')
        told = {message.targets[0].type: message for message in robot.targets}
        assert 'shapes: 3' in told
        attribute = told['shapes: 3'].targets[0].attributes[0]
        assert attribute.type == 'shapes'
        assert 0.5 < attribute.confidence <= 1
        assert told['shapes: 3'].header.frame_id == 'eye'


@pytest.mark.parametrize(
    ('parameters', 'line'),
    [
        (dict(feed_type=0, image=CONFIG / 'image2.jpg'), 'watch_file needs images on a topic'),
        (dict(feed_type=1, continuous=True, user_prompt='x'), 'watch_file and continuous exclude'),
        (dict(feed_type=1, watch_file='nowhere.yaml'), 'watch_file: no such file, tried nowhere'),
        (
            dict(feed_type=1, llm_model_name='http://127.0.0.1:9/v1'),
            'watch_file: standing questions need the models on this machine',
        ),
    ],
    ids=['file', 'continuous', 'no rules', 'remote'],
)
def test_what_excludes_it(
    start: Start, rules: Path, parameters: dict[str, Any], line: str
) -> None:
    """What cannot be watched is one line, and the end."""
    with start(**{'watch_file': rules, **parameters}) as robot:
        assert robot.wait_for_end() == 1
        assert line in robot.log
        assert robot.log.count('[FATAL]') == 1


def test_off_costs_nothing() -> None:
    """Without rules nothing of the watch is imported."""
    code = (
        'import sys, rclpy\n'
        'import hobot_llamacpp_py.ros.node\n'
        'import hobot_llamacpp_py.engine.engine\n'
        'found = [n for n in sys.modules if "watch" in n and n.startswith("hobot_llamacpp_py")]\n'
        'print(found + [n for n in sys.modules if n.endswith(("engine.judge", "engine.choices"))])'
    )
    ran = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'},
        check=True,
    )
    assert ran.stdout.strip() == '[]'

"""The node among TogetheROS' own: their messages, built from test/interfaces, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from nano import CONFIG, MODELS, answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
from image_messages import image_message, shared_memory_message
from rclpy.qos import ReliabilityPolicy
from robot import Robot, without_stamps
from std_msgs.msg import Header

Start = Callable[..., AbstractContextManager[Robot]]

DESCRIBE = 'Describe the image.'
STEPS = ('preprocess', 'predict_infer', 'predict_parse', 'postprocess')


def nanoseconds(stamp: Any) -> int:
    return int(stamp.sec * 10**9 + stamp.nanosec)


def check_steps(message: Any, family: str = 'internvl', names: tuple[str, ...] = STEPS) -> None:
    """Each step is named after the model, ends when it says, and none begins before the last."""
    encoder, decoder, _ = MODELS[family]
    model = encoder if 'preprocess' in names else decoder
    assert [perf.type for perf in message.perfs] == [f'{model.stem}_{name}' for name in names]
    ends = 0
    for perf in message.perfs:
        start, end = nanoseconds(perf.stamp_start), nanoseconds(perf.stamp_end)
        assert perf.time_ms_duration == pytest.approx((end - start) / 1e6, abs=1e-6)
        assert ends <= start <= end
        ends = end


class TestPerceptionTargets:
    """Answers as ai_msgs/PerceptionTargets."""

    def test_local_image(self, start: Start, family: str, picture_file: Callable) -> None:
        """An answer about a file has the frame id that the C++ node gives it, and no stamp."""
        scene, bgr = draw_scene(80)
        began = time.time_ns()
        with start(family, togetheros=True, image=picture_file(bgr)) as robot:
            robot.wait_until_ready()
            for _ in range(2):
                text = robot.ask(DESCRIBE)
                message = robot.next_targets()
                assert text == answer(scene, DESCRIBE)
                assert [target.type for target in message.targets] == [text]
                assert message.header == Header(frame_id='feedback')
                check_steps(message, family)
                assert min(perf.time_ms_duration for perf in message.perfs) > 0
                assert began < nanoseconds(message.perfs[0].stamp_start)
                assert nanoseconds(message.perfs[3].stamp_end) < time.time_ns()
            assert not message.disappeared_targets

    def test_image_topic(self, start: Start) -> None:
        """An answer about an image has that image's header; the steps follow each other."""
        with start(togetheros=True, feed_type=1, image_timeout=20.0) as robot:
            robot.wait_until_ready()
            rates = []
            for seed in (81, 82):
                scene, bgr = draw_scene(seed)
                image = image_message(bgr, 'rgb8')
                image.header.frame_id, image.header.stamp.sec = 'front_camera', seed
                robot.publish(image)
                assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
                message = robot.next_targets()
                assert message.header == image.header
                assert message.targets[0].type == answer(scene, DESCRIBE)
                check_steps(message)
                assert min(perf.time_ms_duration for perf in message.perfs) > 0
                for before, after in zip(message.perfs[1:], message.perfs[2:], strict=False):
                    assert after.stamp_start == before.stamp_end
                rates.append(message.fps)
            assert rates[0] == -1
            assert rates[1] >= 0

    def test_prepared_image(self, start: Start) -> None:
        """What was done before the question has the time when it was done."""
        scene, bgr = draw_scene(83)
        with start(togetheros=True, feed_type=1, pre_infer=1, image_timeout=20.0) as robot:
            robot.wait_until_ready()
            robot.show(bgr)
            robot.say('你好')
            robot.wait_for(lambda: int(robot.status['KV cells used']) >= 64, 'preparing')
            asked = time.time_ns()
            assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
            message = robot.next_targets()
            check_steps(message)
            assert min(perf.time_ms_duration for perf in message.perfs) > 0
            assert nanoseconds(message.perfs[1].stamp_end) < asked
            assert asked < nanoseconds(message.perfs[2].stamp_start)

    def test_text_chat(self, start: Start) -> None:
        """A text chat has neither picture nor header; its steps bear the decoder's name."""
        with start(togetheros=True, feed_type=2) as robot:
            robot.wait_until_ready()
            text = robot.ask('Hello!')
            message = robot.next_targets()
            assert [target.type for target in message.targets] == [text]
            assert message.header == Header()
            check_steps(message, names=STEPS[2:])

    def test_failed_prompt(self, start: Start) -> None:
        """A prompt that fails is an error on ~/text and no message here: others parse these."""
        with start(togetheros=True, image=CONFIG / 'image2.jpg') as robot:
            robot.wait_until_ready()
            assert robot.ask(' ').startswith('[error]')
            text = robot.ask(DESCRIBE)
            assert robot.next_targets().targets[0].type == text
            assert robot.targets == []

    def test_once(self, start: Start) -> None:
        """With once the message has arrived before the process ends."""
        options = dict(image=CONFIG / 'image2.jpg', user_prompt=DESCRIBE, once=True)
        with start(togetheros=True, **options) as robot:
            assert robot.wait_for_end() == 0
            (message,) = robot.targets
            assert [message.targets[0].type] == robot.texts

    def test_other_topic(self, start: Start) -> None:
        """ai_msg_pub_topic_name names the topic."""
        options = dict(image=CONFIG / 'image2.jpg', ai_msg_pub_topic_name='/answers')
        with start(togetheros=True, **options) as robot:
            robot.wait_until_ready()
            types = dict(robot.client.get_topic_names_and_types())
            assert types['/answers'] == ['ai_msgs/msg/PerceptionTargets']

    def test_without_the_package(self, start: Start) -> None:
        """Where ai_msgs is not installed one line says so, and ~/text carries the answer."""
        with start(image=CONFIG / 'image2.jpg') as robot:
            robot.wait_until_ready()
            assert robot.ask(DESCRIBE).startswith('There is')
            lines = [line for line in without_stamps(robot.log) if 'ai_msgs' in line]
            assert lines == [
                'INFO: ai_msgs is not installed: answers are on ~/text, and not on /llama_cpp_node'
            ]
            assert robot.client.count_publishers('/llama_cpp_node') == 0


class TestSharedMemory:
    """is_shared_mem_sub 1: images as hbm_img_msgs/HbmMsg1080P on /hbmem_img."""

    @pytest.fixture(scope='class')
    @staticmethod
    def robot(start: Start) -> Iterator[Robot]:
        options = dict(feed_type=1, is_shared_mem_sub=1, image_timeout=20.0)
        with start(togetheros=True, **options) as robot:
            yield robot.wait_until_ready()

    @pytest.mark.parametrize(('size', 'pad'), [((640, 480), 32), ((1920, 1080), 0)])
    def test_answers(self, robot: Robot, size: tuple[int, int], pad: int) -> None:
        """A question is answered about the image; the header tells which one it was."""
        scene, bgr = draw_scene(84 + pad, size)
        message = shared_memory_message(bgr, pad)
        message.index, message.time_stamp.sec, message.time_stamp.nanosec = 41 + pad, 5, 6
        robot.publish(message, '/hbmem_img')
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        targets = robot.next_targets()
        assert targets.targets[0].type == answer(scene, DESCRIBE)
        assert targets.header.frame_id == str(41 + pad)
        assert targets.header.stamp == message.time_stamp
        check_steps(targets)

    def test_impossible_images(self, robot: Robot) -> None:
        """Another encoding or too little data fails the prompt with a reason, and no more."""
        scene, bgr = draw_scene(86)
        robot.publish(shared_memory_message(bgr, encoding=b'jpeg'), '/hbmem_img')
        other = "an image from shared memory has encoding 'jpeg'; only nv12 is supported there"
        assert robot.ask(DESCRIBE).startswith(f'[error] {other}')
        short = shared_memory_message(bgr)
        short.data_size //= 2
        robot.publish(short, '/hbmem_img')
        assert 'needs 115200 bytes, the message has 57600' in robot.ask(DESCRIBE)
        robot.publish(shared_memory_message(bgr), '/hbmem_img')
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)

    def test_nobody_publishes(self, start: Start) -> None:
        """The subscription matches every publisher; that there is none is told."""
        options = dict(feed_type=1, is_shared_mem_sub=1, image_timeout=0.2)
        with start(togetheros=True, **options) as robot:
            robot.wait_until_ready()
            (subscription,) = robot.client.get_subscriptions_info_by_topic('/hbmem_img')
            assert subscription.topic_type == 'hbm_img_msgs/msg/HbmMsg1080P'
            assert subscription.qos_profile.reliability is ReliabilityPolicy.BEST_EFFORT
            assert robot.ask(DESCRIBE).endswith('(image_timeout): nobody publishes on /hbmem_img')

    def test_without_the_package(self, start: Start) -> None:
        """Where hbm_img_msgs is not installed the last line names it and what to do."""
        with start(feed_type=1, is_shared_mem_sub=1) as robot:
            assert robot.wait_for_end() == 1
            last = without_stamps(robot.log)[-1]
            assert last.startswith('FATAL: is_shared_mem_sub needs the package hbm_img_msgs')
            assert 'tros-humble-hbm-img-msgs' in last

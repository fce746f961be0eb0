"""~/overlay over real DDS: what somebody sees who looks at it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
import pytest
from fonts import only_fonts, require_font
from nano import CONFIG, MODELS, answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('PIL', reason='needs requirements/overlay.txt')
from robot import Robot
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.drawing.caption import ERROR, caption
from hobot_llamacpp_py.drawing.fonts import Fonts
from hobot_llamacpp_py.ros.frame import Frame, bgr_to_image, image_to_bgr
from hobot_llamacpp_py.vision.preprocess import fit

Start = Callable[..., AbstractContextManager[Robot]]

DESCRIBE, DESCRIBE_ZH = 'Describe the image.', '描述一下这张图片。'
ENDLESS = dict(
    max_tokens=30000, n_ctx=32768, temperature=100.0, top_k=0, top_p=1.0, min_p=0.0, seed=1
)
ENCODER_INPUT = (224, 224)  # of the built-in model
OVERLAY, COMPRESSED = '/llamacpp_node/overlay', '/llamacpp_node/overlay/compressed'


@pytest.fixture(autouse=True)
def font() -> None:
    """Skip where not even English can be written."""
    require_font(DESCRIBE)


class Viewer:
    """Somebody who looks at the overlay of a robot's node, once the node knows of it."""

    def __init__(self, robot: Robot, topic: str = OVERLAY) -> None:
        self._robot = robot
        self.messages: list[Image | CompressedImage] = []
        kind = CompressedImage if topic == COMPRESSED else Image
        robot.listen(topic, self.messages.append, kind)
        robot.wait_for(lambda: robot.client.count_publishers(topic), f'{topic} being published')
        # The node has matched the subscription when it answers a call that is made after it.
        robot.wait_until_ready()
        robot.call('reset')

    def pictures(self) -> list[np.ndarray]:
        return [Frame(message, 0.0).bgr() for message in self.messages]

    def wait_for(self, expected: np.ndarray, difference: float = 0.0) -> Image | CompressedImage:
        """Wait for a picture that differs by so much on average at most; return its message."""

        def found() -> bool:
            if not self.messages:
                return False
            newest = self.pictures()[-1]
            return newest.shape == expected.shape and cv2.norm(
                newest, expected, cv2.NORM_L1
            ) <= difference * (newest.size)

        self._robot.wait_for(found, 'the picture')
        return self.messages[-1]


def maps(robot: Robot) -> str:
    """Return what is mapped into the memory of the node's process."""
    return Path(f'/proc/{robot.process.pid}/maps').read_text()


@pytest.mark.parametrize('question', [DESCRIBE, DESCRIBE_ZH], ids=['en', 'zh'])
def test_local_picture(start: Start, picture_file: Callable[..., Path], question: str) -> None:
    """The file's picture is seen as it is, with question and answer beneath it."""
    scene, bgr = draw_scene(1, (640, 480))  # larger than what the encoder sees
    text = answer(scene, question)
    require_font(question + text)
    with start(image=picture_file(bgr), publish_overlay=True) as robot:
        viewer = Viewer(robot)
        assert robot.ask(question) == text
        message = viewer.wait_for(caption(bgr, question, text, Fonts()))
        assert message.encoding == 'bgr8'
        assert message.header == Header(frame_id='feedback')
        np.testing.assert_array_equal(bgr, image_to_bgr(message)[:480])


def test_compressed_picture_of_a_camera(start: Start) -> None:
    """It is the frame that was asked about, as JPEG, with its header."""
    scene, bgr = draw_scene(2, (640, 480))
    with start(feed_type=1, publish_overlay=True) as robot:
        viewer = Viewer(robot, COMPRESSED)
        header = Header(frame_id='front')
        header.stamp.sec, header.stamp.nanosec = 12, 34
        robot.publish(bgr_to_image(bgr, header))
        text = robot.ask(DESCRIBE)
        assert text == answer(scene, DESCRIBE)
        expected, other = (caption(bgr, DESCRIBE, t, Fonts()) for t in (text, text[:-10]))
        # Another text would differ by more than JPEG's losses.
        loss = cv2.norm(expected, other, cv2.NORM_L1) / expected.size / 2
        jpeg = cv2.imdecode(cv2.imencode('.jpg', expected)[1], cv2.IMREAD_COLOR)
        message = viewer.wait_for(jpeg, loss)
        np.testing.assert_array_equal(jpeg, viewer.pictures()[-1])
        assert (message.format, message.header) == ('jpeg', header)


def test_seen_while_it_is_written(start: Start) -> None:
    """The text grows from picture to picture, up to the whole answer, also of one that is cut."""
    with start(image=CONFIG / 'image2.jpg', publish_overlay=True, **ENDLESS) as robot:
        viewer = Viewer(robot)
        cancelled = False
        while not cancelled:  # noise may end an answer by itself
            viewer.messages.clear()
            robot.say(DESCRIBE)
            robot.wait_for(lambda: len(viewer.messages) > 3 or robot.texts, 'pictures')
            cancelled = robot.call('cancel').success
            robot.next_text()
        bands = [picture[480:] for picture in viewer.pictures()]
        assert len({band.tobytes() for band in bands}) > 3

    bgr = cv2.imread(str(CONFIG / 'image2.jpg'))
    with start(image=CONFIG / 'image2.jpg', publish_overlay=True, max_tokens=3) as robot:
        viewer = Viewer(robot)
        text = robot.ask(DESCRIBE) + '\n(the answer was cut: length)'
        viewer.wait_for(caption(bgr, DESCRIBE, text, Fonts()))


def test_who_comes_late_sees_the_running_answer(start: Start) -> None:
    """Somebody who subscribes while an answer is given sees the rest of it."""
    with start(image=CONFIG / 'image2.jpg', publish_overlay=True, **ENDLESS) as robot:
        robot.wait_until_ready()
        messages: list[Image] = []
        robot.say(DESCRIBE)
        robot.wait_for(lambda: robot.partials, 'streaming')
        robot.listen(OVERLAY, messages.append, Image)

        def seen() -> bool:
            if robot.texts:  # noise may end an answer by itself
                robot.texts.clear()
                robot.say(DESCRIBE)
            return len(messages) > 1

        robot.wait_for(seen, 'the overlay')


def test_errors_are_shown(start: Start) -> None:
    """A failed prompt's error is beneath its picture, or beneath a black one if there is none."""
    with start(feed_type=1, publish_overlay=True, image_timeout=0.0, n_ctx=256) as robot:
        viewer = Viewer(robot)
        black = np.zeros((480, 640, 3), np.uint8)
        for question in DESCRIBE, ' ':
            expected = caption(black, question, robot.ask(question), Fonts(), is_error=True)
            assert viewer.wait_for(expected).header == Header()
            assert (expected == ERROR).all(axis=2).any()

        scene, bgr = draw_scene(3)
        robot.show(bgr)
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        question = 'why ' * 500
        error = robot.ask(question)
        assert error.startswith('[error]')
        viewer.wait_for(caption(bgr, question, error, Fonts(), is_error=True))


def test_once_waits_for_the_last_picture(start: Start, picture_file: Callable[..., Path]) -> None:
    """With once the whole answer is seen, too, before the process ends."""
    scene, bgr = draw_scene(4)
    messages: list[Image] = []
    parameters = dict(image=picture_file(bgr), user_prompt=DESCRIBE, once=True)
    with start(publish_overlay=True, **parameters) as robot:
        robot.listen(OVERLAY, messages.append, Image)
        assert robot.wait_for_end() == 0
        expected = caption(bgr, DESCRIBE, answer(scene, DESCRIBE), Fonts())
        np.testing.assert_array_equal(expected, image_to_bgr(messages[-1]))


def test_a_changed_file_is_not_shown(start: Start, picture_file: Callable[..., Path]) -> None:
    """Where the file has another picture by now, the one that the model saw is shown."""
    scene, bgr = draw_scene(5)
    with start(image=picture_file(bgr), publish_overlay=True) as robot:
        viewer = Viewer(robot)
        picture_file(draw_scene(6)[1])
        text = robot.ask(DESCRIBE)
        assert text == answer(scene, DESCRIBE)
        seen = fit(bgr, ENCODER_INPUT, 'letterbox')
        viewer.wait_for(caption(seen, DESCRIBE, text, Fonts()))


def test_costs_nothing_while_nobody_looks(start: Start) -> None:
    """Without a subscriber nothing is drawn, and Pillow is not even loaded."""
    with start(image=CONFIG / 'image2.jpg', publish_overlay=True) as robot:
        robot.wait_until_ready()
        robot.ask(DESCRIBE)
        assert '_imaging' not in maps(robot)
        viewer = Viewer(robot, COMPRESSED)
        robot.ask(DESCRIBE)
        robot.wait_for(lambda: viewer.messages, 'the overlay')
        assert '_imaging' in maps(robot)


def test_off_by_default(start: Start) -> None:
    """Without publish_overlay there are no such topics."""
    with start(image=CONFIG / 'image2.jpg') as robot:
        robot.wait_until_ready()
        robot.ask(DESCRIBE)
        assert robot.client.count_publishers(OVERLAY) == 0
        assert robot.client.count_publishers(COMPRESSED) == 0


def test_without_a_font(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any font the package is named once, and answers come as ever."""
    monkeypatch.setenv('FONTCONFIG_FILE', str(only_fonts(tmp_path)))
    with start(image=CONFIG / 'image2.jpg', publish_overlay=True) as robot:
        viewer = Viewer(robot)
        for _ in range(3):
            assert robot.ask(DESCRIBE).startswith('There is')
            robot.wait_for(lambda: 'fonts-wqy-zenhei' in robot.log, 'the advice')
        assert robot.log.count('fonts-wqy-zenhei') == 1
        assert viewer.messages == []
        assert 'Traceback' not in robot.log


def test_without_pillow(installed: Path, tmp_path: Path) -> None:
    """Without Pillow the command is told once that installs it, and answers come as ever."""
    hidden = tmp_path / 'hidden'
    hidden.mkdir()
    (hidden / 'PIL.py').write_text("raise ModuleNotFoundError('No module named PIL')\n")
    paths = [hidden, *installed.glob('lib/python*/site-packages')]
    command = ['env', f'PYTHONPATH={os.pathsep.join(map(str, paths))}']
    encoder, decoder, _ = MODELS['internvl']
    parameters = dict(model_file_name=encoder, llm_model_name=decoder, publish_overlay=True)
    with Robot(installed, tmp_path, parameters, command=command) as robot:
        viewer = Viewer(robot)
        for _ in range(3):
            assert robot.ask(DESCRIBE).startswith('There is')
            robot.wait_for(lambda: 'pip3 install pillow==' in robot.log, 'the advice')
        assert robot.log.count('pip3 install pillow==') == 1
        assert viewer.messages == []
        assert 'Traceback' not in robot.log


def test_text_chat(start: Start) -> None:
    """In a text chat there is no picture: the node says that the parameter has no effect."""
    with start(feed_type=2, publish_overlay=True) as robot:
        robot.wait_until_ready()
        assert 'publish_overlay has no effect in a text chat' in robot.log

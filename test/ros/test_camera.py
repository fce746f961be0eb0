"""The command that publishes pictures as a camera does, and a node that looks at them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import cv2
import pytest
from nano import CONFIG, ROOT, answer, draw_scene
from robot import Robot

DESCRIBE = 'Describe the image.'
SAMPLE = (
    'There is a yellow star at the top, a red circle on the left and a blue square on the right.'
)


@contextmanager
def camera(robot: Robot, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command beside a robot."""
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', *map(str, arguments)]
    variables = {**os.environ, 'ROS_DOMAIN_ID': str(robot.domain)}
    with subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0


def video(path: Path, seeds: Sequence[int]) -> Path:
    """Write a video of still scenes, a second each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 5, (320, 240))
    for seed in seeds:
        for _ in range(5):
            writer.write(draw_scene(seed)[1])
    writer.release()
    return path


Start = Callable[..., AbstractContextManager[Robot]]


@pytest.mark.parametrize('options', [(), ('--compressed',), ('--rate', '30', '--size', '640x480')])
def test_a_picture(start: Start, options: tuple[str, ...]) -> None:
    """A node with a camera of one picture answers rightly about it."""
    with start(feed_type=1, image_timeout=30.0) as robot:
        robot.wait_until_ready()
        with camera(robot, CONFIG / 'image2.jpg', *options):
            assert robot.ask(DESCRIBE) == SAMPLE


def test_a_picture_that_is_sent_once(start: Start) -> None:
    """Without a loop the command ends when its only picture has arrived."""
    with start(feed_type=1, image_timeout=30.0) as robot:
        robot.wait_until_ready()
        with camera(robot, CONFIG / 'image2.jpg', '--no-loop') as process:
            assert process.wait(timeout=60) == 0
        assert robot.ask(DESCRIBE) == SAMPLE


def test_a_folder(start: Start, tmp_path: Path) -> None:
    """The pictures of a folder come one after the other, and then again."""
    scenes = [draw_scene(seed) for seed in (3, 4)]
    for i, (_, bgr) in enumerate(scenes):
        cv2.imwrite(str(tmp_path / f'{i}.png'), bgr)
    (tmp_path / 'notes.txt').write_text('no picture')
    right = {answer(scene, DESCRIBE) for scene, _ in scenes}
    asking = dict(feed_type=1, continuous=True, user_prompt=DESCRIBE, cute_words='')
    with start(**asking) as robot, camera(robot, tmp_path, '--rate', '2'):
        given = {robot.next_text() for _ in range(8)}
    assert given == right


def test_a_video(start: Start, tmp_path: Path) -> None:
    """A video is published at its own rate."""
    path = video(tmp_path / 'scene.avi', [5])
    with start(feed_type=1, image_timeout=30.0) as robot:
        robot.wait_until_ready()
        with camera(robot, path):
            assert robot.ask(DESCRIBE) == answer(draw_scene(5)[0], DESCRIBE)


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (['nowhere.png'], 1, 'nowhere.png: no such file, tried '),
        (['/dev/video99'], 1, '/dev/video99: no such file'),
        (['setup.py'], 1, 'is neither a picture nor a video or camera'),
        (['docs'], 1, 'docs: there is no picture in it'),
        (['config/image2.jpg', '--size', 'big'], 2, "'big' is no size such as 640x480"),
        (['config/image2.jpg', '--rate', '0'], 2, "'0' is no number between 0 and 1000"),
        (['config/image2.jpg', '--rate', 'fast'], 2, "'fast' is no number between 0 and 1000"),
        (['config/image2.jpg', '--topic', 'a b'], 2, "'a b' is no topic such as /image"),
        (['config/image2.jpg', '--size', '0x4'], 2, "'0x4' has nothing in it"),
        (['config/image2.jpg', '--size', '100000x4'], 2, 'too large: at most 16384 a side'),
        ([], 2, 'required: source'),
    ],
)
def test_what_cannot_be(arguments: list[str], status: int, words: str) -> None:
    """What is no source, or makes no sense, is one line."""
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, words in result.stderr) == (status, True), result.stderr
    assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1


def test_a_sample_from_anywhere(tmp_path: Path) -> None:
    """What comes with the package is found from any folder."""
    result = run_in(tmp_path, '--no-loop', '--rate', '50', 'config/image2.jpg')
    assert result.returncode == 0, result.stderr


def test_a_broken_picture(tmp_path: Path) -> None:
    """A picture of a folder that cannot be read is named and left out."""
    (tmp_path / '0.png').write_bytes(b'no picture')
    cv2.imwrite(str(tmp_path / '1.png'), draw_scene(3)[1])
    result = run_in(tmp_path, '--no-loop', '--rate', '50', str(tmp_path))
    assert result.returncode == 0
    assert f'left out: {tmp_path}/0.png is not a picture' in result.stderr
    (tmp_path / '1.png').write_bytes(b'')
    result = run_in(tmp_path, str(tmp_path))
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last == f'error: {tmp_path}: none of its pictures can be read'


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder until it ends."""
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', *arguments]
    variables = {**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60
    )


def test_it_ends(tmp_path: Path) -> None:
    """Without a loop the command ends with its last picture."""
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', '--no-loop', '--rate', '50']
    path = video(tmp_path / 'scene.avi', [5])
    assert (
        subprocess.run([*command, path], cwd=ROOT, timeout=60, capture_output=True).returncode == 0
    )

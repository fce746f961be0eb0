"""Faults of the vision encoder: one line about the picture, and a right answer about the next."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest
from nano import CONFIG, answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('colcon_core', reason='needs colcon')
import emulated
from moody_models import WHITE, write_moody
from processes import Traces, children, stopped
from robot import Robot, install, starter, without_stamps

QUESTION = 'Describe the image.'
MMPROJ = CONFIG / 'mmproj-nano_smolvlm.gguf'
Start = Callable[..., Robot]


@pytest.fixture(scope='module')
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    installed = install(tmp_path_factory.getbasetemp() / 'colcon')
    return starter(installed, lambda: tmp_path_factory.mktemp('node'))


def ask(robot: Robot, seed: int) -> None:
    """Show another picture: the answer about it is right, and there is one."""
    scene, bgr = draw_scene(seed)
    robot.show(bgr)
    assert robot.ask(QUESTION) == answer(scene, QUESTION)
    assert robot.texts == []


def await_errors(robot: Robot, count: int) -> None:
    """Wait until the log has so many errors, and find no more."""

    def errors() -> int:
        return sum(line.startswith('ERROR') for line in without_stamps(robot.log))

    robot.wait_for(lambda: errors() >= count, f'{count} errors')
    assert errors() == count, robot.log


@pytest.mark.parametrize('kind', ['mmproj', *emulated.BOARDS])
def test_its_process(
    start: Start, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at a picture, killed between two, stopped for a moment: what could be saved is."""
    with ExitStack() as stack:
        model = MMPROJ
        if kind != 'mmproj':
            emulated.use_board(monkeypatch, kind)
            model = stack.enter_context(emulated.nano_model(tmp_path, 'smolvlm', kind))
        robot = stack.enter_context(start('smolvlm', feed_type=1, model_file_name=model))
        ask(robot.wait_until_ready(), 20)
        killed_while_it_encodes(robot)
        killed_while_idle(robot)
        stopped_for_a_moment(robot)
        assert 'Traceback' not in robot.log


def killed_while_it_encodes(robot: Robot) -> None:
    """The picture that it was at is an error; the next one has an encoder at once."""
    (child,) = children(robot.process.pid)
    with stopped(child):  # so that it is at the picture for as long as we like
        ask_without_waiting(robot, draw_scene(21)[1])
        os.kill(child, signal.SIGKILL)
        said = robot.next_text()
    assert said.startswith('[error] ')
    assert 'its process ended: signal SIGKILL' in said
    await_errors(robot, 1)
    ask(robot, 22)
    assert children(robot.process.pid) != [child]


def killed_while_idle(robot: Robot) -> None:
    """Nobody loses a question by it."""
    (child,) = children(robot.process.pid)
    traces = Traces(robot.process.pid)
    os.kill(child, signal.SIGKILL)
    traces.wait_for_children()
    ask(robot, 23)
    await_errors(robot, 1)


def stopped_for_a_moment(robot: Robot) -> None:
    """Nobody has to wait for it, and what comes late, but in time, is as right as ever."""
    (child,) = children(robot.process.pid)
    scene, bgr = draw_scene(24)
    with stopped(child):
        ask_without_waiting(robot, bgr)
        assert robot.call('cancel').success
        assert 'cancelled before the first word' in robot.next_text()
        ask_without_waiting(robot)
    assert robot.next_text() == answer(scene, QUESTION)
    assert children(robot.process.pid) == [child]
    await_errors(robot, 1)


def ask_without_waiting(robot: Robot, bgr: np.ndarray | None = None) -> None:
    """Ask, and wait until the encoder has the picture."""
    if bgr is not None:
        robot.show(bgr)
    robot.say(QUESTION)
    robot.status.clear()
    robot.wait_for(lambda: robot.status.get('state') == 'answering', 'the question')


def test_too_late(start: Start) -> None:
    """One that stands still is given up after encoder_timeout; questions that wait are answered.

    Whoever wakes up the old one then does not disturb the new one.
    """
    parameters = dict(feed_type=1, model_file_name=MMPROJ, encoder_timeout=1.0)
    with start('smolvlm', **parameters) as robot:
        ask(robot.wait_until_ready(), 30)
        (child,) = children(robot.process.pid)
        with stopped(child):
            scene, bgr = draw_scene(31)
            robot.show(bgr)
            robot.say(QUESTION)
            robot.say(QUESTION)
            said = robot.next_text()
            assert said.startswith('[error] ')
            assert 'no answer within 1 s; its process was ended (encoder_timeout)' in said
            assert robot.next_text() == answer(scene, QUESTION)
        ask(robot, 32)
        await_errors(robot, 1)
        robot.wait_for(lambda: robot.status.get('encoder restarts') == '1', 'the count')


def test_too_late_in_this_process(start: Start, tmp_path: Path, family: str) -> None:
    """An ONNX encoder that does not come to an end is stopped; the next picture is encoded."""
    model = write_moody(tmp_path / 'moody.onnx', family, 'slow')
    with start(family, feed_type=1, model_file_name=model, encoder_timeout=1.0) as robot:
        ask(robot.wait_until_ready(), 40)
        robot.show(WHITE)
        said = robot.ask(QUESTION)
        assert said.startswith('[error] ')
        assert 'moody.onnx: no answer within 1 s; it was stopped (encoder_timeout)' in said
        ask(robot, 41)
        await_errors(robot, 1)


@pytest.mark.parametrize(
    ('fault', 'words'),
    [
        ('nan', 'moody.onnx: the output holds NaN or infinity'),
        ('fewer', 'the encoder gave embeddings of shape (63, 128); expected (64, 128)'),
        ('flat', 'moody.onnx: the output has shape [8192]; expected [1, n_tokens, n_embd]'),
    ],
)
def test_wrong_numbers(start: Start, tmp_path: Path, family: str, fault: str, words: str) -> None:
    """What an ONNX model gives for one picture is no embeddings: one line, and no trace of it."""
    model = write_moody(tmp_path / 'moody.onnx', family, fault)
    with start(family, feed_type=1, model_file_name=model) as robot:
        ask(robot.wait_until_ready(), 40)
        for _ in range(2):
            robot.show(WHITE)
            said = robot.ask(QUESTION)
            assert said.startswith('[error] ')
            assert words in said
            ask(robot, 41)
        await_errors(robot, 2)
        assert 'Traceback' not in robot.log


def test_mmproj_of_nan(start: Start, tmp_path: Path) -> None:
    """Weights that are no numbers give an error, no answer; with the whole file there is one."""
    path = tmp_path / 'mmproj-nan.gguf'
    data = bytearray(MMPROJ.read_bytes())
    reader = gguf.GGUFReader(MMPROJ)
    (tensor,) = [t for t in reader.tensors if t.name == 'v.position_embd.weight']
    begin = int(tensor.data_offset)
    data[begin : begin + tensor.n_bytes] = np.full(
        tensor.data.shape, np.nan, tensor.data.dtype
    ).tobytes()
    path.write_bytes(data)
    with start('smolvlm', feed_type=1, model_file_name=path) as robot:
        robot.wait_until_ready().show(draw_scene(42)[1])
        said = robot.ask(QUESTION)
        assert said.startswith('[error] ')
        assert 'mmproj-nan.gguf: the output holds NaN or infinity' in said
        await_errors(robot, 1)
        assert robot.stop()[0] == 0
        path.write_bytes(MMPROJ.read_bytes())
        robot._start()
        ask(robot.wait_until_ready(), 43)

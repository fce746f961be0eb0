"""The node with an encoder in a process of its own: it answers while the encoder works."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import emulated
import pytest
import s100
from nano import CONFIG, answer, draw_scene
from robot import Robot

QUESTION = 'Describe the image.'


def runs(log: Path, line: str) -> int:
    """Return how often the encoder's model has begun or ended a run."""
    return log.read_text().split().count(line) if log.exists() else 0


@pytest.fixture
def slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the built-in encoder as an S100's; while `slow` exists it holds the GIL for 2.4 s."""
    s100.use_double(monkeypatch)
    return s100.write_nano(
        tmp_path / 'nano.hbm',
        'internvl',
        seconds=2.4,
        log=str(tmp_path / 'log'),
        **{'while': str(tmp_path / 'slow')},
    )


def test_services_answer_while_the_encoder_works(
    start: Callable[..., Robot], slow_model: Path
) -> None:
    """Services, parameters and timers go on while the encoder holds its GIL for 2.4 s."""
    scene, bgr = draw_scene(7)
    log = slow_model.with_name('log')
    with start(feed_type=1, model_file_name=slow_model) as robot:
        robot.wait_until_ready()
        slow_model.with_name('slow').touch()
        before = runs(log, 'begin')
        robot.show(bgr)
        robot.say(QUESTION)
        robot.wait_for(lambda: runs(log, 'begin') > before, 'encoding')
        assert robot.set_parameter('temperature', 0.0) == (True, '')
        assert robot.call('reset').success
        assert runs(log, 'end') == before  # the encoder is still at it
        robot.status.clear()
        robot.wait_for(lambda: robot.status, 'diagnostics')
        assert robot.next_text() == answer(scene, QUESTION)


def test_crash_fails_one_prompt(start: Callable[..., Robot], tmp_path: Path, monkeypatch) -> None:
    """A crash of the encoder is the answer to one prompt; the next one is answered rightly."""
    s100.use_double(monkeypatch)
    trigger = tmp_path / 'crash'
    model = s100.write_nano(
        tmp_path / 'nano.hbm', 'internvl', crash=True, **{'while': str(trigger)}
    )
    scene, bgr = draw_scene(8)
    with start(feed_type=1, model_file_name=model) as robot:
        robot.wait_until_ready().show(bgr)
        trigger.touch()
        assert '[error] ' in (said := robot.ask(QUESTION)), said
        assert 'its process ended: signal SIGSEGV' in said
        trigger.unlink()
        assert robot.ask(QUESTION) == answer(scene, QUESTION)
        assert 'encoder process: the driver is about to fail' in robot.log


def test_encoder_ends_with_a_killed_node(start: Callable[..., Robot], slow_model: Path) -> None:
    """After kill -9 of the node its encoder's process ends as well, in the midst of a picture."""
    log = slow_model.with_name('log')
    with start(feed_type=1, model_file_name=slow_model) as robot:
        robot.wait_until_ready()
        children = Path(f'/proc/{robot.process.pid}/task').glob('*/children')
        (child,) = ' '.join(path.read_text() for path in children).split()
        descriptor = os.pidfd_open(int(child))
        slow_model.with_name('slow').touch()
        before = runs(log, 'begin')
        robot.show(draw_scene(9)[1])
        robot.say(QUESTION)
        robot.wait_for(lambda: runs(log, 'begin') > before, 'encoding')
        robot.stop(signal.SIGKILL)
        assert select.select([descriptor], [], [], 60)[0]
        assert runs(log, 'end') == before
        os.close(descriptor)


def test_public_pair(start: Callable[..., Robot]) -> None:
    """A GGUF pair with an mmproj file sees, draws on the KV cache and drafts repeated answers."""
    scene, bgr = draw_scene(11)
    model = CONFIG / 'mmproj-nano_smolvlm.gguf'
    with start('smolvlm', feed_type=1, model_file_name=model) as robot:
        robot.wait_until_ready().show(bgr)
        for _ in range(2):
            assert robot.ask(QUESTION) == answer(scene, QUESTION)
        robot.wait_for(lambda: int(robot.status['tokens accepted']) > 0, 'speculation')
        assert int(robot.status['KV cells reused']) >= 64
        assert int(robot.status['tokens drafted']) >= int(robot.status['tokens accepted'])
        assert robot.set_parameter('speculative', False) == (True, '')
        assert robot.ask(QUESTION) == answer(scene, QUESTION)
        robot.wait_for(lambda: robot.status['tokens drafted'] == '0', 'its end')


@pytest.mark.parametrize('board', emulated.BOARDS)
def test_emulated_board(
    start: Callable[..., Robot],
    tmp_path: Path,
    family: str,
    board: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an encoder on an emulated board the node tells what is in a picture."""
    emulated.use_board(monkeypatch, board)
    scene, bgr = draw_scene(10)
    with (
        emulated.nano_model(tmp_path, family, board) as model,
        start(family, feed_type=1, model_file_name=model) as robot,
    ):
        robot.wait_until_ready().show(bgr)
        assert robot.ask(QUESTION) == answer(scene, QUESTION)


def test_an_aborted_inference(
    start: Callable[..., Robot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the S100's library refuses, the prompt's error has its words; the next is answered."""
    emulated.use_board(monkeypatch, 's100')
    trigger = tmp_path / 'trigger'
    scene, bgr = draw_scene(12)
    with emulated.nano_model(tmp_path, 'internvl', 's100') as model:
        model.write_text(f'{model.read_text()}fail SubmitTask -77\nwhile {trigger}\n')
        with start(feed_type=1, model_file_name=model) as robot:
            robot.wait_until_ready().show(bgr)
            trigger.touch()
            said = robot.ask(QUESTION)
            assert said.startswith('[error] ')
            assert 'code: -77' in said
            assert 'hbUCPSubmitTask failed' in said
            trigger.unlink()
            assert robot.ask(QUESTION) == answer(scene, QUESTION)

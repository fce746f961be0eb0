"""A node that is told to end, by any signal and in any phase, ends at once and leaves nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from nano import CONFIG, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('colcon_core', reason='needs colcon')
from moody_models import WHITE, write_moody
from processes import Traces, catches, children, files, stopped, wait_until
from robot import TIMEOUT, Robot, install, starter

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
BAR = 1.0  # seconds from the signal to the end
TRIES = 4  # on a machine that is busy with something else
DESCRIBE = 'Describe the image.'
ENDLESS = dict(max_tokens=30000, n_ctx=32768, temperature=100.0, top_k=0, top_p=1.0)
ENDLESS |= dict(min_p=0.0, seed=1)
Start = Callable[..., Robot]


@pytest.fixture(scope='module')
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    installed = install(tmp_path_factory.getbasetemp() / 'colcon')
    return starter(installed, lambda: tmp_path_factory.mktemp('node'))


@pytest.fixture(scope='module')
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One in the node's own process, which takes hours over a white picture, and another's."""
    folder = tmp_path_factory.mktemp('encoders')
    return {
        'onnx': write_moody(folder / 'slow.onnx', 'smolvlm', 'slow'),
        'mmproj': CONFIG / 'mmproj-nano_smolvlm.gguf',
    }


# -- the phases: each a block within which a node is in it ----------------------------------------


@contextmanager
def loading(start: Start, encoder: Path) -> Iterator[Robot]:
    """The node has begun to load its models; an encoder's process never gets ready."""
    with start('smolvlm', feed_type=1, model_file_name=encoder) as robot, ExitStack() as stack:
        if encoder.suffix == '.gguf':
            node = robot.process.pid
            wait_until(lambda: children(node), 'the start of an encoder')
            (child,) = children(node)
            stack.enter_context(stopped(child))
            # The node is done with its start: of each pipe it has its own end only.
            pipes = {name for name in files(child) if name.startswith('pipe:')}
            wait_until(lambda: all(files(node).count(p) == 1 for p in pipes), 'the start')
        else:
            robot.wait_for(lambda: robot.client.count_publishers('/diagnostics'), 'start')
        yield robot
        assert encoder.suffix != '.gguf' or 'ready after' not in robot.log


@contextmanager
def encoding(start: Start, encoder: Path) -> Iterator[Robot]:
    """A picture is in the encoder, which does not come to an end with it."""
    with start('smolvlm', feed_type=1, model_file_name=encoder) as robot, ExitStack() as stack:
        robot.wait_until_ready().show(WHITE)
        for child in children(robot.process.pid):
            stack.enter_context(stopped(child))
        robot.say(DESCRIBE)
        robot.status.clear()
        robot.wait_for(lambda: robot.status.get('state') == 'answering', 'the answer')
        yield robot
        assert robot.texts == []


@contextmanager
def prefilling(start: Start, encoder: Path) -> Iterator[Robot]:
    """The decoder reads a prompt of many thousand words."""
    parameters = dict(feed_type=1, model_file_name=encoder, **ENDLESS)
    with start('smolvlm', **parameters) as robot:
        robot.wait_until_ready().show(draw_scene(1)[1])
        robot.say('Describe the image again. ' * 2000)
        robot.wait_for(lambda: 'prompt: ' in robot.log, 'the prompt')
        yield robot
        assert robot.partials == []


@contextmanager
def decoding(start: Start, encoder: Path) -> Iterator[Robot]:
    """An answer without end is being given."""
    parameters = dict(feed_type=1, model_file_name=encoder, **ENDLESS)
    with start('smolvlm', **parameters) as robot:
        robot.wait_until_ready().show(draw_scene(1)[1])
        robot.say(DESCRIBE)
        robot.wait_for(lambda: robot.partials, 'the first words')
        assert robot.texts == []
        yield robot


@contextmanager
def idle(start: Start, encoder: Path) -> Iterator[Robot]:
    """There is nothing to do."""
    with start('smolvlm', feed_type=1, model_file_name=encoder) as robot:
        yield robot.wait_until_ready()


@contextmanager
def waiting(start: Start, encoder: Path) -> Iterator[Robot]:
    """A question waits for an image that does not come."""
    parameters = dict(feed_type=1, model_file_name=encoder, image_timeout=3600.0)
    with start('smolvlm', **parameters) as robot:
        robot.wait_until_ready().say(DESCRIBE)
        robot.wait_for(lambda: 'waiting' in robot.status['state'], 'the wait')
        yield robot


@contextmanager
def ending(start: Start, encoder: Path) -> Iterator[Robot]:
    """The node has been told to end already."""
    with idle(start, encoder) as robot:
        robot.process.send_signal(signal.SIGTERM)
        yield robot


# Where the encoder is another process makes a difference only while it has something to do, and
# when it has nothing to do.
PHASES = [
    *((phase, 'onnx') for phase in (prefilling, decoding, waiting, ending)),
    *((phase, kind) for phase in (loading, encoding, idle) for kind in ('onnx', 'mmproj')),
]


@pytest.mark.parametrize('number', SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ('phase', 'kind'), PHASES, ids=lambda value: getattr(value, '__name__', value)
)
def test_it_ends(
    start: Start, encoders: dict[str, Path], phase: Callable, kind: str, number: int
) -> None:
    """Within a second, with status 0, without a traceback, a process or shared memory."""
    for _ in range(TRIES):
        with phase(start, encoders[kind]) as robot:
            traces = Traces(robot.process.pid)
            assert traces.segments, 'there is no shared memory that could be left behind'
            status, seconds = robot.stop(number)
            assert status == 0, robot.log
            traces.wait_for_children()
            assert traces.left() == set()
            assert 'Traceback' not in robot.log
            assert '[ERROR]' not in robot.log
            assert robot.output == ''
        print(f'{phase.__name__} {kind} {signal.Signals(number).name} {1e3 * seconds:.0f} ms')
        if seconds <= BAR:
            return
    pytest.fail(f'it took more than {BAR:g} s, {TRIES} times in a row')


@pytest.mark.parametrize('kind', ['onnx', 'mmproj'])
def test_from_its_first_line_on(start: Start, encoders: dict[str, Path], kind: str) -> None:
    """At any moment of the start, its imports included, a signal ends it quietly, with status 0.

    What comes before its first line is Python's own: there a signal is the exit status.
    """
    rng = random.Random(kind)
    taken = []
    with start('smolvlm', feed_type=1, model_file_name=encoders[kind]) as robot:
        robot.wait_for(lambda: 'ready after' in robot.log, 'loading')
        robot.stop()
        begun = time.monotonic()
        robot._start()
        robot.wait_for(lambda: 'ready after' in robot.log, 'loading')
        whole = time.monotonic() - begun
        robot.stop()
        for turn in range(6):
            robot._start()
            wait_until(lambda: catches(robot.process.pid, signal.SIGTERM), 'its start', 0.001)
            time.sleep(rng.uniform(0, whole))
            traces = Traces(robot.process.pid)
            status, seconds = robot.stop(SIGNALS[turn % len(SIGNALS)])
            assert (status, robot.output) == (0, ''), robot.log
            assert 'Traceback' not in robot.log
            assert 'rror' not in robot.log
            traces.wait_for_children()
            assert traces.left() == set()
            taken.append(seconds)
    assert sorted(taken)[len(taken) // 2] <= BAR


@pytest.mark.parametrize('phase', [loading, encoding])
def test_a_terminal_interrupts_all(
    start: Start, encoders: dict[str, Path], phase: Callable
) -> None:
    """Ctrl-C in a terminal goes to all processes that it has: none prints a traceback."""

    def in_a_group(*arguments: object, **parameters: object) -> Robot:
        return start(*arguments, **parameters, command=['setsid'])

    with phase(in_a_group, encoders['mmproj']) as robot:
        traces = Traces(robot.process.pid)
        os.killpg(robot.process.pid, signal.SIGINT)
        assert robot.process.wait(TIMEOUT) == 0
        traces.wait_for_children()
        assert 'Traceback' not in robot.log


def test_nohup(start: Start) -> None:
    """Under nohup the node lives on when its terminal is closed."""
    with start(feed_type=2, command=['nohup']) as robot:
        robot.wait_until_ready()
        robot.process.send_signal(signal.SIGHUP)
        assert robot.ask('Hello') != ''
        assert robot.stop(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize('phase', [loading, encoding, prefilling, decoding, idle])
def test_kill_9(
    start: Start, encoders: dict[str, Path], phase: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the node is killed, its encoder's process ends by itself, in a second or so."""
    # Where who sends is killed with the lock of its shared memory, Fast DDS crashes who reads when
    # that one ends: here the process of the tests.
    monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4')
    for _ in range(TRIES):
        with phase(start, encoders['mmproj']) as robot:
            traces = Traces(robot.process.pid)
            begun = time.monotonic()
            assert robot.stop(signal.SIGKILL)[0] == -signal.SIGKILL
            traces.wait_for_children()
            seconds = time.monotonic() - begun
        if seconds <= 2 * BAR:
            return
    pytest.fail(f'its encoder lived on for more than {2 * BAR:g} s, {TRIES} times in a row')


def test_the_next_node_clears_up(start: Start) -> None:
    """Fast DDS leaves its shared memory behind when it is killed: the next node removes that.

    It removes none that is in use, and none that is so young that it may be about to be.
    """

    def age(names: set[str]) -> None:
        for name in names:
            os.utime(f'/dev/shm/{name}_el', (0, 0))

    with start(feed_type=2) as one, start(feed_type=2, beside=one) as two:
        one.wait_until_ready()
        wait_until(lambda: 'ready after' in two.log, 'the other one')
        living, dead = Traces(one.process.pid), Traces(two.process.pid)
        assert living.segments and dead.segments
        two.stop(signal.SIGKILL)
        age(living.segments)
        two._start()
        wait_until(lambda: 'ready after' in two.log, 'its start')
        assert dead.left() != set()
        age(dead.segments)
        two.stop()
        two._start()
        wait_until(lambda: 'ready after' in two.log, 'its start')
        assert dead.left() == set()
        assert living.left() != set()
        assert one.ask('Hello') != ''

"""The terminal client, and a node that it talks to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import fill, small_disk
from domain import own_domain
from nano import CONFIG, ROOT, answer, draw_scene
from robot import NAMES, Robot
from scripted_decoder import ASK, USER_DEFINED, write_decoder

Start = Callable[..., AbstractContextManager[Robot]]

DESCRIBE, COUNT, CIRCLE = (
    'Describe the image.',
    'How many shapes are there?',
    ('What color is the circle?'),
)
SAMPLE = (
    'There is a yellow star at the top, a red circle on the left and a blue square on the right.'
)
SAMPLE_FILE = CONFIG / 'image2.jpg'
LOCAL = dict(image=SAMPLE_FILE, user_prompt='', cute_words='')
COMMAND = [sys.executable, '-m', 'hobot_llamacpp_py.tools.chat']
CONTROLS = re.compile(r'\x1b\[[0-9;?]*[a-zA-Z]|\r')
PROMPT = '>'  # behind which the cursor is moved, no space is written
TIMEOUT = 30.0  # seconds: generous, for machines that are busy with something else


@contextmanager
def camera(robot: Robot, bgr: np.ndarray) -> Iterator[None]:
    """Publish a picture again and again beside a robot."""
    with tempfile.NamedTemporaryFile(suffix='.png') as file:
        cv2.imwrite(file.name, bgr)
        command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', file.name]
        with subprocess.Popen(command, env=variables(robot.domain), cwd=ROOT) as process:
            yield
            process.terminate()


def variables(domain: int, **more: str) -> dict[str, str]:
    """Return the environment of a client beside a node."""
    return {**os.environ, 'ROS_DOMAIN_ID': str(domain), **more}


def chat(
    robot: Robot, *arguments: str | Path, lines: str = ''
) -> subprocess.CompletedProcess[str]:
    """Run a client with its standard input, and wait for its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=variables(robot.domain),
        cwd=ROOT,
        input=lines,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
    )


class Terminal:
    """A client at a terminal of its own; what it shows is read all the time."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int) -> None:
        self.process, self._handle = process, handle
        self._shown, self._changed = '', threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._seen = 0

    def _read(self) -> None:
        data = b''
        while True:
            try:
                data += os.read(self._handle, 4096)
            except OSError:  # the client has ended
                return
            with self._changed:
                self._shown = CONTROLS.sub('', data.decode(errors='replace'))
                self._changed.notify_all()

    @property
    def text(self) -> str:
        """All that was shown, without control sequences."""
        return self._shown

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._handle, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until a text is shown, after what was waited for before."""
        with self._changed:
            found = self._changed.wait_for(lambda: text in self._shown[self._seen :], TIMEOUT)
            assert found, f'{text!r} is not in {self._shown[self._seen :]!r}'
            self._seen = self._shown.index(text, self._seen) + len(text)


@contextmanager
def terminal(
    domain: int, state: Path, *arguments: str, command: Sequence[str] = COMMAND, **more: str
) -> Iterator[Terminal]:
    """Run a client at a terminal, its history below `state`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('4H', 50, 200, 0, 0))
    process = subprocess.Popen(
        [*command, *arguments],
        env=variables(domain, **{'XDG_STATE_HOME': str(state), 'TERM': 'xterm', **more}),
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # Ctrl-C comes from it
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@contextmanager
def scripted(start: Start, folder: Path, script: dict[str, str]) -> Iterator[Robot]:
    """Start a node whose model follows each token by the one that the script names."""
    special = dict.fromkeys({'<think>', '</think>'} & set(script), USER_DEFINED)
    model = write_decoder(folder / 'scripted.gguf', script, special)
    options = dict(system_prompt='', cute_words='', max_tokens=60000, n_ctx=65536)
    with start(feed_type=2, llm_model_name=model, speculative=False, **options) as robot:
        yield robot.wait_until_ready()


THINKS = {ASK: '<think>', '<think>': 'I', 'I': ' see', ' see': '</think>'}
THINKS |= {'</think>': '\n\n', '\n\n': 'Hello', 'Hello': '.'}
ENDLESS = {ASK: 'on', 'on': ' and', ' and': ' on', ' on': ' and'}


class TestScripts:
    """--once, and questions from a pipe."""

    def test_once(self, start: Start) -> None:
        """The answer alone is on standard output, and the exit status is 0."""
        with start(**{**LOCAL, 'cute_words': 'One moment.'}) as robot:
            robot.wait_until_ready()
            result = chat(robot, '--once', DESCRIBE)
        assert (result.stdout, result.stderr, result.returncode) == (f'{SAMPLE}\n', '', 0)

    def test_an_error(self, start: Start) -> None:
        """Why there is no answer is on standard error, and the exit status is 1."""
        with start(feed_type=1, image_timeout=0.1) as robot:
            robot.wait_until_ready()
            result = chat(robot, '--once', DESCRIBE)
        assert (result.stdout, result.returncode) == ('', 1)
        assert re.fullmatch(r'error: no image .*\n', result.stderr), result.stderr

    def test_pieces_come_as_they_are_decoded(self, start: Start, tmp_path: Path) -> None:
        """The beginning of an answer is there while it goes on; Ctrl-C tells the node to stop."""
        with scripted(start, tmp_path, ENDLESS) as robot:
            command = [*COMMAND, '--once', 'Go on.']
            with subprocess.Popen(
                command, env=variables(robot.domain), cwd=ROOT, stdout=subprocess.PIPE
            ) as client:
                assert client.stdout and client.stdout.read(16) == b'on and on and on'
                assert not robot.texts
                client.send_signal(signal.SIGINT)
                assert client.wait(TIMEOUT) == 130
            assert len(robot.next_text()) < len('on and' * 30000)

    def test_timeout(self, start: Start) -> None:
        """An answer that takes too long is cancelled, and the exit status is 1."""
        with start(feed_type=1, image_timeout=3600.0) as robot:
            robot.wait_until_ready()
            result = chat(robot, '--once', DESCRIBE, '--timeout', '5')
            assert result.returncode == 1
            assert result.stderr == 'error: no answer within 5 s (--timeout)\n'
            assert robot.next_text().startswith('[error] cancelled')

    def test_once_about_a_picture(self, start: Start) -> None:
        """--image shows a picture first, found from anywhere; commands can be given, too."""
        with start(feed_type=1, cute_words='') as robot:
            robot.wait_until_ready()
            result = chat(robot, '--image', 'config/image2.jpg', '--once', DESCRIBE)
            stats = chat(robot, '--once', '/stats')
            none = chat(robot, '--image', 'none.png', '--once', DESCRIBE)
        assert (result.stdout, result.returncode) == (f'{SAMPLE}\n', 0)
        assert (stats.stdout, stats.returncode) == ('', 0)
        assert stats.stderr.startswith('state  ')
        assert (none.stdout, none.returncode) == ('', 1)
        assert none.stderr.startswith('error: none.png: no such file, tried ')

    @pytest.mark.parametrize(
        'arguments, words',
        [
            (['--timeout', '-3'], "'-3' is no number between 0 and 86400"),
            (['-t', '0'], "'0' is no number between 0 and 86400"),
            (['-t', 'nan'], "'nan' is no number between 0 and 86400"),
            (['--node', 'a b'], "'a b' is no name of a node such as /robot1/llamacpp_node"),
            (['--topic', 'a b'], "'a b' is no topic such as /image"),
            (['--once', ' '], '--once: there is no question'),
        ],
    )
    def test_what_cannot_be_read(self, arguments: list[str], words: str) -> None:
        """An argument that makes no sense is one line."""
        result = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert (result.returncode, result.stderr.count('\n')) == (2, 1), result.stderr
        assert result.stderr.startswith('error: ') and words in result.stderr

    def test_a_pipe(self, start: Start) -> None:
        """Each line of a pipe is a question or a command; thoughts are not part of an answer."""
        with start(feed_type=1, cute_words='') as robot:
            robot.wait_until_ready()
            lines = f'/image {SAMPLE_FILE}\n{DESCRIBE}\n\n{CIRCLE}\n/reset\n/stats\n'
            result = chat(robot, lines=lines)
        assert (result.stdout, result.returncode) == (f'{SAMPLE}\nThe circle is red.\n', 0)
        shown = f'{SAMPLE_FILE} is on /image\nthe conversation is forgotten\nstate '
        assert result.stderr.startswith(shown)
        assert re.search(r'^KV cells +4096$', result.stderr, re.MULTILINE)
        assert re.search(r'^tokens/s +[\d.]+$', result.stderr, re.MULTILINE)

    def test_what_cannot_be_done(self, start: Start, tmp_path: Path) -> None:
        """A command that fails is one line; the questions after it are answered."""
        with start(**LOCAL) as robot:
            robot.wait_until_ready()
            lines = (
                f'/picture\n/image\n/image {tmp_path}/none.png\n/image {SAMPLE_FILE}\n{CIRCLE}\n'
            )
            result = chat(robot, lines=lines)
        assert (result.stdout, result.returncode) == ('The circle is red.\n', 1)
        unknown, none, missing, fixed = result.stderr.splitlines()
        assert unknown == 'error: there is no /picture; /help tells what there is'
        assert none == 'error: write the name of a picture: /image FILE'
        assert missing.startswith(f'error: {tmp_path}/none.png: no such file')
        assert fixed == (
            'error: /llamacpp_node looks at no image topic: start it with -p feed_type:=1'
        )

    def test_thoughts_are_no_answer(self, start: Start, tmp_path: Path) -> None:
        """A script gets the answer without what the model thought before."""
        with scripted(start, tmp_path, THINKS) as robot:
            result = chat(robot, '--once', 'Why?')
        assert (result.stdout, result.stderr, result.returncode) == ('Hello.\n', '', 0)


class TestWhichNode:
    """Where there is none, or several, or one that is not ready."""

    def test_no_node(self) -> None:
        """Where no node is found that is said, with what to do."""
        with own_domain() as domain:
            result = subprocess.run(
                [*COMMAND, '--once', DESCRIBE],
                env=variables(domain),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        assert (result.stdout, result.returncode) == ('', 1)
        assert result.stderr == (
            f'error: no node /llamacpp_node on ROS domain {domain}: start it (ros2 run'
            ' hobot_llamacpp_py hobot_llamacpp_py), or see --node\n'
        )

    def test_a_namespace(self, installed: Path, tmp_path: Path) -> None:
        """A node in a namespace is named with --node; its topics follow from that."""
        names = {name: f'/robot1{name}' for name in NAMES if name != '/diagnostics'}
        settings = dict(
            **LOCAL,
            ros_string_sub_topic_name='prompt_text',
            text_msg_pub_topic_name='tts_text',
            model_file_name=CONFIG / 'nano_internvl_vit.onnx',
            llm_model_name=CONFIG / 'nano_internvl.gguf',
        )
        arguments = ['-r', '__ns:=/robot1']
        with Robot(installed, tmp_path, settings, arguments, names=names) as robot:
            robot.wait_until_ready()
            right = chat(robot, '--once', CIRCLE, '--node', '/robot1/llamacpp_node')
            wrong = chat(robot, '--once', CIRCLE)
        assert (right.stdout, right.stderr) == ('The circle is red.\n', '')
        assert (wrong.stdout, wrong.returncode) == ('', 1)
        assert wrong.stderr == (
            'error: no node /llamacpp_node, but /robot1/llamacpp_node: choose with --node\n'
        )

    def test_a_remapped_topic(self, start: Start) -> None:
        """Where the prompt topic is remapped, --topic names it."""
        with start(arguments=['-r', '/prompt_text:=/questions'], **LOCAL) as robot:
            robot.wait_until_ready()
            wrong = chat(robot, '--once', CIRCLE)
            right = chat(robot, '--once', CIRCLE, '--topic', '/questions')
        assert (wrong.stderr, wrong.returncode) == (
            'error: /llamacpp_node does not listen on /prompt_text: name its topic with --topic\n',
            1,
        )
        assert (right.stdout, right.returncode) == ('The circle is red.\n', 0)

    def test_a_node_that_goes(self, start: Start) -> None:
        """When the node ends before it has answered, that is said."""
        with start(feed_type=1, image_timeout=3600.0) as robot:
            robot.wait_until_ready()
            command = [*COMMAND, '--once', DESCRIBE]
            with subprocess.Popen(
                command, env=variables(robot.domain), cwd=ROOT, stderr=subprocess.PIPE, text=True
            ) as client:
                robot.wait_for(lambda: robot.status['state'] == 'waiting for an image', 'asking')
                robot.process.kill()
                assert client.wait(TIMEOUT) == 1
                assert client.stderr
                assert client.stderr.read().startswith('error: /llamacpp_node ')


class TestSeveralAskers:
    """Answers have no id; each client shows its own."""

    def test_while_others_are_answered(self, start: Start, tmp_path: Path) -> None:
        """A client that comes while others' questions wait shows the answer to its own alone."""
        with start(feed_type=1, image_timeout=60.0, cute_words='') as robot:
            robot.wait_until_ready()
            for prompt in (DESCRIBE, COUNT):
                robot.say(prompt)
            robot.wait_for(lambda: robot.status['prompts waiting'] == '1', 'queueing')
            with terminal(robot.domain, tmp_path) as client:
                client.wait_for('connected')
                client.type(f'{CIRCLE}\r')
                robot.wait_for(lambda: robot.status['prompts waiting'] == '2', 'queueing')
                robot.say(COUNT)
                robot.wait_for(lambda: robot.status['prompts waiting'] == '3', 'queueing')
                scene, bgr = draw_scene(1)
                robot.show(bgr)
                own = answer(scene, CIRCLE)
                client.wait_for(own)
                client.wait_for(PROMPT)
                assert [robot.next_text() for _ in range(4)][2] == own
                for other in (DESCRIBE, COUNT):
                    assert answer(scene, other) not in client.text

    def test_beside_continuous_answers(self, start: Start) -> None:
        """A question to a node that answers another one all the time has its own answer."""
        scene, bgr = draw_scene(1)
        asking = dict(feed_type=1, continuous=True, user_prompt=DESCRIBE, cute_words='')
        with start(**asking) as robot, camera(robot, bgr):
            robot.next_text()
            results = [chat(robot, '--once', question) for question in (COUNT, CIRCLE)]
        right = [answer(scene, question) + '\n' for question in (COUNT, CIRCLE)]
        assert [result.stdout for result in results] == right

    def test_at_the_same_time(self, start: Start) -> None:
        """Clients that ask at the same moment show each its own answer."""
        right = {COUNT: 'There are three shapes.', CIRCLE: 'The circle is red.', DESCRIBE: SAMPLE}
        with start(**LOCAL) as robot, ThreadPoolExecutor() as pool:
            robot.wait_until_ready()
            for _ in range(3):
                given = pool.map(lambda question: chat(robot, '--once', question).stdout, right)
                assert list(given) == [f'{text}\n' for text in right.values()]

    def test_a_refused_question(self, start: Start, tmp_path: Path) -> None:
        """A question that the full queue refuses is told so when its turn would be."""
        options = dict(feed_type=1, image_timeout=60.0, prompt_queue_size=1)
        with start(**options) as robot:
            robot.wait_until_ready()
            robot.say(DESCRIBE)
            robot.wait_for(lambda: robot.status['state'] == 'waiting for an image', 'asking')
            robot.say(DESCRIBE)
            robot.wait_for(lambda: robot.status['prompts waiting'] == '1', 'queueing')
            with terminal(robot.domain, tmp_path) as client:
                client.wait_for('connected')
                client.type(f'{CIRCLE}\r')
                robot.wait_for(lambda: robot.status['prompts dropped'] == '1', 'refusing')
                robot.show(draw_scene(1)[1])
                client.wait_for('error: prompt refused, 1 are waiting already (prompt_queue_size)')
                client.wait_for(PROMPT)


class TestTerminal:
    """Editing, history, commands and Ctrl-C at a real terminal."""

    def test_a_conversation(self, start: Start, tmp_path: Path) -> None:
        """Pictures, questions, commands and earlier lines; a second run knows the first's."""
        scene, bgr = draw_scene(1)
        with start(feed_type=1, image_timeout=0.2, cute_words='') as robot:
            robot.wait_until_ready()
            with terminal(robot.domain, tmp_path) as client:
                client.wait_for('connected to /llamacpp_node; /help tells what there is')
                client.type(f'{CIRCLE}\r')
                client.wait_for('error: no image')
                client.type(f'/image {SAMPLE_FILE}\r')
                client.wait_for(f'{SAMPLE_FILE} is on /image\n')
                client.type(f'{DESCRIBE}\r')
                client.wait_for(f'{SAMPLE}\n')
                client.wait_for(PROMPT)
                client.type('\x1b[A\x1b[A\x1b[A\r')  # thrice up: the first question
                client.wait_for('The circle is red.\n')
                client.type('/reset\r')
                client.wait_for('the conversation is forgotten')
                client.type('/cancel\r')
                client.wait_for('no answer is running')
                client.type('/help\r')
                client.wait_for('/image FILE')
                client.type('/stats\r')
                client.wait_for('tokens/s')
                client.wait_for(PROMPT)
                client.type('\x04')  # Ctrl-D
                assert client.process.wait(TIMEOUT) == 0
            with terminal(robot.domain, tmp_path) as client:
                client.wait_for(PROMPT)
                client.type('\x1b[A' * 5 + '\r')
                client.wait_for('The circle is red.\n')
                client.wait_for(PROMPT)
                client.type('half a line\x03')  # Ctrl-C takes it back
                client.wait_for(PROMPT)
                for _ in range(10):  # just before it waits for a key, Python overlooks one
                    client.type('\x03')
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        assert client.process.wait(3) == 0
                        break
                assert client.process.poll() == 0
        history = tmp_path / 'hobot_llamacpp_py' / 'chat_history'
        assert f'+{DESCRIBE}\n' in history.read_text()

    def test_full_disk(self, start: Start, tmp_path: Path) -> None:
        """Where no line can be kept any more, the question is asked all the same."""
        with (
            small_disk(tmp_path / 'disk', '64k') as disk,
            start(image=CONFIG / 'image2.jpg') as robot,
        ):
            robot.wait_until_ready()
            with terminal(robot.domain, disk) as client:
                client.wait_for(PROMPT)
                fill(disk)
                for _ in range(2):
                    client.type(f'{DESCRIBE}\r')
                    client.wait_for(f'{SAMPLE}\n')
                    client.wait_for(PROMPT)
                assert client.process.poll() is None
            history = disk / 'hobot_llamacpp_py' / 'chat_history'
            assert not history.read_bytes()

    def test_cancel(self, start: Start, tmp_path: Path) -> None:
        """Ctrl-C while an answer comes in cancels it; the next question is answered."""
        node = scripted(start, tmp_path, ENDLESS)
        with node as robot, terminal(robot.domain, tmp_path) as client:
            client.wait_for(PROMPT)
            for _ in range(2):
                client.type('Go on.\r')
                client.wait_for('on and on and on')
                client.type('\x03')
                assert robot.next_text().startswith('on and on and')
                client.wait_for(PROMPT)
                assert client.process.poll() is None

    def test_giving_up(self, start: Start, tmp_path: Path) -> None:
        """Ctrl-C while others are answered leaves them alone, and the question to the node."""
        scene, bgr = draw_scene(1)
        with start(feed_type=1, image_timeout=60.0, cute_words='') as robot:
            robot.wait_until_ready()
            robot.say(COUNT)
            robot.wait_for(lambda: robot.status['state'] == 'waiting for an image', 'asking')
            with terminal(robot.domain, tmp_path) as client:
                client.wait_for(PROMPT)
                client.type(f'{DESCRIBE}\r')
                robot.wait_for(lambda: robot.status['prompts waiting'] == '1', 'queueing')
                client.type('\x03')
                client.wait_for('the node still has your question; its answer is not shown')
                robot.show(bgr)
                assert robot.next_text() == answer(scene, COUNT)
                assert robot.next_text() == answer(scene, DESCRIBE)
                client.type(f'{CIRCLE}\r')
                client.wait_for(answer(scene, CIRCLE) + '\n')
                assert answer(scene, DESCRIBE) not in client.text

    @pytest.mark.parametrize('kind', ['xterm', 'dumb'])
    def test_thoughts_and_colours(self, start: Start, tmp_path: Path, kind: str) -> None:
        """Thoughts come before the answer; a dumb terminal works, too."""
        node = scripted(start, tmp_path, THINKS)
        with node as robot, terminal(robot.domain, tmp_path, TERM=kind) as client:
            client.wait_for(PROMPT)
            client.type('Why?\r')
            client.wait_for('(thinking) I see\nHello.\n')

    def test_without_prompt_toolkit(self, start: Start, tmp_path: Path) -> None:
        """Where prompt_toolkit is missing, one line says what to install; --once needs none."""
        without = tmp_path / 'prompt_toolkit.py'
        without.write_text("raise ImportError('not installed')\n")
        python = {'PYTHONPATH': f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}'}
        with start(**LOCAL) as robot:
            robot.wait_until_ready()
            with terminal(robot.domain, tmp_path, **python) as client:
                client.wait_for("error: editing needs prompt_toolkit: pip3 install 'prompt_tool")
                assert client.process.wait(TIMEOUT) == 1
            once = subprocess.run(
                [*COMMAND, '--once', CIRCLE],
                env=variables(robot.domain, **python),
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
        assert (once.stdout, once.stderr) == ('The circle is red.\n', '')

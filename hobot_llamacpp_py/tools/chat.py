"""Talk to a running node: questions from the terminal, answers as they are decoded."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rclpy.exceptions import InvalidTopicNameException, NameValidationException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.utilities import remove_ros_args
from rclpy.validate_full_topic_name import validate_full_topic_name
from std_msgs.msg import Header

from hobot_llamacpp_py.errors import NodeError, VlmError
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.tools.arguments import ArgumentParser, number_below, topic
from hobot_llamacpp_py.tools.chat_client import ERROR, ChatClient

__all__ = ['main']

INSTALL = "pip3 install 'prompt_toolkit==3.0.53'"
HELP = """\
/image FILE   show the node a picture, where it looks at an image topic (feed_type 1)
/reset        forget the conversation
/cancel       stop what the node is answering, whoever asked (Ctrl-C: the answer to you)
/stats        what the node says of itself: state, times, KV cells
/help         this
Ctrl-D, or Ctrl-C at an empty line, ends. Anything else is a question."""
RED, DIM, PLAIN = '\033[31m', '\033[2m', '\033[0m'
# What a model writes shall not steer the terminal.
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in '\t\n'}


def main(arguments: list[str] | None = None) -> None:
    """Ask what there is to ask; exit with 1 if a question had no answer."""
    parser = ArgumentParser(
        prog='chat',
        description=f'{__doc__} From a pipe, each line is a question.',
        epilog='Answers go to standard output, everything else to standard error. Exit status: 0,'
        ' or 1 where a question had no answer. Commands:\n' + HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--once', metavar='QUESTION', help='ask this, or do this, and exit')
    parser.add_argument('--image', metavar='FILE', help='begin with /image FILE')
    parser.add_argument(
        '--node',
        type=_node_name,
        default='/llamacpp_node',
        help='with its namespace: %(default)s',
    )
    parser.add_argument(
        '--topic', type=topic, help='of prompts, where the one that the node names is remapped'
    )
    parser.add_argument(
        *('--timeout', '-t'),
        type=number_below(86400),
        default=120.0,
        metavar='SECONDS',
        help='for an answer, not at a terminal: %(default)g',
    )
    given = remove_ros_args(sys.argv if arguments is None else ['', *arguments])
    options = parser.parse_args(given[1:])
    if options.once is not None and not options.once.strip():
        parser.error('argument --once: there is no question')
    try:
        status = _run(options, arguments)
    except (VlmError, NameValidationException, rclpy_implementation.RCLError) as error:
        print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # nobody reads on; nor shall Python try to flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def _node_name(text: str) -> str:
    try:
        validate_full_topic_name('/' + text.strip('/'))
    except InvalidTopicNameException:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no name of a node such as /robot1/llamacpp_node'
        ) from None
    return text


def _run(options: argparse.Namespace, arguments: list[str] | None) -> int:
    is_live = options.once is None and sys.stdin.isatty() and sys.stdout.isatty()
    if is_live:
        lines = _typed_lines()
    else:
        lines = iter(sys.stdin if options.once is None else [options.once])
    with ChatClient(options.node, options.topic, arguments) as client:
        screen = _Screen(thoughts=is_live)
        chat = _Chat(client, screen, math.inf if is_live else options.timeout)
        chat.connect()
        if is_live:
            screen.note(f'connected to {client.name}; /help tells what there is')
        # What is asked about a picture makes no sense without it.
        if options.image is not None and not chat.take(f'/image {options.image}'):
            return 1
        answered = [chat.take(line.strip()) for line in lines]
    return 0 if is_live or all(answered) else 1


def _typed_lines() -> Iterator[str]:
    """Give what is typed, line by line, with editing and the history of earlier times.

    Raises:
        NodeError: what it takes is not installed.
    """
    # A terminal that does not answer where its cursor is would be waited for, and complained of.
    os.environ.setdefault('PROMPT_TOOLKIT_NO_CPR', '1')
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    except ImportError:
        raise NodeError(
            f'editing needs prompt_toolkit: {INSTALL}; without it: --once QUESTION, or questions'
            ' from a pipe'
        ) from None

    class Kept(FileHistory):
        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):  # the disk is full: the question is asked anyway
                super().store_string(string)

    state = os.environ.get('XDG_STATE_HOME') or os.path.expanduser('~/.local/state')
    path = Path(state) / 'hobot_llamacpp_py' / 'chat_history'
    history: History
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.open('a').close()
        history = Kept(str(path))
    except OSError:  # nowhere to keep it
        history = InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history)

    def lines() -> Iterator[str]:
        while True:
            # At the prompt Ctrl-C is a key; one that was meant for the last answer ends nothing.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                line = session.prompt('> ', handle_sigint=False)
            except KeyboardInterrupt:
                if session.default_buffer.text:
                    continue
                return
            except EOFError:
                return
            signal.signal(signal.SIGINT, signal.default_int_handler)
            yield line

    return lines()


class _Screen:
    """Answers on standard output, everything else on standard error; colours on a terminal.

    Args:
        thoughts: show what the model thinks, too.
    """

    def __init__(self, thoughts: bool) -> None:
        self._shows_thoughts = thoughts
        self._shown = ''  # of the running answer
        self._is_thinking = False

    def thought(self, text: str) -> None:
        """Show a piece of a thought."""
        if self._shows_thoughts:
            if not self._is_thinking:
                _write(sys.stderr, '(thinking) ', DIM)
            self._is_thinking = True
            _write(sys.stderr, text, DIM)

    def piece(self, text: str) -> None:
        """Show a piece of the answer."""
        self._end_thought()
        self._shown += text
        _write(sys.stdout, text)

    def answer(self, text: str) -> None:
        """Show what is left of the whole answer."""
        if not text.startswith(self._shown):  # a piece was lost on the way
            self.piece('\n')
            self._shown = ''
        self.piece(text[len(self._shown) :])
        self.end()

    def end(self) -> None:
        """End the line, if there is one."""
        self._end_thought()
        if self._shown:
            _write(sys.stdout, '\n')
        self._shown = ''

    def error(self, text: str) -> None:
        """Show why there is no answer."""
        self.end()
        _write(sys.stderr, f'error: {text}\n', RED)

    def note(self, text: str) -> None:
        """Show what is no answer."""
        self.end()
        _write(sys.stderr, f'{text}\n')

    def _end_thought(self) -> None:
        if self._is_thinking:
            _write(sys.stderr, '\n')
        self._is_thinking = False


def _write(stream: TextIO, text: str, style: str = '') -> None:
    if stream.isatty():
        text = text.translate(CONTROL)
        plain = os.environ.get('TERM', 'dumb') == 'dumb' or os.environ.get('NO_COLOR')
        text = f'{style}{text}{PLAIN}' if style and not plain else text
    stream.write(text)
    stream.flush()


class _Chat:
    """Questions and commands, one after the other; each method tells whether it went well.

    Args:
        timeout: seconds for an answer, and for the node to be ready; infinite at a terminal,
            where Ctrl-C ends an answer, not the program.
    """

    def __init__(self, client: ChatClient, screen: _Screen, timeout: float) -> None:
        self._client, self._screen, self._timeout = client, screen, timeout
        self._is_live = math.isinf(timeout)
        self._commands: dict[str, Callable[[str], None]] = {
            '/image': self._image,
            '/reset': lambda _: screen.note(client.call('reset').message),
            '/cancel': lambda _: screen.note(client.call('cancel').message),
            '/stats': lambda _: screen.note(_table(client.next_status())),
            '/help': lambda _: screen.note(HELP),
        }

    def connect(self) -> None:
        """Find the node and wait for it."""
        self._deadline = time.monotonic() + self._timeout
        self._client.connect(self._deadline, self._screen.note)

    def take(self, line: str) -> bool:
        """Do what a line says: a question, a command, or nothing."""
        self._deadline = time.monotonic() + self._timeout
        word, _, rest = line.partition(' ')
        try:
            if not word.startswith('/'):
                return not word or self.ask(line)
            if word not in self._commands:
                raise NodeError(f'there is no {word}; /help tells what there is')
            self._commands[word](rest.strip())
        except VlmError as error:
            self._screen.error(str(error))
            return False
        except KeyboardInterrupt:
            if not self._is_live:
                raise
            self._screen.end()
            return False
        return True

    def ask(self, question: str) -> bool:
        """Ask and show the answer as it comes; Ctrl-C cancels it."""
        self._client.ask(question)
        while True:
            try:
                event = self._client.next_event(self._deadline)
                if event is None:
                    raise NodeError(f'no answer within {self._timeout:g} s (--timeout)')
                kind, text = event
                if kind == 'text' and text.startswith(ERROR):
                    self._screen.error(text.removeprefix(ERROR))
                    return False
                if kind == 'text':
                    self._screen.answer(text)
                    return True
                (self._screen.thought if kind == 'thought' else self._screen.piece)(text)
            except KeyboardInterrupt:
                is_cancelled = self._client.stop()
                if not self._is_live:
                    raise
                if not is_cancelled:
                    self._screen.note('the node still has your question; its answer is not shown')
                    return False
            except (NodeError, BrokenPipeError):
                self._client.stop()
                raise

    def _image(self, name: str) -> None:
        from hobot_llamacpp_py.ros.frame import bgr_to_compressed, bgr_to_image
        from hobot_llamacpp_py.vision.image_file import read_image

        if not name:
            raise NodeError('write the name of a picture: /image FILE')
        client, path = self._client, find_file(name, os.path.expanduser(name))
        bgr = read_image(path)
        feed_type, shared_memory, transport, topic = client.parameters(
            'feed_type', 'is_shared_mem_sub', 'image_transport', 'ros_img_sub_topic_name'
        )
        if feed_type != 1 or shared_memory:
            wanted = 'is_shared_mem_sub:=0' if feed_type == 1 else 'feed_type:=1'
            raise NodeError(f'{client.name} looks at no image topic: start it with -p {wanted}')
        topic = client.topic_of_node(topic)
        others = client.types_of_others(topic)
        # JPEG is smaller, but a camera may have made the topic one of raw images.
        is_raw = transport == 'raw' or 'sensor_msgs/msg/Image' in others
        write = bgr_to_image if is_raw else bgr_to_compressed
        client.deliver(topic, write(bgr, Header(frame_id=path.name)))
        camera = ', until the next picture of a camera comes there' if others else ''
        self._screen.note(f'{path} is on {topic}{camera}')


def _table(status: dict[str, str]) -> str:
    """Put what the node says of itself in lines."""
    eval_ms = float(status.get('eval ms/token', 0))
    rows = {**status, 'tokens/s': f'{1e3 / eval_ms:.1f}' if eval_ms else ''}
    return '\n'.join(f'{name:31} {value}' for name, value in rows.items() if value)


if __name__ == '__main__':
    main()

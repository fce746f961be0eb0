"""What the inference thread tells the world: answers, errors, the log, the end of `once`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from rclpy.node import Node

from hobot_llamacpp_py.engine import Answer, Stats
from hobot_llamacpp_py.errors import printable
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.ros.results import Results
from hobot_llamacpp_py.ros.sight import Sight, header_of, steps
from hobot_llamacpp_py.ros.timeline import Interval

__all__ = ['Reporter']

READ_TIMEOUT = 5.0  # seconds that subscribers get to take the answer of `once`
# Seconds since the start in which a listener that is there shows on the graph, so that it gets all
# pieces, or at least the whole answer; then matches, and has matched us.
DISCOVERY_TIME, LATE_DISCOVERY_TIME, MATCH_TIMEOUT, MATCH_TIME = 1.0, 1.4, 5.0, 0.2


class Reporter:
    """Tells what happens in the inference thread, which is the only one to call it.

    Args:
        results: publishes the answers.
        parameters: gives the settings of the moment.
        on_finished: called with the exit status when there is no more to do: the models cannot
            be loaded, or `once` and the answer has been read.
    """

    def __init__(
        self,
        node: Node,
        results: Results,
        parameters: Callable[[], Parameters],
        on_finished: Callable[[int], None],
    ) -> None:
        self.last_stats = Stats()
        self.last_error = ''
        """Of the newest prompt; empty where it was answered."""
        self._node, self._logger, self._results = node, node.get_logger(), results
        self._parameters, self._on_finished = parameters, on_finished
        self._started = time.monotonic()
        self._has_matched = False  # a listener, for `once`
        self._is_lost = False  # what was printed

    def on_ready(self) -> None:
        """Note that the models are loaded."""
        gc.freeze()  # what is there by now stays, and needs no looking at
        gc.enable()
        seconds = time.monotonic() - self._started
        topic = self._node.resolve_topic_name(self._parameters().ros_string_sub_topic_name)
        self._logger.info(f'ready after {seconds:.1f} s; questions come from {topic}')

    def on_fatal(self, error: str) -> None:
        """Note that the models cannot be loaded; the thread ends."""
        self._logger.fatal(error)
        self._on_finished(1)

    def on_prompt(self, prompt: str) -> None:
        """Note that a prompt's turn has come."""
        self._logger.info(f'prompt: {_line(prompt)}')
        if self._parameters().once:
            self._await_listeners(DISCOVERY_TIME)
        self._results.begin(prompt, self._parameters().cute_words if prompt.strip() else '')

    def on_sight(self, sight: Sight | None) -> None:
        """Note what the prompt is about, None in a text chat; the answer says it again."""

    def on_piece(self, piece: str) -> None:
        """Take the next piece of the running answer."""
        self._results.piece(piece)
        if self._parameters().once:
            self._print(piece)

    def on_thought(self, piece: str) -> None:
        """Take the next piece of what the model thinks before it answers."""
        self._results.thought(piece)

    def on_answer(self, answer: Answer, sight: Sight | None, answering: Interval) -> None:
        """Take a whole answer, when it was given, and what it is about, None in a text chat."""
        self.last_stats, self.last_error = answer.stats, ''
        if self._parameters().once:
            self._print('\n')
            self._await_listeners(LATE_DISCOVERY_TIME)
        times = steps(sight, answering, answer.stats)
        self._results.end(answer.text, header_of(sight), times)
        self._logger.info(f'answer: {_line(answer.text)}')
        if answer.finish != 'stop':
            self._logger.info(f'the answer was cut ({answer.finish})')
        self._finish_once(int(self._is_lost))

    def on_cancelled(self, prompt: str, reason: str) -> None:
        """Note that a prompt was cancelled before there was any text."""
        self._results.error(reason)
        self._logger.info(f'{reason} (prompt: {prompt[:60]!r})')
        self._finish_once(1)

    def on_error(self, prompt: str, error: Exception) -> None:
        """Note that a prompt failed."""
        self.last_error = explained(error)
        if self._parameters().once:
            self._await_listeners(LATE_DISCOVERY_TIME)
        self._results.error(self.last_error)
        self._logger.error(f'{self.last_error} (prompt: {prompt[:60]!r})')
        self._finish_once(1)

    def _await_listeners(self, discovery_time: float) -> None:
        """Give a listener the time to be discovered, and one that was the time to match."""
        if self._has_matched:
            return
        while not self._results.has_reader():
            seconds = time.monotonic() - self._started
            limit = MATCH_TIMEOUT if self._results.has_subscription() else discovery_time
            if seconds > limit:
                return
            time.sleep(0.02)
        self._has_matched = True
        time.sleep(MATCH_TIME)

    def _print(self, text: str) -> None:
        """Write a piece of the answer to standard output, where the log is not."""
        try:
            print(text, end='', flush=True)
        except (BrokenPipeError, ValueError):  # nobody reads it
            pass
        except OSError as error:
            if not self._is_lost:
                self._logger.error(f'standard output takes no answer: {error.strerror}')
            self._is_lost = True

    def _finish_once(self, status: int) -> None:
        if self._parameters().once:
            if not self._results.wait_until_read(READ_TIMEOUT):
                self._logger.warning('a subscriber did not take the answer in time')
            self._on_finished(status)


def _line(text: str) -> str:
    """Put a text on one line of the log, not without end."""
    return printable(' '.join(text.split())[:1000])[:1000]

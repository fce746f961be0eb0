"""The inference thread: it takes prompts one by one, gets their picture and has them answered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine.chat import Chat
from hobot_llamacpp_py.engine.decoder import CancelToken
from hobot_llamacpp_py.engine.engine import Answer, Engine
from hobot_llamacpp_py.errors import CancelledError, PromptError, one_line
from hobot_llamacpp_py.files import grammar_text, system_prompt_text
from hobot_llamacpp_py.parameters import Parameters
from hobot_llamacpp_py.ros.frames import Demand, Frames
from hobot_llamacpp_py.ros.images import Frame
from hobot_llamacpp_py.ros.inbox import Inbox, Work
from hobot_llamacpp_py.ros.lookout import Lookout
from hobot_llamacpp_py.ros.timeline import Interval, Sight, Stopwatch, see, steps
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Listener', 'Worker']

log = logging.getLogger(__name__)

# Of an answer that has to follow a grammar, by its finish.
_CUT = {
    'length': 'the answer is not complete, it was cut at max_tokens: ',
    'context': 'the answer is not complete, the context (n_ctx) is full: ',
    'cancelled': 'the answer is not complete, it was cancelled: ',
}
# Of an answer that ended before the model had thought to an end, by its finish.
_STILL_THINKING = {
    'stop': 'the model ended its answer while it was thinking',
    'length': 'the model was still thinking when max_tokens was reached: raise max_tokens, or set'
    ' thinking to off',
    'context': 'the model was still thinking when the context was full: raise n_ctx, or set'
    ' thinking to off',
}
PUNCTUATION = ' \t\n,.!?;:，。！？；：、…~～'


class Listener(Protocol):
    """Whom the worker tells what happens; all calls come from the inference thread."""

    def on_ready(self, engine: Engine) -> None:
        """Note that the models are loaded."""

    def on_fatal(self, error: str) -> None:
        """Note that the models cannot be loaded; the thread ends."""

    def on_prompt(self, prompt: str) -> None:
        """Note that a prompt's turn has come."""

    def on_piece(self, piece: str) -> None:
        """Take the next piece of the running answer."""

    def on_thought(self, piece: str) -> None:
        """Take the next piece of what the model thinks before it answers."""

    def on_answer(
        self, prompt: str, answer: Answer, frame: Frame | None, steps: Mapping[str, Interval]
    ) -> None:
        """Take a whole answer, when its steps happened, and its frame, if that is from a topic."""

    def on_cancelled(self, prompt: str, reason: str) -> None:
        """Note that a prompt was cancelled before there was any text."""

    def on_error(self, prompt: str, error: str) -> None:
        """Note that a prompt failed."""


class Worker(threading.Thread):
    """Owns the engine. Everything it shares with other threads is the inbox and cancel tokens.

    Args:
        load: loads the models.
        read_image: reads the picture of feed_type 0.
        parameters: may be replaced at any time; the next prompt sees the new ones.
        frames: those of the camera, for feed_type 1.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        read_image: Callable[[Engine], Picture],
        parameters: Parameters,
        inbox: Inbox,
        frames: Frames | None,
        listener: Listener,
    ) -> None:
        # A daemon: native code that does not return must not keep the process alive.
        super().__init__(name='inference', daemon=True)
        self.parameters = parameters
        self.state = 'loading'
        self._load, self._read_image = load, read_image
        self._inbox, self._frames, self._listener = inbox, frames, listener
        self._chat: Chat | None = None
        self._local: Sight | None = None
        self._prepared: Sight | None = None
        self._running: CancelToken | None = None
        self._lock = threading.Lock()

    def cancel(self) -> bool:
        """Stop the running answer; False if there is none. From any thread."""
        with self._lock:
            if self._running is None:
                return False
            self._running.set()
        self._inbox.notify()
        return True

    def reset(self) -> None:
        """Forget the conversation, the running answer included. From any thread."""
        if self._chat is not None:
            self._chat.reset()

    def close(self, timeout: float) -> bool:
        """End the thread; False if it did not end in time. From any thread."""
        self._inbox.close()
        self.cancel()
        if self.is_alive():
            self.join(timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            engine = self._load()
        except Exception as error:
            self._listener.on_fatal(one_line(error))
            return
        with engine:
            try:
                self._prepare(engine)
            except Exception as error:
                self._listener.on_fatal(one_line(error))
                return
            if self._frames and (self.parameters.continuous or self._prepares_ahead):
                period = self.parameters.pre_infer_period
                Lookout(engine, self._frames, period, self._demand).start()
            self._listener.on_ready(engine)
            while (work := self._wait()) is not Work.END:
                try:
                    self._work(work)
                except Exception as error:
                    log.error('a result could not be published: %s', error)

    def _wait(self) -> Work:
        self.state = 'idle'
        return self._inbox.wait(lambda: self._frames is not None and self._frames.has_news())

    @property
    def _asks_again(self) -> bool:
        """Whether the same question is asked about frame after frame."""
        return self.parameters.continuous and bool(self.parameters.user_prompt.strip())

    @property
    def _prepares_ahead(self) -> bool:
        """Whether frames are prepared as they come: with pre_infer and without a wake word."""
        return bool(self.parameters.pre_infer) and not _words(self.parameters.wake_words)

    def _demand(self) -> Demand:
        if self._asks_again:
            return Demand.EAGER
        return Demand.REGULAR if self._prepares_ahead else Demand.NONE

    def _work(self, work: Work) -> None:
        if work is Work.PROMPT:
            prompt = self._inbox.take_prompt()
            if self._is_wake_word(prompt):
                self._wake(prompt)
            else:
                self._take(prompt, newest=not self._prepares_ahead)
        elif self._asks_again:
            self._take(self.parameters.user_prompt)
        elif self._frames:
            encoded = self._frames.take_encoded(self.parameters.max_image_age)
            if encoded and self._prepares_ahead:
                self._prepare_for_question(lambda cancel: encoded)

    def _prepare(self, engine: Engine) -> None:
        """Do before the first prompt what can be done: the system prompt, and a local image."""
        config = _chat_config(self.parameters)
        if config.sampling.grammar:
            engine.decoder.check_grammar(config.sampling.grammar)
        self._chat = Chat(engine, config)
        if self.parameters.feed_type == 0:
            self._local = see(None, lambda: self._read_image(engine))
        self._prepare_sight(self._local)

    def _prepare_sight(self, sight: Sight | None, cancel: CancelToken | None = None) -> None:
        assert self._chat is not None
        watch = Stopwatch()
        stats = self._chat.prepare(sight and sight.picture, cancel)
        if sight and sight.infer is None:
            sight.infer = watch.read().first(stats.encode_s)

    def _prepare_for_question(self, find: Callable[[CancelToken], Sight]) -> None:
        """Encode and decode a frame, so that a question about it finds the work done."""
        assert self._chat is not None
        self.state = 'preparing'
        with self._cancellable() as cancel:
            try:
                sight = find(cancel)
                self._prepare_sight(sight, cancel)
                self._prepared = sight
            except CancelledError:
                pass
            except Exception as error:
                log.warning('a frame cannot be prepared: %s', one_line(error))

    def _take(self, prompt: str, *, newest: bool = False) -> None:
        """Answer one prompt; whatever goes wrong becomes one line, and the thread lives on.

        Args:
            newest: about the newest frame, though another one may be encoded already.
        """
        with self._cancellable() as cancel:
            try:
                self._answer(prompt, cancel, newest)
            except CancelledError as error:
                self._listener.on_cancelled(prompt, str(error))
            except Exception as error:
                self._listener.on_error(prompt, one_line(error))

    @contextmanager
    def _cancellable(self) -> Iterator[CancelToken]:
        """Let `cancel` stop what is done with the token meanwhile."""
        cancel = CancelToken()
        with self._lock:
            self._running = cancel
        try:
            yield cancel
        finally:
            with self._lock:
                self._running = None

    def _is_wake_word(self, prompt: str) -> bool:
        """Tell whether a prompt is to be prepared for, and not to be answered."""
        parameters = self.parameters
        if not parameters.pre_infer or parameters.feed_type == 2 or parameters.once:
            return False
        return prompt.strip(PUNCTUATION) in _words(parameters.wake_words)

    def _wake(self, word: str) -> None:
        log.info('preparing, for the wake word %s', word)
        if frames := self._frames:  # a local image is prepared already
            self._prepare_for_question(lambda cancel: self._newest(frames, cancel))

    def _answer(self, prompt: str, cancel: CancelToken, newest: bool) -> None:
        assert self._chat is not None
        if not prompt.strip():
            raise PromptError('the prompt is empty')
        parameters = self.parameters
        self._chat.config = _chat_config(parameters)
        self._listener.on_prompt(prompt)
        sight = self._sight(self._frames, cancel, newest) if self._frames else self._local
        self.state = 'answering'
        answer = self._chat.ask(prompt, sight and sight.picture, cancel)
        answer.on_thought = self._listener.on_thought
        watch = Stopwatch()
        for piece in answer:
            self._listener.on_piece(piece)
        if not answer.text:
            if answer.finish == 'cancelled':
                raise CancelledError('cancelled before the first word')
            if answer.is_thinking:
                raise PromptError(_STILL_THINKING[answer.finish])
            raise PromptError('the model gave an empty answer')
        if self._chat.config.sampling.grammar and answer.finish != 'stop':
            raise PromptError(_CUT[answer.finish] + answer.text)
        times = steps(sight, watch.read(), answer.stats)
        self._listener.on_answer(prompt, answer, sight and sight.frame, times)

    def _sight(self, frames: Frames, cancel: CancelToken, newest: bool) -> Sight:
        """Return what a question is about: a frame prepared, or just encoded, or the newest."""
        max_age = self.parameters.max_image_age
        prepared, self._prepared = self._prepared, None  # one preparation, one question
        if prepared and prepared.is_fresh(max_age) and not frames.last_failed:
            return prepared
        self.state = 'waiting for an image'
        encoded = frames.take_encoded(max_age, cancel, newest=newest)
        return encoded or self._newest(frames, cancel)

    def _newest(self, frames: Frames, cancel: CancelToken) -> Sight:
        assert self._chat is not None
        engine, parameters = self._chat.engine, self.parameters
        frame = frames.wait_for_newest(parameters.image_timeout, parameters.max_image_age, cancel)
        return see(frame, lambda: engine.picture(frame.bgr()))


def _chat_config(parameters: Parameters) -> ChatConfig:
    return parameters.chat_config(
        system_prompt_text(parameters.system_prompt),
        grammar_text(parameters.json_schema, parameters.grammar),
    )


def _words(text: str) -> set[str]:
    """Split a `;`-separated list of words."""
    return {word.strip() for word in text.split(';')} - {''}

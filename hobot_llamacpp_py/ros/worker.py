"""The inference thread: it takes prompts one by one, gets their picture and has them answered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hobot_llamacpp_py.engine import Answer, CancelToken, Chat, ChatConfig, Vlm
from hobot_llamacpp_py.engine.inbox import Inbox, Task, View, Work
from hobot_llamacpp_py.errors import CancelledError, PromptError
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.ros.picture_source import PictureSource
from hobot_llamacpp_py.ros.sight import Sight
from hobot_llamacpp_py.ros.timeline import Interval, Stopwatch

if TYPE_CHECKING:
    from hobot_llamacpp_py.ros.watch import Watch

__all__ = ['Listener', 'Worker', 'WorkerSettings']

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


class Listener(Protocol):
    """Whom the worker tells what happens; all calls come from the inference thread."""

    def on_ready(self) -> None:
        """Note that the models are loaded."""

    def on_fatal(self, error: str) -> None:
        """Note that the models cannot be loaded; the thread ends."""

    def on_prompt(self, prompt: str) -> None:
        """Note that a prompt's turn has come."""

    def on_sight(self, sight: Sight | None) -> None:
        """Note what the prompt is about, None in a text chat."""

    def on_piece(self, piece: str) -> None:
        """Take the next piece of the running answer."""

    def on_thought(self, piece: str) -> None:
        """Take the next piece of what the model thinks before it answers."""

    def on_answer(self, answer: Answer, sight: Sight | None, answering: Interval) -> None:
        """Take a whole answer, when it was given, and what it is about, None in a text chat."""

    def on_cancelled(self, prompt: str, reason: str) -> None:
        """Note that a prompt was cancelled before there was any text."""

    def on_error(self, prompt: str, error: Exception) -> None:
        """Note that a prompt failed."""


class WorkerSettings(Protocol):
    """What the worker reads of the settings; the next prompt sees what has changed."""

    @property
    def current(self) -> Parameters:
        """The parameters."""

    def chat_config(self) -> ChatConfig:
        """Return how conversations are held."""


class Worker(threading.Thread):
    """Owns the engine; everything that takes time happens in here.

    Args:
        load: loads the models.
        settings: may change at any time.
        inbox: what waits to be done.
        source: gives what questions are about.
        listener: is told what happens.
    """

    def __init__(
        self,
        load: Callable[[], Vlm],
        settings: WorkerSettings,
        inbox: Inbox,
        source: PictureSource,
        listener: Listener,
    ) -> None:
        # A daemon: native code that does not return must not keep the process alive.
        super().__init__(name='inference', daemon=True)
        self.state = 'loading'
        self.engine: Vlm | None = None
        """The loaded models; None until they are, or when the thread has ended."""
        self._load, self._settings = load, settings
        self._inbox, self._source = inbox, source
        self.listener = listener
        """May be replaced before the thread is started."""
        self.watch: Watch | None = None
        """Standing questions, from when there are some; may be set at any time."""
        self._chat: Chat | None = None
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
            # Nothing cuts loading short, and nobody waits for what comes of it.
            self.join(timeout / 6 if self.state == 'loading' else timeout)
        return not self.is_alive()

    def run(self) -> None:
        try:
            engine = self._load()
        except Exception as error:
            self.listener.on_fatal(explained(error))
            return
        with engine:
            try:
                # Before the first prompt comes: the system prompt, and a local image.
                self._chat = Chat(engine, self._settings.chat_config())
                self._prepare(self._source.open(engine))
            except Exception as error:
                self.listener.on_fatal(explained(error))
                return
            self.engine = engine
            self.listener.on_ready()
            while (work := self._wait()) is not Work.END:
                try:
                    self._work(work)
                except Exception as error:
                    log.error('a result could not be published: %s', error)
            self.engine = None

    def _wait(self) -> Work:
        self.state = 'idle'
        return self._inbox.wait(self._has_sight, self._sight_from)

    def _has_sight(self) -> bool:
        return bool(self.watch and self.watch.frames.has_left) or self._source.has_news()

    def _sight_from(self) -> float:
        """Return when there may be a look at what is there, on the steady clock."""
        parameters, watch = self._settings.current, self.watch
        if not watch or not watch.is_on or parameters.asks_again:
            return 0.0
        # What is only there to be prepared is so at once.
        prepares = parameters.prepares_ahead and self._source.has_news()
        return 0.0 if prepares else watch.look_from()

    def _work(self, work: Work) -> None:
        parameters = self._settings.current
        if work is Work.NOTE:
            self._inbox.take_note()()
        elif work is Work.ITEM:
            item = self._inbox.take()
            if item is None:  # withdrawn
                return
            with self._people_first():
                if not isinstance(item, str):
                    self._run(item)
                elif parameters.is_wake_word(item):
                    log.info('preparing, for the wake word %s', item)
                    self._prepare_for_question(self._source.prepare)
                else:
                    self._take(item, newest=not parameters.prepares_ahead)
        elif parameters.asks_again:
            self._take(parameters.user_prompt, newest=False)
        else:
            self._attend(parameters.prepares_ahead)

    @contextmanager
    def _people_first(self) -> Iterator[None]:
        """Keep the encoder free of what nobody waits for."""
        if watch := self.watch:
            watch.is_held = True
        try:
            yield
        finally:
            if watch:
                watch.is_held = False
                self._inbox.notify()

    def _prepare(self, sight: Sight | None, cancel: CancelToken | None = None) -> None:
        assert self._chat is not None
        watch = Stopwatch()
        stats = self._chat.prepare(sight.picture if sight else None, cancel)
        if sight and sight.infer is None:
            sight.infer = watch.read().first(stats.encode_s)

    def _prepare_for_question(self, see: Callable[[CancelToken], Sight | None]) -> None:
        """Encode and decode a frame, so that a question about it finds the work done."""
        self.state = 'preparing'
        with self._cancellable() as cancel:
            try:
                if sight := see(cancel):
                    self._also_watch(sight)
                    self._prepare(sight, cancel)
            except CancelledError:
                pass
            except Exception as error:
                log.warning('a frame cannot be prepared: %s', explained(error))

    def _attend(self, prepares: bool) -> None:
        """See what the lookout has seen: ask the standing questions, prepare for others."""
        watch = self.watch if self.watch and self.watch.is_on else None
        max_age = self._settings.current.max_image_age
        may_look = watch is not None and watch.look_from() <= time.monotonic()
        sight = watch.frames.take_left(max_age) if watch and may_look else None
        sight = sight or self._source.seen()
        if sight is None:
            return
        if watch and may_look and sight.was_fresh(max_age):
            self.state = 'watching'
            with self._inbox.interruptible() as cancel:
                assert self._chat is not None
                config = self._settings.chat_config
                if not watch.look(self._chat.engine, sight, config, cancel):
                    return
        if prepares and sight.is_fresh(max_age):
            self._prepare_for_question(lambda cancel: sight)

    def _take(self, prompt: str, *, newest: bool) -> None:
        """Answer one prompt; whatever goes wrong becomes one line, and the thread lives on.

        Args:
            newest: about the newest frame, though another one may be encoded already.
        """
        try:
            with self._cancellable() as cancel:
                given = self._answer(prompt, cancel, newest)
            # Whoever reads the answer has nothing left to cancel.
            self.listener.on_answer(*given)
        except CancelledError as error:
            self.listener.on_cancelled(prompt, str(error))
        except Exception as error:
            self.listener.on_error(prompt, error)

    def _run(self, task: Task) -> None:
        """Have a task do what it wants to."""
        assert self._chat is not None
        self.state = 'answering'
        with self._cancellable(task.cancel):
            task.run(self._chat.engine, self._look)
        if self._settings.current.prepares_ahead:  # the KV cache is the task's now
            self._source.forget_prepared()

    def _look(self, cancel: CancelToken) -> View:
        sight = self._source.look(cancel)
        if sight is None:
            raise PromptError('this is a text chat (feed_type 2): there is nothing to see')
        self._also_watch(sight)
        return View(sight.picture, sight.read)

    def _also_watch(self, sight: Sight | None) -> None:
        """Have the rules asked about what somebody else took: the lookout does not see it."""
        if sight and self.watch and self.watch.is_on:
            self.watch.frames.note_taken(sight)

    @contextmanager
    def _cancellable(self, cancel: CancelToken | None = None) -> Iterator[CancelToken]:
        """Let `cancel` stop what is done with the token meanwhile."""
        cancel = cancel or CancelToken()
        with self._lock:
            self._running = cancel
        try:
            yield cancel
        finally:
            with self._lock:
                self._running = None

    def _answer(
        self, prompt: str, cancel: CancelToken, newest: bool
    ) -> tuple[Answer, Sight | None, Interval]:
        assert self._chat is not None
        self.listener.on_prompt(prompt)
        if not prompt.strip():
            raise PromptError('the prompt is empty')
        self._chat.config = self._settings.chat_config()
        self.state = 'waiting for an image'
        sight = self._source.next(cancel, newest=newest)
        self.listener.on_sight(sight)
        self._also_watch(sight)
        self.state = 'answering'
        answer = self._chat.ask(prompt, sight.picture if sight else None, cancel)
        answer.on_thought = self.listener.on_thought
        watch = Stopwatch()
        for piece in answer:
            self.listener.on_piece(piece)
        if not answer.text:
            if answer.finish == 'cancelled':
                raise CancelledError('cancelled before the first word')
            if answer.is_thinking:
                raise PromptError(_STILL_THINKING[answer.finish])
            raise PromptError('the model gave an empty answer')
        if self._chat.config.sampling.constraint and answer.finish != 'stop':
            raise PromptError(_CUT[answer.finish] + answer.text)
        return answer, sight, watch.read()

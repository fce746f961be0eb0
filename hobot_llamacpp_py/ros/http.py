"""The node as the HTTP server sees it; imported where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import Answer
from hobot_llamacpp_py.engine.inbox import Inbox, Task
from hobot_llamacpp_py.ros.picture_source import Bgr, NoPicture, PictureSource
from hobot_llamacpp_py.ros.settings import Settings
from hobot_llamacpp_py.ros.sight import Sight
from hobot_llamacpp_py.ros.timeline import Interval
from hobot_llamacpp_py.ros.worker import Listener, Worker
from hobot_llamacpp_py.web.backend import engine_figures
from hobot_llamacpp_py.web.server import Server, read_token

if TYPE_CHECKING:
    from hobot_llamacpp_py.web.metrics import Metrics

__all__ = ['CountingListener', 'NodeBackend', 'make_server']


class NodeBackend:
    """A `Backend`: requests wait beside the prompts, and see what prompts see."""

    def __init__(
        self, settings: Settings, inbox: Inbox, source: PictureSource, worker: Worker
    ) -> None:
        self._settings, self._inbox, self._source, self._worker = settings, inbox, source, worker
        self.model = settings.model_name('llm_model_name')
        self.can_see = not isinstance(source, NoPicture)

    @property
    def state(self) -> str:
        """What the inference thread does."""
        return self._worker.state

    def defaults(self) -> ChatConfig:
        return self._settings.chat_config()

    def put(self, task: Task) -> bool:
        return self._inbox.put(task)

    def withdraw(self, task: Task) -> None:
        self._inbox.withdraw(task)

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        return self._source.newest()

    def watched(self) -> Mapping[str, object] | None:
        watch = self._worker.watch
        return watch.found() if watch else None

    def figures(self) -> Mapping[str, float]:
        inbox, frames = self._inbox, self._source.describe(is_read=True)
        return {
            'queue': len(inbox),
            'refused': inbox.refused,
            **engine_figures(self._worker.engine),
            **{name: n for name, n in frames.items() if isinstance(n, int)},
        }


class CountingListener:
    """Counts what becomes of prompts from topics, and tells another listener."""

    def __init__(self, listener: Listener, metrics: Metrics, inbox: Inbox) -> None:
        self._listener, self._metrics, self._inbox = listener, metrics, inbox

    def on_ready(self) -> None:
        self._listener.on_ready()

    def on_fatal(self, error: str) -> None:
        self._listener.on_fatal(error)

    def on_prompt(self, prompt: str) -> None:
        self._listener.on_prompt(prompt)
        self._metrics.begin(self._inbox.waited)

    def on_sight(self, sight: Sight | None) -> None:
        self._listener.on_sight(sight)

    def on_piece(self, piece: str) -> None:
        self._metrics.speak()
        self._listener.on_piece(piece)

    def on_thought(self, piece: str) -> None:
        self._metrics.speak()
        self._listener.on_thought(piece)

    def on_answer(self, answer: Answer, sight: Sight | None, answering: Interval) -> None:
        self._metrics.end('topic', answer.finish, answer.n_tokens, answer.stats)
        self._listener.on_answer(answer, sight, answering)

    def on_cancelled(self, prompt: str, reason: str) -> None:
        self._metrics.fail('topic')
        self._listener.on_cancelled(prompt, reason)

    def on_error(self, prompt: str, error: Exception) -> None:
        self._metrics.fail('topic', type(error).__name__)
        self._listener.on_error(prompt, error)


def make_server(settings: Settings, inbox: Inbox, source: PictureSource, worker: Worker) -> Server:
    """Make the server that the parameters ask for; it counts what the worker does.

    Raises:
        ServerError: it cannot be had.
    """
    parameters = settings.current
    token = read_token(parameters.http_token_file) if parameters.http_token_file else ''
    backend = NodeBackend(settings, inbox, source, worker)
    server = Server(backend, parameters.http_host, parameters.http_port, token)
    worker.listener = CountingListener(worker.listener, server.metrics, inbox)
    return server

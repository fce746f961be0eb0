"""The node as the HTTP server sees it; imported where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine.inbox import Inbox, Task
from hobot_llamacpp_py.ros.picture_source import Bgr, PictureSource
from hobot_llamacpp_py.ros.settings import Settings
from hobot_llamacpp_py.ros.worker import Worker
from hobot_llamacpp_py.web.server import Server, read_token

__all__ = ['NodeBackend', 'make_server']


class NodeBackend:
    """A `Backend`: requests wait beside the prompts, and see what prompts see."""

    def __init__(
        self, settings: Settings, inbox: Inbox, source: PictureSource, worker: Worker
    ) -> None:
        self._settings, self._inbox, self._source, self._worker = settings, inbox, source, worker
        self.model = settings.model_name('llm_model_name')

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

    def figures(self) -> Mapping[str, float]:
        engine = self._worker.engine
        figures = engine.figures() if engine else {}
        numbers = {k: value for k, value in figures.items() if isinstance(value, (int, float))}
        return {'queue': len(self._inbox), **numbers}


def make_server(settings: Settings, inbox: Inbox, source: PictureSource, worker: Worker) -> Server:
    """Make the server that the parameters ask for.

    Raises:
        ServerError: it cannot be had.
    """
    parameters = settings.current
    token = read_token(parameters.http_token_file) if parameters.http_token_file else ''
    backend = NodeBackend(settings, inbox, source, worker)
    return Server(backend, parameters.http_host, parameters.http_port, token)

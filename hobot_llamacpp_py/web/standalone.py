"""An engine and a thread for it, without ROS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import CancelToken, Engine
from hobot_llamacpp_py.engine.inbox import Inbox, Task, View, Work
from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.web.backend import Bgr, engine_figures

__all__ = ['EngineThread']


class EngineThread(threading.Thread):
    """A `Backend` of nothing but an engine.

    Args:
        load: loads the models, in the thread.
        model: the model's name.
        config: how a request is answered that does not say so.
        queue_size: requests that wait at most.
        on_failed: is told, in the thread, why the models cannot be loaded.
        see: gives the picture of `camera:`; None where there is none.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        model: str,
        config: ChatConfig,
        queue_size: int,
        on_failed: Callable[[Exception], None],
        see: Callable[[], Bgr] | None = None,
    ) -> None:
        super().__init__(name='inference', daemon=True)
        self.model, self.state = model, 'loading'
        self.can_see = see is not None
        self._load, self._config, self._on_failed, self._see = load, config, on_failed, see
        self._inbox = Inbox(queue_size)
        self._running: Task | None = None
        self._engine: Engine | None = None

    def run(self) -> None:
        try:
            self._engine = engine = self._load()
        except Exception as error:
            self.state = 'ended'
            self._on_failed(error)
            return
        with engine:
            self.state = 'idle'
            while self._inbox.wait() is not Work.END:
                task = self._inbox.take()
                if task is None or isinstance(task, str):
                    continue
                self.state, self._running = 'answering', task
                task.run(engine, self._look)
                self.state, self._running = 'idle', None
        self.state, self._engine = 'ended', None

    def close(self, timeout: float) -> None:
        """End the thread, and what it is at."""
        self._inbox.close()
        if running := self._running:
            running.cancel.set()
        self.join(timeout)

    def defaults(self) -> ChatConfig:
        return self._config

    def put(self, task: Task) -> bool:
        return self._inbox.put(task)

    def withdraw(self, task: Task) -> None:
        self._inbox.withdraw(task)

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        return None if self._see is None else (self._see, self._see)

    def watched(self) -> Mapping[str, object] | None:
        return None

    def figures(self) -> Mapping[str, float]:
        inbox = self._inbox
        return {
            'queue': len(inbox),
            'refused': inbox.refused,
            **engine_figures(self._engine),
        }

    def _look(self, cancel: CancelToken) -> View:
        engine, see = self._engine, self._see
        if see is None or engine is None:
            raise ImageError('there is no camera here: send the picture as a data URL')
        return View(engine.picture(see()), see)

"""What the server needs of whoever has the engine: a node, or a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import Vlm
from hobot_llamacpp_py.engine.inbox import Task

__all__ = ['Backend', 'Bgr', 'engine_figures']

Bgr = npt.NDArray[np.uint8]


class Backend(Protocol):
    """Whoever has the engine. All methods may be called from any thread, and none waits."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def state(self) -> str:
        """'loading', 'idle', or what it does at this moment."""

    @property
    def can_see(self) -> bool:
        """Whether `camera:` means something here, also where no frame has come yet."""

    def defaults(self) -> ChatConfig:
        """Return how a request is answered that does not say so.

        Raises:
            VlmError: that cannot be told, for example for a file that is gone.
        """

    def put(self, task: Task) -> bool:
        """Queue a request; False if the queue is full."""

    def withdraw(self, task: Task) -> None:
        """Take back a request that nobody waits for any more, if its turn has not come."""

    def newest(self) -> tuple[object, Callable[[], Bgr]] | None:
        """Return what there is to see now, with an identity; None for nothing."""

    def watched(self) -> Mapping[str, object] | None:
        """Return what standing questions have found, for JSON; None where there are none."""

    def figures(self) -> Mapping[str, float]:
        """Return the figures of the moment: times in milliseconds, counts."""


def engine_figures(engine: Vlm | None) -> dict[str, float]:
    """Return the numbers that an engine tells of itself; none while models are loaded."""
    told = engine.figures().items() if engine else ()
    return {name: value for name, value in told if isinstance(value, (int, float))}

"""What the engine logs goes through the logger of the node whose engine it is."""

from __future__ import annotations

import logging
import threading
from typing import Any

__all__ = ['forward_logs', 'log_as']

# Python's loggers belong to the process, which may hold several nodes: each inference thread notes
# its node's logger here.
_thread = threading.local()


def forward_logs(logger: Any) -> None:
    """Send what the package logs to a ROS logger, where the thread has none of its own."""
    package = logging.getLogger('hobot_llamacpp_py')
    package.setLevel(logging.INFO)
    package.propagate = False
    package.handlers = [_RosLogHandler(logger)]


def log_as(logger: Any) -> None:
    """Send what this thread logs to a ROS logger."""
    _thread.logger = logger


class _RosLogHandler(logging.Handler):
    """Hands Python log records to the ROS logger of their thread, or else to a given one."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        logger = getattr(_thread, 'logger', self._logger)
        # rclpy remembers the severity of each calling line: one line for each severity.
        message = self.format(record)
        if record.levelno >= logging.ERROR:
            logger.error(message)
        elif record.levelno >= logging.WARNING:
            logger.warning(message)
        else:
            logger.info(message)

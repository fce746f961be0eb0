"""The node's logger, with the caller told by Python's own frame."""

from __future__ import annotations

import sys
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.impl.rcutils_logger import RcutilsLogger

__all__ = ['NodeLogger']

_LEVELS_UP = 2  # from `log` to who called `info`


class NodeLogger(RcutilsLogger):
    """A ROS logger that spares the questions.

    rclpy looks through the source of all modules for who has called, with the first line for 25
    ms, and for half a millisecond with each one after it: before the first token, too.
    """

    def log(self, message: str, severity: int, **options: Any) -> bool:
        """Log a message, by rclpy's own way where that is asked for something special."""
        if options:
            return bool(super().log(message, severity, **options))
        if not self.is_enabled_for(severity):
            return False
        frame = sys._getframe(_LEVELS_UP)
        rclpy_implementation.rclpy_logging_rcutils_log(
            severity,
            self.name,
            message,
            frame.f_code.co_name,
            frame.f_code.co_filename,
            frame.f_lineno,
        )
        return True

"""Subscriptions whose messages are taken by whoever wants them, not by the executor."""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup

__all__ = ['Dormant']


class Dormant(CallbackGroup):
    """Keeps the executor away: what is in it is neither waited for nor taken by it."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        """Do nothing."""

"""Answers as ai_msgs/PerceptionTargets, for the other nodes of TogetheROS."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from hobot_llamacpp_py.ros.timeline import Interval

__all__ = ['PerceptionTargets']

UNKNOWN_RATE = -1  # the message says that a rate below zero does not count


class PerceptionTargets:
    """The publisher of whole answers as ai_msgs/PerceptionTargets.

    Args:
        model: what the names of the steps begin with.

    Raises:
        ImportError: ai_msgs is not installed; it is part of TogetheROS only.
    """

    def __init__(self, node: Node, topic: str, qos: QoSProfile, model: str) -> None:
        import ai_msgs.msg

        self._messages: Any = ai_msgs.msg
        self._model = model
        self._last: float | None = None  # on the steady clock
        self.publisher: Publisher = node.create_publisher(
            ai_msgs.msg.PerceptionTargets, topic, qos
        )

    def publish(self, text: str, header: Header, steps: Mapping[str, Interval]) -> None:
        """Publish an answer, with its picture's header and the times of its steps."""
        self.publisher.publish(
            self._messages.PerceptionTargets(
                header=header,
                fps=self._rate(),
                perfs=[self._perf(name, interval) for name, interval in steps.items()],
                targets=[self._messages.Target(type=text)],
            )
        )

    def publish_change(
        self, text: str, name: str, probability: float | None, header: Header
    ) -> None:
        """Publish that a standing question has another answer, with how likely that is.

        Args:
            name: of the rule, and of the attribute whose confidence is the probability.
        """
        known = [] if probability is None else [probability]
        attributes = [self._messages.Attribute(type=name, confidence=float(p)) for p in known]
        target = self._messages.Target(type=text, attributes=attributes)
        self.publisher.publish(
            self._messages.PerceptionTargets(header=header, fps=UNKNOWN_RATE, targets=[target])
        )

    def _rate(self) -> int:
        """Return answers per second, since the one before."""
        last, self._last = self._last, time.monotonic()
        if last is None:
            return UNKNOWN_RATE
        return round(1 / max(self._last - last, 1e-3))

    def _perf(self, name: str, interval: Interval) -> Any:
        return self._messages.Perf(
            type=f'{self._model}_{name}',
            stamp_start=_stamp(interval.start),
            stamp_end=_stamp(interval.end),
            time_ms_duration=interval.duration / 1e6,
        )


def _stamp(nanoseconds: int) -> Time:
    seconds, rest = divmod(nanoseconds, 10**9)
    return Time(sec=seconds, nanosec=rest)

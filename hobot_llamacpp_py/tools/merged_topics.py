"""Topics of one node as one sequence of messages, in the order in which they were published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from operator import itemgetter
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import QoSProfile
from rclpy.waitable import NumberOfEntities, Waitable
from std_msgs.msg import String

from hobot_llamacpp_py.ros.dormant import Dormant

__all__ = ['MergedTopics']

Take = Callable[[int, str], None]


class MergedTopics(Waitable):  # type: ignore[misc, unused-ignore]
    """Subscribes to String topics of which all have the same publisher.

    An executor takes one message of each topic in turn, so that those of one overtake those of
    another. Here all that has come is taken together and given out by its source timestamp: what
    the publisher's clock showed. Between processes topics may still overtake each other: the
    timestamp, in nanoseconds, is given as well.

    Args:
        node: an rclpy node; destroying it ends this.
        topics: by name, with their QoS and what takes the source timestamp and the text.
    """

    def __init__(self, node: Any, topics: dict[str, tuple[QoSProfile, Take]]) -> None:
        super().__init__(MutuallyExclusiveCallbackGroup())
        dormant = Dormant()
        self._topics = [
            (
                node.create_subscription(
                    String, topic, lambda message: None, qos, callback_group=dormant
                ).handle,
                take,
            )
            for topic, (qos, take) in topics.items()
        ]
        self._indices: list[int] = []
        node.add_waitable(self)

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for handle, _ in self._topics:
                stack.enter_context(handle)
            self._in_use = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._in_use.close()

    def get_num_entities(self) -> NumberOfEntities:
        return NumberOfEntities(num_subs=len(self._topics))

    def add_to_wait_set(self, wait_set: Any) -> None:
        self._indices = [wait_set.add_subscription(handle) for handle, _ in self._topics]

    def is_ready(self, wait_set: Any) -> bool:
        return any(wait_set.is_ready('subscription', index) for index in self._indices)

    def take_data(self) -> list[tuple[int, str, Take]]:
        """Take all that has come, in the order in which it was published."""
        taken = []
        for handle, take in self._topics:
            with handle:
                while found := handle.take_message(String, False):
                    message, info = found
                    taken.append((info['source_timestamp'], message.data, take))
        return sorted(taken, key=itemgetter(0))

    async def execute(self, taken_data: list[tuple[int, str, Take]]) -> None:
        for stamp, text, take in taken_data:
            take(stamp, text)

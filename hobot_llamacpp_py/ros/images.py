"""The image topic: what it has is found out, and taken from the middleware when it is wanted."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from hobot_llamacpp_py.errors import ParameterError
from hobot_llamacpp_py.ros.dormant import Dormant
from hobot_llamacpp_py.ros.events import SubscriptionEventCallbacks, UnsupportedEventTypeError
from hobot_llamacpp_py.ros.frame import Frame, Unreadable
from hobot_llamacpp_py.ros.timeline import steady_clock
from hobot_llamacpp_py.vision.tensors import text_of

__all__ = [
    'ImageSubscription',
    'image_sources',
    'shared_memory_sources',
    'steady_time',
]

FOLLOW_PERIOD = 0.5  # seconds between two looks at the graph
SHARED_MEMORY_TOPIC = '/hbmem_img'
# Frames that wait in the middleware. One that is just arriving in fragments has a place already:
# with a depth of 1 there would be nothing to take meanwhile.
DEPTH = 3


@dataclass(frozen=True)
class _Source:
    """A topic with one of the types that images have."""

    topic: str
    message_type: type
    first_reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
    """What is asked for until a publisher is known."""

    @property
    def type_name(self) -> str:
        package = self.message_type.__module__.partition('.')[0]
        return f'{package}/msg/{self.message_type.__name__}'

    def __str__(self) -> str:
        return f'{self.topic} [{self.type_name}]'


def image_sources(node: Node, topic: str, transport: str) -> tuple[_Source, ...]:
    """Return what an image topic can be, the best first.

    Args:
        transport: `raw`; `compressed`: the topic itself or `<topic>/compressed`; or `auto`: as the
            topic's publisher has it, else `<topic>/compressed`.
    """
    topic = node.resolve_topic_name(topic)  # `/compressed` belongs behind the remapped name
    raw = _Source(topic, Image)
    compressed = _Source(topic, CompressedImage)
    beside = _Source(f'{topic}/compressed', CompressedImage)
    return {
        'raw': (raw,),
        'compressed': (compressed, beside),
        'auto': (raw, compressed, beside),
    }[transport]


def shared_memory_sources(node: Node) -> tuple[_Source, ...]:
    """Return the topic of TogetheROS' zero-copy camera path.

    Raises:
        ParameterError: hbm_img_msgs is not installed.
    """
    try:
        from hbm_img_msgs.msg import HbmMsg1080P
    except ImportError:
        raise ParameterError(
            'is_shared_mem_sub needs the package hbm_img_msgs, which is not installed: sudo apt'
            ' install tros-humble-hbm-img-msgs, or set is_shared_mem_sub to 0'
        ) from None
    topic = node.resolve_topic_name(SHARED_MEMORY_TOPIC)
    # The cameras of TogetheROS are BEST_EFFORT there.
    return (_Source(topic, HbmMsg1080P, ReliabilityPolicy.BEST_EFFORT),)


class _AllReady:
    """Stands in for a wait set in which everything is ready."""

    def add_event(self, event: Any) -> int:
        return 0

    def is_ready(self, kind: str, index: int) -> bool:
        return True


class ImageSubscription:
    """A subscription to the first of some sources that has a publisher; changes are followed.

    Frames stay in the middleware, which keeps the newest few, until somebody wants one: one that
    nobody looks at never becomes a Python object. It asks for what the publishers offer:
    RELIABLE where all of them are, so that no image is lost on the way, and TRANSIENT_LOCAL where
    all of them are, so that one sent before is received; else BEST_EFFORT and VOLATILE, which
    match every publisher. (A RELIABLE publisher that keeps its last images does not wait for a
    slow reader; it overwrites.)

    Args:
        node: the node that subscribes.
        sources: where images may come from, the best first.
    """

    def __init__(self, node: Node, sources: tuple[_Source, ...]) -> None:
        self.taken = 0
        """Images that were taken from the middleware, looked at or not."""
        self.published = 0
        """Images that were published meanwhile, as far as the middleware numbers them."""
        self._last_number: int | None = None
        self.lost = 0
        """Images that were published but did not arrive whole."""
        self._node, self._candidates = node, sources
        self._subscription: Any = None
        self._current: _Source | None = None
        self._qos = QoSProfile(depth=DEPTH)
        self._is_published = self._has_advised = False
        self._lock = threading.Lock()  # of what follows, and of the subscription's end
        self._kept: Frame | None = None  # from a subscription that is no more
        self._empty_at = time.monotonic()  # when there was nothing (more) to take
        if len(sources) == 1:
            self._subscribe(sources[0], _qos(sources[0].first_reliability))
        self._follow()
        node.create_timer(FOLLOW_PERIOD, self._follow, clock=steady_clock())

    @property
    def description(self) -> str:
        """What is subscribed to, in words."""
        if self._current is None or not self._is_published:
            return f'nobody publishes on {self._candidates[0].topic}'
        lost = f', {self.lost} images lost on the way' if self.lost else ''
        advice = f': {self._advice}' if self._loses_by_best_effort else ''
        return f'{self._current}, {self._qos.reliability.name}{lost}{advice}'

    def take(self) -> Frame | None:
        """Return the newest image that has come since the last call, or None. From any thread."""
        with self._lock:
            frame = self._drain()
            kept, self._kept = self._kept, None
        return frame or kept

    def _drain(self) -> Frame | None:
        """Take all that has arrived; return the newest."""
        if self._subscription is None:
            return None
        handle, message_type = self._subscription.handle, self._subscription.msg_type
        frame = None
        for _ in range(2 * DEPTH):  # a camera that is faster than we are has no end
            try:
                with handle:
                    taken = handle.take_message(message_type, False)
            except InvalidHandle:  # the node is being destroyed
                return frame
            except Exception as error:  # of rclpy's C library; the image is taken all the same
                self.taken += 1
                reason = 'cannot be read: it is damaged, or memory is short'
                reason = f'an image on {self._current} {reason} ({text_of(error)})'
                # Whoever asks now would else be told what was before it.
                frame = Frame(Unreadable(reason), time.monotonic())
                continue
            if taken is None:
                break
            message, info = taken
            self.taken += 1
            self._count(info.get('publication_sequence_number'))
            # Some middlewares know only when it was sent.
            stamp = info['received_timestamp'] or info['source_timestamp']
            frame = Frame(message, steady_time(stamp, not_before=self._empty_at))
        self._empty_at = time.monotonic()
        return frame

    def _count(self, number: int | None) -> None:
        """Count an image, and those between it and the one before, which newer ones replaced."""
        last, self._last_number = self._last_number, number
        gap = number - last if number is not None and last is not None else 1
        self.published += max(1, gap)

    def _follow(self) -> None:
        """Look at the graph and subscribe to what is there, as it is offered."""
        self._count_lost()
        offers = {source: self._offered(source) for source in self._candidates}
        found = [source for source in self._candidates if offers[source]]
        self._is_published = bool(found)
        wanted = self._wanted(found)
        if wanted is None or not offers[wanted]:
            return
        qos = _qos(
            _common(ReliabilityPolicy.RELIABLE, [offer.reliability for offer in offers[wanted]]),
            _common(DurabilityPolicy.TRANSIENT_LOCAL, [o.durability for o in offers[wanted]]),
        )
        if wanted != self._current or qos != self._qos:
            self._subscribe(wanted, qos)
        elif self._loses_by_best_effort and not self._has_advised:
            self._has_advised = True
            self._node.get_logger().warning(f'images are lost on the way: {self._advice}')

    def _wanted(self, found: list[_Source]) -> _Source | None:
        # Publishers come and go one by one: do not leave the one that is still there.
        on_topic = [source for source in found if source.topic == self._candidates[0].topic]
        if self._current in (on_topic or found):
            return self._current
        return found[0] if found else None

    def _offered(self, source: _Source) -> list[QoSProfile]:
        """Return what a source's publishers offer, empty if there is none."""
        return [
            publisher.qos_profile
            for publisher in self._node.get_publishers_info_by_topic(source.topic)
            if publisher.topic_type == source.type_name
        ]

    def _subscribe(self, source: _Source, qos: QoSProfile) -> None:
        with self._lock:
            if self._subscription is not None:
                self._kept = self._drain() or self._kept  # what has arrived is not lost
                self._node.destroy_subscription(self._subscription)
            self._subscription = self._create(source, qos)
            self._current, self._qos = source, qos
            self._last_number = None
        self._node.get_logger().info(f'images come from {source}, {qos.reliability.name}')

    def _create(self, source: _Source, qos: QoSProfile) -> Any:
        arguments = (source.message_type, source.topic, lambda message: None, qos)
        # Waiting for an event would wake the executor for each frame that is not taken, too.
        events = SubscriptionEventCallbacks(message_lost=_ignore, use_default_callbacks=False)
        group = Dormant()
        try:
            return self._node.create_subscription(
                *arguments, callback_group=group, event_callbacks=events
            )
        except UnsupportedEventTypeError:  # not every middleware tells what it loses
            return self._node.create_subscription(*arguments, callback_group=group)

    def _count_lost(self) -> None:
        all_ready = _AllReady()
        for event in self._subscription.event_handlers if self._subscription else ():
            event.add_to_wait_set(all_ready)
            event.is_ready(all_ready)
            if data := event.take_data():
                self.lost += data.total_count_change

    @property
    def _loses_by_best_effort(self) -> bool:
        return bool(self.lost) and self._qos.reliability == ReliabilityPolicy.BEST_EFFORT

    @property
    def _advice(self) -> str:
        return (
            f'a publisher on {self._current and self._current.topic} is BEST_EFFORT, and large'
            ' images come in many parts: publish JPEG (CompressedImage), or RELIABLE, or give Fast'
            ' DDS a larger shared memory segment (FASTRTPS_DEFAULT_PROFILES_FILE with'
            ' config/fastdds.xml, for both processes)'
        )


def _ignore(event: Any) -> None:
    """Take no notice: the events are asked for their counts."""


def steady_time(stamp: int, not_before: float) -> float:
    """Return what the steady clock showed when the wall clock showed `stamp` (nanoseconds).

    The wall clock may have been set since. What happened then did not happen before `not_before`,
    nor in the future; where the two clocks contradict each other it counts as that old.
    """
    age = (time.time_ns() - stamp) / 1e9
    return max(not_before, time.monotonic() - age) if age >= 0 else not_before


def _qos(
    reliability: ReliabilityPolicy, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
) -> QoSProfile:
    return QoSProfile(depth=DEPTH, reliability=reliability, durability=durability)


def _common(wanted: Any, offered: list[Any]) -> Any:
    """Return a policy if all publishers offer it, else the one that matches them all."""
    weaker = {
        ReliabilityPolicy.RELIABLE: ReliabilityPolicy.BEST_EFFORT,
        DurabilityPolicy.TRANSIENT_LOCAL: DurabilityPolicy.VOLATILE,
    }
    return wanted if all(policy == wanted for policy in offered) else weaker[wanted]

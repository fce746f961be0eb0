"""Frames stay in the middleware until they are wanted: on real DDS, within one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from domain import own_domain

pytest.importorskip('rclpy', reason='needs ROS 2')
import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.engine import CancelToken
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.ros.frames import Frames
from hobot_llamacpp_py.ros.images import ImageSubscription, image_sources, steady_time

TIMEOUT = 60.0  # seconds: generous, for machines that are busy with something else
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT


class Camera:
    """A node with publishers on one topic, and the subscription that is tested."""

    def __init__(self, node: Node, images: Callable[[], ImageSubscription]) -> None:
        self.node, self.images = node, images()

    def publisher(
        self,
        reliability: ReliabilityPolicy = RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        message_type: type = Image,
        topic: str = '/image',
    ) -> Any:
        qos = QoSProfile(depth=1, reliability=reliability, durability=durability)
        return self.node.create_publisher(message_type, topic, qos)

    def wait_for(self, done: Callable[[], Any]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not done():
            assert time.monotonic() < deadline, self.images.description
            time.sleep(0.01)

    def asks_for(self) -> set[ReliabilityPolicy]:
        found = self.node.get_subscriptions_info_by_topic('/image')
        return {subscription.qos_profile.reliability for subscription in found}

    def send(self, publisher: Any, name: str) -> None:
        """Publish one picture with this frame id to the subscription, and see that it is there."""
        self.wait_for(lambda: self.asks_for() == {RELIABLE} and publisher.get_subscription_count())
        publisher.publish(picture(name))
        assert publisher.wait_for_all_acked(Duration(seconds=TIMEOUT))

    def take(self) -> Frame:
        frames: list[Frame | None] = []

        def taken() -> bool:
            frames.append(self.images.take())
            return frames[-1] is not None

        self.wait_for(taken)
        assert frames[-1] is not None
        return frames[-1]


def picture(name: str, width: int = 640, height: int = 480) -> Image:
    return Image(
        header=Header(frame_id=name),
        width=width,
        height=height,
        encoding='rgb8',
        step=3 * width,
        data=bytes(3 * width * height),
    )


@pytest.fixture
def make() -> Iterator[Callable[..., Camera]]:
    """Return a function that makes a camera and a subscription with an executor of its own."""
    with own_domain() as domain:
        # Two participants, as on a robot: what one sends goes all the way to the other.
        context, other = rclpy.Context(), rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        rclpy.init(context=other, domain_id=domain)
        node = rclpy.create_node('reader', context=context)
        camera = rclpy.create_node('camera', context=other)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        threading.Thread(target=executor.spin, daemon=True).start()

        def make(transport: str = 'auto') -> Camera:
            sources = image_sources(node, '/image', transport)
            return Camera(camera, lambda: ImageSubscription(node, sources))

        yield make
        executor.shutdown()
        node.destroy_node()
        camera.destroy_node()
        rclpy.shutdown(context=context)
        rclpy.shutdown(context=other)


@pytest.mark.parametrize('transport', ['auto', 'raw'])
def test_nothing_sent_reliably_is_lost(make: Callable[..., Camera], transport: str) -> None:
    """Each of 20 pictures that a RELIABLE publisher sends once, and never again, arrives."""
    camera = make(transport)
    for i in range(20):
        publisher = camera.publisher()
        camera.send(publisher, str(i))
        assert camera.take().header().frame_id == str(i)
        camera.node.destroy_publisher(publisher)
    assert camera.images.lost == 0


def test_frames_stay_in_the_middleware(make: Callable[..., Camera]) -> None:
    """Nothing is taken before it is wanted; then the newest is, and nothing twice."""
    camera = make()
    publisher = camera.publisher()
    for i in range(10):
        camera.send(publisher, str(i))
    assert camera.images.taken == 0
    assert camera.take().header().frame_id == '9'
    assert 1 <= camera.images.taken <= 3
    assert camera.images.take() is None


def test_age_counts_from_reception(make: Callable[..., Camera]) -> None:
    """A frame is as old as its reception, however late it is taken."""
    camera = make()
    publisher = camera.publisher()
    camera.wait_for(lambda: camera.asks_for() == {RELIABLE})
    before = time.monotonic()
    camera.send(publisher, 'old')
    after = time.monotonic()
    camera.wait_for(lambda: time.monotonic() > after + 0.3)
    frame = camera.take()
    assert before <= frame.received <= after
    assert not frame.is_fresh(0.3)
    assert frame.is_fresh(TIMEOUT)


def test_who_waits_is_woken_by_the_next_frame(make: Callable[..., Camera]) -> None:
    """A question that waits has the next frame within 20 ms of its reception."""
    camera = make()
    publisher = camera.publisher()
    camera.wait_for(lambda: camera.asks_for() == {RELIABLE} and publisher.get_subscription_count())
    frames, delays = Frames(camera.images.take, lambda: 'the camera', Inbox(8)), []
    for i in range(9):
        threading.Timer(0.03 + i / 1000, publisher.publish, [picture(str(i))]).start()
        frame = frames.wait_for_newest(TIMEOUT, 0.5, CancelToken())
        delays.append(time.monotonic() - frame.received)
        assert frame.header().frame_id == str(i)
        camera.wait_for(lambda frame=frame: not frame.is_fresh(0.5))
    assert sorted(delays)[4] < 0.02  # of most: a busy machine may be late at times


def test_an_image_sent_before_is_received(make: Callable[..., Camera]) -> None:
    """Where the publisher keeps its last image for late comers, it is taken."""
    camera = make()
    latched = camera.publisher(durability=DurabilityPolicy.TRANSIENT_LOCAL)
    latched.publish(picture('latched'))
    assert camera.take().header().frame_id == 'latched'


def test_what_has_arrived_outlives_a_change(make: Callable[..., Camera]) -> None:
    """Publishers with another offer come and go; the picture that waits is still there."""
    camera = make()
    camera.send(camera.publisher(), 'first')
    other = camera.publisher(BEST_EFFORT)
    camera.wait_for(lambda: camera.asks_for() == {BEST_EFFORT})
    assert camera.take().header().frame_id == 'first'
    camera.node.destroy_publisher(other)
    camera.wait_for(lambda: camera.asks_for() == {RELIABLE})


def test_another_type_is_followed(make: Callable[..., Camera]) -> None:
    """A publisher that comes back with JPEG is subscribed to as that; the raw picture stays."""
    camera = make()
    raw = camera.publisher()
    camera.send(raw, 'raw')
    camera.node.destroy_publisher(raw)
    jpeg = camera.publisher(message_type=CompressedImage)
    camera.wait_for(lambda: 'CompressedImage' in camera.images.description)
    assert camera.take().header().frame_id == 'raw'
    camera.wait_for(jpeg.get_subscription_count)
    jpeg.publish(CompressedImage(header=Header(frame_id='jpeg'), format='jpeg', data=b'1'))
    assert camera.take().header().frame_id == 'jpeg'


@pytest.mark.parametrize(('set_by', 'age'), [(0, 5), (-3600, None), (3600, None)])
def test_a_clock_that_is_set(set_by: int, age: float | None) -> None:
    """Whatever the wall clock was set to meanwhile, a frame is as old as it can be at most."""
    now = time.monotonic()
    stamp = time.time_ns() - int((5 + set_by) * 1e9)
    found = steady_time(stamp, not_before=now - 60)
    assert found == pytest.approx(now - (age or 60), abs=1)

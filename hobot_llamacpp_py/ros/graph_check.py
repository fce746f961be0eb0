"""Who publishes the images and prompts that the node wants, how fast, and whether it would arrive.

A check as those of `health` are, here because it asks ROS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name
from sensor_msgs.msg import CompressedImage, Image

from hobot_llamacpp_py.health.check import Case, Result

__all__ = ['check']

DISCOVERY = 3.0  # seconds; Fast DDS may take as long
WATCH = 2.0  # seconds of counting images
_IMAGES = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CompressedImage': CompressedImage}
_SHARED = 'hbm_img_msgs/msg/HbmMsg1080P'
_TEXT = 'std_msgs/msg/String'
_CAMERA = 'ros2 run hobot_llamacpp_py camera config/image2.jpg, or start the camera'


def check(case: Case) -> Iterator[Result]:
    """Look into the graph for a few seconds."""
    if not case.machine.is_live:
        yield Result('skipped', 'topics are to be seen live only')
        return
    topics = [topic for topic in (case.image_topic, case.prompt_topic) if topic]
    try:
        for topic in topics:
            validate_full_topic_name(expand_topic_name(topic, 'llamacpp_node', '/'))
    except (ValueError, NameValidationException):
        yield Result('skipped', f'{topic!r} is no topic')
        return
    context = Context()
    rclpy.init(args=[], context=context)
    try:
        node = rclpy.create_node(
            'llamacpp_doctor', context=context, start_parameter_services=False
        )
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def everybody() -> bool:
            found = [node.get_publishers_info_by_topic(topic) for topic in topics]
            # A publisher is discovered before the name of its node is.
            return all(found) and all(_has_name(info) for infos in found for info in infos)

        _spin(executor, DISCOVERY, everybody)
        if case.image_topic:
            yield from _images(node, executor, case.image_topic)
        if case.prompt_topic:
            yield _prompts(node, case.prompt_topic)
        executor.shutdown()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


def _spin(
    executor: SingleThreadedExecutor, seconds: float, done: Callable[[], bool] = lambda: False
) -> float:
    """Serve callbacks for so long, or until it is done; return how long that took."""
    started = time.monotonic()
    while (passed := time.monotonic() - started) < seconds and not done():
        executor.spin_once(timeout_sec=min(0.05, seconds - passed))
    return time.monotonic() - started


def _images(node: Node, executor: SingleThreadedExecutor, topic: str) -> Iterator[Result]:
    publishers = [
        (name, info)
        for name in dict.fromkeys((topic, f'{topic}/compressed'))
        for info in node.get_publishers_info_by_topic(name)
    ]
    if not publishers:
        yield Result('warning', f'nobody publishes {topic}', _CAMERA)
        return
    for name, info in publishers:
        kind = info.topic_type
        said = f'{name}: {kind}, {_qos(info)}'
        if kind == _SHARED:
            yield Result('ok', f'{said}; taken with is_shared_mem_sub 1')
        elif kind not in _IMAGES:
            known = ', '.join(_IMAGES)
            yield Result('failure', f'{said}, which is no image', f'publish one of {known}')
        else:
            yield _rate(node, executor, name, info, said)


def _rate(
    node: Node, executor: SingleThreadedExecutor, topic: str, info: Any, said: str
) -> Result:
    count = 0

    def on_image(_: bytes) -> None:
        nonlocal count
        count += 1

    # As bytes: what is in them does not matter here. As RELIABLE as the publisher, as the node's
    # own subscription is: of large images little arrives otherwise.
    is_reliable = info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    offered = ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT
    qos = QoSProfile(depth=1, reliability=offered)
    kind = _IMAGES[info.topic_type]
    subscription = node.create_subscription(kind, topic, on_image, qos, raw=True)
    _spin(executor, 1.0, lambda: count > 0)
    count = 0
    seconds = _spin(executor, WATCH)
    node.destroy_subscription(subscription)
    if not count:
        return Result('warning', f'{said}, but no image came within {WATCH:g} s', _CAMERA)
    return Result('ok', f'{said}, {count / seconds:.1f} a second')


def _prompts(node: Node, topic: str) -> Result:
    publishers = node.get_publishers_info_by_topic(topic)
    wrong = [info for info in publishers if info.topic_type != _TEXT]
    lossy = [
        info
        for info in publishers
        if info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    ]
    if wrong:
        said = f'{topic}: {wrong[0].topic_type}, which does not arrive'
        return Result('failure', said, f'publish {_TEXT}')
    if lossy:
        return Result(
            'failure',
            f'{topic}: the node subscribes RELIABLE, and {_node_of(lossy[0])} publishes'
            ' BEST_EFFORT: its prompts do not arrive',
            'publish prompts with reliability RELIABLE',
        )
    if not publishers:
        example = f"ros2 topic pub --once {topic} {_TEXT} 'data: Describe the image.'"
        return Result('ok', f'{topic}: nobody publishes yet (for example {example})')
    return Result('ok', f'{topic}: {_TEXT}, {_qos(publishers[0])}')


def _has_name(info: Any) -> bool:
    return 'UNKNOWN' not in info.node_name


def _node_of(info: Any) -> str:
    if not _has_name(info):
        return 'a node without a name'
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def _qos(info: Any) -> str:
    profile: QoSProfile = info.qos_profile
    return f'{profile.reliability.name} {profile.durability.name} by {_node_of(info)}'

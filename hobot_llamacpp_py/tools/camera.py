"""Publish pictures as a camera does: from a file, a folder, a video or a webcam."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.errors import ImageError, VlmError
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.ros.frame import bgr_to_compressed, bgr_to_image
from hobot_llamacpp_py.signals import News, on_end
from hobot_llamacpp_py.tools.arguments import ArgumentParser, number_below, topic
from hobot_llamacpp_py.tools.frames import frames_of

__all__ = ['main']

DISCOVERY_TIMEOUT = 5.0  # seconds; Fast DDS may take 3
MATCH_TIME = 0.2  # seconds until a subscriber that was discovered has discovered us, too
DELIVERY_TIMEOUT = 5.0  # seconds
LARGEST = 16384  # pixels of a side


def main(arguments: list[str] | None = None) -> None:
    """Publish until there are no more pictures, or Ctrl-C; exit with 1 if there are none."""
    parser = ArgumentParser(
        prog='camera',
        description=__doc__,
        epilog='Exit status: 0 after the last picture or Ctrl-C, 1 if the source cannot be read.',
    )
    parser.add_argument('source', help='a picture, a folder of them, a video, or /dev/video0')
    parser.add_argument('--topic', type=topic, default='/image', help='%(default)s')
    parser.add_argument(
        '--rate', type=number_below(1000), help='frames a second (10; a video: its own)'
    )
    parser.add_argument('--size', type=_size, metavar='WIDTHxHEIGHT', help='scale to this size')
    parser.add_argument('--compressed', action='store_true', help='as JPEG (CompressedImage)')
    parser.add_argument('--best-effort', action='store_true', help='not RELIABLE')
    parser.add_argument(
        '--no-loop', action='store_true', help='wait for a subscriber, end after the last picture'
    )
    parser.add_argument('--frame-id', default='camera', help='of the header: %(default)s')
    given = rclpy.utilities.remove_ros_args(sys.argv if arguments is None else ['', *arguments])
    options = parser.parse_args(given[1:])
    try:
        _publish(options, arguments)
    except (VlmError, rclpy_implementation.RCLError) as error:
        print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
        sys.exit(1)


def _publish(options: argparse.Namespace, arguments: list[str] | None) -> None:
    source = Path(options.source)
    if not source.exists():  # nor is it a device
        source = find_file(options.source, options.source)
    warn = get_logger('camera').warning
    frames, rate = frames_of(source, warn, loops=not options.no_loop)
    first = next(frames, None)
    if first is None:
        raise ImageError(f'{source}: there is no picture in it')
    stopping: News[None] = News()
    # rclpy's own handlers would shut its context down in the middle of a publish.
    rclpy.init(args=arguments, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    on_end(lambda *_: stopping.put(None))
    node = rclpy.create_node('camera')
    reliability = (
        ReliabilityPolicy.BEST_EFFORT if options.best_effort else ReliabilityPolicy.RELIABLE
    )
    publisher = node.create_publisher(
        CompressedImage if options.compressed else Image,
        options.topic,
        QoSProfile(depth=3, reliability=reliability),
    )
    rate = options.rate or rate
    write = bgr_to_compressed if options.compressed else bgr_to_image
    node.get_logger().info(
        f'{options.source} at {rate:g} frames a second on {publisher.topic_name}'
    )
    # What is sent once would be gone before anybody is discovered.
    if options.no_loop and not _await_subscriber(publisher, stopping):
        node.get_logger().warning(f'nobody subscribes to {publisher.topic_name}')
    due = time.monotonic()
    for frame in itertools.chain([first], frames):
        bgr = frame.bgr
        if options.size:
            bgr = cv2.resize(bgr, options.size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        header = Header(stamp=node.get_clock().now().to_msg(), frame_id=options.frame_id)
        publisher.publish(write(bgr, header))
        due = max(due + 1 / rate, time.monotonic())  # what is late is not made up for
        if stopping.wait(due - time.monotonic()):
            break
    if options.no_loop and not options.best_effort and not stopping.wait(0):
        publisher.wait_for_all_acked(Duration(seconds=DELIVERY_TIMEOUT))
    node.destroy_node()
    rclpy.shutdown()


def _await_subscriber(publisher: Any, stopping: News[None]) -> bool:
    deadline = time.monotonic() + DISCOVERY_TIMEOUT
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline or stopping.wait(0.02):
            return False
    stopping.wait(MATCH_TIME)
    return True


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no size such as 640x480') from None
    if min(width, height) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} has nothing in it')
    if max(width, height) > LARGEST:
        raise argparse.ArgumentTypeError(f'{text!r} is too large: at most {LARGEST} a side')
    return width, height


if __name__ == '__main__':
    main()

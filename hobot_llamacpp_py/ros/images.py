"""Image messages: subscribing to whatever type a topic has, and converting to BGR."""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.errors import ImageError, ParameterError
from hobot_llamacpp_py.vision.image_file import decoded, nv12_to_bgr

__all__ = [
    'Frame',
    'ImageSubscription',
    'SubscriptionEventCallbacks',
    'compressed_to_bgr',
    'hbm_to_bgr',
    'image_sources',
    'image_to_bgr',
    'shared_memory_sources',
]

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

log = logging.getLogger(__name__)

POLL_PERIOD = 0.5  # seconds between two looks at the graph
SHARED_MEMORY_TOPIC = '/hbmem_img'


@dataclass(frozen=True)
class Frame:
    """An image message as it came; it is converted only when a prompt asks for it."""

    message: Any
    received: float
    """Time of reception on the steady clock, in seconds."""

    def is_fresh(self, max_age: float) -> bool:
        """Tell whether it was received at most `max_age` seconds ago; 0: any age will do."""
        return not 0 < max_age < time.monotonic() - self.received

    def bgr(self) -> npt.NDArray[np.uint8]:
        """Convert to BGR [h, w, 3].

        Raises:
            ImageError: the message is damaged or of an unknown encoding.
        """
        if isinstance(self.message, CompressedImage):
            return compressed_to_bgr(self.message)
        if isinstance(self.message, Image):
            return image_to_bgr(self.message)
        return hbm_to_bgr(self.message)

    def header(self) -> Header:
        """Return the image's header; one from shared memory has an index instead of a frame id."""
        if isinstance(self.message, (CompressedImage, Image)):
            return self.message.header
        return Header(stamp=self.message.time_stamp, frame_id=str(self.message.index))


@dataclass(frozen=True)
class _Source:
    """A topic with one of the types that images have."""

    topic: str
    message_type: type

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
    return (_Source(node.resolve_topic_name(SHARED_MEMORY_TOPIC), HbmMsg1080P),)


class ImageSubscription:
    """A subscription to the first of some sources that has a publisher; changes are followed.

    It is BEST_EFFORT, so that it matches every publisher. Only where images are seen to get lost
    on the way (they are large, and a busy machine reads too late) and all publishers are
    RELIABLE, it asks for RELIABLE too, so that they are sent again.

    Args:
        node: the node that subscribes.
        sources: where images may come from, the best first.
        on_message: called with each message.
    """

    def __init__(
        self, node: Node, sources: tuple[_Source, ...], on_message: Callable[[Any], None]
    ) -> None:
        self.lost = 0
        """Images that were published but did not arrive whole."""
        self._node, self._on_message = node, on_message
        self._subscription: Any = None
        self._losing = False
        self._candidates = sources
        self._current: _Source | None = None
        if len(sources) == 1:
            self._subscribe(sources[0], ReliabilityPolicy.BEST_EFFORT)
        self._follow()
        node.create_timer(POLL_PERIOD, self._follow)

    @property
    def description(self) -> str:
        """What is subscribed to, in words."""
        if self._current is None or not self._is_published:
            return f'nobody publishes on {self._candidates[0].topic}'
        lost = f', {self.lost} images lost on the way' if self.lost else ''
        return f'{self._current}, {self._reliability.name}{lost}'

    def _follow(self) -> None:
        """Look at the graph and subscribe to what is there."""
        reliabilities = {source: self._published(source) for source in self._candidates}
        found = [source for source in self._candidates if reliabilities[source]]
        self._is_published = bool(found)
        wanted = self._wanted(found)
        if wanted is None:
            return
        all_reliable = reliabilities[wanted] == {ReliabilityPolicy.RELIABLE}
        if wanted != self._current:
            self._losing = False
        best = ReliabilityPolicy.BEST_EFFORT
        reliability = ReliabilityPolicy.RELIABLE if self._losing and all_reliable else best
        if wanted != self._current or reliability != self._reliability:
            self._subscribe(wanted, reliability)

    def _wanted(self, found: list[_Source]) -> _Source | None:
        # Publishers come and go one by one: do not leave the one that is still there.
        on_topic = [source for source in found if source.topic == self._candidates[0].topic]
        if self._current in (on_topic or found):
            return self._current
        return found[0] if found else None

    def _published(self, source: _Source) -> set[ReliabilityPolicy]:
        """Return the reliabilities of a source's publishers, empty if there is none."""
        return {
            publisher.qos_profile.reliability
            for publisher in self._node.get_publishers_info_by_topic(source.topic)
            if publisher.topic_type == source.type_name
        }

    def _subscribe(self, source: _Source, reliability: ReliabilityPolicy) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        # Depth 1 keeps only the newest frame in the middleware too.
        qos = QoSProfile(reliability=reliability, history=HistoryPolicy.KEEP_LAST, depth=1)
        arguments = (source.message_type, source.topic, self._on_message, qos)
        try:
            events = SubscriptionEventCallbacks(message_lost=self._on_lost)
            self._subscription = self._node.create_subscription(*arguments, event_callbacks=events)
        except UnsupportedEventTypeError:  # not every middleware tells what it loses
            self._subscription = self._node.create_subscription(*arguments)
        self._current, self._reliability = source, reliability
        self._node.get_logger().info(f'images come from {source}, {reliability.name}')

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change
        self._losing = True


# encoding: number type, numbers a pixel, conversion to BGR (None: is BGR already)
_ENCODINGS: dict[str, tuple[type, int, int | None]] = {
    'bgr8': (np.uint8, 3, None),
    '8UC3': (np.uint8, 3, None),
    'rgb8': (np.uint8, 3, cv2.COLOR_RGB2BGR),
    'bgra8': (np.uint8, 4, cv2.COLOR_BGRA2BGR),
    '8UC4': (np.uint8, 4, cv2.COLOR_BGRA2BGR),
    'rgba8': (np.uint8, 4, cv2.COLOR_RGBA2BGR),
    'mono8': (np.uint8, 1, cv2.COLOR_GRAY2BGR),
    '8UC1': (np.uint8, 1, cv2.COLOR_GRAY2BGR),
    'mono16': (np.uint16, 1, cv2.COLOR_GRAY2BGR),
    '16UC1': (np.uint16, 1, cv2.COLOR_GRAY2BGR),
    'yuv422': (np.uint8, 2, cv2.COLOR_YUV2BGR_UYVY),
    'uyvy': (np.uint8, 2, cv2.COLOR_YUV2BGR_UYVY),
    'yuv422_yuy2': (np.uint8, 2, cv2.COLOR_YUV2BGR_YUY2),
    'yuyv': (np.uint8, 2, cv2.COLOR_YUV2BGR_YUY2),
    # OpenCV names a Bayer pattern after its second row, ROS after its first.
    'bayer_rggb8': (np.uint8, 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr8': (np.uint8, 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg8': (np.uint8, 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg8': (np.uint8, 1, cv2.COLOR_BayerGB2BGR),
    'bayer_rggb16': (np.uint16, 1, cv2.COLOR_BayerBG2BGR),
    'bayer_bggr16': (np.uint16, 1, cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg16': (np.uint16, 1, cv2.COLOR_BayerGR2BGR),
    'bayer_grbg16': (np.uint16, 1, cv2.COLOR_BayerGB2BGR),
}


def image_to_bgr(message: Image) -> npt.NDArray[np.uint8]:
    """Convert a sensor_msgs/Image to BGR [h, w, 3], without a copy where it is BGR already.

    Raises:
        ImageError: unknown encoding, or size, step and data do not fit each other.
    """
    encoding, width, height = message.encoding, message.width, message.height
    data = np.frombuffer(message.data, np.uint8)
    if encoding == 'nv12':
        return _nv12(data, width, height, message.step)
    if encoding not in _ENCODINGS:
        raise ImageError(
            f'images with encoding {encoding!r} are not supported; known are nv12,'
            f' {", ".join(_ENCODINGS)}'
        )
    dtype, channels, conversion = _ENCODINGS[encoding]
    what = f'an image of {width}x{height} with encoding {encoding}'
    rows = _rows(data, (height, width, channels), dtype, message.step, what)
    if conversion is None:
        return rows
    if channels == 2 and width % 2:
        raise ImageError(f'an image with encoding {encoding} has odd width {width}')
    bridge = _cv_bridge()
    # Some releases of cv_bridge overlook the padding of rows and would skew the picture.
    if bridge is not None and rows.flags.c_contiguous:
        try:
            return bridge.imgmsg_to_cv2(message, 'bgr8')
        except Exception as error:  # releases differ in the encodings and steps that they know
            log.debug('cv_bridge cannot convert %s: %s', encoding, error)
    if dtype is np.uint16:
        if bool(message.is_bigendian) != (sys.byteorder == 'big'):
            rows = rows.byteswap()
        # OpenCV takes no rows that begin in the middle of a number, as with an odd step.
        rows = cv2.convertScaleAbs(np.require(rows, requirements='A'), alpha=255 / 65535)
    try:
        return cv2.cvtColor(rows, conversion)  # type: ignore[return-value]
    except cv2.error as error:
        raise ImageError(
            f'an image of {width}x{height} with encoding {encoding} cannot be converted:'
            f' {error.err}'
        ) from None


def hbm_to_bgr(message: Any) -> npt.NDArray[np.uint8]:
    """Convert a hbm_img_msgs/HbmMsg1080P, which must be NV12, to BGR [h, w, 3].

    Raises:
        ImageError: another encoding, or size, step and data do not fit each other.
    """
    # Zero-padded; as in C, what stands behind the first zero does not count.
    encoding = bytes(message.encoding).partition(b'\0')[0].decode('ascii', 'replace')
    if encoding != 'nv12':
        raise ImageError(
            f'an image from shared memory has encoding {encoding!r}; only nv12 is supported there:'
            ' set the camera to nv12'
        )
    used = np.frombuffer(message.data, np.uint8)[: message.data_size]
    return _nv12(used, message.width, message.height, message.step)


def compressed_to_bgr(message: CompressedImage) -> npt.NDArray[np.uint8]:
    """Decode a sensor_msgs/CompressedImage (jpeg, png ...) to BGR [h, w, 3].

    Raises:
        ImageError: the data is not a picture.
    """
    bgr = decoded(message.data)
    if bgr is None:
        raise ImageError(
            f'a compressed image of {len(message.data)} bytes with format {message.format!r}'
            ' cannot be decoded; jpeg and png are supported'
        )
    return bgr


@functools.cache
def _cv_bridge() -> Any:
    """Return ROS' own converter where it is installed and fits this numpy, else None."""
    try:
        from cv_bridge import CvBridge

        return CvBridge()
    except Exception:  # it is compiled for one numpy and fails in many ways with another
        return None


def _nv12(
    data: npt.NDArray[np.uint8], width: int, height: int, step: int
) -> npt.NDArray[np.uint8]:
    """Convert the bytes of an NV12 image to BGR [h, w, 3]."""
    what = f'an image of {width}x{height} with encoding nv12'
    if width % 2 or height % 2:
        raise ImageError(f'{what} is impossible: both must be even')
    return nv12_to_bgr(_rows(data, (height * 3 // 2, width, 1), np.uint8, step, what)[:, :, 0])


def _rows(
    data: npt.NDArray[np.uint8], shape: tuple[int, int, int], dtype: type, step: int, what: str
) -> npt.NDArray[Any]:
    """View bytes as numbers [n_rows, width, channels], one row every `step` bytes; no copy.

    A step of 0 means rows without padding. `what` names the image in an error.
    """
    n_rows, width, channels = shape
    item = np.dtype(dtype).itemsize
    row_bytes = width * channels * item
    step = step or row_bytes
    if not row_bytes or not n_rows or step < row_bytes:
        raise ImageError(f'{what} and step {step} is impossible: a row has {row_bytes} bytes')
    needed = step * (n_rows - 1) + row_bytes
    if data.size < needed:
        raise ImageError(
            f'{what} and step {step} needs {needed} bytes, the message has {data.size}'
        )
    strides = (step, channels * item, item)
    return np.ndarray(shape, dtype, data, strides=strides)

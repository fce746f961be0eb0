"""Image messages: subscribing to whatever type a topic has, and converting to BGR."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.image_file import nv12_to_bgr

__all__ = ['Frame', 'ImageSubscription', 'compressed_to_bgr', 'image_to_bgr']

# BEST_EFFORT matches every publisher; depth 1 keeps only the newest frame in the middleware too.
NEWEST_FRAME = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=1
)
POLL_PERIOD = 0.5  # seconds between two looks at the graph


@dataclass(frozen=True)
class Frame:
    """An image message as it came; it is converted only when a prompt asks for it."""

    message: Any
    received: float
    """Time of reception on the steady clock, in seconds."""

    def bgr(self) -> npt.NDArray[np.uint8]:
        """Convert to BGR [h, w, 3].

        Raises:
            ImageError: the message is damaged or of an unknown encoding.
        """
        if isinstance(self.message, CompressedImage):
            return compressed_to_bgr(self.message)
        return image_to_bgr(self.message)


class ImageSubscription:
    """A subscription to an image topic that takes the type its publisher has.

    Args:
        node: the node that subscribes.
        topic: the topic's name.
        transport: `raw`, `compressed`, or `auto`: as the topic's publisher has it, else
            `<topic>/compressed` if somebody publishes there; changes are followed.
        on_message: called with each message.
    """

    def __init__(
        self, node: Node, topic: str, transport: str, on_message: Callable[[Any], None]
    ) -> None:
        self._node, self._topic = node, topic
        self._on_message = on_message
        self._current: tuple[str, type] | None = None
        self._subscription = None
        if transport == 'auto':
            self._follow()
            node.create_timer(POLL_PERIOD, self._follow)
        else:
            self._subscribe(topic, Image if transport == 'raw' else CompressedImage)

    @property
    def description(self) -> str:
        """What is subscribed to, in words."""
        if self._current is None:
            return f'nobody publishes on {self._topic} yet'
        topic, message_type = self._current
        return f'{topic} [sensor_msgs/msg/{message_type.__name__}]'

    def _follow(self) -> None:
        wanted = self._published()
        if wanted is not None and wanted != self._current:
            self._subscribe(*wanted)

    def _published(self) -> tuple[str, type] | None:
        candidates = (
            (self._topic, Image),
            (self._topic, CompressedImage),
            (f'{self._topic}/compressed', CompressedImage),
        )
        found = []
        for topic, message_type in candidates:
            publishers = self._node.get_publishers_info_by_topic(topic)
            name = f'sensor_msgs/msg/{message_type.__name__}'
            if any(publisher.topic_type == name for publisher in publishers):
                found.append((topic, message_type))
        # Publishers come and go one by one: do not leave the one that is still there.
        own_topic = [candidate for candidate in found if candidate[0] == self._topic]
        if self._current in (own_topic or found):
            return self._current
        return found[0] if found else None

    def _subscribe(self, topic: str, message_type: type) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._node.create_subscription(
            message_type, topic, self._on_message, NEWEST_FRAME
        )
        self._current = (topic, message_type)
        self._node.get_logger().info(f'images come from {self.description}')


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
    if encoding == 'nv12':
        if width % 2 or height % 2:
            raise ImageError(f'an nv12 image of {width}x{height}: both must be even')
        return nv12_to_bgr(_rows(message, np.uint8, 1, height * 3 // 2)[:, :, 0])
    if encoding not in _ENCODINGS:
        raise ImageError(
            f'images with encoding {encoding!r} are not supported; known are nv12,'
            f' {", ".join(_ENCODINGS)}'
        )
    dtype, channels, conversion = _ENCODINGS[encoding]
    rows = _rows(message, dtype, channels, height)
    if dtype is np.uint16:
        rows = cv2.convertScaleAbs(rows, alpha=255 / 65535)
    if conversion is None:
        return rows
    if channels == 2 and width % 2:
        raise ImageError(f'an image with encoding {encoding} has odd width {width}')
    try:
        return cv2.cvtColor(rows, conversion)  # type: ignore[return-value]
    except cv2.error as error:
        raise ImageError(
            f'an image of {width}x{height} with encoding {encoding} cannot be converted:'
            f' {error.err}'
        ) from None


def compressed_to_bgr(message: CompressedImage) -> npt.NDArray[np.uint8]:
    """Decode a sensor_msgs/CompressedImage (jpeg, png ...) to BGR [h, w, 3].

    Raises:
        ImageError: the data is not a picture.
    """
    data = np.frombuffer(message.data, np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if bgr is None:
        raise ImageError(
            f'a compressed image of {data.size} bytes with format {message.format!r} cannot be'
            ' decoded; jpeg and png are supported'
        )
    return bgr  # type: ignore[return-value]


def _rows(message: Image, dtype: type, channels: int, n_rows: int) -> npt.NDArray[Any]:
    """View a message's data as [n_rows, width, channels], honouring its step; no copy."""
    item = np.dtype(dtype).itemsize
    row_bytes = message.width * channels * item
    step = message.step or row_bytes
    data = np.frombuffer(message.data, np.uint8)
    if not message.width or not n_rows or step < row_bytes:
        raise ImageError(
            f'an image of {message.width}x{message.height} with encoding {message.encoding}'
            f' and step {message.step} is impossible: a row has {row_bytes} bytes'
        )
    needed = step * (n_rows - 1) + row_bytes
    if data.size < needed:
        raise ImageError(
            f'an image of {message.width}x{message.height} with encoding {message.encoding}'
            f' and step {step} needs {needed} bytes, the message has {data.size}'
        )
    big_endian = bool(message.is_bigendian)
    if item > 1 and (step % item or big_endian != (sys.byteorder == 'big')):
        order = '>' if big_endian else '<'
        rows = np.stack([data[i * step : i * step + row_bytes] for i in range(n_rows)])
        pixels = rows.view(np.dtype(dtype).newbyteorder(order)).astype(dtype)
        return pixels.reshape(n_rows, message.width, channels)
    strides = (step, channels * item, item)
    return np.ndarray((n_rows, message.width, channels), dtype, data, strides=strides)

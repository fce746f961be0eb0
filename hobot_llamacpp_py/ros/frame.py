"""One image message: its pixels as BGR, its header, and how old it is; and BGR as a message."""

from __future__ import annotations

import array
import functools
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.image_file import decoded
from hobot_llamacpp_py.vision.pixels import RawImage

__all__ = [
    'Frame',
    'Unreadable',
    'bgr_to_compressed',
    'bgr_to_image',
    'compressed_to_bgr',
    'hbm_to_bgr',
    'image_to_bgr',
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unreadable:
    """Stands for an image that came, but could not be read: what is wrong, in words."""

    reason: str


@dataclass(frozen=True)
class Frame:
    """An image message as it came; it is converted only when a prompt asks for it."""

    message: Any = field(repr=False)
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
        if isinstance(self.message, Unreadable):
            raise ImageError(self.message.reason)
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


def image_to_bgr(message: Image) -> npt.NDArray[np.uint8]:
    """Convert a sensor_msgs/Image to BGR [h, w, 3], without a copy where it is BGR already.

    Raises:
        ImageError: unknown encoding, or size, step and data do not fit each other.
    """
    image = RawImage(
        message.data,
        message.encoding,
        message.width,
        message.height,
        message.step,
        bool(message.is_bigendian),
    )
    bridge = None if image.is_bgr or image.encoding == 'nv12' else _cv_bridge()
    # Some releases of cv_bridge overlook the padding of rows and would skew the picture.
    if bridge is not None and image.rows().flags.c_contiguous:
        try:
            bgr: npt.NDArray[np.uint8] = bridge.imgmsg_to_cv2(message, 'bgr8')
            return bgr
        except Exception as error:  # releases differ in the encodings and steps that they know
            log.debug('cv_bridge cannot convert %s: %s', image.encoding, error)
    return image.bgr()


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
    return RawImage(used, encoding, message.width, message.height, message.step).bgr()


def compressed_to_bgr(message: CompressedImage) -> npt.NDArray[np.uint8]:
    """Decode a sensor_msgs/CompressedImage (jpeg, png ...) to BGR [h, w, 3].

    Raises:
        ImageError: the data is not a picture.
    """
    bgr = decoded(message.data)
    if bgr is None:
        raise ImageError(
            f'a compressed image of {len(message.data)} bytes with format {message.format!r}'
            ' cannot be decoded; jpeg and png of at most 100 megapixels are supported'
        )
    return bgr


def bgr_to_image(bgr: npt.NDArray[np.uint8], header: Header) -> Image:
    """Write a BGR picture [h, w, 3] into a sensor_msgs/Image."""
    height, width = bgr.shape[:2]
    message = Image(header=header, width=width, height=height, encoding='bgr8', step=width * 3)
    message.data = array.array('B')  # of another type each byte would be checked
    message.data.frombytes(np.ascontiguousarray(bgr).data)
    return message


def bgr_to_compressed(bgr: npt.NDArray[np.uint8], header: Header) -> CompressedImage:
    """Write a BGR picture [h, w, 3] into a sensor_msgs/CompressedImage, as JPEG."""
    message = CompressedImage(header=header, format='jpeg')
    message.data = array.array('B', cv2.imencode('.jpg', bgr)[1].tobytes())
    return message


@functools.cache
def _cv_bridge() -> Any:
    """Return ROS' own converter where it is installed and fits this numpy, else None."""
    try:
        from cv_bridge import CvBridge

        return CvBridge()
    except Exception:  # it is compiled for one numpy and fails in many ways with another
        return None

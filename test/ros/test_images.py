"""Image messages of every encoding become the same BGR picture."""

import struct
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')
from image_messages import image_message, shared_memory_message
from raw_images import ENCODINGS, greatest_difference, quadrants, raw_image
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.ros.frame import (
    Frame,
    compressed_to_bgr,
    hbm_to_bgr,
    image_to_bgr,
)


@pytest.mark.parametrize('pad', [0, 13])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_messages(encoding: str, pad: int) -> None:
    """A message's fields all arrive: the picture is that of its raw image."""
    for big_endian in (False, True):
        message = image_message(quadrants(), encoding, pad, big_endian)
        expected = raw_image(quadrants(), encoding, pad, big_endian).bgr()
        np.testing.assert_array_equal(image_to_bgr(message), expected)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_cv_bridge(encoding: str) -> None:
    """Where cv_bridge is installed and knows an encoding, it gives the same pixels as we do."""
    cv_bridge = pytest.importorskip('cv_bridge', reason='comes with ROS 2, and is not on PyPI')
    message = image_message(quadrants(), encoding)
    try:
        theirs = cv_bridge.CvBridge().imgmsg_to_cv2(message, 'bgr8')
    except cv_bridge.CvBridgeError as error:
        pytest.skip(f'cv_bridge does not know it: {error}')
    np.testing.assert_array_equal(raw_image(quadrants(), encoding).bgr(), theirs)


def test_bgr_is_not_copied() -> None:
    """A BGR image is looked at where the message holds it."""
    image = image_message(quadrants(), 'bgr8', 5)
    assert np.shares_memory(image_to_bgr(image), np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_compressed(suffix: str) -> None:
    """JPEG and PNG are decoded, whatever the format field says."""
    data = cv2.imencode(f'.{suffix}', quadrants())[1].tobytes()
    found = compressed_to_bgr(CompressedImage(format='bgr8; whatever', data=data))
    assert greatest_difference(found, quadrants()) < 12


def test_damaged_jpeg() -> None:
    """Data that is no picture is told with its size and format."""
    with pytest.raises(ImageError, match="3 bytes with format 'jpeg' cannot be decoded"):
        compressed_to_bgr(CompressedImage(format='jpeg', data=b'abc'))


def test_small_message_of_many_pixels() -> None:
    """A picture of a few bytes that would take gigabytes is refused before it is decoded."""
    side = 12_000
    rows = zlib.compress(b'\0' * side * (1 + side // 8), 1)
    head = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    parts = (b'IHDR', head), (b'IDAT', rows), (b'IEND', b'')
    chunks = [
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in parts
    ]
    data = b'\x89PNG\r\n\x1a\n' + b''.join(chunks)
    assert len(data) < 200_000
    with pytest.raises(ImageError, match='at most 100 megapixels'):
        compressed_to_bgr(CompressedImage(format='png', data=data))


class TestSharedMemory:
    """hbm_img_msgs/HbmMsg1080P."""

    @pytest.fixture(autouse=True)
    @staticmethod
    def messages() -> None:
        pytest.importorskip('hbm_img_msgs', reason='`make test` builds it')

    @pytest.mark.parametrize('pad', [0, 16])
    def test_nv12(self, pad: int) -> None:
        """An NV12 image is seen, its step honoured, its unused bytes not."""
        message = shared_memory_message(quadrants(), pad)
        assert greatest_difference(hbm_to_bgr(message), quadrants()) <= 4

    def test_step_zero(self) -> None:
        """A step that nobody filled in means rows without padding."""
        message = shared_memory_message(quadrants())
        message.step = 0
        assert greatest_difference(hbm_to_bgr(message), quadrants()) <= 4

    def test_encoding_ends_at_the_first_zero(self) -> None:
        """What a driver leaves in the encoding field behind its first zero is not read."""
        message = shared_memory_message(quadrants(), encoding=b'nv12\0jpeg')
        assert greatest_difference(hbm_to_bgr(message), quadrants()) <= 4

    def test_whole_field(self) -> None:
        """An image that takes up the whole field of 6,220,800 bytes is within it."""
        bgr = cv2.resize(quadrants(), (1920, 1080), interpolation=cv2.INTER_NEAREST)
        found = hbm_to_bgr(shared_memory_message(bgr, pad=1920))
        assert np.abs(found[100:400, 100:800].astype(int) - bgr[100:400, 100:800]).max() <= 4

    @pytest.mark.parametrize(
        ('fields', 'words'),
        [
            (dict(data_size=4607), 'step 64 needs 4608 bytes, the message has 4607'),
            (dict(data_size=0), 'step 64 needs 4608 bytes, the message has 0'),
            (dict(step=7), 'step 7 is impossible: a row has 64 bytes'),
            (dict(width=63), '63x48 with encoding nv12 is impossible: both must be even'),
            (dict(height=0), '64x0 with encoding nv12 and step 64 is impossible'),
            (dict(step=2**31, data_size=2**31), 'needs 152471339072 bytes'),
        ],
    )
    def test_impossible(self, fields: dict[str, int], words: str) -> None:
        """Fields that contradict each other are told in one line."""
        message = shared_memory_message(quadrants())
        for name, value in fields.items():
            setattr(message, name, value)
        with pytest.raises(ImageError, match=words):
            hbm_to_bgr(message)

    @pytest.mark.parametrize('encoding', [b'jpeg', b'bgr8', b'NV12', b'', b'nv12nv12nv12'])
    def test_other_encoding(self, encoding: bytes) -> None:
        """Another encoding than nv12 is named, and what to do."""
        shown = encoding.decode()
        with pytest.raises(ImageError, match=f"encoding '{shown}'; only nv12 is supported"):
            hbm_to_bgr(shared_memory_message(quadrants(), encoding=encoding))

    def test_header(self) -> None:
        """Its header is made of its index and its time stamp."""
        message = shared_memory_message(quadrants())
        message.index, message.time_stamp.sec, message.time_stamp.nanosec = 7, 5, 6
        header = Frame(message, 0.0).header()
        assert (header.frame_id, header.stamp.sec, header.stamp.nanosec) == ('7', 5, 6)


def test_header() -> None:
    """The header of other images is their own."""
    header = Header(frame_id='camera')
    for message in Image(header=header), CompressedImage(header=header):
        assert Frame(message, 0.0).header() == header

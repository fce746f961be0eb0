"""Image messages of every encoding become the same BGR picture."""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')
from image_messages import ENCODINGS, grey, image_message, shared_memory_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.ros.frame import (
    Frame,
    compressed_to_bgr,
    hbm_to_bgr,
    image_to_bgr,
)

WIDTH, HEIGHT = 64, 48
# Inside the four fields of the picture, away from their borders.
FIELDS = np.s_[4:20, 4:28], np.s_[4:20, 36:60], np.s_[28:44, 4:28], np.s_[28:44, 36:60]


def picture() -> np.ndarray:
    """Draw four fields of different colours: no swap of channels or axes goes unseen."""
    bgr = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    bgr[:24, :32], bgr[:24, 32:] = (200, 40, 20), (30, 60, 220)
    bgr[24:, :32], bgr[24:, 32:] = (40, 180, 60), (90, 200, 210)
    return bgr


def greatest_difference(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    return max(np.abs(found[f].astype(int) - expected[f]).max() for f in FIELDS)


@pytest.mark.parametrize('pad', [0, 1, 2, 13])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_encoding(encoding: str, pad: int) -> None:
    """Each encoding gives the picture back, with any padding at the end of its rows."""
    expected = picture()
    if encoding.startswith('mono'):
        expected = np.repeat(grey(expected)[:, :, np.newaxis], 3, 2)
    found = image_to_bgr(image_message(picture(), encoding, pad))
    tolerance = 4 if 'uy' in encoding or 'yu' in encoding or encoding == 'nv12' else 0
    assert greatest_difference(found, expected) <= tolerance


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16'])
def test_big_endian(encoding: str) -> None:
    """Sixteen-bit images may come in either byte order."""
    little = image_to_bgr(image_message(picture(), encoding, 6))
    big = image_to_bgr(image_message(picture(), encoding, 6, big_endian=True))
    assert (little == big).all()


def test_bgr_is_not_copied() -> None:
    """A BGR image is looked at where the message holds it."""
    image = image_message(picture(), 'bgr8', 5)
    assert np.shares_memory(image_to_bgr(image), np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_compressed(suffix: str) -> None:
    """JPEG and PNG are decoded, whatever the format field says."""
    data = cv2.imencode(f'.{suffix}', picture())[1].tobytes()
    found = compressed_to_bgr(CompressedImage(format='bgr8; whatever', data=data))
    assert greatest_difference(found, picture()) < 12


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        (dict(encoding='rgb8', data=b'123'), 'needs 9216 bytes, the message has 3'),
        (dict(encoding='jpeg'), "encoding 'jpeg' are not supported"),
        (dict(encoding='rgb8', step=7, data=bytes(9216)), 'step 7 is impossible'),
        (dict(encoding='rgb8', width=0), 'impossible'),
        (dict(encoding='nv12', width=63, data=bytes(9216)), 'both must be even'),
        (dict(encoding='yuv422', width=63, step=0, data=bytes(9216)), 'odd width 63'),
    ],
)
def test_impossible_images(fields: dict, words: str) -> None:
    """A message that contradicts itself is told in one line, not guessed at."""
    with pytest.raises(ImageError, match=words):
        image_to_bgr(Image(**{'width': WIDTH, 'height': HEIGHT, **fields}))


def test_damaged_jpeg() -> None:
    """Data that is no picture is told with its size and format."""
    with pytest.raises(ImageError, match="3 bytes with format 'jpeg' cannot be decoded"):
        compressed_to_bgr(CompressedImage(format='jpeg', data=b'abc'))


class TestSharedMemory:
    """hbm_img_msgs/HbmMsg1080P."""

    @pytest.fixture(autouse=True)
    @staticmethod
    def messages() -> None:
        pytest.importorskip('hbm_img_msgs', reason='`make test` builds it')

    @pytest.mark.parametrize('pad', [0, 16])
    def test_nv12(self, pad: int) -> None:
        """An NV12 image is seen, its step honoured, its unused bytes not."""
        message = shared_memory_message(picture(), pad)
        assert greatest_difference(hbm_to_bgr(message), picture()) <= 4

    def test_step_zero(self) -> None:
        """A step that nobody filled in means rows without padding."""
        message = shared_memory_message(picture())
        message.step = 0
        assert greatest_difference(hbm_to_bgr(message), picture()) <= 4

    def test_encoding_ends_at_the_first_zero(self) -> None:
        """What a driver leaves in the encoding field behind its first zero is not read."""
        message = shared_memory_message(picture(), encoding=b'nv12\0jpeg')
        assert greatest_difference(hbm_to_bgr(message), picture()) <= 4

    def test_whole_field(self) -> None:
        """An image that takes up the whole field of 6,220,800 bytes is within it."""
        bgr = cv2.resize(picture(), (1920, 1080), interpolation=cv2.INTER_NEAREST)
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
        message = shared_memory_message(picture())
        for name, value in fields.items():
            setattr(message, name, value)
        with pytest.raises(ImageError, match=words):
            hbm_to_bgr(message)

    @pytest.mark.parametrize('encoding', [b'jpeg', b'bgr8', b'NV12', b'', b'nv12nv12nv12'])
    def test_other_encoding(self, encoding: bytes) -> None:
        """Another encoding than nv12 is named, and what to do."""
        shown = encoding.decode()
        with pytest.raises(ImageError, match=f"encoding '{shown}'; only nv12 is supported"):
            hbm_to_bgr(shared_memory_message(picture(), encoding=encoding))

    def test_header(self) -> None:
        """Its header is made of its index and its time stamp."""
        message = shared_memory_message(picture())
        message.index, message.time_stamp.sec, message.time_stamp.nanosec = 7, 5, 6
        header = Frame(message, 0.0).header()
        assert (header.frame_id, header.stamp.sec, header.stamp.nanosec) == ('7', 5, 6)


def test_header() -> None:
    """The header of other images is their own."""
    header = Header(frame_id='camera')
    for message in Image(header=header), CompressedImage(header=header):
        assert Frame(message, 0.0).header() == header

"""Image messages of every encoding become the same BGR picture."""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from hobot_llamacpp_py.errors import ImageError  # noqa: E402
from hobot_llamacpp_py.ros.images import compressed_to_bgr, image_to_bgr  # noqa: E402

WIDTH, HEIGHT = 64, 48


def picture(grey: bool = False) -> np.ndarray:
    """Draw four fields of different colours: no swap of channels or axes goes unseen."""
    bgr = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    bgr[:24, :32], bgr[:24, 32:] = (200, 40, 20), (30, 60, 220)
    bgr[24:, :32], bgr[24:, 32:] = (40, 180, 60), (90, 200, 210)
    return cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) if grey else bgr


def message(encoding: str, rows: np.ndarray, pad: int, big_endian: bool = False) -> Image:
    """Make a message from rows of bytes, each padded at its end."""
    rows = rows.reshape(rows.shape[0], -1)
    item = rows.itemsize
    if big_endian:
        rows = rows.astype(rows.dtype.newbyteorder('>'))
    data = np.pad(rows.view(np.uint8), ((0, 0), (0, pad)), constant_values=99)
    return Image(
        width=WIDTH,
        height=HEIGHT,
        encoding=encoding,
        step=data.shape[1],
        is_bigendian=big_endian and item > 1,
        data=data.tobytes(),
    )


def yuv422(bgr: np.ndarray, luma_first: bool) -> np.ndarray:
    """Write BGR as packed 4:2:2 by the BT.601 equations."""
    y, u, v = bt601(bgr)
    chroma = np.empty_like(y)
    chroma[:, 0::2], chroma[:, 1::2] = u[:, 0::2], v[:, 0::2]
    return np.stack([y, chroma] if luma_first else [chroma, y], 2)


def nv12(bgr: np.ndarray) -> np.ndarray:
    y, u, v = bt601(bgr)
    uv = np.stack([u[0::2, 0::2], v[0::2, 0::2]], 2).reshape(HEIGHT // 2, WIDTH)
    return np.concatenate([y, uv])


def bt601(bgr: np.ndarray) -> list[np.ndarray]:
    b, g, r = (bgr[:, :, i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return [np.clip(np.round(plane), 0, 255).astype(np.uint8) for plane in (y, u, v)]


def bayer(bgr: np.ndarray, pattern: str) -> np.ndarray:
    """Sample one channel a pixel; `pattern` names the first two rows, left to right."""
    channel = {'b': 0, 'g': 1, 'r': 2}
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i, letter in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = bgr[i // 2 :: 2, i % 2 :: 2, channel[letter]]
    return mosaic


def case(encoding: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a message's rows and the picture that should come out."""
    bgr, grey = picture(), picture(grey=True)
    rgba = np.dstack([bgr[:, :, ::-1], np.full((HEIGHT, WIDTH), 7, np.uint8)])
    rows = {
        'bgr8': bgr,
        'rgb8': bgr[:, :, ::-1].copy(),
        'rgba8': rgba,
        'bgra8': rgba[:, :, [2, 1, 0, 3]],
        'mono8': grey[:, :, 0],
        'mono16': grey[:, :, 0].astype(np.uint16) * 257,
        'yuv422': yuv422(bgr, luma_first=False),
        'uyvy': yuv422(bgr, luma_first=False),
        'yuv422_yuy2': yuv422(bgr, luma_first=True),
        'yuyv': yuv422(bgr, luma_first=True),
        'nv12': nv12(bgr),
    }
    if encoding.startswith('bayer'):
        mosaic = bayer(bgr, encoding[6:10])
        return (mosaic.astype(np.uint16) * 257 if encoding.endswith('16') else mosaic), bgr
    return rows[encoding], grey if encoding.startswith('mono') else bgr


ENCODINGS = [
    *('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', 'nv12'),
    *('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'),
    *(f'bayer_{pattern}{bits}' for pattern in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)),
]


@pytest.mark.parametrize('pad', [0, 1, 2, 13])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_encoding(encoding: str, pad: int) -> None:
    """Each encoding gives the picture back, with any padding at the end of its rows."""
    rows, expected = case(encoding)
    found = image_to_bgr(message(encoding, rows, pad))
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert found.dtype == np.uint8
    inside = np.s_[4:20, 4:28], np.s_[4:20, 36:60], np.s_[28:44, 4:28], np.s_[28:44, 36:60]
    tolerance = 4 if encoding[:3] in ('yuv', 'uyv', 'nv1', 'yuy') else 0
    for field in inside:
        assert np.abs(found[field].astype(int) - expected[field]).max() <= tolerance


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16'])
def test_big_endian(encoding: str) -> None:
    """Sixteen-bit images may come in either byte order."""
    rows, expected = case(encoding)
    found = image_to_bgr(message(encoding, rows, 6, big_endian=True))
    assert (found[4:20, 4:28] == expected[4:20, 4:28]).all()


def test_bgr_is_not_copied() -> None:
    """A BGR image is looked at where the message holds it."""
    image = message('bgr8', picture(), 5)
    found = image_to_bgr(image)
    assert np.shares_memory(found, np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_compressed(suffix: str) -> None:
    """JPEG and PNG are decoded, whatever the format field says."""
    data = cv2.imencode(f'.{suffix}', picture())[1].tobytes()
    found = compressed_to_bgr(CompressedImage(format='bgr8; whatever', data=data))
    assert np.abs(found[4:20, 4:28].astype(int) - picture()[4:20, 4:28]).max() < 12


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

"""Image messages: the right pixels, or one line that says why there are none."""

from __future__ import annotations

import functools
import struct
import sys
import zlib
from typing import Any

import cv2
import numpy as np
from fuzz.target import Target, is_clear, mutated
from hypothesis import strategies as st
from nano import CONFIG
from raw_images import BAYER, ENCODINGS, YUV422
from sensor_msgs.msg import CompressedImage, Image
from togetheros import use_messages

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.vision.preprocess import fit

__all__ = ['CompressedImages', 'Images', 'SharedMemoryImages']

_ALIASES = {'8UC3': 'bgr8', '8UC4': 'bgra8', '8UC1': 'mono8', '16UC1': 'mono16'}
_KNOWN = (*ENCODINGS, *_ALIASES)
_CHANNELS = {'bgr8': 3, 'rgb8': 3, 'bgra8': 4, 'rgba8': 4, **dict.fromkeys(YUV422, 2)}
_EDGES = (0, 1, 2, 3, 255, 256, 32767, 65535, 65536, 2**16 + 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
_SIZE = st.integers(1, 24) | st.sampled_from([640, 1920, 40_000])
_ANY = st.sampled_from(_EDGES) | st.integers(0, 2**32 - 1)


def _row_bytes(encoding: str, width: int) -> int:
    name = _ALIASES.get(encoding, encoding)
    return width * _CHANNELS.get(name, 1) * (2 if name.endswith('16') else 1)


def _is_possible(value: dict[str, Any]) -> bool:
    """Tell whether a message means a picture, as sensor_msgs/Image documents its fields."""
    encoding, width, height = value['encoding'], value['width'], value['height']
    if encoding not in _KNOWN or not width or not height:
        return False
    if (encoding in YUV422 or encoding == 'nv12') and width % 2:
        return False
    if encoding == 'nv12' and height % 2:
        return False
    rows = height * 3 // 2 if encoding == 'nv12' else height
    row_bytes = _row_bytes(encoding, width)
    step = value['step'] or row_bytes
    return bool(step >= row_bytes and value['size'] >= step * (rows - 1) + row_bytes)


def _check_pixels(value: dict[str, Any], data: bytes, bgr: np.ndarray) -> None:
    """Compare with a plain conversion."""
    encoding = _ALIASES.get(value['encoding'], value['encoding'])
    width, height = value['width'], value['height']
    assert bgr.shape == (height, width, 3)
    assert bgr.dtype == np.uint8
    n_rows = height * 3 // 2 if encoding == 'nv12' else height
    row_bytes = _row_bytes(encoding, width)
    step = value['step'] or row_bytes
    lines = [data[i * step : i * step + row_bytes] for i in range(n_rows)]
    if encoding.endswith('16'):
        order = '>u2' if value['is_bigendian'] else '<u2'
        rows = np.stack([np.frombuffer(line, order) for line in lines])
        rows = np.rint(rows * (255 / 65535)).astype(np.uint8)
    else:
        rows = np.stack([np.frombuffer(line, np.uint8) for line in lines])
    if encoding in BAYER:
        for i, letter in enumerate(encoding[6:10]):  # what a pixel has measured stays
            y, x = i // 2, i % 2
            measured = rows[y::2, x::2], bgr[y::2, x::2, 'bgr'.index(letter)]
            expected, found = (
                m[1 - y : height // 2 - 1, 1 - x : width // 2 - 1] for m in measured
            )
            np.testing.assert_array_equal(found, expected)
    elif encoding in YUV422 or encoding == 'nv12':
        difference = np.abs(_yuv(encoding, rows, height) - bgr)
        assert difference.max() <= 2, difference.max()
    else:
        pixels = rows.reshape(height, width, -1)
        order = {'rgb8': [2, 1, 0], 'rgba8': [2, 1, 0], 'bgr8': [0, 1, 2], 'bgra8': [0, 1, 2]}
        np.testing.assert_array_equal(bgr, pixels[:, :, order.get(encoding, [0, 0, 0])])


def _yuv(encoding: str, rows: np.ndarray, height: int) -> np.ndarray:
    """Return BGR by BT.601, as floats."""
    if encoding == 'nv12':
        y, uv = rows[:height].astype(float), rows[height:].reshape(height // 2, -1, 2)
        u, v = (uv[:, :, i].repeat(2, 0).repeat(2, 1).astype(float) for i in (0, 1))
    else:
        at = 0 if encoding in ('yuv422_yuy2', 'yuyv') else 1
        y = rows[:, at::2].astype(float)
        u, v = (rows[:, i + 1 - at :: 4].repeat(2, 1).astype(float) for i in (0, 2))
    y, u, v = 1.164 * np.maximum(y - 16, 0), u - 128, v - 128
    return np.clip(np.stack([y + 2.018 * u, y - 0.813 * v - 0.391 * u, y + 1.596 * v], 2), 0, 255)


def _check_usable(bgr: np.ndarray) -> None:
    """Check that an encoder can be given a picture, whatever its shape."""
    for mode in ('letterbox', 'stretch'):
        fitted = fit(bgr, (224, 168), mode)  # type: ignore[arg-type]
        assert 0 < fitted.shape[0] <= 168
        assert 0 < fitted.shape[1] <= 224
        assert Picture.of(fitted).key


def _bytes(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


class Images(Target):
    """sensor_msgs/Image of every encoding."""

    memory = 512 << 20

    @staticmethod
    @st.composite
    def _fitting(draw: Any) -> dict[str, Any]:
        """Make messages that are whole, with padding and bytes to spare, or a little short."""
        encoding, width, height = draw(st.sampled_from(_KNOWN)), draw(_SIZE), draw(_SIZE)
        if width * height > 200_000:
            height = draw(st.integers(1, 4))
        row_bytes = _row_bytes(encoding, width)
        step = draw(st.just(0) | st.integers(row_bytes, row_bytes + 9))
        rows = height * 3 // 2 if encoding == 'nv12' else height
        least = (step or row_bytes) * (rows - 1) + row_bytes
        size = max(0, least + draw(st.sampled_from([0, 0, 0, 1, 7, -1, -least])))
        return {
            **{'encoding': encoding, 'width': width, 'height': height, 'step': step},
            **{'is_bigendian': draw(st.booleans()), 'size': size},
            'seed': draw(st.integers(0, 2**16)),
        }

    _hostile = st.fixed_dictionaries(
        {
            'encoding': st.sampled_from(_KNOWN) | st.text(max_size=8),
            'width': _ANY,
            'height': _ANY,
            'step': _ANY,
            'is_bigendian': st.booleans(),
            'size': st.integers(0, 5000),
            'seed': st.just(0),
        }
    )
    inputs = _fitting() | _hostile

    def check(self, value: dict[str, Any]) -> None:
        data = _bytes(value['seed'], value['size'])
        fields = {name: value[name] for name in ('encoding', 'width', 'height', 'step')}
        message = Image(**fields, is_bigendian=value['is_bigendian'], data=data)
        try:
            bgr = Frame(message, 0.0).bgr()
        except ImageError as error:
            is_clear(error)
            # OpenCV needs the neighbours of a pixel.
            small = value['encoding'] in BAYER and min(value['width'], value['height']) < 3
            assert small or not _is_possible(value), str(error)
            return
        assert _is_possible(value)
        _check_pixels(value, data, bgr)
        _check_usable(bgr)


class SharedMemoryImages(Target):
    """hbm_img_msgs/HbmMsg1080P, whose fields have a fixed size."""

    def __enter__(self) -> SharedMemoryImages:
        use_messages()
        from hbm_img_msgs.msg import HbmMsg1080P

        self._message = functools.partial(HbmMsg1080P)
        self._most = HbmMsg1080P.MAX_SIZE
        return self

    _even = st.integers(1, 30).map(lambda n: 2 * n)
    _number = _ANY | st.integers(0, 100)
    inputs = st.fixed_dictionaries(
        {
            'encoding': st.just(b'nv12') | st.binary(max_size=12),
            'width': _even | st.just(1920) | _number,
            'height': _even | _number,
            'step': st.just(0) | st.just(1920) | _number,
            'data_size': st.just(6_220_800) | _number,
            'seed': st.integers(0, 9),
        }
    )

    def check(self, value: dict[str, Any]) -> None:
        data = np.frombuffer(_bytes(value['seed'], 64 << 10), np.uint8)
        field = np.resize(data, self._most)
        fields = {name: value[name] for name in ('width', 'height', 'step', 'data_size')}
        encoding = np.frombuffer(value['encoding'].ljust(12, b'\0'), np.uint8)
        message = self._message(**fields, encoding=encoding, data=field)
        name = value['encoding'].split(b'\0')[0].decode('latin-1')
        size = min(value['data_size'], self._most)
        means = {**value, 'encoding': name, 'size': size, 'is_bigendian': False}
        try:
            bgr = Frame(message, 0.0).bgr()
        except ImageError as error:
            is_clear(error)
            assert name != 'nv12' or not _is_possible(means), str(error)
            return
        assert name == 'nv12'
        assert _is_possible(means)
        _check_pixels(means, field.tobytes(), bgr)
        _check_usable(bgr)


def _png(width: int, height: int, rows: int, colour: int = 0, depth: int = 8) -> bytes:
    """Write a PNG that promises a size and has some rows of black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + check

    head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    rows = min(rows, (1 << 22) // max(width, 1))
    data = zlib.compress(bytes((width + 1) * rows), 9)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


def _file(suffix: str, size: tuple[int, int], seed: int) -> bytes:
    bgr = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.imencode(suffix, cv2.blur(bgr, (5, 5)))[1].tobytes()


def _resized(data: bytes, width: int, height: int) -> bytes:
    """Let a JPEG promise another size."""
    at = max(data.find(b'\xff\xc0'), data.find(b'\xff\xc2'))
    return data[: at + 5] + struct.pack('>HH', height, width) + data[at + 9 :]


class CompressedImages(Target):
    """sensor_msgs/CompressedImage: files whole, cut, changed, or promising too much."""

    MOST_PIXELS = 100 * 10**6
    _sizes = st.tuples(st.integers(1, 64), st.integers(1, 64))
    _suffixes = st.sampled_from(['.jpg', '.png', '.webp', '.bmp', '.jpg', '.png'])
    _files = st.builds(_file, _suffixes, _sizes, st.integers(0, 99))
    _big = st.sampled_from([1, 100, 8192, 16000, 32000, 65500, 2**20, 2**31 - 1])
    _bombs = st.one_of(
        st.builds(_png, _big, _big, _big, st.sampled_from([0, 2, 3, 4, 6]), st.just(8)),
        st.builds(
            _resized,
            st.builds(_file, st.just('.jpg'), _sizes, st.just(0)),
            st.integers(0, 65535) | st.sampled_from([16000, 65500]),
            st.integers(0, 65535) | st.sampled_from([16000, 65500]),
        ),
    )
    _heads = st.sampled_from(
        [b'P6\n9999 9999\n255\n', b'BM', b'RIFF\x10\0\0\0WEBPVP8 ', b'II*\0', b'MM\0*', b'GIF89a']
        + [b'#?RADIANCE\n\n-Y 30000 +X 30000\n', b'\0\0\0\x0cjP  \r\n\x87\n', b'v/1\x01', b'P7\n']
        + [b'\0\0\0\x1cftypavif', b'\x59\xa6\x6a\x95', (CONFIG / 'image2.jpg').read_bytes()[:600]]
    )
    inputs = st.one_of(
        _files,
        mutated(_files),
        st.builds(lambda data, n: data[: n * len(data) // 100], _files, st.integers(0, 99)),
        _bombs,
        mutated(_bombs),
        st.builds(lambda head, data: head + data, _heads, st.binary(max_size=300)),
    )

    def check(self, value: bytes) -> None:
        try:
            bgr = Frame(CompressedImage(format='jpeg', data=value), 0.0).bgr()
        except ImageError as error:
            is_clear(error, str(len(value)), 'jpeg')
            return
        assert bgr.dtype == np.uint8
        assert bgr.ndim == 3
        assert bgr.shape[2] == 3
        assert bgr.shape[0] * bgr.shape[1] <= self.MOST_PIXELS
        if bgr.size < 1 << 20:
            expected = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(bgr, expected)
        _check_usable(bgr)


assert sys.byteorder == 'little'

"""Image messages of every encoding, made by plain arithmetic from a BGR picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image

BAYER = tuple(f'bayer_{p}{bits}' for p in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16))
YUV422 = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv')
ENCODINGS = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', 'nv12', *YUV422, *BAYER)


def image_message(bgr: np.ndarray, encoding: str, pad: int = 0, big_endian: bool = False) -> Image:
    """Write a picture in an encoding, each row padded with some bytes at its end."""
    height, width = bgr.shape[:2]
    rows = encoded(bgr, encoding)
    rows = rows.reshape(rows.shape[0], -1)
    if big_endian:
        rows = rows.astype(rows.dtype.newbyteorder('>'))
    data = np.pad(rows.view(np.uint8), ((0, 0), (0, pad)), constant_values=99)
    return Image(
        width=width,
        height=height,
        encoding=encoding,
        step=data.shape[1],
        is_bigendian=big_endian,
        data=data.tobytes(),
    )


def encoded(bgr: np.ndarray, encoding: str) -> np.ndarray:
    """Return the rows of a picture in an encoding, [rows, width or more axes]."""
    rgb = bgr[:, :, ::-1]
    alpha = np.full((*bgr.shape[:2], 1), 7, np.uint8)
    if encoding in BAYER:
        mosaic = _mosaic(bgr, encoding[6:10])
        return mosaic.astype(np.uint16) * 257 if encoding.endswith('16') else mosaic
    if encoding in YUV422:
        return _yuv422(bgr, luma_first=encoding in ('yuv422_yuy2', 'yuyv'))
    return {
        'bgr8': lambda: bgr,
        'rgb8': lambda: np.ascontiguousarray(rgb),
        'rgba8': lambda: np.dstack([rgb, alpha]),
        'bgra8': lambda: np.dstack([bgr, alpha]),
        'mono8': lambda: grey(bgr),
        'mono16': lambda: grey(bgr).astype(np.uint16) * 257,
        'nv12': lambda: nv12(bgr),
    }[encoding]()


def grey(bgr: np.ndarray) -> np.ndarray:
    """Return a picture's brightness [h, w]."""
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)


def nv12(bgr: np.ndarray) -> np.ndarray:
    """Return a picture's NV12 planes [h * 3 / 2, w]."""
    y, u, v = _bt601(bgr)
    uv = np.stack([u[0::2, 0::2], v[0::2, 0::2]], 2).reshape(-1, bgr.shape[1])
    return np.concatenate([y, uv])


def _yuv422(bgr: np.ndarray, luma_first: bool) -> np.ndarray:
    y, u, v = _bt601(bgr)
    chroma = np.empty_like(y)
    chroma[:, 0::2], chroma[:, 1::2] = u[:, 0::2], v[:, 0::2]
    return np.stack([y, chroma] if luma_first else [chroma, y], 2)


def _bt601(bgr: np.ndarray) -> list[np.ndarray]:
    b, g, r = (bgr[:, :, i].astype(float) for i in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return [np.clip(np.round(plane), 0, 255).astype(np.uint8) for plane in (y, u, v)]


def _mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    """Sample one channel a pixel; the pattern names the first two rows, left to right."""
    mosaic = bgr[:, :, 1].copy()
    for i, letter in enumerate(pattern):
        row, column = slice(i // 2, None, 2), slice(i % 2, None, 2)
        mosaic[row, column] = bgr[row, column, 'bgr'.index(letter)]
    return mosaic


def shared_memory_message(bgr: np.ndarray, pad: int = 0, encoding: bytes = b'nv12') -> Any:
    """Write a picture into a hbm_img_msgs/HbmMsg1080P; bytes that are not used are 99."""
    from hbm_img_msgs.msg import HbmMsg1080P

    rows = np.pad(nv12(bgr), ((0, 0), (0, pad)), constant_values=99)
    data = np.full(HbmMsg1080P.MAX_SIZE, 99, np.uint8)
    data[: rows.size] = rows.ravel()
    return HbmMsg1080P(
        height=bgr.shape[0],
        width=bgr.shape[1],
        step=rows.shape[1],
        data_size=rows.size,
        encoding=np.frombuffer(encoding.ljust(12, b'\0'), np.uint8),
        data=data,
    )

"""Raw images of every encoding, made by plain arithmetic from a BGR picture."""

from __future__ import annotations

import cv2
import numpy as np

from hobot_llamacpp_py.vision.pixels import RawImage

BAYER = tuple(f'bayer_{p}{bits}' for p in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16))
YUV422 = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv')
ENCODINGS = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', 'nv12', *YUV422, *BAYER)


def raw_image(bgr: np.ndarray, encoding: str, pad: int = 0, big_endian: bool = False) -> RawImage:
    """Write a picture in an encoding, each row padded with some bytes at its end."""
    height, width = bgr.shape[:2]
    rows = encoded(bgr, encoding)
    rows = rows.reshape(rows.shape[0], -1)
    if big_endian:
        rows = rows.astype(rows.dtype.newbyteorder('>'))
    data = np.pad(rows.view(np.uint8), ((0, 0), (0, pad)), constant_values=99)
    return RawImage(data.tobytes(), encoding, width, height, data.shape[1], big_endian)


def quadrants(width: int = 64, height: int = 48) -> np.ndarray:
    """Draw four fields of different colours: no swap of channels or axes goes unseen."""
    bgr, row, column = np.zeros((height, width, 3), np.uint8), height // 2, width // 2
    bgr[:row, :column], bgr[:row, column:] = (200, 40, 20), (30, 60, 220)
    bgr[row:, :column], bgr[row:, column:] = (40, 180, 60), (90, 200, 210)
    return bgr


def greatest_difference(found: np.ndarray, expected: np.ndarray) -> int:
    """Compare the insides of the four fields of 64 x 48 pixels, away from their borders."""
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    fields = np.s_[4:20, 4:28], np.s_[4:20, 36:60], np.s_[28:44, 4:28], np.s_[28:44, 36:60]
    return max(np.abs(found[f].astype(int) - expected[f]).max() for f in fields)


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

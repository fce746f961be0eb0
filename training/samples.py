"""Draw the two sample pictures of `config/`: `python -m training.samples --out config`."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

_FINE = 4  # drawn so many times larger, then shrunk: smooth edges


def _canvas(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a soft light background."""
    top, bottom = np.array((255, 251, 246)), np.array((238, 235, 229))
    way = np.linspace(0, 1, height * _FINE)[:, None]
    column = (top * (1 - way) + bottom * way).astype(np.uint8)
    return np.repeat(column[:, None], width * _FINE, axis=1)


def _fill(canvas: npt.NDArray[np.uint8], points: npt.NDArray[np.float64], color: str) -> None:
    rgb = [int(color[i : i + 2], 16) for i in (0, 2, 4)]
    cv2.fillPoly(canvas, [np.round(points * _FINE).astype(np.int32)], rgb[::-1], cv2.LINE_AA)


def _ring(x: float, y: float, radii: npt.ArrayLike, start: float = -90) -> npt.NDArray[np.float64]:
    """Return points around a centre, one for each radius, the first at `start` degrees."""
    lengths = np.asarray(radii, float)
    angles = np.deg2rad(start) + np.arange(len(lengths)) * 2 * np.pi / len(lengths)
    return np.stack((x + lengths * np.cos(angles), y + lengths * np.sin(angles)), 1)


def landscape() -> npt.NDArray[np.uint8]:
    """Draw a yellow star at the top, a red circle on the left, a blue square on the right."""
    canvas = _canvas(640, 480)
    _fill(canvas, _ring(320, 112, [80, 35] * 5), 'fdc70c')
    _fill(canvas, _ring(135, 250, [72] * 120), 'e53935')
    _fill(canvas, _ring(505, 250, [88] * 4, 45), '1e6fd9')
    return cv2.resize(canvas, (640, 480), interpolation=cv2.INTER_AREA)


def portrait() -> npt.NDArray[np.uint8]:
    """Draw a green triangle at the top, a purple circle in the center, an orange square below."""
    canvas = _canvas(480, 720)
    _fill(canvas, _ring(240, 160, [88] * 3), '2ea043')
    _fill(canvas, _ring(240, 365, [70] * 120), '8e24aa')
    _fill(canvas, _ring(240, 568, [92] * 4, 45), 'fb8c00')
    return cv2.resize(canvas, (480, 720), interpolation=cv2.INTER_AREA)


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('config'))
    out: Path = parser.parse_args().out
    cv2.imwrite(str(out / 'image1.png'), portrait())
    cv2.imwrite(str(out / 'image2.jpg'), landscape(), [cv2.IMWRITE_JPEG_QUALITY, 92])


if __name__ == '__main__':
    main()

"""From a BGR picture to the encoder's pixel values.

Two steps, so that a picture can be compared and hashed before it is turned into floats:
`fit` resizes to the encoder's input, `normalise` makes the float tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ResizeMode

__all__ = ['InputSpec', 'fit', 'normalise']


@dataclass(frozen=True)
class InputSpec:
    """What an encoder wants to be fed: size in pixels, axis order, RGB mean and std (of 0..1)."""

    width: int
    height: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal['NCHW', 'NHWC'] = 'NCHW'


def fit(
    bgr: npt.NDArray[np.uint8], size: tuple[int, int], resize_mode: ResizeMode
) -> npt.NDArray[np.uint8]:
    """Resize a BGR picture [h, w, 3] to what an encoder of input size (width, height) sees of it.

    `letterbox` keeps the aspect and only ever shrinks, as the C++ node does; the padding is left
    to the encoder. `stretch` fills the whole input. A picture that fits already is returned as it
    is, not copied.
    """
    height, width = bgr.shape[:2]
    if resize_mode == 'stretch':
        target = size
    else:
        scale = min(1.0, size[0] / width, size[1] / height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target == (width, height):
        return bgr
    import cv2  # here, for the encoder process starts without it: it gets fitted pictures

    shrinks = target[0] <= width and target[1] <= height
    # INTER_AREA averages all source pixels: no aliasing when a 4K picture becomes 448 wide.
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(bgr, target, interpolation=interpolation)  # type: ignore[return-value]


def normalise(fitted: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """Turn a fitted BGR picture into float32 RGB [1, 3, H, W] or [1, H, W, 3].

    The picture lies top-left; the rest is black, padded before normalisation.
    """
    height, width = fitted.shape[:2]
    planes = np.empty((3, spec.height, spec.width), np.float32)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        plane, black = planes[channel], -mean / std
        region = plane[:height, :width]
        np.multiply(
            fitted[:, :, 2 - channel], np.float32(1 / (255 * std)), out=region, dtype=np.float32
        )
        region += np.float32(black)
        plane[:, width:] = black
        plane[height:, :width] = black
    if spec.layout == 'NHWC':
        return np.ascontiguousarray(planes.transpose(1, 2, 0))[np.newaxis]
    return planes[np.newaxis]

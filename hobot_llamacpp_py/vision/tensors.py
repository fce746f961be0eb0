"""What an encoder's tensors must look like: shared by all backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.vision.preprocess import InputSpec

__all__ = ['Quantisation', 'as_embeddings', 'input_spec', 'nv12', 'text_of', 'rgb_pixels']


def input_spec(shape: Sequence[object], family: ModelFamily, path: str | Path) -> InputSpec:
    """Read size and layout from a model's input shape [1, 3, H, W] or [1, H, W, 3].

    Raises:
        ModelFileError: the shape is not that of a picture.
    """
    is_nchw = len(shape) == 4 and shape[1] == 3
    is_nhwc = len(shape) == 4 and shape[3] == 3
    size = shape[2:] if is_nchw else shape[1:3]
    is_batch = isinstance(shape[0], int) and shape[0] > 1 if shape else True
    if is_batch or not (is_nchw or is_nhwc):
        raise ModelFileError(
            f'{path}: the input has shape {list(shape)}; expected [1, 3, H, W] or [1, H, W, 3]'
        )
    height, width = size
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise ModelFileError(
            f'{path}: the input size {list(size)} is not fixed; export the model with a fixed size'
        )
    return InputSpec(width, height, family.mean, family.std, 'NCHW' if is_nchw else 'NHWC')


def as_embeddings(output: npt.NDArray[np.generic], path: str | Path) -> npt.NDArray[np.float32]:
    """Bring an encoder's output to float32 [n_tokens, n_embd] by dropping axes of length one.

    Raises:
        ModelFileError: the output is not one picture's tokens.
        InferenceError: it holds NaN or infinity.
    """
    tokens = output
    while tokens.ndim > 2 and 1 in tokens.shape:
        tokens = tokens.squeeze(tokens.shape.index(1))
    if tokens.ndim != 2:
        raise ModelFileError(
            f'{path}: the output has shape {list(output.shape)}; expected [1, n_tokens, n_embd]'
        )
    embeddings = np.ascontiguousarray(tokens, np.float32)
    if not np.isfinite(embeddings).all():
        raise InferenceError(f'{path}: the output holds NaN or infinity')
    return embeddings


@dataclass(frozen=True)
class Quantisation:
    """How integers stand for numbers: (integer - zero point) * scale, along one axis.

    Attributes:
        scale, zero_point: flat, one number for all or one for each step of the axis; without a
            zero point it is 0.
    """

    scale: npt.NDArray[np.generic]
    zero_point: npt.NDArray[np.generic] = field(default_factory=lambda: np.zeros(1, np.float32))
    axis: int = 0

    def dequantise(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return the numbers that integers stand for."""
        scale, zero_point = self._aligned(values.ndim)
        return (values.astype(np.float32) - zero_point) * scale

    def quantise(
        self, values: npt.NDArray[np.float32], dtype: npt.DTypeLike
    ) -> npt.NDArray[np.generic]:
        """Return the nearest integers of a type, cut to its range."""
        scale, zero_point = self._aligned(values.ndim)
        limits = np.iinfo(dtype)
        integers = np.rint(values / scale + zero_point).clip(limits.min, limits.max)
        return np.asarray(integers, dtype)

    def _aligned(self, ndim: int) -> list[npt.NDArray[np.float32]]:
        """Give scale and zero point the axes of the values."""
        aligned = []
        for numbers in (self.scale, self.zero_point):
            shape = [1] * ndim
            shape[self.axis] = numbers.size
            aligned.append(numbers.astype(np.float32).reshape(shape))
        return aligned


def rgb_pixels(
    fitted: npt.NDArray[np.uint8], spec: InputSpec, order: Literal['RGB', 'BGR'] = 'RGB'
) -> npt.NDArray[np.uint8]:
    """Lay a fitted BGR picture on black, for a model that normalises by itself.

    Returns uint8 [1, 3, H, W] or [1, H, W, 3], which shares no memory with the picture.
    """
    height, width = fitted.shape[:2]
    pixels = np.zeros((spec.height, spec.width, 3), np.uint8)
    pixels[:height, :width] = fitted[:, :, ::-1] if order == 'RGB' else fitted
    if spec.layout == 'NCHW':
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))[np.newaxis]
    return pixels[np.newaxis]


def nv12(fitted: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Lay a fitted BGR picture on black and convert it to NV12, uint8 [H * 3 / 2, W].

    BT.601 with the full range, which is what D-Robotics' converter takes unless told otherwise.
    """
    height, width = spec.height, spec.width
    canvas = np.zeros((height, width, 3), np.float32)
    canvas[: fitted.shape[0], : fitted.shape[1]] = fitted
    luma = canvas @ np.array([0.114, 0.587, 0.299], np.float32)
    quarter = canvas.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    quarter_luma = luma.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    frame = np.empty((height * 3 // 2, width), np.uint8)
    frame[:height] = np.rint(luma)
    chroma = frame[height:].reshape(height // 2, width // 2, 2)
    for index, channel, factor in ((0, 0, 1.772), (1, 2, 1.402)):  # U from blue, V from red
        difference = (quarter[:, :, channel] - quarter_luma) / np.float32(factor) + 128
        chroma[:, :, index] = np.rint(difference).clip(0, 255)
    return frame


def text_of(error: BaseException) -> str:
    """Return an error's text, or its type where it has none, on one line."""
    return ' '.join(str(error).split()) or type(error).__name__

"""The vision encoder's interface, and which backend a model file gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.vision.preprocess import (
    INTERNVL_MEAN,
    INTERNVL_STD,
    SMOLVLM_MEAN,
    SMOLVLM_STD,
    InputSpec,
)

__all__ = [
    'BACKENDS',
    'VisionEncoder',
    'as_embeddings',
    'backend_of',
    'input_spec',
    'open_encoder',
]

BACKENDS = ('auto', 'bpu_x5', 'bpu_s100', 'onnx', 'mmproj')
_BY_SUFFIX = {'.bin': 'bpu_x5', '.hbm': 'bpu_s100', '.onnx': 'onnx', '.gguf': 'mmproj'}
_NORMALISATION = {0: (INTERNVL_MEAN, INTERNVL_STD), 1: (SMOLVLM_MEAN, SMOLVLM_STD)}


class VisionEncoder(Protocol):
    """A ViT with its projector: pixel values in, image embeddings out.

    Attributes:
        spec: what `encode` wants to be fed.
        n_tokens: image tokens for a picture.
        n_embd: width of an image token, to equal the decoder's.
    """

    spec: InputSpec
    n_tokens: int
    n_embd: int

    def encode(self, pixel_values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return image embeddings, float32 [n_tokens, n_embd]."""

    def close(self) -> None:
        """Free the model; closing again does no harm."""


def backend_of(path: str | Path, backend: str = 'auto') -> str:
    """Return the backend for a model file: the one asked for, else by the file's suffix."""
    if backend != 'auto':
        return backend
    try:
        return _BY_SUFFIX[Path(path).suffix.lower()]
    except KeyError:
        raise ModelFileError(
            f'{path}: no encoder backend for the suffix {Path(path).suffix!r};'
            f' known are {", ".join(_BY_SUFFIX)}, or set encoder_backend'
        ) from None


def open_encoder(
    path: str | Path, model_type: int, backend: str = 'auto', n_threads: int = 1
) -> VisionEncoder:
    """Open a vision encoder.

    Args:
        path: the model file.
        model_type: 0 InternVL or 1 SmolVLM2: decides the normalisation of the pixels.
        backend: one of `BACKENDS`; `auto` goes by the file's suffix.
        n_threads: CPU threads, where the backend computes on the CPU.

    Raises:
        ModelFileError: the file cannot be used as a vision encoder, and why.
    """
    chosen = backend_of(path, backend)
    if chosen == 'onnx':
        from hobot_llamacpp_py.vision.onnx import OnnxEncoder

        return OnnxEncoder(path, model_type, n_threads)
    raise ModelFileError(
        f'{path}: the {chosen} encoder backend is not part of this version; use an .onnx encoder'
    )


def input_spec(shape: Sequence[object], model_type: int, path: str | Path) -> InputSpec:
    """Read size and layout from a model's input shape [1, 3, H, W] or [1, H, W, 3].

    Raises:
        ModelFileError: the shape is not that of a picture.
    """
    mean, std = _NORMALISATION[model_type]
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
    return InputSpec(width, height, mean, std, 'NCHW' if is_nchw else 'NHWC')


def as_embeddings(output: npt.NDArray[np.generic], path: str | Path) -> npt.NDArray[np.float32]:
    """Bring an encoder's output to float32 [n_tokens, n_embd] by dropping axes of length one.

    Raises:
        ModelFileError: the output is not one picture's tokens.
        InferenceError: it holds NaN or infinity.
    """
    tokens = output[0] if output.ndim >= 3 and output.shape[0] == 1 else output
    if tokens.ndim == 3 and tokens.shape[2] == 1:
        tokens = tokens[:, :, 0]
    if tokens.ndim != 2:
        raise ModelFileError(
            f'{path}: the output has shape {list(output.shape)}; expected [1, n_tokens, n_embd]'
        )
    embeddings = np.ascontiguousarray(tokens, np.float32)
    if not np.isfinite(embeddings).all():
        raise InferenceError(f'{path}: the output holds NaN or infinity')
    return embeddings

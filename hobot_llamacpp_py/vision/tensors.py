"""What an encoder's tensors must look like: shared by all backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

__all__ = ['as_embeddings', 'input_spec']

_NORMALISATION = {0: (INTERNVL_MEAN, INTERNVL_STD), 1: (SMOLVLM_MEAN, SMOLVLM_STD)}


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

"""The vision encoder's interface, and which backend a model file gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import ModelFileError

__all__ = ['BACKENDS', 'VisionEncoder', 'backend_of', 'open_backend', 'open_encoder']

BACKENDS = ('auto', 'bpu_x5', 'bpu_s100', 'onnx', 'mmproj')
IN_A_PROCESS = ('bpu_x5', 'bpu_s100', 'mmproj')
_BY_SUFFIX = {'.bin': 'bpu_x5', '.hbm': 'bpu_s100', '.onnx': 'onnx', '.gguf': 'mmproj'}


class VisionEncoder(Protocol):
    """A ViT with its projector: a picture in, image embeddings out.

    Attributes:
        input_size: width and height of the picture that the model sees.
        n_tokens: image tokens for a picture.
        n_embd: width of an image token, to equal the decoder's.
    """

    input_size: tuple[int, int]
    n_tokens: int
    n_embd: int

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the image embeddings, float32 [n_tokens, n_embd], of a BGR picture.

        It is uint8 [h, w, 3], at most `input_size` large; it lies top-left, and the rest is black.
        """

    def close(self) -> None:
        """Free the model, also while `encode` runs in another thread; again does no harm."""


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
    path: str | Path, model_type: int, config: EncoderConfig = EncoderConfig()
) -> VisionEncoder:
    """Open a vision encoder.

    A backend that may hold the GIL for seconds, hang or crash gets a process of its own.

    Args:
        path: the model file.
        model_type: 0 InternVL or 1 SmolVLM2: decides the normalisation of the pixels.

    Raises:
        ModelFileError: the file cannot be used as a vision encoder, and why.
    """
    config = replace(config, backend=backend_of(path, config.backend))
    if config.backend in IN_A_PROCESS:
        from hobot_llamacpp_py.vision.encoder_process import ProcessEncoder

        return ProcessEncoder(path, model_type, config)
    return open_backend(path, model_type, config)


def open_backend(path: str | Path, model_type: int, config: EncoderConfig) -> VisionEncoder:
    """Open a vision encoder in this process; `config.backend` names it.

    Raises:
        ModelFileError: the file cannot be used as a vision encoder, and why.
    """
    if config.backend == 'onnx':
        from hobot_llamacpp_py.vision.onnx import OnnxEncoder

        return OnnxEncoder(path, model_type, config.n_threads or 1)
    if config.backend == 'bpu_x5':
        from hobot_llamacpp_py.vision.bpu_x5 import BpuX5Encoder

        return BpuX5Encoder(path, model_type, config.bpu_core, config.bpu_priority)
    if config.backend == 'bpu_s100':
        from hobot_llamacpp_py.vision.bpu_s100 import BpuS100Encoder

        return BpuS100Encoder(path, model_type, config.bpu_core, config.bpu_priority)
    from hobot_llamacpp_py.vision.mmproj import MmprojEncoder

    return MmprojEncoder(path, model_type, config.n_threads or 1)

"""Opening a vision encoder: in this process, or in one of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.vision.backends import BACKENDS, backend_of
from hobot_llamacpp_py.vision.encoder import VisionEncoder

__all__ = ['open_encoder']


def open_encoder(
    path: str | Path, family: ModelFamily, config: EncoderConfig = EncoderConfig()
) -> VisionEncoder:
    """Open a vision encoder, with the backend that `config` names or the file's suffix says.

    Args:
        path: the model file.
        family: decides the normalisation of the pixels.

    Raises:
        ModelFileError: the file cannot be used as a vision encoder, and why.
    """
    config = replace(config, backend=backend_of(path, config.backend))
    backend = BACKENDS[config.backend]
    if backend.has_process:
        from hobot_llamacpp_py.vision.encoder_process import ProcessEncoder

        return ProcessEncoder(path, family, config)
    return backend.open(path, family, config)

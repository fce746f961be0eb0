"""The table of encoder backends: which file gets which, and how it is opened in this process."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.vision.encoder import VisionEncoder

__all__ = ['BACKENDS', 'Backend', 'backend_of']


@dataclass(frozen=True)
class Backend:
    """One way to run an encoder.

    Attributes:
        suffix: of its model files.
        encoder: its module and class, imported when it is wanted.
        has_process: it may hold the GIL for seconds, hang or crash: give it a process of its own.
    """

    suffix: str
    encoder: str
    has_process: bool

    def open(self, path: str | Path, family: ModelFamily, config: EncoderConfig) -> VisionEncoder:
        """Open a model in this process.

        Raises:
            ModelFileError: the file cannot be used as a vision encoder, and why.
        """
        if not Path(path).is_file():
            raise ModelFileError(f'{path}: no such file')
        try:
            open(path, 'rb').close()
        except OSError as error:  # ONNX Runtime would tell its number
            raise ModelFileError(f'{path}: {error.strerror}') from None
        module, name = self.encoder.split('.')
        make = getattr(importlib.import_module(f'hobot_llamacpp_py.vision.{module}'), name)
        encoder: VisionEncoder = make(Path(path), family, config)
        return encoder


BACKENDS = {
    'bpu_x5': Backend('.bin', 'bpu_x5.BpuX5Encoder', has_process=True),
    'bpu_s100': Backend('.hbm', 'bpu_s100.BpuS100Encoder', has_process=True),
    'onnx': Backend('.onnx', 'onnx.OnnxEncoder', has_process=False),
    'mmproj': Backend('.gguf', 'mmproj.MmprojEncoder', has_process=True),
}


def backend_of(path: str | Path, name: str = 'auto') -> str:
    """Return the name of a model file's backend: the one asked for, else by the file's suffix.

    Raises:
        ModelFileError: there is none.
    """
    suffix = Path(path).suffix.lower()
    found = [known for known, backend in BACKENDS.items() if suffix == backend.suffix]
    if name in BACKENDS:
        return name
    if name != 'auto' or not found:
        known = ', '.join(backend.suffix for backend in BACKENDS.values())
        raise ModelFileError(
            f'{path}: no encoder backend for the suffix {suffix!r}; known are {known}, others'
            f' need to be told which of {", ".join(BACKENDS)} to take',
            setting='EncoderConfig.backend',
        )
    return found[0]

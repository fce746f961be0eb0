"""Vision encoder on ONNX Runtime, on the CPU of any PC."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.health.packages import INSTALL_ONNXRUNTIME
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import as_embeddings, input_spec, text_of

__all__ = ['OnnxEncoder']

LOAD_TIMEOUT = 60.0  # seconds
_FLOAT_TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}


class OnnxEncoder:
    """A `VisionEncoder` from an ONNX file with one picture as input, its tokens as output."""

    def __init__(
        self, path: Path, family: ModelFamily, config: EncoderConfig = EncoderConfig()
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise ModelFileError(
                f'{path} needs ONNX Runtime, which is not installed: {INSTALL_ONNXRUNTIME}'
            ) from None
        self._path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.n_threads or 1
        options.log_severity_level = 4  # what goes wrong arrives as an exception
        # Spinning threads would take the cores from llama.cpp's after every picture.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        # It holds the GIL while it reads a model, and may read a damaged one for ever: nothing
        # that is written in Python can end the process then.
        faulthandler.dump_traceback_later(LOAD_TIMEOUT, exit=True, file=2)
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=['CPUExecutionProvider'], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises many types of its own
            raise ModelFileError(f'ONNX Runtime cannot load {path}: {text_of(error)}') from None
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._run_options = ort.RunOptions()
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _FLOAT_TYPES:
            found = ', '.join(f'{i.name} {i.type}' for i in inputs)
            raise ModelFileError(f'{path}: expected one float input, a picture; found {found}')
        self._input = inputs[0].name
        self._dtype = _FLOAT_TYPES[inputs[0].type]
        self._output = self._session.get_outputs()[0].name
        self._spec = input_spec(inputs[0].shape, family, path)
        self.input_size = (self._spec.width, self._spec.height)
        self.n_tokens, self.n_embd = self.encode(np.zeros((1, 1, 3), np.uint8)).shape

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL is free meanwhile."""
        feed = {self._input: normalise(fitted, self._spec).astype(self._dtype, copy=False)}
        try:
            (output,) = self._session.run([self._output], feed, self._run_options)
        except Exception as error:
            raise InferenceError(f'{self._path}: ONNX Runtime failed: {text_of(error)}') from None
        return as_embeddings(output, self._path)

    def close(self) -> None:
        """Free the session, which ends a running `encode`; closing again does no harm."""
        self._run_options.terminate = True
        self._session = None

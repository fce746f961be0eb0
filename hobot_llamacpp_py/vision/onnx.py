"""Vision encoder on ONNX Runtime, on the CPU of any PC."""

from __future__ import annotations

import faulthandler
import math
import threading
import time
from pathlib import Path
from typing import Any

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
        self._run_options, self._new_options = ort.RunOptions(), ort.RunOptions
        self._timeout, self._is_closed = max(LOAD_TIMEOUT, config.timeout), False
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _FLOAT_TYPES:
            found = ', '.join(f'{i.name} {i.type}' for i in inputs)
            raise ModelFileError(f'{path}: expected one float input, a picture; found {found}')
        self._input = inputs[0].name
        self._dtype = _FLOAT_TYPES[inputs[0].type]
        self._output = self._session.get_outputs()[0].name
        self._spec = input_spec(inputs[0].shape, family, path)
        self.input_size = (self._spec.width, self._spec.height)
        self._watchdog = _Watchdog()
        try:
            self.n_tokens, self.n_embd = self.encode(np.zeros((1, 1, 3), np.uint8)).shape
        except BaseException:
            self._watchdog.close()
            raise
        self._timeout = config.timeout

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL is free meanwhile."""
        feed = {self._input: normalise(fitted, self._spec).astype(self._dtype, copy=False)}
        options = self._run_options
        if options.terminate and not self._is_closed:  # the last run took too long, or just long
            options = self._run_options = self._new_options()
        self._watchdog.watch(options, self._timeout)
        try:
            (output,) = self._session.run([self._output], feed, options)
        except Exception as error:
            if options.terminate and not self._is_closed:
                reason = f'{self._path}: no answer within {self._timeout:g} s; it was stopped'
                raise InferenceError(reason, setting='EncoderConfig.timeout') from None
            raise InferenceError(f'{self._path}: ONNX Runtime failed: {text_of(error)}') from None
        finally:
            self._watchdog.rest()
        return as_embeddings(output, self._path)

    def close(self) -> None:
        """Free the session, which ends a running `encode`; closing again does no harm."""
        self._is_closed = self._run_options.terminate = True
        self._session = None
        self._watchdog.close()


class _Watchdog:
    """Ends a run that takes too long.

    Its thread is there from the start, for to start one may hang where memory is short, and sleeps
    on while one picture follows another: it is woken only for the first one after a rest.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._options: Any = None  # of the run that is watched
        self._deadline = self._wakes = 0.0  # the run's, and the thread's
        self._is_closed = False
        threading.Thread(target=self._run, name='onnx watchdog', daemon=True).start()

    def watch(self, options: Any, seconds: float) -> None:
        """Let a run have so many seconds."""
        with self._changed:
            self._options, self._deadline = options, time.monotonic() + seconds
            if self._deadline < self._wakes:
                self._changed.notify()

    def rest(self) -> None:
        """Note that it is over."""
        self._options = None

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                rest = self._deadline - time.monotonic()
                options = self._options
                if options is not None and rest <= 0:
                    options.terminate, self._options = True, None
                is_idle = self._options is None and rest <= 0
                self._wakes = math.inf if is_idle else self._deadline
                self._changed.wait(None if is_idle else max(rest, 0.0))

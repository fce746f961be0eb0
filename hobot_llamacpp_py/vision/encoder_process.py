"""A vision encoder in a process of its own, which can hang or crash without harm to ours.

The BPU's bindings hold the GIL for as long as a picture takes, seconds on an X5: in our process
every timer and service would stand still. A crash in a driver would end the node. So the backend
runs in a child, a fresh interpreter, and only two arrays are shared, in memory that has no name:
whoever is killed, nothing is left behind.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError, VlmError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.vision.encoder_peer import Child, EndedError, NonsenseError, error_of

__all__ = ['ProcessEncoder']

log = logging.getLogger(__name__)

START_TIMEOUT = 120.0  # seconds: a model of hundreds of megabytes from an SD card
MAX_DELAY = 30.0


class ProcessEncoder:
    """A `VisionEncoder` that runs a backend in a child process.

    A child that hangs or crashes fails the picture it was at; for the next one there is a new
    child, at once after the first failure and with growing delay after repeated ones. `close` may
    be called from any thread, and ends a running `encode`.

    Args:
        path: the model file.
        family: what the model was trained with.
        config: `backend` must be one of the backends, not auto.
        start_timeout: seconds that loading the model may take.

    Raises:
        ModelFileError: the model cannot be used, and why.
    """

    def __init__(
        self,
        path: str | Path,
        family: ModelFamily,
        config: EncoderConfig,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self._path = Path(path)
        self._model = pickle.dumps((self._path, family, config))
        self._timeout, self._start_timeout = config.timeout, max(start_timeout, config.timeout)
        self._n_threads = config.n_threads
        self.restarts = 0
        """How often a child was started in place of one that had failed."""
        self._lock = threading.Lock()  # held by who talks to the child
        self._closed = False
        self._child: Child | None = None
        self._failures = 0  # in a row
        self._not_before = 0.0  # on the steady clock
        self._last_failure = ''
        self._properties: tuple[tuple[int, int], int, int] | None = None
        self.input_size: tuple[int, int]
        with self._lock:
            self._start()
        assert self._properties is not None
        self.input_size, self.n_tokens, self.n_embd = self._properties

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL is free meanwhile.

        Raises:
            InferenceError: the encoder failed, hung or crashed, or is waiting to be started again.
        """
        width, height = self.input_size
        n_rows, n_columns, n_channels = fitted.shape
        if not (0 < n_rows <= height and 0 < n_columns <= width and n_channels == 3):
            raise InferenceError(
                f'{self._path}: a picture of shape {fitted.shape} does not fit {height} x {width}'
            )
        with self._lock:
            child = self._living_child()
            try:
                reply = child.ask(fitted, self._n_threads, self._timeout)
            except TimeoutError:
                reason = f'no answer within {self._timeout:g} s; its process was ended'
                raise self._failed(reason, setting='EncoderConfig.timeout') from None
            except EndedError:
                raise self._failed(f'its process ended: {child.last_words()}') from None
            except NonsenseError as error:
                raise self._failed(f'it sent {error}; its process was ended') from None
            if 'error' in reply:
                raise error_of(reply)
            self._failures = 0
            assert child.shared is not None
            return child.shared.embeddings.copy()

    def use_threads(self, n: int) -> None:
        """Have a backend on the CPU compute with n threads from the next picture on."""
        self._n_threads = n

    def close(self) -> None:
        """End the process, also while it encodes; closing again does no harm."""
        self._closed = True
        if not self._lock.acquire(blocking=False):  # another thread waits for the child
            if (child := self._child) is not None:
                child.kill()
            self._lock.acquire()
        try:
            if self._child is not None:
                self._child.end()
                self._child = None
        finally:
            self._lock.release()

    def _living_child(self) -> Child:
        if self._child is not None and not self._child.is_alive():
            log.warning('%s', self._failed(f'its process ended: {self._child.last_words()}'))
        if self._child is None:
            self._restart()
        assert self._child is not None
        return self._child

    def _restart(self) -> None:
        if self._closed:
            raise InferenceError(f'{self._path}: the encoder is closed')
        delay = self._not_before - time.monotonic()
        if delay > 0:
            raise InferenceError(
                f'{self._path}: the encoder failed {self._failures} times in a row;'
                f' it is started again in {delay:.0f} s (last failure: {self._last_failure})'
            )
        log.info('%s: starting the encoder again', self._path)
        try:
            self._start()
        except VlmError as error:
            raise self._failed(str(error)) from None
        self.restarts += 1

    def _start(self) -> None:
        """Start a child and wait until it has loaded the model; on failure there is none."""
        self._child = child = Child(self._model)
        try:
            if self._closed:  # before `close` could see the child
                raise InferenceError(f'{self._path}: the encoder is closed')
            properties = child.wait_until_ready(self._start_timeout)
            if self._properties not in (None, properties):
                raise ModelFileError(f'{self._path}: the file has changed since it was opened')
            self._properties = properties
        except BaseException as error:
            self._child = None
            child.kill()
            child.end()
            if isinstance(error, TimeoutError):
                reason = f'the model is not loaded after {self._start_timeout:g} s'
            elif isinstance(error, EndedError):
                reason = f'the encoder process ended while it loaded it: {child.last_words()}'
            elif isinstance(error, NonsenseError):
                reason = f'the encoder process sent {error}'
            else:
                raise
            raise ModelFileError(f'{self._path}: {reason}') from None

    def _failed(self, reason: str, setting: str = '') -> InferenceError:
        """Note a failure and end the child; return the error for the user."""
        if (child := self._child) is not None:
            self._child = None
            child.kill()
            child.end()
        if self._closed:
            return InferenceError(f'{self._path}: the encoder was closed')
        self._failures += 1
        delay = 0.0 if self._failures == 1 else min(2.0 ** (self._failures - 2), MAX_DELAY)
        self._not_before = time.monotonic() + delay
        self._last_failure = reason
        prefix = (
            '' if reason.startswith(str(self._path)) else f'{self._path}: the encoder failed: '
        )
        return InferenceError(prefix + reason, setting=setting)

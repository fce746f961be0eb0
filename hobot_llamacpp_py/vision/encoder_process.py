"""A vision encoder in a process of its own, which can hang or crash without harm to ours.

The BPU's bindings hold the GIL for as long as a picture takes, seconds on an X5: in our process
every timer and service would stand still. A crash in a driver would end the node. So the backend
runs in a child, a fresh interpreter, and only two arrays are shared, in memory that has no name:
whoever is killed, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py import errors
from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError, VlmError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.vision.encoder_child import tie
from hobot_llamacpp_py.vision.shared_arrays import SharedArrays, checked_sizes

__all__ = ['INTERPRETER', 'ProcessEncoder']

log = logging.getLogger(__name__)

INTERPRETER = 'HOBOT_LLAMACPP_ENCODER_PYTHON'
"""Environment variable, for developers: the command of another Python to run the encoder in."""

START_TIMEOUT = 120.0  # seconds: a model of hundreds of megabytes from an SD card
END_TIMEOUT = 1.0
HANG_UP_TIMEOUT = 0.25  # a node that stops has 0.6 s for all of its end
MAX_DELAY = 30.0

# The package is taken from where this one lies and from nowhere else, and its folder does not stay
# in the path, where it could hide modules of the standard library.
_BOOT = """
import json, sys
sys.path[0] = sys.argv[1]
import hobot_llamacpp_py
del sys.path[0]
from hobot_llamacpp_py.vision.encoder_child import main
main(json.loads(sys.argv[2]))
"""
_ROOT = Path(__file__).resolve().parent.parent.parent


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
        self._child: _Child | None = None
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
            except _EndedError:
                raise self._failed(f'its process ended: {child.last_words()}') from None
            except _NonsenseError as error:
                raise self._failed(f'it sent {error}; its process was ended') from None
            if 'error' in reply:
                raise _error(reply)
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

    def _living_child(self) -> _Child:
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
        self._child = child = _Child(self._model)
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
            elif isinstance(error, _EndedError):
                reason = f'the encoder process ended while it loaded it: {child.last_words()}'
            elif isinstance(error, _NonsenseError):
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


class _EndedError(Exception):
    """The child has hung up."""


class _NonsenseError(Exception):
    """What the child has sent is no reply to what it was asked."""


class _Child:
    """One encoder process and what it shares with us."""

    shared: SharedArrays | None = None
    """Once the model is loaded, and until the end."""

    def __init__(self, model: bytes) -> None:
        with contextlib.ExitStack() as until_started:
            self._channel, theirs = socket.socketpair()
            until_started.enter_context(theirs)
            reader, writer = os.pipe()
            until_started.callback(os.close, reader)
            self._lifeline = os.fdopen(writer, 'wb', 0)
            memory = os.memfd_create('encoder', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._memory = os.fdopen(memory, 'rb+', 0)
            descriptors = {'channel': theirs.fileno(), 'lifeline': reader, 'memory': memory}
            command = [
                *_interpreter(),
                '-c',
                _BOOT,
                str(_ROOT),
                json.dumps({'model': model.hex(), **descriptors}),
            ]
            try:
                # A session of its own: Ctrl-C in the terminal is for us, and we end it.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=tuple(descriptors.values()),
                    start_new_session=True,
                )
            except OSError as error:
                self._close_all()
                raise ModelFileError(
                    f'the encoder process cannot be started with {command[0]}: {error}'
                ) from None
            tie(reader, self._process.pid)  # until it does so itself, or in its place: stopped
        self._received = b''
        self._number = 0  # of the request
        self._last_words: dict[str, str] = {}
        assert self._process.stdout is not None
        self._log_thread = threading.Thread(
            target=_log_lines, args=(self._process.stdout, self._last_words), daemon=True
        )
        self._log_thread.start()

    def wait_until_ready(self, timeout: float) -> tuple[tuple[int, int], int, int]:
        """Return input size, n_tokens and n_embd, once the model is loaded."""
        reply = self._reply(timeout)
        if 'error' in reply:
            raise _error(reply)
        try:
            sizes = checked_sizes(reply.get('properties'))
            # A child gone mad must not take away memory that we have mapped.
            fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self.shared = SharedArrays(self._memory.fileno(), *sizes)
        except (ValueError, OSError):
            raise _NonsenseError('sizes that cannot be, or that its memory has not') from None
        return sizes

    def ask(self, fitted: npt.NDArray[np.uint8], n_threads: int, timeout: float) -> dict[str, Any]:
        """Have a picture encoded; return the reply."""
        height, width = fitted.shape[:2]
        assert self.shared is not None
        self.shared.picture(height, width)[...] = fitted
        self._number += 1
        try:
            self._channel.sendall(
                json.dumps((self._number, height, width, n_threads)).encode() + b'\n'
            )
        except OSError:
            raise _EndedError from None
        return self._reply(timeout)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the process and wake who waits for a reply. From any thread."""
        self._process.kill()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Hang up, wait for the process's end, for a moment only, and free everything."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        if not self._has_ended(HANG_UP_TIMEOUT):  # stopped, for example
            self._process.kill()
            if not self._has_ended():
                log.warning('the encoder process %d cannot be ended', self._process.pid)
        self._log_thread.join(END_TIMEOUT)
        self._close_all()

    def last_words(self) -> str:
        """Say how the process ended, and why: what it threw, else its last line of output."""
        if not self._has_ended():
            return 'it hung up'
        status = self._process.returncode
        how = f'exit status {status}' if status >= 0 else f'signal {_signal_name(-status)}'
        self._log_thread.join(END_TIMEOUT)
        words = self._last_words.get('thrown') or self._last_words.get('line')
        return f'{how}; its last words were: {words}' if words else how

    def _has_ended(self, timeout: float = END_TIMEOUT) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _close_all(self) -> None:
        self._channel.close()
        self._lifeline.close()
        self._memory.close()
        # An error holds on to us, and somebody to the error: the memory need not wait for that.
        self.shared = None

    def _reply(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while b'\n' not in self._received:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._channel.settimeout(remaining)
            try:
                data = self._channel.recv(1 << 16)
            except ConnectionError:
                data = b''
            if not data:
                raise _EndedError
            self._received += data
            if len(self._received) > 1 << 20:
                raise _NonsenseError('a line without end')
        line, self._received = self._received.split(b'\n', 1)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        # Else the next picture would get this one's embeddings.
        if not isinstance(reply, dict) or reply.get('number') != self._number or self._received:
            raise _NonsenseError(f'{line[:60]!r}, which is no reply to request {self._number}')
        return reply


def _interpreter() -> list[str]:
    return shlex.split(os.environ.get(INTERPRETER, '')) or [sys.executable or 'python3']


def _log_lines(stream: IO[bytes], last_words: dict[str, str]) -> None:
    """Log what a child writes, until it has ended; keep its last line and what it threw."""
    with stream:
        for data in stream:
            if line := data.decode('utf-8', 'replace').rstrip():
                # C++ writes these two lines where nobody catches an exception; what ends the
                # process then may print a long stack after them.
                is_end = last_words.get('line', '').startswith('terminate called')
                if is_end and line.startswith('  what(): '):
                    last_words['thrown'] = line.strip()
                last_words['line'] = line.strip()
                log.info('encoder process: %s', line)


def _error(reply: dict[str, Any]) -> VlmError:
    kind = getattr(errors, str(reply['error']), None)
    if not (isinstance(kind, type) and issubclass(kind, VlmError)):
        kind = InferenceError  # one that nobody foresaw
    text = str(reply.get('text') or 'the encoder failed without a word')
    return kind(text, setting=str(reply.get('setting') or ''), value=reply.get('value'))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)

"""One encoder process as its parent has it: started, asked for embeddings, ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
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
from hobot_llamacpp_py.errors import InferenceError, ModelFileError, VlmError
from hobot_llamacpp_py.vision.encoder_child import tie
from hobot_llamacpp_py.vision.shared_arrays import SharedArrays, checked_sizes

__all__ = ['INTERPRETER', 'Child', 'EndedError', 'NonsenseError', 'error_of']

log = logging.getLogger(__name__)

INTERPRETER = 'HOBOT_LLAMACPP_ENCODER_PYTHON'
"""Environment variable, for developers: the command of another Python to run the encoder in."""

END_TIMEOUT = 1.0  # seconds
HANG_UP_TIMEOUT = 0.25  # a node that stops has 0.6 s for all of its end

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


class EndedError(Exception):
    """The child has hung up."""


class NonsenseError(Exception):
    """What the child has sent is no reply to what it was asked."""


class Child:
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
            raise error_of(reply)
        try:
            sizes = checked_sizes(reply.get('properties'))
            # A child gone mad must not take away memory that we have mapped.
            fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self.shared = SharedArrays(self._memory.fileno(), *sizes)
        except (ValueError, OSError):
            raise NonsenseError('sizes that cannot be, or that its memory has not') from None
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
            raise EndedError from None
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
                raise EndedError
            self._received += data
            if len(self._received) > 1 << 20:
                raise NonsenseError('a line without end')
        line, self._received = self._received.split(b'\n', 1)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        # Else the next picture would get this one's embeddings.
        if not isinstance(reply, dict) or reply.get('number') != self._number or self._received:
            raise NonsenseError(f'{line[:60]!r}, which is no reply to request {self._number}')
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


def error_of(reply: dict[str, Any]) -> VlmError:
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

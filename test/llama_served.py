"""llama-cpp-python's own server as a process of its own: text only, and not of our making."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from nano import CONFIG

__all__ = ['LlamaServed', 'free_port']

MODEL = CONFIG / 'nano_internvl.gguf'
TIMEOUT = 60.0  # seconds


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


class LlamaServed:
    """`python -m llama_cpp.server`; use as a context manager. `url` is the server's."""

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f'http://127.0.0.1:{self.port}'
        self._command = [sys.executable, '-m', 'llama_cpp.server', '--model', str(MODEL)]
        self._command += ['--port', str(self.port), '--n_threads', '1', *arguments]
        self._log = folder / 'server.log'

    def __enter__(self) -> LlamaServed:
        with self._log.open('w') as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**os.environ}
            )
        deadline = time.monotonic() + TIMEOUT
        while not self._is_up():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f'{self.url}/v1/models'):
                return True
        except urllib.error.URLError:
            return False

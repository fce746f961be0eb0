"""The server without ROS as a process of its own, for clients of all kinds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nano import CONFIG, MODELS, ROOT

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.web.server import Server
from hobot_llamacpp_py.web.standalone import EngineThread

TIMEOUT = 60  # seconds: generous, for machines that are busy with something else

__all__ = ['DIGITS', 'SAMPLE', 'TIMEOUT', 'Served', 'data_url', 'free_port', 'serving']


class Served:
    """`serve` with a built-in model; use as a context manager. `url` is the server's.

    Args:
        llm: another decoder, for text only.
    """

    def __init__(
        self, family: str = 'internvl', arguments: Sequence[str] = (), llm: Path | None = None
    ) -> None:
        encoder, decoder, kind = MODELS[family]
        self._command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.serve', '--port', '0']
        self._command += ['--llm', str(llm or decoder), '--threads', '1']
        self._command += [] if llm else ['--encoder', str(encoder)]
        self._command += ['--model-type', str(kind.number), *arguments]

    def __enter__(self) -> Served:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "test"}'},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line.startswith('http://'), line + self.process.communicate()[1]
        self.url = line.rstrip('/')
        self.port = int(self.url.rpartition(':')[2])
        return self

    def __exit__(self, *_: object) -> None:
        self.status, self.errors = self.stop()

    def stop(self) -> tuple[int, str]:
        """End it as Ctrl-C does; return the exit status and what stands on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            _, errors = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, errors


@contextmanager
def serving(family: str = 'internvl', can_see: bool = True, **options: Any) -> Iterator[str]:
    """Serve within this process; `options` are EngineThread's. Give the address."""
    encoder, decoder, kind = MODELS[family]
    config = DecoderConfig(n_ctx=32768, n_threads=1)
    eyes = encoder if can_see else None
    load = partial(Engine.open, decoder, eyes, family=kind, config=config)
    failures: list[Exception] = []
    given = {'config': ChatConfig(), 'queue_size': 8, **options}
    thread = EngineThread(load, 'nano', on_failed=failures.append, **given)
    server = Server(thread, '127.0.0.1', 0)
    thread.start()
    server.start()
    try:
        yield f'http://127.0.0.1:{server.port}'
    finally:
        thread.close(TIMEOUT)
        server.stop(TIMEOUT)
    assert failures == []


def free_port() -> int:
    """Return a port that nobody has at the moment."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


DIGITS = {'type': 'array', 'items': {'enum': [0, 1, 2, 3]}, 'minItems': 20000}
"""The JSON Schema of an answer that has no end."""


def data_url(bgr: np.ndarray, suffix: str = 'png') -> str:
    """Return a picture as a data URL."""
    import base64

    import cv2

    data = base64.b64encode(cv2.imencode(f'.{suffix}', bgr)[1].tobytes()).decode()
    kind = 'jpeg' if suffix == 'jpg' else suffix
    return f'data:image/{kind};base64,{data}'


SAMPLE: Path = CONFIG / 'image2.jpg'

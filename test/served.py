"""The server without ROS as a process of its own, for clients of all kinds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nano import CONFIG, MODELS, ROOT

__all__ = ['Served', 'data_url']


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


def data_url(bgr: np.ndarray, suffix: str = 'png') -> str:
    """Return a picture as a data URL."""
    import base64

    import cv2

    data = base64.b64encode(cv2.imencode(f'.{suffix}', bgr)[1].tobytes()).decode()
    kind = 'jpeg' if suffix == 'jpg' else suffix
    return f'data:image/{kind};base64,{data}'


SAMPLE: Path = CONFIG / 'image2.jpg'

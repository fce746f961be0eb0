"""The emulated RDK X5: encoder processes that run on it, and models for its simulated BPU."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from nano import MODELS

from hobot_llamacpp_py.vision.encoder_process import INTERPRETER

BOARD = Path(__file__).resolve().parent / 'board'


def require_board() -> None:
    """Build the emulated board, or skip where its tools are not installed."""
    for tool in ('qemu-aarch64-static', 'aarch64-linux-gnu-gcc'):
        if shutil.which(tool) is None:
            pytest.skip(f'needs {tool}: make test-board installs it')
    environment = {**os.environ, 'PYTHON': sys.executable}
    result = subprocess.run(
        ['bash', BOARD / 'run.sh'], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def use_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let encoder processes run on the emulated board."""
    monkeypatch.setenv(INTERPRETER, str(BOARD / 'emu.sh'))


def write_model(
    path: Path,
    *lines: str,
    inputs: str = 'images f32 nchw valid=1,3,8,8',
    output: str = 'tokens f32 nchw valid=1,4,6,1',
) -> Path:
    """Write a model file of the simulated BPU; its format stands in board/libdnn_sim.c."""
    text = ['BPUSIM 1', 'model vit', f'input {inputs}', f'output {output}', *lines]
    path.write_text('\n'.join(text) + '\n')
    return path


def expected(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what the simulated BPU makes of an input."""
    x = np.asarray(values, np.float64).ravel()
    j, k = np.arange(x.size), np.arange(np.prod(shape))[:, np.newaxis]
    return (k[:, 0] / 2 + ((j % 97) * (k + 1) % 5 - 2) @ x).reshape(shape)


@contextmanager
def nano_model(folder: Path, family: str, *lines: str) -> Iterator[Path]:
    """Write a model that does what the built-in encoder does, and serve it meanwhile.

    The simulated BPU hands the input to us, and ONNX Runtime does the work here.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODELS[family][0], options)
    (images,), (tokens,) = session.get_inputs(), session.get_outputs()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            pixels = np.frombuffer(self.rfile.read(4 * int(np.prod(images.shape))), np.float32)
            (output,) = session.run(None, {images.name: pixels.reshape(images.shape)})
            self.wfile.write(output.tobytes())

    _, n_tokens, n_embd = tokens.shape
    with tempfile.TemporaryDirectory() as short:  # a socket's path has at most 107 characters
        address = f'{short}/bpu'
        with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield write_model(
                folder / 'nano.bin',
                f'socket {address}',
                *lines,
                inputs=f'images f32 nchw valid={",".join(map(str, images.shape))}',
                output=f'tokens f32 nchw valid=1,{n_tokens},{n_embd},1',
            )
            server.shutdown()

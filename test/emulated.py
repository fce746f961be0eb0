"""The emulated boards: encoder processes that run on them, and models for their simulated BPUs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from nano import MODELS, ROOT

from hobot_llamacpp_py.vision.encoder_peer import INTERPRETER

FOLDER = Path(__file__).resolve().parent / 'board'
SUFFIXES = {'x5': '.bin', 's100': '.hbm'}
BOARDS = tuple(SUFFIXES)
Model = tuple[Sequence[str], dict[str, str]]  # what write_model takes: lines, tensors
TOOLS = ('qemu-aarch64-static', 'aarch64-linux-gnu-gcc')


def use_board(monkeypatch: pytest.MonkeyPatch, board: str) -> None:
    """Let encoder processes run on an emulated board; skip where its tools are not installed."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            pytest.skip(f'needs {tool}: make test-board installs it')
    run_on(board)  # builds it
    monkeypatch.setenv(INTERPRETER, interpreter(board))


def interpreter(board: str) -> str:
    """Return the command of a board's Python, for encoder processes."""
    return f'{FOLDER}/emu.sh {board}'


def run_on(board: str, *arguments: str) -> str:
    """Run Python on an emulated board, which is built if it is not; return what it printed."""
    command = ['bash', FOLDER / 'run.sh', board, *arguments]
    environment = {**os.environ, 'PYTHON': sys.executable}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return result.stdout


ENCODE_ALL = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.backends import BACKENDS, backend_of
pixels, paths = np.load(sys.argv[2]), sys.argv[3:]
for path in paths:
    name = backend_of(path)
    try:
        encoder = BACKENDS[name].open(path, INTERNVL, EncoderConfig(name))
        found = encoder.encode(pixels).tolist()
        encoder.close()
    except VlmError as error:
        found = type(error).__name__ + ': ' + str(error)
    print('FOUND ' + json.dumps(found))
"""


def encode_all(
    board: str, folder: Path, models: Sequence[Model], pixels: np.ndarray
) -> list[np.ndarray | str]:
    """Encode a picture with each of some models, in one process: its start takes two seconds.

    Returns:
        the embeddings of each, or the type and the text of the error.
    """
    np.save(folder / 'pixels.npy', pixels)
    paths = []
    for i, (lines, tensors) in enumerate(models):
        paths.append(str(write_model(folder / f'{i}{SUFFIXES[board]}', *lines, **tensors)))
    arguments = [str(ROOT), str(folder / 'pixels.npy'), *paths]
    printed = run_on(board, '-c', ENCODE_ALL, *arguments)
    found = [line[6:] for line in printed.splitlines() if line.startswith('FOUND ')]
    results = [json.loads(line) for line in found]
    assert len(results) == len(models), printed
    return [
        result if isinstance(result, str) else np.array(result, np.float32) for result in results
    ]


def assert_fed(
    board: str, folder: Path, values: dict[str, np.ndarray], pixels: np.ndarray
) -> None:
    """Assert that models with such inputs are fed these values when they are given a picture."""
    found = encode_all(board, folder, [([], {'inputs': inputs}) for inputs in values], pixels)
    for (inputs, right), embeddings in zip(values.items(), found, strict=True):
        np.testing.assert_allclose(embeddings, expected(right, (4, 6)), atol=0.01, err_msg=inputs)


def assert_refused(found: Sequence[np.ndarray | str], words: Sequence[str]) -> None:
    """Assert that each model of `encode_all` was refused, with its path and these words."""
    for i, (error, wanted) in enumerate(zip(found, words, strict=True)):
        assert isinstance(error, str), f'was not refused: {wanted}'
        assert re.match(rf'ModelFileError: .*/{i}\.(bin|hbm)\b.*{wanted}', error), (error, wanted)


def write_model(
    path: Path,
    *lines: str,
    inputs: str = 'images f32 nchw valid=1,3,8,8',
    output: str = 'tokens f32 nchw valid=1,4,6,1',
) -> Path:
    """Write a model file of a simulated BPU; its format stands in board/sim.h."""
    text = ['BPUSIM 1', 'model vit', f'input {inputs}', f'output {output}', *lines]
    path.write_text('\n'.join(text) + '\n')
    return path


def expected(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what a simulated BPU makes of an input."""
    x = np.asarray(values, np.float64).ravel()
    j, k = np.arange(x.size), np.arange(np.prod(shape))
    sums = np.array([(j % 97 * s % 5 - 2) @ x for s in range(5)])
    return (k / 2 + sums[(k + 1) % 5]).reshape(shape)


@contextmanager
def nano_model(folder: Path, family: str, board: str) -> Iterator[Path]:
    """Write a model that does what the built-in encoder does, and serve it meanwhile.

    The simulated BPU hands the input to us, and ONNX Runtime does the work here.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODELS[family][0], options)
    (images,), (tokens,) = session.get_inputs(), session.get_outputs()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            pixels = np.frombuffer(self.rfile.read(4 * int(np.prod(images.shape))), np.uint8)
            if pixels.size < 4 * np.prod(images.shape):
                return  # the encoder's process has died
            pixels = pixels.view(np.float32).reshape(images.shape)
            (output,) = session.run(None, {images.name: pixels})
            with suppress(ConnectionError):
                self.wfile.write(output.tobytes())

    _, n_tokens, n_embd = tokens.shape
    with tempfile.TemporaryDirectory() as short:  # a socket's path has at most 107 characters
        address = f'{short}/bpu'
        with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield write_model(
                folder / f'nano{SUFFIXES[board]}',
                f'socket {address}',
                inputs=f'images f32 nchw valid={",".join(map(str, images.shape))}',
                output=f'tokens f32 nchw valid=1,{n_tokens},{n_embd},1',
            )
            server.shutdown()

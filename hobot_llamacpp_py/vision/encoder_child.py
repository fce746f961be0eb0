"""The encoder process: it loads a backend and encodes the pictures that lie in shared memory.

`encoder_process.ProcessEncoder` starts it and holds the other ends of three file descriptors: a
socket with a line of JSON for each request and reply, the shared memory, and a pipe that nobody
writes to, whose closing says that the parent is gone. Few modules are imported here, so that the
process starts fast, also where OpenCV is not installed.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import select
import signal
import socket
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.vision.encoder import open_backend

__all__ = ['SharedArrays', 'main']


class SharedArrays:
    """The picture and its embeddings in the memory that both processes map.

    Attributes:
        pixels: uint8, flat: room for a BGR picture of the encoder's input size.
        embeddings: float32 [n_tokens, n_embd].
    """

    def __init__(
        self, descriptor: int, input_size: tuple[int, int], n_tokens: int, n_embd: int
    ) -> None:
        width, height = input_size
        start = -(-width * height * 3 // mmap.PAGESIZE) * mmap.PAGESIZE
        size = start + n_tokens * n_embd * 4
        if os.fstat(descriptor).st_size != size:  # new, and empty
            os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
        self.pixels = np.frombuffer(memory, np.uint8, width * height * 3)
        self.embeddings: npt.NDArray[np.float32] = np.frombuffer(
            memory, np.float32, n_tokens * n_embd, start
        ).reshape(n_tokens, n_embd)

    def picture(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """Return the place of a BGR picture [height, width, 3]."""
        return self.pixels[: height * width * 3].reshape(height, width, 3)


def main(job: dict[str, Any]) -> None:
    """Load the model, then serve requests until the parent hangs up."""
    _die_with_parent(job['lifeline'])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends us in its turn
    with socket.socket(fileno=job['channel']) as channel, channel.makefile('rb') as requests:

        def send(**reply: object) -> None:
            channel.sendall(json.dumps(reply).encode() + b'\n')

        try:
            encoder = open_backend(
                Path(job['path']), job['model_type'], EncoderConfig(**job['config'])
            )
            properties = (encoder.input_size, encoder.n_tokens, encoder.n_embd)
            shared = SharedArrays(job['memory'], *properties)
        except Exception as error:
            send(number=0, **_words(error))
            return
        send(number=0, properties=properties)
        for line in requests:
            number, height, width = json.loads(line)
            try:
                shared.embeddings[...] = encoder.encode(shared.picture(height, width))
            except Exception as error:
                send(number=number, **_words(error))
            else:
                send(number=number)


def _words(error: Exception) -> dict[str, str]:
    """Return an error as a reply; the traceback of one that nobody foresaw goes to the log."""
    if isinstance(error, VlmError):
        return {'error': type(error).__name__, 'text': str(error)}
    traceback.print_exception(type(error), error, error.__traceback__)
    text = f'internal error in the encoder process: {type(error).__name__}: {error}'
    return {'error': 'InferenceError', 'text': ' '.join(text.split())}


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process as soon as the parent's end of the pipe is closed.

    That works while native code holds the GIL, when no Python thread could see the end of file.
    (PR_SET_PDEATHSIG would follow the thread that started us, not the process.)
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before we asked for the signal
        os._exit(1)

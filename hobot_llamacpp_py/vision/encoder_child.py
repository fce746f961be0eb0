"""The encoder process: it opens a backend and encodes the pictures that lie in shared memory.

`encoder_process.ProcessEncoder` starts it and holds the other ends of three file descriptors: a
socket with a line of JSON for each request and reply, the shared memory, and a pipe that nobody
writes to, whose closing says that the parent is gone. Few modules are imported here, so that the
process starts fast, also where OpenCV is not installed.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import select
import signal
import socket
import sys
from typing import Any

from hobot_llamacpp_py.errors import VlmError, one_line
from hobot_llamacpp_py.vision.backends import BACKENDS
from hobot_llamacpp_py.vision.encoder import CpuEncoder
from hobot_llamacpp_py.vision.shared_arrays import SharedArrays

__all__ = ['main', 'tie']


def main(job: dict[str, Any]) -> None:
    """Load the model, then serve requests until the parent hangs up."""
    _die_with_parent(job['lifeline'])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends us in its turn
    with socket.socket(fileno=job['channel']) as channel, channel.makefile('rb') as requests:

        def send(**reply: object) -> None:
            channel.sendall(json.dumps(reply).encode() + b'\n')

        try:
            path, family, config = pickle.loads(bytes.fromhex(job['model']))
            encoder = BACKENDS[config.backend].open(path, family, config)
            properties = (encoder.input_size, encoder.n_tokens, encoder.n_embd)
            shared = SharedArrays(job['memory'], *properties)
        except Exception as error:
            send(number=0, **_words(error))
            return
        send(number=0, properties=properties)
        for line in requests:
            number, height, width, n_threads = _request(line, encoder.input_size)
            try:
                if isinstance(encoder, CpuEncoder) and n_threads:
                    encoder.use_threads(n_threads)
                shared.embeddings[...] = encoder.encode(shared.picture(height, width))
            except Exception as error:
                send(number=number, **_words(error))
            else:
                send(number=number)


def _request(line: bytes, input_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return number, height, width and threads of a request; end with a line if it is none."""
    try:
        number, height, width, n_threads = request = json.loads(line)
        if any(type(value) is not int or not 0 <= value < 1 << 31 for value in request):
            raise ValueError(line)
        if not (0 < width <= input_size[0] and 0 < height <= input_size[1]):
            raise ValueError(line)
    except (ValueError, TypeError, RecursionError):
        sys.exit(f'{line[:60]!r} is no request to an encoder')
    return number, height, width, n_threads


def _words(error: Exception) -> dict[str, object]:
    """Return an error as a reply; the traceback of one that nobody foresaw goes to the log."""
    reply: dict[str, object] = {'error': type(error).__name__, 'text': one_line(error)}
    if isinstance(error, VlmError):
        reply |= {'setting': error.setting, 'value': error.value}
    return reply


def _die_with_parent(lifeline: int) -> None:
    """Have this process end with its parent, also where that is gone already."""
    tie(lifeline, os.getpid())
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before we asked for the signal
        os._exit(1)


def tie(lifeline: int, process: int) -> None:
    """Have the kernel kill a process as soon as the other end of the pipe is closed.

    That works while native code holds the GIL, when no Python thread could see the end of file.
    (PR_SET_PDEATHSIG would follow the thread that started the process, not its process.)
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, process)
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)

"""Loads one broken file after the other, each in a process of its own; prints what came of it.

    python load_each.py KIND HOW FIRST N

Of each file one line of JSON: how the process ended, what it printed, how long it computed and how
much memory it took. The last line is of the file that is whole.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnxruntime  # noqa: F401
from nano import CONFIG, MODELS, draw_scene, request_of

import hobot_llamacpp_py.engine.chat_template
import hobot_llamacpp_py.vision.mmproj
import hobot_llamacpp_py.vision.onnx
from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn
from hobot_llamacpp_py.errors import one_line
from hobot_llamacpp_py.families import INTERNVL, SMOLVLM2
from hobot_llamacpp_py.vision.mmproj import MmprojEncoder

ADDRESS_SPACE = 1 << 30  # bytes that loading may ask for, far more than these models take
ROOM = 3 << 20  # of these, so many as the file has for a number, where memory is short
CPU_SECONDS, WALL_SECONDS = 20, 100  # whoever computes or waits for longer is ended by a signal
FILES = {
    'decoder': MODELS['internvl'][1],
    'onnx': MODELS['internvl'][0],
    'mmproj': CONFIG / 'mmproj-nano_smolvlm.gguf',
}
QUESTION = 'Describe the image.'
# What stands in a header in place of a number.
NUMBERS = (0, 1, 2, 3, 5, 31, 33, 127, 255, 257, 4095, 65536, 2**20, 2**24, 2**31 - 1, 2**31)
NUMBERS += (2**32 - 1, 2**33, 2**40, 2**62, 2**63, 2**64 - 1)
REALS = (0.0, -1.0, 1e-30, 1e30, float('nan'), float('inf'), -float('inf'))


hobot_llamacpp_py.vision.onnx.LOAD_TIMEOUT = 5.0  # what hangs is found sooner


def broken(kind: str, how: str, first: int, n: int) -> Iterator[bytes | str]:
    """Give the contents of broken files, or what stands in their place; the whole one last."""
    data = FILES[kind].read_bytes()
    if how == 'short':  # of memory
        yield from [data] * (n + 1)
        return
    if how == 'other':
        yield from ('missing', 'folder', 'forbidden', b'', b'GGUF', data[:9] + bytes(1000))
        yield from (path.read_bytes() for other, path in FILES.items() if other != kind)
        yield data
        return
    spots = [] if kind == 'onnx' else _spots(FILES[kind])
    head = max((offset for offset, _ in spots), default=len(data))
    for i in range(first, first + n):
        rng = np.random.default_rng(i)
        spoilt = bytearray(data)
        if how == 'cut':  # half of the places in the head
            end = len(data) if i % 2 else head
            yield data[: end * (i - first) // n]
        elif how == 'flipped':
            end = head if i % 4 else len(data)
            for at in rng.integers(end, size=rng.choice((1, 2, 8, 32))):
                spoilt[at] ^= int(rng.integers(1, 256))
            yield bytes(spoilt)
        elif how == 'set':  # numbers of a header, each a plausible one
            for _ in range(rng.choice((1, 1, 2))):
                offset, dtype = spots[rng.integers(len(spots))]
                size = dtype.itemsize
                if dtype.kind == 'f':
                    value = np.array(rng.choice(REALS), dtype).tobytes()
                else:
                    number = NUMBERS[rng.integers(len(NUMBERS))] % (1 << 8 * size)
                    value = number.to_bytes(size, 'little')
                spoilt[offset : offset + size] = value
            yield bytes(spoilt)
    yield data


def _spots(path: Path) -> list[tuple[int, np.dtype[Any]]]:
    """Return where numbers stand in a GGUF file's head, the texts' bytes left out.

    Of a list of many only the first few count: else all would be about the vocabulary.
    """
    reader = gguf.GGUFReader(path)
    begin = reader.data.ctypes.data
    # There are more tensors than values: as often either.
    fields = 4 * [*reader.fields.values()] + [tensor.field for tensor in reader.tensors]
    spots = []
    for field in fields:
        for part in field.parts[:12]:
            if part.dtype != np.uint8 or len(part) == 1:
                spots.append((part.ctypes.data - begin, part.dtype.newbyteorder('<')))
    return spots


def use(kind: str, path: Path) -> str:
    """Load a file and use it as the node does; return the answer."""
    bgr = draw_scene(5)[1]
    config, encoder_config = DecoderConfig(n_ctx=512, n_threads=1), EncoderConfig(n_threads=1)
    if kind == 'mmproj':  # what runs in the encoder's process
        encoder = MmprojEncoder(path, SMOLVLM2, encoder_config)
        return f'{encoder.encode(bgr[:96, :96]).shape}'
    files = {'decoder': (path, MODELS['internvl'][0]), 'onnx': (MODELS['internvl'][1], path)}
    with Engine.open(
        *files[kind], family=INTERNVL, config=config, encoder_config=encoder_config
    ) as engine:
        turn = Turn(QUESTION, engine.picture(bgr))
        greedy = SamplingConfig(temperature=0.0)
        request = request_of(turn, max_tokens=48, sampling=greedy)
        return ''.join(engine.generate(request).pieces)


def main() -> None:
    kind, how, first, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'broken{FILES[kind].suffix}'
        said = Path(folder) / 'said'
        for i, data in enumerate(broken(kind, how, first, n), first):
            _put(kind, data, path)
            started = time.monotonic()
            if not (process := os.fork()):
                room = ROOM * i if how == 'short' and i < first + n else ADDRESS_SPACE
                _child(kind, path, said, room)
            status, usage = os.wait4(process, 0)[1:]
            line = {
                'number': i,
                'status': os.waitstatus_to_exitcode(status),
                'said': said.read_text('utf-8', 'replace').replace(folder, ''),
                'cpu': usage.ru_utime + usage.ru_stime,
                'wall': time.monotonic() - started,
                'memory': usage.ru_maxrss << 10,
            }
            print(json.dumps(line), flush=True)


def _put(kind: str, data: bytes | str, path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif data == 'folder':
        path.mkdir()
    elif data == 'forbidden':
        path.write_bytes(FILES[kind].read_bytes())
        path.chmod(0)


def _drop_capabilities() -> None:
    """Be as little as any user: root may read what is forbidden."""
    version_3 = 0x20080522
    ctypes.CDLL(None).capset(struct.pack('Ii', version_3, 0), bytes(24))


def _child(kind: str, path: Path, said: Path, room: int) -> None:
    status = 2
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _drop_capabilities()
        signal.alarm(WALL_SECONDS)
        with open('/proc/self/statm') as statm:
            most = int(statm.read().split()[0]) * os.sysconf('SC_PAGE_SIZE') + room
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        try:
            text, status = use(kind, path), 0
        except Exception as error:
            text, status = one_line(error), 1
        os.write(1, text.encode() + b'\n')
    finally:
        os._exit(status)


if __name__ == '__main__':
    main()

"""Measure what a server in place of the models costs: bytes on the network, start and memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, RemoteConfig, VisionConfig
from hobot_llamacpp_py.engine import Chat
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.folders import share_directory
from hobot_llamacpp_py.remote.engine import RemoteEngine
from hobot_llamacpp_py.tools.arguments import ArgumentParser
from hobot_llamacpp_py.tools.bench_light import resident, started
from hobot_llamacpp_py.vision.image_file import read_image

__all__ = ['main']

Bgr = npt.NDArray[np.uint8]
SIZES = ((640, 480), (1920, 1080))
QUESTIONS = ('Describe the image.', 'What color is the circle?')
STARTS = 3


def main(arguments: list[str] | None = None) -> None:
    """Print both tables; exit with 1 if that cannot be measured."""
    parser = ArgumentParser(
        prog='bench_remote',
        description=__doc__,
        epilog='The server is `serve` with the built-in model, on this machine. Exit status: 0;'
        ' 1 if it could not be done; 2 for wrong options.',
    )
    parser.add_argument(
        'picture', nargs='?', help='of your camera; else one as detailed as photographs are'
    )
    options = parser.parse_args(arguments)
    try:
        with _served() as port:
            _bytes(port, options.picture)
            _nodes(port)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)


# -- bytes ---------------------------------------------------------------------------------------


def _bytes(port: int, picture: str | None) -> None:
    print('| camera | sent as | JPEG bytes | first question | another one | answer |')
    print('|---|---|---|---|---|---|')
    for size in SIZES:
        bgr = cv2.resize(read_image(picture), size) if picture else _detailed(size)
        with _Counter(port) as counter:
            address = f'http://127.0.0.1:{counter.port}/v1'
            with RemoteEngine(address, RemoteConfig('any'), VisionConfig()) as engine:
                seen = engine.picture(bgr)  # type: ignore[arg-type]
                chat, sent = Chat(engine, ChatConfig()), []
                for question in QUESTIONS:
                    before = counter.up
                    answer = ''.join(chat.ask(question, seen))
                    sent.append(counter.up - before)
                n_jpeg = len(engine.encode_ahead(seen).result()) * 3 // 4
                height, width = seen.pixels.shape[:2]
        row = [f'{size[0]}x{size[1]}', f'{width}x{height}', f'{n_jpeg:,}']
        row += [f'{n:,}' for n in sent] + [f'{counter.down // 2:,}']
        print('| ' + ' | '.join(row) + ' |')
        assert answer


def _detailed(size: tuple[int, int]) -> Bgr:
    """Return a picture whose detail falls off with its fineness as that of photographs does."""
    width, height = size
    noise = np.random.default_rng(0)
    fineness = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    fineness[0, 0] = 1.0
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(noise.standard_normal((height, width))) / fineness**1.4
        spectrum[0, 0] = 0.0
        plane = np.fft.irfft2(spectrum, (height, width))
        planes.append(128 + 50 * plane / plane.std())
    grey, *colors = planes
    # Photographs differ in brightness more than in colour; and a sensor has noise.
    bgr = np.stack([grey, *(0.8 * grey + 0.2 * color for color in colors)], axis=-1)
    bgr += noise.normal(0, 2, bgr.shape)
    return np.clip(bgr, 0, 255).astype(np.uint8)


class _Counter:
    """A relay to a port of this machine that counts what goes through it, both ways."""

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self._target = ('127.0.0.1', port)
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> _Counter:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for ends in ((client, server, 'up'), (server, client, 'down')):
                    threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                setattr(self, way, getattr(self, way) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


# -- the node ------------------------------------------------------------------------------------


def _nodes(port: int) -> None:
    config = share_directory() / 'config'
    local = [f'model_file_name:={config}/nano_internvl_vit.onnx']
    local += [f'llm_model_name:={config}/nano_internvl.gguf']
    kinds = {'built-in model': local, 'server': [f'llm_model_name:=http://127.0.0.1:{port}/v1']}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(STARTS):
        for kind, parameters in kinds.items():
            found[kind].append(_start([*parameters, f'image:={config}/image2.jpg']))
    print('\n| node with | ready after s | memory MB |')
    print('|---|---|---|')
    for kind, starts in found.items():
        seconds, megabytes = np.median(starts, axis=0)
        print(f'| {kind} | {seconds:.2f} | {megabytes:.0f} |')


def _start(parameters: list[str]) -> tuple[float, float]:
    """Start a node; return the seconds until it is ready, and its memory in MB."""
    words = [word for parameter in parameters for word in ('-p', parameter)]
    with started('-m', 'hobot_llamacpp_py', '--ros-args', *words) as (node, seconds):
        megabytes = resident(node.pid) / 2**20
        node.send_signal(signal.SIGINT)
        node.communicate()
    return seconds, megabytes


@contextmanager
def _served() -> Iterator[int]:
    """Start `serve` with the built-in model; give its port."""
    config = share_directory() / 'config'
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.serve', '--port', '0']
    command += ['--llm', f'{config}/nano_internvl.gguf']
    command += ['--encoder', f'{config}/nano_internvl_vit.onnx']
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert server.stdout is not None
    try:
        address = re.match(r'http://[^:]+:(\d+)/', server.stdout.readline())
        if address is None:
            raise VlmError('the server did not start')
        yield int(address[1])
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == '__main__':
    main()

"""Measure the node with a camera: what frames cost that nobody wants, and `continuous`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig
from hobot_llamacpp_py.engine import Answer, Engine
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.folders import share_directory
from hobot_llamacpp_py.ros.camera_frames import CameraFrames
from hobot_llamacpp_py.ros.frame import Frame
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.ros.sight import Sight
from hobot_llamacpp_py.ros.timeline import Interval
from hobot_llamacpp_py.ros.worker import Worker
from hobot_llamacpp_py.tools.arguments import (
    EXIT_STATUS,
    ArgumentParser,
    count,
    find_decoder,
    positive,
)
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_engine import StandInEncoder
from hobot_llamacpp_py.tools.bench_model import write_model

__all__ = ['DrawnImages', 'Listener', 'Settings', 'main']

BARS = {
    'idle, Image': Bar(
        False,
        0.25,
        'processor time of the node while nobody asks, with a camera of 30 Hz (1080p, nv12), by'
        ' that of a bare rclpy subscriber with an empty callback',
    ),
    'idle, HbmMsg1080P': Bar(False, 0.25, 'the same with images from shared memory'),
    'stopped node': Bar(
        True,
        0.98,
        'frames a second of a RELIABLE camera while the node is stopped (SIGSTOP), by its 30 Hz',
    ),
    'continuous': Bar(
        True,
        0.9,
        'answers a second with continuous, by 1 / max(encoder time, answer time), where both take'
        ' as long',
    ),
}
RATE = 30.0  # frames a second
WIDTH, HEIGHT = 1920, 1080


# -- processes: each is this file with a word --------------------------------------------------


def _message_type(kind: str) -> Any:
    if kind == 'Image':
        return Image
    from hbm_img_msgs.msg import HbmMsg1080P

    return HbmMsg1080P


def _camera(kind: str) -> None:
    """Publish 1080p NV12 until SIGTERM; then print how many frames a second that were."""
    rclpy.init()
    publisher = rclpy.create_node('camera').create_publisher(
        _message_type(kind), _TOPICS[kind], QoSProfile(depth=3)
    )
    size = WIDTH * HEIGHT * 3 // 2
    if kind == 'Image':
        message = Image(width=WIDTH, height=HEIGHT, step=WIDTH, encoding='nv12', data=bytes(size))
    else:
        message = _message_type(kind)(width=WIDTH, height=HEIGHT, step=WIDTH, data_size=size)
        message.encoding[:4] = np.frombuffer(b'nv12', np.uint8)
    while not publisher.get_subscription_count():
        time.sleep(0.01)
    is_stopped = False

    def stop(*_: object) -> None:
        nonlocal is_stopped
        is_stopped = True

    signal.signal(signal.SIGTERM, stop)
    started, n = time.monotonic(), 0
    while not is_stopped:
        publisher.publish(message)
        n += 1
        time.sleep(max(0.0, started + n / RATE - time.monotonic()))
    print(n / (time.monotonic() - started))
    sys.stdout.flush()
    os._exit(0)


def _bare(kind: str) -> None:
    """Subscribe with an empty callback."""
    rclpy.init()
    node = rclpy.create_node('bare')
    node.create_subscription(
        _message_type(kind), _TOPICS[kind], lambda message: None, QoSProfile(depth=3)
    )
    rclpy.spin(node)


_TOPICS = {'Image': '/image', 'HbmMsg1080P': '/hbmem_img'}
_ROLES = {'camera': _camera, 'bare': _bare}


@contextmanager
def _process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, '-m', *arguments], text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _role(name: str, kind: str, **options: Any) -> Any:
    return _process('hobot_llamacpp_py.tools.bench_node', '--role', name, kind, **options)


def _node(kind: str) -> Any:
    config = share_directory() / 'config'
    parameters = {
        'feed_type': 1,
        'is_shared_mem_sub': int(kind != 'Image'),
        'model_file_name': config / 'nano_internvl_vit.onnx',
        'llm_model_name': config / 'nano_internvl.gguf',
    }
    arguments = [word for item in parameters.items() for word in ('-p', '{}:={}'.format(*item))]
    return _process('hobot_llamacpp_py', '--ros-args', '--log-level', 'warn', *arguments)


def _processor_seconds(process: subprocess.Popen[str]) -> float:
    """Return what all threads of a process have used."""
    total = 0
    for path in Path(f'/proc/{process.pid}/task').glob('*/schedstat'):
        total += int(path.read_text().split()[0])
    return total / 1e9


def _with_camera(kind: str, seconds: float) -> dict[str, float]:
    """Measure a node that idles, and then is stopped, while a camera runs."""
    with ExitStack() as stack:
        node = stack.enter_context(_node(kind))
        bare = stack.enter_context(_role('bare', kind))
        camera = stack.enter_context(_role('camera', kind, stdout=subprocess.PIPE))
        time.sleep(4)  # until all have found each other
        before = _processor_seconds(node), _processor_seconds(bare)
        time.sleep(seconds)
        used = _processor_seconds(node) - before[0], _processor_seconds(bare) - before[1]
        if not all(process.poll() is None for process in (node, bare, camera)):
            raise VlmError('a process of the benchmark has ended')
        results = {f'idle, {kind}': used[0] / used[1]}
        if kind == 'Image':
            node.send_signal(signal.SIGSTOP)
            bare.kill()
            time.sleep(seconds)
            camera.terminate()
            results['stopped node'] = float(camera.communicate()[0]) / RATE
    return results


# -- continuous ----------------------------------------------------------------------------------


class Listener:
    """Counts answers, and notes when they came."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.error = ''

    def on_ready(self) -> None:
        """Do nothing."""

    def on_prompt(self, prompt: str) -> None:
        """Do nothing."""

    def on_sight(self, sight: Sight | None) -> None:
        """Do nothing."""

    def on_piece(self, piece: str) -> None:
        """Do nothing."""

    def on_thought(self, piece: str) -> None:
        """Do nothing."""

    def on_answer(self, answer: Answer, sight: Sight | None, answering: Interval) -> None:
        """Note an answer."""
        self.ends.append(time.monotonic())

    def on_fatal(self, error: str) -> None:
        """Note why there is none."""
        self.error = error

    def on_cancelled(self, prompt: str, reason: str) -> None:
        """Note why there is none."""
        self.error = reason

    def on_error(self, prompt: str, error: Exception) -> None:
        """Note why there is none."""
        self.error = explained(error)

    def seconds_an_answer(self, n: int) -> float:
        """Wait for n answers after the first; return their mean time."""
        while len(self.ends) <= n:
            if self.error:
                raise VlmError(self.error)
            time.sleep(0.01)
        return (self.ends[n] - self.ends[0]) / n


class Settings:
    """The node's, without a node."""

    def __init__(self, current: Parameters, system_prompt: str = '') -> None:
        self.current, self._system_prompt = current, system_prompt

    def chat_config(self) -> ChatConfig:
        """Return how conversations are held."""
        return self.current.chat_config(self._system_prompt)


class DrawnImages:
    """Has a new frame each time, of the encoder's size."""

    taken = published = lost = 0
    description = 'the benchmark'

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def take(self) -> Frame:
        """Draw a frame."""
        data = self._rng.integers(0, 256, 448 * 448 * 3, np.uint8).tobytes()
        image = Image(width=448, height=448, step=448 * 3, encoding='bgr8', data=data)
        return Frame(image, time.monotonic())


def _continuous(llm: Path, n_threads: int, n_answers: int) -> dict[str, float]:
    """Measure `continuous` with an encoder that takes as long as an answer."""
    config = DecoderConfig(n_ctx=1024, n_threads=n_threads)
    parameters = Parameters(
        feed_type=1, continuous=True, user_prompt='Why?!', temperature=0.0, max_tokens=16
    )
    settings, times = Settings(parameters), list[float]()
    for _ in range(2):  # without the encoder's time, then with as much as an answer took
        decoder = Decoder(llm, config)
        encoder = StandInEncoder(decoder.n_embd)
        encoder.seconds = times[0] if times else 0.0
        inbox, listener = Inbox(8), Listener()
        engine = Engine(decoder, encoder)
        source = CameraFrames(DrawnImages(), inbox, lambda: parameters)
        worker = Worker(
            lambda engine=engine: engine,  # type: ignore[misc]
            settings,
            inbox,
            source,
            listener,
        )
        worker.start()
        times.append(listener.seconds_an_answer(n_answers))
        worker.close(60)
    return {'continuous': times[0] / times[1], 'answer s': times[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if that fails or a ratio misses its bar."""
    parser = ArgumentParser(
        prog='bench_node', description=(__doc__ or '').strip(), epilog=EXIT_STATUS
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument('--threads', type=count, default=min(8, cores), help='%(default)s here')
    parser.add_argument('--answers', type=count, default=8, help='of continuous: %(default)s')
    parser.add_argument('--seconds', type=positive, default=7.0, help='with a camera: %(default)s')
    parser.add_argument('--llm', metavar='MODEL', help='a GGUF decoder in place of the stand-in')
    parser.add_argument('--role', nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        role, kind = options.role
        _ROLES[role](kind)
        return
    # Nobody else's nodes, and nobody else may hear ours.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
    figures: dict[str, float] = {}
    try:
        llm = find_decoder(options.llm) if options.llm else write_model()
        for kind in _TOPICS:
            try:
                _message_type(kind)
            except ImportError:
                print('hbm_img_msgs is not installed: not measured with HbmMsg1080P')
                continue
            print(f'measuring: a camera with {kind} ...', file=sys.stderr, flush=True)
            figures |= _with_camera(kind, options.seconds)
        print('measuring: continuous ...', file=sys.stderr, flush=True)
        figures |= _continuous(llm, options.threads, options.answers)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    print(f'An answer of continuous takes {figures.pop("answer s"):.2f} s here.\n')
    sys.exit(not print_verdicts(BARS, figures))


if __name__ == '__main__':
    main()

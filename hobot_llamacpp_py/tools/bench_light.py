"""Measure how light the node is: its start, its memory, and what it adds to llama.cpp's time.

The node is a process of its own with the built-in model, asked over DDS, as a robot does.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.folders import share_directory
from hobot_llamacpp_py.health.footprint import Shape, footprint_of
from hobot_llamacpp_py.tools.arguments import EXIT_STATUS, ArgumentParser, count, positive
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_compare import check_comparable, print_comparison
from hobot_llamacpp_py.tools.bench_results import (
    Results,
    check_folder,
    facts_of_model,
    figure,
)

__all__ = ['main', 'resident', 'started']

BARS = {
    'question ms': Bar(
        False,
        3.0,
        "milliseconds from a question's message on its topic to the first batch of llama.cpp, with"
        ' the picture prepared',
    ),
    'piece ms': Bar(
        False, 1.0, 'milliseconds from the decode of a token to its message, handed to DDS'
    ),
    'memory MB': Bar(
        False,
        150.0,
        'memory of the process after some answers, less the weights, the KV cache and the compute'
        ' buffer',
    ),
    'start s': Bar(False, 0.4, 'seconds from the start of the process until the node is ready'),
}
KIND = 'light'  # of results
BARE = (
    'import rclpy; from std_msgs.msg import String; rclpy.init(); n = rclpy.create_node("bare");'
    ' n.create_publisher(String, "topic", 10); print("ready after 0 s", flush=True)'
)
QUESTIONS = ('What is in the image?', 'Describe the image.', 'How many shapes are there?')
ASKED = 10  # questions of a round
TIMEOUT = 60.0
MB = 1e6


# -- the node, with notes of when it did what -----------------------------------------------------


def _noting_node(arguments: list[str]) -> None:
    """Run the node, and print when it decoded and published, on the steady clock, as JSON."""
    from rclpy.publisher import Publisher

    from hobot_llamacpp_py.llama_api import llama_cpp
    from hobot_llamacpp_py.ros.main import run

    notes: list[tuple[str, float]] = []
    decode, publish = llama_cpp.llama_decode, Publisher.publish

    def noting_decode(context: Any, batch: Any) -> Any:
        notes.append(('decode', time.monotonic()))
        code = decode(context, batch)
        notes.append(('decoded', time.monotonic()))
        return code

    @functools.wraps(publish)
    def noting_publish(publisher: Any, message: Any) -> None:
        publish(publisher, message)
        if publisher.topic_name.endswith('/partial'):
            notes.append(('piece', time.monotonic()))

    llama_cpp.llama_decode = noting_decode
    Publisher.publish = noting_publish  # type: ignore[method-assign, assignment]
    status = run(['bench_light', *arguments])
    print(json.dumps(notes))
    sys.exit(status)


class _Asker:
    """Asks the node over DDS."""

    def __init__(self) -> None:
        rclpy.init(args=[])
        self._node = rclpy.create_node('bench_light')
        self._prompts = self._node.create_publisher(String, '/prompt_text', 10)
        self._answers: list[str] = []
        self._node.create_subscription(
            String,
            '/llamacpp_node/text',
            self._on_answer,
            QoSProfile(depth=10),
        )

    def _on_answer(self, message: String) -> None:
        self._answers.append(message.data)

    def wait(self) -> None:
        """Wait until the node is there."""
        self._spin_until(
            lambda: (
                self._prompts.get_subscription_count()
                and self._node.count_publishers('/llamacpp_node/text')
            )
        )
        time.sleep(0.2)  # its side knows of ours a moment later

    def ask(self, question: str) -> float:
        """Ask, and wait for the answer; return when it was asked, on the steady clock."""
        self._answers.clear()
        message = String(data=question)
        asked = time.monotonic()
        self._prompts.publish(message)
        self._spin_until(lambda: self._answers)
        if self._answers[0].startswith('[error]'):
            raise VlmError(self._answers[0])
        return asked

    def _spin_until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                raise VlmError('the node does not answer')
            rclpy.spin_once(self._node, timeout_sec=0.05)

    def close(self) -> None:
        """Leave the middleware."""
        self._node.destroy_node()
        rclpy.shutdown()


# -- measuring -----------------------------------------------------------------------------------


def _models() -> tuple[Path, Path]:
    config = share_directory() / 'config'
    return config / 'nano_internvl_vit.onnx', config / 'nano_internvl.gguf'


def _parameters() -> list[str]:
    encoder, decoder = _models()
    values = {
        'feed_type': 0,
        'image': share_directory() / 'config/image2.jpg',
        'model_file_name': encoder,
        'llm_model_name': decoder,
        'history_turns': 0,
    }
    pairs = [word for item in values.items() for word in ('-p', '{}:={}'.format(*item))]
    return ['--ros-args', *pairs]


@contextmanager
def started(*command: str) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """Start a node by a command of Python's; give it when it is ready, and the seconds until then.

    Raises:
        VlmError: it does not come so far.
    """
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            if not any('ready after' in line for line in process.stdout):
                raise VlmError('the node did not start')
            yield process, time.monotonic() - begun
        finally:
            process.kill()


def _seconds_to_ready(*command: str) -> float:
    with started(*command) as (_, seconds):
        return seconds


def _starts(n: int) -> dict[str, list[float]]:
    """Start the node and a bare one in turn."""
    found: dict[str, list[float]] = {'start s': [], 'bare node s': []}
    with tempfile.TemporaryDirectory() as folder:
        # An installed package has its bytecode beside it.
        os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
        os.environ['PYTHONPYCACHEPREFIX'] = folder
        for _ in range(n + 1):
            found['start s'].append(_seconds_to_ready('-m', 'hobot_llamacpp_py', *_parameters()))
            found['bare node s'].append(_seconds_to_ready('-c', BARE))
        del os.environ['PYTHONPYCACHEPREFIX']
    return {name: seconds[1:] for name, seconds in found.items()}


def _asked(rounds: int) -> dict[str, list[float]]:
    """Ask a node that takes notes."""
    command = ('-m', 'hobot_llamacpp_py.tools.bench_light', '--role', 'node', *_parameters())
    asker, asked = _Asker(), list[float]()
    try:
        with started(*command) as (process, _):
            asker.wait()
            for n in range(ASKED * rounds + len(QUESTIONS)):
                asked.append(asker.ask(QUESTIONS[n % len(QUESTIONS)]))
                time.sleep(0.05)
            megabytes = _memory(process.pid)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=TIMEOUT)[0]
    finally:
        asker.close()
    notes = json.loads(output.splitlines()[-1])
    questions = asked[len(QUESTIONS) :]
    begins = [next(t for kind, t in notes if kind == 'decode' and t > q) for q in questions]
    pieces, decoded = list[float](), 0.0
    for kind, t in notes:
        if kind == 'decoded':
            decoded = t
        elif kind == 'piece' and t > questions[0]:
            pieces.append(1e3 * (t - decoded))
            decoded = t  # of several pieces from one decode, each has its own time
    return {
        'question ms': [1e3 * (b - q) for b, q in zip(begins, questions, strict=True)],
        'piece ms': pieces,
        'memory MB': [megabytes],
    }


def _memory(pid: int) -> float:
    """Return the resident memory of a node in MB, less what its decoder has to have."""
    decoder = _models()[1]
    config = DecoderConfig()
    needed = footprint_of(Shape.read(decoder), config, decoder.stat().st_size).needed
    return (resident(pid) - needed) / MB


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    found = re.search(r'VmRSS:\s+(\d+)', Path(f'/proc/{pid}/status').read_text())
    assert found is not None
    return 1024 * int(found[1])


# -- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if that fails or a figure misses its bar."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:2] == ['--role', 'node']:
        _noting_node(words[2:])
    parser = ArgumentParser(
        prog='bench_light', description=(__doc__ or '').split('\n')[0], epilog=EXIT_STATUS
    )
    parser.add_argument('--rounds', type=count, default=5, help='measurements: %(default)s')
    help_json = 'write the results to this file, too'
    parser.add_argument('--json', type=Path, metavar='FILE', help=help_json)
    help_compare = 'hold the results against earlier ones'
    parser.add_argument('--compare', type=Path, metavar='FILE', help=help_compare)
    limit = 'how much worse a figure may get, as a share: %(default)s'
    parser.add_argument('--tolerance', type=positive, default=0.05, help=limit)
    options = parser.parse_args(words)
    # Nobody else's nodes, and nobody else may hear ours.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
    try:
        is_fine = _run(options)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    sys.exit(not is_fine)


def _run(options: argparse.Namespace) -> bool:
    encoder, decoder = _models()
    model = facts_of_model('decoder', decoder) | facts_of_model('encoder', encoder)
    results = Results(KIND, options.rounds, model, {})
    if options.json:
        check_folder(options.json)
    if options.compare:
        earlier = Results.read(options.compare)
        check_comparable(earlier, options.compare, results)
    print('measuring: questions and answers ...', file=sys.stderr, flush=True)
    found = _asked(options.rounds)
    print('measuring: starts ...', file=sys.stderr, flush=True)
    found |= _starts(2 * options.rounds)
    figures = {name: figure(repetitions) for name, repetitions in found.items()}
    results.ratios = {name: figures.pop(name) for name in BARS}
    results.figures = figures
    if options.json:
        results.write(options.json)
    start, bare = results.ratios['start s'].value, figures['bare node s'].value
    print(
        f'{results.conditions()}\n\nThe node is ready after {start:.2f} s; a node of rclpy that'
        f' only has a publisher, after {bare:.2f} s.\n'
    )
    is_fine = print_verdicts(BARS, {name: item.value for name, item in results.ratios.items()})
    if options.compare:
        is_fine &= print_comparison(earlier, options.compare, results, BARS, options.tolerance)
    return is_fine


if __name__ == '__main__':
    main()

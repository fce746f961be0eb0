"""A robot: the installed node as a process, and a client that talks to it over DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from domain import own_domain
from nano import CONFIG, MODELS, ROOT
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from togetheros import sourced

NAMES = {
    name: name
    for name in (
        *('/llamacpp_node', '/llamacpp_node/text', '/llamacpp_node/partial'),
        *('/llamacpp_node/cancel', '/llamacpp_node/reset', '/prompt_text', '/tts_text'),
        *('/llama_cpp_node', '/image', '/hbmem_img', '/diagnostics'),
    )
}
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
PROFILES = 'FASTRTPS_DEFAULT_PROFILES_FILE'
TIMEOUT = 60.0  # seconds: generous, for machines that are busy with something else


class Robot:
    """One process of the installed node, and everything a client can do to it.

    Use as a context manager. `parameters` are the node's, as on a command line, None for those
    that are not given; `arguments` follow them. `togetheros`: the message packages of TogetheROS
    are installed.

    Args:
        names: names of the node, its topics and services, where they are not the default ones.
        beside: a robot whose domain this one shares.
        command: what the node's command line is given to, for example to run it elsewhere.
    """

    def __init__(
        self,
        installed: Path,
        folder: Path,
        parameters: dict[str, Any],
        arguments: Sequence[str] = (),
        togetheros: bool = False,
        names: Mapping[str, str] = NAMES,
        beside: Robot | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self._arguments, self.has_targets = arguments, togetheros
        self.names, self._command = {**NAMES, **names}, command
        self._claim = nullcontext(beside.domain) if beside else own_domain()
        self.texts: list[str] = []
        self.partials: list[str] = []
        self.speech: list[str] = []
        self.targets: list[Any] = []
        self._status: dict[str, str] = {}
        self.message = ''
        self._nodes = int(beside is not None)  # that were there, this one's last life included
        self._installed, self._folder = installed, folder
        self._parameters = {'llm_threads': 1, 'temperature': 0.0, **parameters}

    def __enter__(self) -> Robot:
        self.domain = self._claim.__enter__()
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=self.domain)
        self.client = rclpy.create_node('robot', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.client)
        for topic, messages in (
            ('/llamacpp_node/text', self.texts),
            ('/llamacpp_node/partial', self.partials),
            ('/tts_text', self.speech),
        ):
            topic = self.names[topic]
            self.listen(topic, lambda message, messages=messages: messages.append(message.data))
        if self.has_targets:
            from ai_msgs.msg import PerceptionTargets

            topic = self.names['/llama_cpp_node']
            self.listen(topic, self.targets.append, PerceptionTargets)
        diagnostics = self.names['/diagnostics']
        self._diagnostics = self.client.create_subscription(
            DiagnosticArray, diagnostics, self._on_diagnostics, 10
        )
        self._prompts = self.client.create_publisher(String, self.names['/prompt_text'], 10)
        self._images: dict[tuple[type, str], Any] = {}
        self._clients: dict[str, Any] = {}
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log_file.close()
        self._executor.shutdown()  # it may hold what is ready of the node
        self.client.destroy_node()
        rclpy.shutdown(context=self._context)
        self._claim.__exit__(None, None, None)

    def _start(self) -> None:
        self._nodes += 1
        variables = {
            **installed_environment(self._installed),
            'ROS_DOMAIN_ID': str(self.domain),
            'ROS_LOG_DIR': str(self._folder),
        }
        if self.has_targets:
            variables = sourced(variables)
        arguments = ['--ros-args']
        for name, value in self._parameters.items():
            if value is None:
                continue
            shown = f"'{value}'" if isinstance(value, (str, Path)) else str(value).lower()
            arguments += ['-p', f'{name}:={shown}']
        arguments += self._arguments
        executable = self._installed / 'lib/hobot_llamacpp_py/hobot_llamacpp_py'
        self._log_path = self._folder / f'node-{self.domain}.log'
        self._log_file = self._log_path.open('w')
        self._output_path = self._log_path.with_suffix('.out')
        command = [*self._command, str(executable), *arguments]
        with self._output_path.open('w') as output:
            self.process = subprocess.Popen(
                command, env=variables, cwd=self._folder, stdout=output, stderr=self._log_file
            )

    # -- what the node says ----------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What the node has logged so far."""
        return self._log_path.read_text()

    @property
    def output(self) -> str:
        """What the node has printed on standard output so far."""
        return self._output_path.read_text()

    def listen(
        self, topic: str, callback: Callable[[Any], None], message_type: type = String
    ) -> None:
        self.client.create_subscription(message_type, topic, callback, QoSProfile(depth=1000))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self.names['/llamacpp_node']:
                self._status = {pair.key: pair.value for pair in status.values}
                self.message = status.message

    def wait_for(self, done: Callable[[], Any], what: str = 'it') -> None:
        """Serve the client's callbacks until `done()` is true."""
        deadline = time.monotonic() + TIMEOUT
        while not done():
            assert time.monotonic() < deadline, f'{what} did not happen; log:\n{self.log}'
            assert self.process.poll() is None or done(), f'the node has ended; log:\n{self.log}'
            self._executor.spin_once(timeout_sec=0.1)

    def serve(self, seconds: float) -> None:
        """Serve the client's callbacks for a while."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=rest)

    def wait_until_ready(self) -> Robot:
        """Wait until the models are loaded and the node is known to us, and we to it."""
        self.wait_for(lambda: 'ready after' in self.log, 'loading')
        self._status.clear()
        # What it publishes there comes once a second; of its publishers this one is the last. And
        # the node that replies has discovered all that we had before.
        self.wait_for(lambda: self._diagnostics.get_publisher_count(), 'being discovered')
        service = f'{self.names["/llamacpp_node"]}/get_parameters'
        self._call(GetParameters, service, GetParameters.Request(names=['feed_type']))
        if self._nodes > 1:
            assert self.status  # all that may have been another's
        return self

    @property
    def status(self) -> dict[str, str]:
        """What the node has said of itself, in the last second or since it was ready."""
        self.wait_for(lambda: self._status, 'a word of the node')
        return self._status

    def wait_for_end(self) -> int:
        """Wait until the process has ended; return its exit status."""
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        for _ in range(10):  # what has arrived with the last breath
            self._executor.spin_once(timeout_sec=0.02)
        return self.process.wait(timeout=1)

    def next_text(self) -> str:
        """Wait for the next whole answer and take it."""
        self.wait_for(lambda: self.texts, 'an answer')
        return self.texts.pop(0)

    def next_targets(self) -> Any:
        """Wait for the next answer as PerceptionTargets and take it."""
        self.wait_for(lambda: self.targets, 'an answer as PerceptionTargets')
        return self.targets.pop(0)

    # -- what the robot does ---------------------------------------------------------------------

    def say(self, prompt: str) -> None:
        self._prompts.publish(String(data=prompt))

    def ask(self, prompt: str) -> str:
        """Publish a prompt and return its answer."""
        self.say(prompt)
        return self.next_text()

    def publish(self, message: Any, topic: str = '/image') -> None:
        """Publish an image once, RELIABLE, and wait until it has arrived at the node."""
        topic = self.names.get(topic, topic)
        key = (type(message), topic)
        if key not in self._images:
            self._images[key] = self.client.create_publisher(type(message), topic, RELIABLE)

        def matched() -> bool:
            subscriptions = self.client.get_subscriptions_info_by_topic(topic)
            asked = {subscription.qos_profile.reliability for subscription in subscriptions}
            return (
                asked == {ReliabilityPolicy.RELIABLE}
                and self._images[key].get_subscription_count()
            )

        self.wait_for(matched, f'subscribing to {topic}')
        self._images[key].publish(message)
        soon = Duration(seconds=0.05)
        self.wait_for(lambda: self._images[key].wait_for_all_acked(soon), 'receiving an image')

    def stop_publishing(self) -> None:
        """Have no publisher of images any more."""
        for publisher in self._images.values():
            self.client.destroy_publisher(publisher)
        self._images.clear()

    def show(self, bgr: np.ndarray) -> None:
        """Publish a picture as bgr8."""
        height, width = bgr.shape[:2]
        self.publish(
            Image(width=width, height=height, encoding='bgr8', step=width * 3, data=bgr.tobytes())
        )

    def call(self, service: str) -> Trigger.Response:
        """Call one of the node's own services."""
        return self._call(Trigger, self.names[f'/llamacpp_node/{service}'], Trigger.Request())

    def set_parameter(self, name: str, value: str | int | float | bool) -> tuple[bool, str]:
        """Set a parameter as `ros2 param set` does; return success and reason."""
        types = {str: 'STRING', int: 'INTEGER', float: 'DOUBLE', bool: 'BOOL'}
        kind = types[type(value)]
        field = {f'{kind.lower()}_value': value}
        wrapped = ParameterValue(type=getattr(ParameterType, f'PARAMETER_{kind}'), **field)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=wrapped)])
        service = f'{self.names["/llamacpp_node"]}/set_parameters'
        (result,) = self._call(SetParameters, service, request).results
        return result.successful, result.reason

    def _call(self, service_type: Any, name: str, request: Any) -> Any:
        if name not in self._clients:
            self._clients[name] = self.client.create_client(service_type, name)
        client = self._clients[name]
        self.wait_for(client.service_is_ready, f'service {name}')
        future = client.call_async(request)
        self.wait_for(future.done, f'answer of {name}')
        return future.result()

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Send a signal; return the exit status and how many seconds the end took."""
        started = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=TIMEOUT), time.monotonic() - started


def install(base: Path) -> Path:
    """Install the package with colcon below a folder, once; return the install folder."""
    installed = base / 'install'
    if not installed.exists():
        base.mkdir(exist_ok=True)
        build = [sys.executable, '-m', 'colcon', '--log-base', str(base / 'log'), 'build']
        build += ['--merge-install', '--base-paths', str(ROOT)]
        build += ['--build-base', str(base / 'build'), '--install-base', str(installed)]
        subprocess.run(build, check=True, cwd=base, capture_output=True, text=True, timeout=300)
    return installed


def starter(installed: Path, folders: Callable[[], Path]) -> Callable[..., Any]:
    """Return a function that starts the node: `with start(feed_type=1) as robot`.

    Args:
        folders: makes a folder for each.
    """

    os.environ.setdefault(PROFILES, str(CONFIG / 'quick_discovery.xml'))

    @contextmanager
    def start(
        family: str = 'internvl',
        arguments: Sequence[str] = (),
        togetheros: bool = False,
        beside: Robot | None = None,
        command: Sequence[str] = (),
        **parameters: Any,
    ) -> Iterator[Robot]:
        if togetheros:
            pytest.importorskip('ai_msgs', reason='`make test` builds it')
        options = dict(togetheros=togetheros, beside=beside, command=command)
        encoder, decoder, kind = MODELS[family]
        models = dict(model_file_name=encoder, llm_model_name=decoder, model_type=kind.number)
        settings = {**models, **parameters}
        with Robot(installed, folders(), settings, arguments, **options) as robot:
            yield robot

    return start


def installed_environment(installed: Path) -> dict[str, str]:
    """Return the environment in which an installed package is run."""
    variables = {**os.environ}
    variables.pop(PROFILES, None)  # the tests' own
    return {
        **variables,
        'AMENT_PREFIX_PATH': f'{installed}:{os.environ.get("AMENT_PREFIX_PATH", "")}',
        'PYTHONPATH': ':'.join(str(p) for p in installed.glob('lib/python*/site-packages')),
    }


def without_stamps(log: str) -> list[str]:
    """Return a node's log lines without severity's stamp and name."""
    return [
        re.sub(r'^\[(\w+)\] \[[\d.]+\] \[[\w.]+\]: ', r'\1: ', line) for line in log.splitlines()
    ]

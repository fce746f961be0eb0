"""Start the node with the built-in model, ask about a picture and show what goes over ROS 2."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections import Counter

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from hobot_llamacpp_py.folders import share_directory
from hobot_llamacpp_py.tools.arguments import ArgumentParser

__all__ = ['main']

PARAMETERS = {
    'feed_type': '0',
    'image': 'config/image2.jpg',
    'image_type': '0',
    'model_file_name': 'config/nano_internvl_vit.onnx',
    'llm_model_name': 'config/nano_internvl.gguf',
    'once': 'true',
}
CHINESE, ENGLISH = '描述一下这张图片.', 'Describe the image.'
TOPICS = ('/llamacpp_node/partial', '/tts_text', '/llamacpp_node/text')
TIMEOUT = 120.0  # seconds


class _Listener(Node):
    """Prints the answer as it streams and counts the messages of every topic."""

    def __init__(self) -> None:
        super().__init__('llamacpp_demo')
        self.last: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        for topic in TOPICS:
            self.create_subscription(String, topic, self._reader(topic), QoSProfile(depth=1000))

    def _reader(self, topic: str):  # type: ignore[no-untyped-def]
        def read(message: String) -> None:
            self.counts[topic] += 1
            self.last[topic] = message.data
            if topic == TOPICS[0]:
                print(message.data, end='', flush=True)

        return read


def main(arguments: list[str] | None = None) -> None:
    """Run the demo and exit with the node's status, or 1 if no answer arrived."""
    parser = ArgumentParser(
        prog='demo',
        description=f'{__doc__} It asks in Chinese where LANG is Chinese.',
        epilog='Exit status: 0, or 1 if there was no answer.',
    )
    parser.parse_args(arguments)
    # Nobody else's robot shall answer, and no firewall shall be in the way.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    # The node waits for listeners, but not as long as Fast DDS may take to say that we are here.
    profile = share_directory() / 'config' / 'quick_discovery.xml'
    os.environ.setdefault('FASTRTPS_DEFAULT_PROFILES_FILE', str(profile))
    question = CHINESE if _language().startswith('zh') else ENGLISH
    command = ['--ros-args']
    for name, value in {**PARAMETERS, 'user_prompt': question}.items():
        command += ['-p', f'{name}:={value}']
    print('Starting the node, as this command does where ROS 2 is installed:\n')
    print(f'  ros2 run hobot_llamacpp_py hobot_llamacpp_py {shlex.join(command)}\n')
    print(f'Picture: {PARAMETERS["image"]}   Question: {question}')
    print('Answer, streamed over /llamacpp_node/partial:\n\n  ', end='', flush=True)
    try:
        status = _run([sys.executable, '-m', 'hobot_llamacpp_py', *command])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _language() -> str:
    """Return the language of messages, such as 'zh_CN.UTF-8': the first variable that is set."""
    names = ('LC_ALL', 'LC_MESSAGES', 'LANG')
    return next(filter(None, map(os.environ.get, names)), '')


def _run(command: list[str]) -> int:
    rclpy.init()
    listener = _Listener()
    executor = SingleThreadedExecutor()
    executor.add_node(listener)
    # Its standard output has the answer, too; here it is to come by way of the topics.
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + TIMEOUT
        while node.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        if node.poll() is None:
            node.terminate()
        _, log = node.communicate()
        # The node has waited for us to acknowledge the answer: it may still be in our queue.
        for _ in range(20):
            executor.spin_once(timeout_sec=0.01)
    finally:
        listener.destroy_node()
        rclpy.try_shutdown()
    answer = listener.last.get('/llamacpp_node/text', '')
    if node.returncode != 0 or not answer or answer.startswith('[error]'):
        print(f'\nThe node gave no answer (exit status {node.returncode}). Its log:\n{log}')
        return node.returncode or 1
    print('\n\nWhat carried it (std_msgs/String):\n')
    for topic in TOPICS:
        print(
            f'  {topic:<24} {listener.counts[topic]:>3} messages, last: {listener.last[topic]!r}'
        )
    print('\nThe node has exited with status 0.')
    return 0


if __name__ == '__main__':
    main()

"""The doctor looks at live topics, and the node refuses what cannot fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import rclpy
from domain import own_domain
from nano import CONFIG, ROOT
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from robot import Robot
from sensor_msgs.msg import Image
from sparse_decoders import Sizes, write_sparse
from std_msgs.msg import String

from hobot_llamacpp_py.health.free_memory import free_memory

Start = Callable[..., AbstractContextManager[Robot]]
RATE = 20.0


@contextmanager
def publishers(domain: int, *topics: tuple[type, str, ReliabilityPolicy]) -> Iterator[None]:
    """Publish empty messages on some topics until the end of the block."""
    context, stopping = Context(), threading.Event()
    rclpy.init(context=context, domain_id=domain)
    node = Node('someone', context=context)
    made = [
        (node.create_publisher(kind, topic, QoSProfile(depth=1, reliability=reliability)), kind)
        for kind, topic, reliability in topics
    ]

    def publish() -> None:
        while not stopping.wait(1 / RATE):
            for publisher, kind in made:
                publisher.publish(kind())

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)


def topics(domain: int, *arguments: str) -> list[tuple[str, str]]:
    """Run the doctor; return level and text of what it says of topics."""
    rows = results(domain, *arguments)
    return [(row['level'], row['text']) for row in rows if row['check'] == 'topics']


def results(domain: int, *arguments: str) -> list[dict[str, str]]:
    """Run the doctor with a camera wanted; return what it says."""
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.doctor', '--json']
    command += ['--llm', str(CONFIG / 'nano_internvl.gguf'), '--feed-type', '1']
    command += ['--encoder', str(CONFIG / 'nano_internvl_vit.onnx'), *arguments]
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    rows: list[dict[str, str]] = json.loads(done.stdout)['results']
    return rows


def test_topics_as_they_should_be() -> None:
    """An image topic is told with type, QoS and rate, a prompt topic with its QoS."""
    best, reliable = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE
    sources = ((Image, '/image', best), (String, '/prompt_text', reliable))
    with own_domain() as domain, publishers(domain, *sources):
        (image, prompt) = topics(domain)
    assert image[0] == prompt[0] == 'ok'
    said, _, rate = image[1].rpartition(', ')
    assert said == '/image: sensor_msgs/msg/Image, BEST_EFFORT VOLATILE by /someone'
    assert rate.endswith(' a second') and 0.5 * RATE < float(rate.split()[0]) < 1.5 * RATE
    assert prompt[1] == '/prompt_text: std_msgs/msg/String, RELIABLE VOLATILE by /someone'


def test_large_images() -> None:
    """Images of a megabyte are received as the node receives them: RELIABLE, none is lost."""
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.camera', 'config/image2.jpg']
    with own_domain() as domain:
        environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain), 'PYTHONUNBUFFERED': '1'}
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        ) as camera:
            try:
                assert camera.stderr and 'frames a second on /image' in camera.stderr.readline()
                image = topics(domain)[0]
            finally:
                camera.kill()
    assert image[0] == 'ok' and '/image: sensor_msgs/msg/Image, RELIABLE' in image[1]
    assert 7 < float(image[1].rpartition(', ')[2].split()[0]) < 13


def test_topics_that_do_not_fit() -> None:
    """A prompt publisher that cannot be heard, and a topic that is no image, are failures."""
    best = ReliabilityPolicy.BEST_EFFORT
    sources = ((String, '/camera', best), (String, '/prompt_text', best))
    with own_domain() as domain, publishers(domain, *sources):
        (image, prompt) = topics(domain, '--ros-img-sub-topic-name', '/camera')
    assert image[0] == prompt[0] == 'failure'
    assert '/camera: std_msgs/msg/String' in image[1] and 'which is no image' in image[1]
    assert '/someone publishes BEST_EFFORT: its prompts do not arrive' in prompt[1]


def test_nobody_there() -> None:
    """Without a camera there is a warning; prompts may come later."""
    with own_domain() as domain:
        (image, prompt) = topics(domain)
    assert image == ('warning', 'nobody publishes /image')
    assert prompt[0] == 'ok' and 'nobody publishes yet' in prompt[1]


def test_a_topic_that_is_none() -> None:
    """A name that ROS refuses is a failure in the node's words, and no check fails itself."""
    with own_domain() as domain:
        rows = results(domain, '--ros-img-sub-topic-name', 'bad topic')
    (line,) = [row['text'] for row in rows if row['level'] == 'failure']
    assert line.startswith("ros_img_sub_topic_name: 'bad topic' is no topic: topic name must not")
    assert not [row for row in rows if 'the check itself failed' in row['text']]


def test_the_node_refuses_what_cannot_fit(start: Start, tmp_path: Path) -> None:
    """A model that cannot fit ends the node with one line: what it needs, is free, and helps."""
    free = free_memory()
    assert free is not None
    layers = 3 * (free.ram + free.swap) // (1 << 20) // (16 * 64 * 2 * 2) + 1
    sizes = Sizes(n_layers=layers, n_embd=64, n_heads=16, n_kv_heads=16, n_ff=64, n_vocab=1000)
    path = write_sparse(tmp_path / 'deep.gguf', sizes)
    settings: dict[str, Any] = dict(feed_type=2, llm_model_name=path, n_ctx=1 << 20)
    with start(**settings) as robot:
        assert robot.wait_for_end() == 1
        assert 'does not fit into memory: it needs ' in robot.log
        assert 'set n_ctx to ' in robot.log

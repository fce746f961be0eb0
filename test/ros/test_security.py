"""SROS2: the policy names what the node has; a middleware without security is told."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nano import CONFIG, ROOT

pytest.importorskip('rclpy', reason='needs ROS 2')
import rclpy.node
from domain import own_domain
from robot import Robot
from sensor_msgs.msg import CompressedImage, Image

POLICY = CONFIG / 'sros2/policy.xml'
EVERYTHING = dict(watch_file='config/watch.yaml', publish_overlay=True, use_sim_time=True)
WAYS: tuple[tuple[str, type, dict[str, Any]], ...] = (
    ('/image', Image, EVERYTHING),
    ('/image/compressed', CompressedImage, {}),
    ('/hbmem_img', Image, dict(is_shared_mem_sub=1)),
)
"""Where pictures come from, and parameters: together all topics and services there may be."""


def allowed(enclave: str) -> dict[tuple[str, str], set[str]]:
    """Return the names that the policy allows an enclave, by kind and verb, as sros2 does."""
    found: dict[tuple[str, str], set[str]] = {}
    (profile,) = ElementTree.parse(POLICY).findall(
        f"enclaves/enclave[@path='{enclave}']/profiles/profile"
    )
    namespace, node = profile.attrib['ns'], f'/{profile.attrib["node"]}'
    for group in profile:
        for verb, permission in group.attrib.items():
            assert permission == 'ALLOW'
            names = found.setdefault((group.tag, verb), set())
            for entry in group:
                name = entry.text or ''
                full = name.replace('~', node, 1) if name[0] == '~' else name
                names.add(full if full[0] == '/' else namespace + full)
    return found


def used(robot: Robot) -> dict[tuple[str, str], set[str]]:
    """Return the names of a running node's topics and services, by kind and verb."""
    client: rclpy.node.Node = robot.client
    asks = {
        ('topics', 'subscribe'): client.get_subscriber_names_and_types_by_node,
        ('topics', 'publish'): client.get_publisher_names_and_types_by_node,
        ('services', 'reply'): client.get_service_names_and_types_by_node,
    }
    return {key: {name for name, _ in ask('llamacpp_node', '/')} for key, ask in asks.items()}


def subscribes(robot: Robot, topic: str) -> bool:
    return topic in used(robot)['topics', 'subscribe']


def test_policy_names_what_the_node_has(
    start: Callable[..., AbstractContextManager[Robot]],
) -> None:
    """With all that can be switched on the node has what the policy allows: no more, no less."""
    policy, found = allowed('/llamacpp_node'), {}
    for images, kind, parameters in WAYS:
        with start(feed_type=1, togetheros=True, **parameters) as robot:
            robot.wait_until_ready()
            if images != '/hbmem_img':  # the node waits for a publisher there, to learn its type
                robot.client.create_publisher(kind, images, 1)
            robot.wait_for(partial(subscribes, robot, images), images)
            for key, names in used(robot).items():
                found.setdefault(key, set()).update(names)
    assert policy.keys() == found.keys()
    for key, names in found.items():
        used_patterns = {p for p in policy[key] if any(fnmatchcase(name, p) for name in names)}
        assert policy[key] == used_patterns, 'allowed, but there is none'
        refused = {name for name in names if not any(fnmatchcase(name, p) for p in policy[key])}
        assert refused == set()


def test_others_may_do_what_the_node_has() -> None:
    """Clients and cameras are allowed what leads to the node; nobody sets its parameters."""
    node = allowed('/llamacpp_node')
    for enclave in '/llamacpp_chat', '/llamacpp_camera':
        policy = allowed(enclave)
        own = {'/parameter_events', '/rosout'}
        assert policy[('topics', 'publish')] - own <= node[('topics', 'subscribe')]
        assert policy.get(('topics', 'subscribe'), set()) <= node[('topics', 'publish')]
        asked = policy.get(('services', 'request'), set())
        assert asked <= node[('services', 'reply')]
        assert not {name for name in asked if '/set_parameters' in name}


def test_sros2_can_read_the_policy() -> None:
    """There is no comment among the enclaves: sros2 takes each child for one."""
    text = POLICY.read_text('utf-8')
    assert '<!--' not in text[text.index('<policy') :]


@pytest.mark.parametrize(
    ('enclave', 'module', 'arguments', 'line'),
    [
        ('llamacpp_node', 'hobot_llamacpp_py', [], 'ROS cannot make the node: '),
        ('llamacpp_chat', 'hobot_llamacpp_py.tools.chat', ['--once', 'Hello?'], 'error: '),
        ('llamacpp_camera', 'hobot_llamacpp_py.tools.camera', ['config/image2.jpg'], 'error: '),
    ],
)
def test_middleware_without_security_is_told(
    tmp_path: Path, enclave: str, module: str, arguments: list[str], line: str
) -> None:
    """Nothing runs insecurely where security is to be enforced; one line says why."""
    (tmp_path / 'enclaves' / enclave).mkdir(parents=True)
    with own_domain() as domain:
        secure = {
            'ROS_SECURITY_ENABLE': 'true',
            'ROS_SECURITY_STRATEGY': 'Enforce',
            'ROS_SECURITY_KEYSTORE': str(tmp_path),
            'ROS_DOMAIN_ID': str(domain),
        }
        command = [sys.executable, '-m', module, *arguments]
        ended: Any = subprocess.run(
            [*command, '--ros-args', '--enclave', f'/{enclave}'],
            cwd=ROOT,
            env={**os.environ, **secure},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 1
    assert 'Traceback' not in ended.stderr
    (told,) = [text for text in ended.stderr.splitlines() if text.startswith(line)]
    assert "doesn't have the security libraries" in told

"""The installed ROS 2 itself: if this fails, look at the installation before looking at us."""

import os
import subprocess
import sys
import time

import pytest
from domain import own_domain

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from std_msgs.msg import String  # noqa: E402

TALKER = """
import rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node('talker')
publisher = node.create_publisher(String, '/greeting', 10)
node.create_timer(0.1, lambda: publisher.publish(String(data='你好')))
rclpy.spin(node)
"""


def test_talker_and_listener():
    """A message of one process reaches another one on this machine."""
    with own_domain() as domain:
        assert heard_in(domain) == '你好'


def heard_in(domain):
    heard = []
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node('listener', context=context)
    node.create_subscription(String, '/greeting', lambda message: heard.append(message.data), 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    environment = os.environ | {
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    talker = subprocess.Popen([sys.executable, '-c', TALKER], env=environment)
    try:
        deadline = time.monotonic() + 30
        while not heard and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.5)
    finally:
        talker.kill()
        talker.wait()
        node.destroy_node()
        rclpy.shutdown(context=context)
    return heard and heard[0]

"""The installed node, as the tests of ROS have it."""

from ros.conftest import installed, start

__all__ = ['installed', 'start']

"""Two nodes of one name: each hears all that is meant for the other, and nobody tells."""

from __future__ import annotations

import time

from rclpy.node import Node

__all__ = ['Namesakes']

# Seconds for which a middleware still knows a node that was killed: 20 in Fast DDS, 10 in Cyclone.
LEASE = 25.0


class Namesakes:
    """Warns, once, where another node of the same name lives on the network."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._name = (node.get_name(), node.get_namespace())
        self._since: float | None = None  # on the steady clock
        self._is_told = False

    def check(self) -> None:
        """Look at the graph; to be called again and again."""
        if self._node.get_node_names_and_namespaces().count(self._name) < 2:
            self._since, self._is_told = None, False
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if self._is_told or now - self._since < LEASE:
            return
        self._is_told = True
        self._node.get_logger().warning(
            f'another node is called {self._node.get_fully_qualified_name()}, too: both answer'
            ' each prompt, and parameters and services reach either of them; start one of them'
            ' with -r __node:=NAME, or in a namespace'
        )

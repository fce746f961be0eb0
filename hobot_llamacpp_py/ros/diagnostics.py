"""The node's state on /diagnostics, once a second."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSProfile

from hobot_llamacpp_py.engine import Stats

__all__ = ['Diagnostics', 'timings']

PERIOD = 1.0  # seconds


class Diagnostics:
    """Publishes a node's status; `values` is asked for its newest figures each time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(
            DiagnosticArray, '/diagnostics', QoSProfile(depth=10)
        )

    def has_reader(self) -> bool:
        """Tell whether somebody listens."""
        return bool(self._publisher.get_subscription_count())

    def publish(self, *, state: str, error: str, values: Mapping[str, object]) -> None:
        """Publish the state, the last error (empty: none since the last answer) and figures."""
        level = DiagnosticStatus.WARN if error else DiagnosticStatus.OK
        status = DiagnosticStatus(
            level=level,
            name=self._node.get_fully_qualified_name(),
            message=f'{state}; {error}' if error else state,
            hardware_id='',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def timings(stats: Stats) -> dict[str, str]:
    """Put an answer's figures in the units of the published reference table."""
    per_prefilled = 1e3 * stats.prefill_s / max(1, stats.prefilled)
    per_decoded = 1e3 * stats.decode_s / max(1, stats.decoded)
    return {
        'encoder ms': f'{1e3 * stats.encode_s:.1f}',
        'prefill ms/token': f'{per_prefilled:.3f}',
        'eval ms/token': f'{per_decoded:.3f}',
        'time to first token ms': f'{1e3 * stats.first_token_s:.1f}',
        'KV cells reused': str(stats.reused),
        'tokens drafted': str(stats.drafted),
        'tokens accepted': str(stats.accepted),
        'tokens of thoughts': str(stats.thinking),
    }

"""What a watch tells the world: the state of each rule, each evaluation, the frames of changes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Bool, Header, Int32, String

from hobot_llamacpp_py.ros.frame import bgr_to_compressed
from hobot_llamacpp_py.ros.results import PIECES, Results
from hobot_llamacpp_py.ros.sight import Sight, header_of
from hobot_llamacpp_py.watch.rules import Rule, Value
from hobot_llamacpp_py.watch.watcher import Evaluation

__all__ = ['WatchResults']

STATE = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_TYPES: dict[str, Any] = {'yes_no': Bool, 'integer': Int32, 'choice': String, 'text': String}


class WatchResults:
    """The publishers of a watch. Whoever calls holds the watch's lock."""

    def __init__(self, node: Node, results: Results) -> None:
        self._node, self._results = node, results
        self._events = node.create_publisher(String, '~/watch', PIECES)
        self._picture = self._make_picture()
        self._states: dict[str, tuple[Rule, Publisher]] = {}

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """Have a topic for each rule, a new one for one that is new or has changed."""
        wanted = {rule.name: rule for rule in rules}
        for name, (rule, publisher) in list(self._states.items()):
            if wanted.get(name) != rule:
                self._node.destroy_publisher(publisher)
                del self._states[name]
        for name, rule in wanted.items():
            if name not in self._states:
                self._states[name] = rule, self._make_state(rule)

    def withdraw(self) -> None:
        """Take back all states: who comes from now on must not take old news for new."""
        rules = [rule for rule, _ in self._states.values()]
        self.set_rules(())
        self.set_rules(rules)
        self._node.destroy_publisher(self._picture)
        self._picture = self._make_picture()

    def state(self, state: str) -> None:
        """Publish what the watch does from now on."""
        self._publish_event(state=state)

    def evaluation(self, evaluation: Evaluation, sight: Sight) -> bool:
        """Publish an answer, and what has changed with it; False if its rule is no more."""
        rule, header = evaluation.rule, header_of(sight)
        if rule.name not in self._states or self._states[rule.name][0] != rule:
            return False
        if not evaluation.is_again or evaluation.has_changed:
            self._publish_event(
                rule=rule.name,
                answer=evaluation.value,
                probability=_rounded(evaluation.probability),
                changed=evaluation.has_changed,
                stamp={'sec': header.stamp.sec, 'nanosec': header.stamp.nanosec},
                frame_id=header.frame_id,
                ms=round(1e3 * evaluation.seconds, 1),
            )
        if evaluation.has_changed:
            self._publish_change(evaluation, sight, header)
        return True

    def _publish_change(self, evaluation: Evaluation, sight: Sight, header: Header) -> None:
        rule, value = evaluation.rule, evaluation.value
        self._states[rule.name][1].publish(_TYPES[rule.kind](data=value))
        frame = sight.frame
        if frame is not None and isinstance(frame.message, CompressedImage):
            self._picture.publish(frame.message)
        else:
            self._picture.publish(bgr_to_compressed(sight.read(), header))
        if self._results.targets:
            text = f'{rule.name}: {_shown(value)}'
            self._results.targets.publish_change(text, rule.name, evaluation.probability, header)

    def _publish_event(self, **values: object) -> None:
        self._events.publish(String(data=json.dumps(values, ensure_ascii=False)))

    def _make_state(self, rule: Rule) -> Publisher:
        return self._node.create_publisher(_TYPES[rule.kind], f'~/watch/{rule.name}', STATE)

    def _make_picture(self) -> Publisher:
        return self._node.create_publisher(CompressedImage, '~/watch/picture/compressed', STATE)


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def _shown(value: Value) -> str:
    """Return a value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)

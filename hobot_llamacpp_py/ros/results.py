"""What goes out: pieces as they are decoded, text to speak, and the whole answer."""

from __future__ import annotations

import random
from collections.abc import Mapping

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header, String

from hobot_llamacpp_py.engine.segmenter import SpeechSegmenter
from hobot_llamacpp_py.ros.perception_targets import PerceptionTargets
from hobot_llamacpp_py.ros.timeline import Interval

__all__ = ['PIECES', 'RELIABLE', 'Results']

RELIABLE = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=10
)
# A piece comes every few milliseconds on a PC: deep enough that a slow reader loses none.
PIECES = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, history=HistoryPolicy.KEEP_LAST, depth=1000
)


class Results:
    """The publishers of one node; used from the inference thread only.

    Args:
        targets_topic: where answers go as ai_msgs/PerceptionTargets, if that is installed.
        model: the model's name in those.
    """

    def __init__(self, node: Node, speech_topic: str, targets_topic: str, model: str) -> None:
        self._node = node
        self._prompt = node.create_publisher(String, '~/prompt', RELIABLE)
        self._partial = node.create_publisher(String, '~/partial', PIECES)
        self._thinking = node.create_publisher(String, '~/thinking', PIECES)
        self._text = node.create_publisher(String, '~/text', RELIABLE)
        self._speech = node.create_publisher(String, speech_topic, RELIABLE)
        self.targets: PerceptionTargets | None = None
        """Where answers go as ai_msgs, if that is installed."""
        try:
            self.targets = PerceptionTargets(node, targets_topic, RELIABLE, model)
        except ImportError:
            node.get_logger().info(
                f'ai_msgs is not installed: answers are on ~/text, and not on {targets_topic}'
            )
        self._segmenter = SpeechSegmenter()

    def begin(self, prompt: str, fillers: str) -> None:
        """Start the answer to a prompt: tell whose turn it is, so that its asker knows.

        Args:
            fillers: phrases, separated by `;`, of which one is said; empty: none.
        """
        self._send(self._prompt, prompt)
        self._segmenter = SpeechSegmenter()
        phrases = [phrase.strip() for phrase in fillers.split(';') if phrase.strip()]
        if phrases:
            self._send(self._speech, random.choice(phrases))

    def piece(self, text: str) -> None:
        """Publish a piece of the running answer."""
        self._send(self._partial, text)
        for clause in self._segmenter.feed(text):
            self._send(self._speech, clause)

    def thought(self, text: str) -> None:
        """Publish a piece of what the model thinks, which is nobody's answer."""
        self._send(self._thinking, text)

    def end(self, text: str, header: Header, steps: Mapping[str, Interval]) -> None:
        """Publish the whole answer and what is left to speak of it.

        Args:
            header: of the picture that it is about.
            steps: when the steps of the work happened.
        """
        for clause in self._segmenter.finish():
            self._send(self._speech, clause)
        if self._segmenter.in_code:
            self._node.get_logger().info(
                'the answer ends within a block of code, which nothing closes: code is not spoken,'
                ' the whole answer is on ~/text'
            )
        if self.targets:
            self.targets.publish(text, header, steps)
        self._send(self._text, text)

    def error(self, error: str) -> None:
        """Publish that a prompt failed."""
        self._send(self._text, f'[error] {error}')

    def refuse(self, prompt: str, reason: str) -> None:
        """Publish why a prompt is not answered, as a turn of its own: no other one runs now."""
        self.begin(prompt, fillers='')
        self.error(reason)

    def _send(self, publisher: Publisher, text: str) -> None:
        try:
            publisher.publish(String(data=text))
        except Exception:  # of rclpy's C library
            if self._node.context.ok():
                raise
            # ROS was shut down in this process: nobody hears anything any more, and the node ends.

    def has_reader(self) -> bool:
        """Tell whether somebody listens to the whole answers."""
        return any(p.get_subscription_count() for p in self._whole_answers())

    def has_subscription(self) -> bool:
        """Tell whether the graph has somebody who wants the whole answers, matched or not."""
        return any(self._node.count_subscribers(p.topic_name) for p in self._whole_answers())

    def wait_until_read(self, timeout: float) -> bool:
        """Wait until all subscribers have everything; False if some did not in time."""
        publishers = [self._partial, self._thinking, self._speech, *self._whole_answers()]
        return all(p.wait_for_all_acked(Duration(seconds=timeout)) for p in publishers)

    def _whole_answers(self) -> list[Publisher]:
        return [self._text, *([self.targets.publisher] if self.targets else [])]

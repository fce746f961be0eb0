"""A running node as seen from a client: its topics and services, and whose answer is coming."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from hobot_llamacpp_py.errors import NodeError
from hobot_llamacpp_py.tools.merged_topics import MergedTopics

__all__ = ['ERROR', 'ChatClient', 'Event', 'Turns']

ERROR = '[error] '  # how the node begins a text that is no answer
DISCOVERY_TIMEOUT = 5.0  # seconds; Fast DDS may take 3
REPLY_TIMEOUT = 5.0  # seconds that a service, or the delivery of a picture, may take
# Seconds without a message on /diagnostics, which come once a second; the graph alone may err.
SILENCE, SILENCE_OF_THE_GONE = 15.0, 3.0
LOOK_PERIOD = 0.2  # seconds between two looks at the graph
# After so many messages on /diagnostics that show the node idle no earlier prompt is on its way.
QUIET = 3
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
PIECES = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# A node that subscribes when it sees the publisher receives what was sent before.
PICTURES = QoSProfile(
    depth=1, reliability=RELIABLE.reliability, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LOST = 'no answer comes: the queue was full, this is the wake word, or the node was started again'


Event = tuple[str, str]
"""What happens to our question: a 'thought' or a 'piece' of text, at last the whole 'text'."""


class Turns:
    """Tells which of the node's answers is to our question.

    A String has no id, but prompts are answered one by one, each is named on ~/prompt when its
    turn comes, and has one text on ~/text: ours is the first one that was published after our
    prompt. What comes later may have been published earlier, so the stamps decide.

    Args:
        tell: is called with what happens to our own question.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._lock = threading.RLock()
        self._sent: str | None = None  # our question, until its turn comes
        self._turn: int | None = None  # when it came, until our text does
        self._next_turn = math.inf  # when the next one came
        # What has come since we asked, for the case that it overtook the prompt that it is of.
        self._pieces: list[tuple[int, Event]] = []
        self._texts: list[tuple[int, str]] = []
        self._older: str | None = None  # came in our turn, and seems to be of an earlier one
        self._quiet = 0

    def ask(self, question: str) -> None:
        """Note our question, just before it is published."""
        with self._lock:
            self.forget()
            self._sent, self._quiet = question, 0

    def is_running(self) -> bool:
        """Tell whether our question is the one that is being answered."""
        return self._turn is not None

    def forget(self) -> None:
        """Take no more interest in our question."""
        with self._lock:
            self._sent = self._turn = self._older = None
            self._pieces.clear()
            self._texts.clear()

    def on_prompt(self, stamp: int, prompt: str) -> None:
        """Take note of the prompt whose turn has come."""
        with self._lock:
            self._quiet = 0
            if self._turn is not None and stamp > self._turn:
                self._next_turn = min(self._next_turn, stamp)
            if self._sent is None or prompt != self._sent:
                return
            self._sent, self._turn, self._next_turn = None, stamp, math.inf
            pieces, texts = self._pieces, self._texts
            self._pieces, self._texts = [], []
            for piece in pieces:
                self._on_piece(*piece)
            for text in texts:
                self.on_text(*text)
            self._older = None  # those that came before it are of earlier ones

    def on_thought(self, stamp: int, piece: str) -> None:
        """Take the next piece of what the model thinks."""
        self._on_piece(stamp, ('thought', piece))

    def on_piece(self, stamp: int, piece: str) -> None:
        """Take the next piece of an answer."""
        self._on_piece(stamp, ('piece', piece))

    def _on_piece(self, stamp: int, event: Event) -> None:
        with self._lock:
            self._quiet = 0
            if self._sent is not None:
                self._pieces.append((stamp, event))
            elif self._turn is not None and self._turn < stamp < self._next_turn:
                self._tell(event)

    def on_text(self, stamp: int, text: str) -> None:
        """Take a whole answer, or an error in its place."""
        with self._lock:
            self._quiet = 0
            if self._sent is not None:
                self._texts.append((stamp, text))
                self._pieces = [piece for piece in self._pieces if piece[0] > stamp]
            elif self._turn is not None and self._turn < stamp:
                self._turn = None
                self._tell(('text', text))
            else:
                self._older = text

    def on_state(self, state: str, waiting: int) -> None:
        """Take note of what the node says of itself: what is not on its way is lost."""
        with self._lock:
            if state in ('idle', 'loading') and not waiting:
                self._quiet += 1
            elif state != 'preparing':  # which may be for no question at all
                self._quiet = 0
            if self._quiet >= QUIET and (self._sent is not None or self._turn is not None):
                text = ERROR + LOST
                if self._turn is not None and self._older is not None:
                    text = self._older  # the node's clock was set back in the middle of our turn
                self.forget()
                self._tell(('text', text))


class ChatClient:
    """Talks to one running node. Use as a context manager, then `connect`.

    Args:
        name: the node's, with its namespace.
        topic: where it takes prompts from; None: it is asked for that.
        arguments: of the command line, for ROS.
    """

    def __init__(self, name: str, topic: str | None, arguments: list[str] | None) -> None:
        self.name = '/' + name.strip('/')
        self._topic, self._arguments = topic, arguments
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._turns = Turns(self._events.put)
        self._status: dict[str, str] = {}
        self._seen = time.monotonic()  # when the last status came
        self._news = threading.Condition()
        self._is_closing = False
        self._pictures: Any = None

    def __enter__(self) -> ChatClient:
        # rclpy's own handlers would shut its context down; Ctrl-C is ours.
        rclpy.init(args=self._arguments, signal_handler_options=SignalHandlerOptions.NO)
        self._node: Any = rclpy.create_node(f'llamacpp_chat_{os.getpid()}')
        self._parameters = self._node.create_client(GetParameters, f'{self.name}/get_parameters')
        self._services = {
            verb: self._node.create_client(Trigger, f'{self.name}/{verb}')
            for verb in ('cancel', 'reset')
        }
        turns = self._turns
        MergedTopics(
            self._node,
            {
                f'{self.name}/prompt': (RELIABLE, turns.on_prompt),
                f'{self.name}/thinking': (PIECES, turns.on_thought),
                f'{self.name}/partial': (PIECES, turns.on_piece),
                f'{self.name}/text': (RELIABLE, turns.on_text),
            },
        )
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._spinner = threading.Thread(target=self._spin, name='executor', daemon=True)
        self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._executor.shutdown(timeout_sec=1.0)
        self._spinner.join(1.0)
        self._node.destroy_node()
        rclpy.shutdown()

    def connect(self, deadline: float, note: Callable[[str], None]) -> None:
        """Find the node, and wait until it has loaded its models; `note` is told so.

        Raises:
            NodeError: it is not there, or not what it should be.
        """
        discovered = min(deadline, time.monotonic() + DISCOVERY_TIMEOUT)
        if not self._wait(self._parameters.service_is_ready, discovered):
            raise NodeError(self._no_node())
        (prompts,) = self.parameters('ros_string_sub_topic_name')
        topic = self._topic or self.topic_of_node(prompts)
        self._prompts = self._node.create_publisher(String, topic, RELIABLE)
        discovered = min(deadline, time.monotonic() + DISCOVERY_TIMEOUT)
        if not self._wait(lambda: self._reaches_node(self._prompts), discovered):
            raise NodeError(f'{self.name} does not listen on {topic}: name its topic with --topic')
        self.parameters('feed_type')  # until it has discovered us
        self.next_status(deadline)
        if self._status['state'] == 'loading':
            note(f'waiting for {self.name}: it is loading its models')
        while self._status['state'] == 'loading':
            self.next_status(deadline)

    def ask(self, question: str) -> None:
        """Publish our question; `next_event` tells what comes of it."""
        while not self._events.empty():  # of one that was forgotten
            self._events.get()
        self._turns.ask(question)
        self._prompts.publish(String(data=question))

    def next_event(self, deadline: float) -> Event | None:
        """Wait for what happens next to our question; None if it takes too long.

        Raises:
            NodeError: the node has gone.
        """
        while (left := deadline - time.monotonic()) > 0:
            try:
                return self._events.get(timeout=min(left, 1.0))
            except Empty:
                self._check_node()
        return None

    def stop(self) -> bool:
        """Cancel our answer; False if it does not run: then the question is forgotten."""
        with suppress(NodeError):
            if self._turns.is_running() and self.call('cancel').success:
                return True
        self._turns.forget()
        return False

    def call(self, verb: str) -> Any:
        """Call ~/cancel or ~/reset; return the response.

        Raises:
            NodeError: it does not reply.
        """
        return self._reply(self._services[verb], Trigger.Request())

    def next_status(self, deadline: float = math.inf) -> dict[str, str]:
        """Wait for the next message on /diagnostics; return what the node says there.

        Raises:
            NodeError: there is none.
        """
        last = self._status
        while not self._wait(lambda: self._status is not last, time.monotonic() + LOOK_PERIOD):
            self._check_node()
            if time.monotonic() > deadline:
                raise NodeError(f'{self.name} is not ready in time (--timeout)')
        return self._status

    def parameters(self, *names: str) -> list[Any]:
        """Ask the node for parameters.

        Raises:
            NodeError: it does not reply, or has none of that name.
        """
        # With a new client: when the node has discovered that one it has discovered all that was
        # made before, and receives what we publish. Until then a request may be lost.
        client = self._node.create_client(GetParameters, self._parameters.srv_name)
        reply = self._reply(client, GetParameters.Request(names=names), tries=10)
        self._node.destroy_client(client)
        values = [parameter_value_to_python(value) for value in reply.values]
        if len(values) < len(names) or None in values:
            raise NodeError(f'{self.name} is no node of hobot_llamacpp_py')
        return values

    def topic_of_node(self, topic: str) -> str:
        """Return a topic's whole name, as the node sees it."""
        return str(expand_topic_name(topic, *reversed(os.path.split(self.name))))

    def types_of_others(self, topic: str) -> set[str]:
        """Return the types that others publish on a topic."""
        publishers = self._node.get_publishers_info_by_topic(topic)
        return {i.topic_type for i in publishers if i.node_name != self._node.get_name()}

    def deliver(self, topic: str, picture: Any) -> None:
        """Publish a picture and wait until the node has it; it stays there for who comes later.

        Raises:
            NodeError: nobody takes it.
        """
        if self._pictures:
            self._node.destroy_publisher(self._pictures)
        self._pictures = self._node.create_publisher(type(picture), topic, PICTURES)
        deadline = time.monotonic() + REPLY_TIMEOUT
        if not self._wait(lambda: self._reaches_node(self._pictures), deadline):
            raise NodeError(f'{self.name} does not look at {topic}: is it remapped?')
        self.parameters('feed_type')  # until it has discovered us
        self._pictures.publish(picture)
        if not self._pictures.wait_for_all_acked(Duration(seconds=REPLY_TIMEOUT)):
            raise NodeError(f'not all who subscribe to {topic} have received the picture')

    # -- the node --------------------------------------------------------------------------------

    def _reply(self, client: Any, request: Any, tries: int = 1) -> Any:
        """Call a service of the node and wait for its reply."""
        replies: SimpleQueue[Any] = SimpleQueue()
        if self._wait(client.service_is_ready, time.monotonic() + REPLY_TIMEOUT):
            for _ in range(tries):
                client.call_async(request).add_done_callback(replies.put)
                with suppress(Empty):
                    return replies.get(timeout=REPLY_TIMEOUT / tries).result()
        raise NodeError(f'{client.srv_name} does not reply')

    def _check_node(self) -> None:
        limit = SILENCE if self._parameters.service_is_ready() else SILENCE_OF_THE_GONE
        if time.monotonic() - self._seen > limit:
            raise NodeError(f'{self.name} has gone, hangs, or is no node of hobot_llamacpp_py')

    def _reaches_node(self, publisher: Any) -> bool:
        infos = self._node.get_subscriptions_info_by_topic(publisher.topic_name)
        names = {f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in infos}
        return self.name in names and publisher.get_subscription_count() > 0

    def _no_node(self) -> str:
        topics = self._node.get_topic_names_and_types()
        there = {topic.rpartition('/')[0] for topic, _ in topics if topic.endswith('/partial')}
        if found := ', '.join(sorted(there - {self.name})):
            return f'no node {self.name}, but {found}: choose with --node'
        domain = os.environ.get('ROS_DOMAIN_ID') or 0
        run = 'ros2 run hobot_llamacpp_py hobot_llamacpp_py'
        return f'no node {self.name} on ROS domain {domain}: start it ({run}), or see --node'

    def _wait(self, done: Callable[[], Any], deadline: float) -> bool:
        with self._news:
            while not done():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(min(left, LOOK_PERIOD))  # the graph does not say when it changes
        return True

    # -- callbacks -------------------------------------------------------------------------------

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except Exception:
            if not self._is_closing:  # Humble's executor stumbles over its own shutdown
                raise

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == self.name:
                values = {pair.key: pair.value for pair in status.values}
                self._turns.on_state(values['state'], int(values.get('prompts waiting', 0)))
                with self._news:
                    self._status, self._seen = values, time.monotonic()
                    self._news.notify_all()

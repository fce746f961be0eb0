"""A running node as seen from a client: its topics and services, and whose answer is coming."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import GetParameters
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String
from std_srvs.srv import Trigger

from hobot_llamacpp_py.errors import NodeError

__all__ = ['ChatClient', 'Event']

ERROR = '[error] '  # how the node begins a text that is no answer
DISCOVERY_TIMEOUT = 5.0  # seconds; Fast DDS may take 3
REPLY_TIMEOUT = 5.0  # seconds that a service, or the delivery of a picture, may take
SILENCE = 15.0  # seconds without a message on /diagnostics, which come once a second
LOOK_PERIOD = 0.2  # seconds between two looks at the graph
# After so many messages on /diagnostics that show the node idle no earlier prompt is on its way.
QUIET = 3
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
PIECES = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# A node that subscribes when it sees the publisher receives what was sent before.
PICTURES = QoSProfile(
    depth=1, reliability=RELIABLE.reliability, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LOST = (
    'no answer comes: the queue was full (prompt_queue_size), this is the wake word, or the node'
    ' was started again'
)


@dataclass(frozen=True)
class Event:
    """What happened to our question: a `thought`, a `piece`, the whole `answer` or an `error`."""

    kind: str
    text: str


class _Turns:
    """Counts prompts and answers, to tell which of them are our own.

    A String has no id, but prompts are answered one by one in the order in which they come on the
    prompt topic, and that is seen by all who listen there.

    Args:
        tell: is called with what happens to our own question.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self.is_continuous = False
        """Whether the node always answers something that nobody asks on the topic."""
        self._tell = tell
        self._lock = threading.RLock()
        self._sent: str | None = None  # our question, until it is seen on the topic
        # The prompts that are not answered yet, and whether they are ours. The first is the one
        # that is being answered.
        self._own: deque[bool] = deque()
        self._has_begun = False
        self._pieces = ''  # of the running answer
        self._late = 0  # characters of the last answer that have not come as pieces yet
        self._quiet = 0

    def ask(self, question: str) -> None:
        """Note our question, just before it is published."""
        with self._lock:
            self.forget()
            self._sent, self._quiet = question, 0

    def is_running(self) -> bool:
        """Tell whether our question is the one that is being answered."""
        with self._lock:
            return bool(self._own) and self._own[0]

    def forget(self) -> None:
        """Take no more interest in our question; it stays in its place."""
        with self._lock:
            self._sent = None
            self._own = deque([False] * len(self._own))

    def on_prompt(self, prompt: str) -> None:
        """Take note of anybody's prompt."""
        with self._lock:
            if self.is_continuous and not self._own:
                self._own.append(False)
            self._own.append(prompt == self._sent)
            if prompt == self._sent:
                self._sent = None
            self._quiet = 0

    def on_thought(self, piece: str) -> None:
        """Take the next piece of what the model thinks."""
        with self._lock:
            self._quiet = 0
            if self.is_running():
                self._tell(Event('thought', piece))

    def on_piece(self, piece: str) -> None:
        """Take the next piece of the running answer."""
        with self._lock:
            self._quiet = 0
            late = min(self._late, len(piece))
            self._late -= late
            piece = piece[late:]
            self._pieces += piece
            if piece and self.is_running():
                self._tell(Event('piece', piece))

    def on_text(self, text: str) -> None:
        """Take a whole answer, or an error in its place."""
        with self._lock:
            self._quiet = 0
            if self._own and self._own.popleft():
                error = text.startswith(ERROR)
                self._tell(Event('error', text[len(ERROR) :]) if error else Event('answer', text))
            # Topics may overtake each other: pieces of this answer may still come, and the next
            # one's may have come already.
            pieces, self._pieces, self._late = self._pieces, '', 0
            if text.startswith(pieces) and pieces:
                self._late = len(text) - len(pieces)
            elif pieces.startswith(text):
                self.on_piece(pieces[len(text) :])

    def on_state(self, state: str, waiting: int) -> None:
        """Take note of what the node says of itself: what is not on its way is lost.

        The first call begins to count.
        """
        with self._lock:
            if not self._has_begun:
                running = state in ('answering', 'waiting for an image')
                self._own, self._has_begun = deque([False] * (waiting + running)), True
            if state in ('idle', 'loading') and not waiting:
                self._quiet += 1
            elif state != 'preparing':  # which may be for no question at all
                self._quiet = 0
            if self._quiet < QUIET:
                return
            lost = self._sent is not None or any(self._own)
            self._own.clear()
            self._sent, self._pieces, self._late = None, '', 0
            if lost:
                self._tell(Event('error', LOST))


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
        self._turns = _Turns(self._events.put)
        self._status: dict[str, str] = {}
        self._seen = time.monotonic()  # when the last status came
        self._news = threading.Condition()
        self._is_listening = self._is_closing = False
        self._pictures: Any = None

    def __enter__(self) -> ChatClient:
        # rclpy's own handlers would shut its context down; Ctrl-C is ours.
        rclpy.init(
            args=self._arguments, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO
        )
        self._node: Any = rclpy.create_node(f'llamacpp_chat_{os.getpid()}')
        node = self._node
        self._parameters = node.create_client(GetParameters, f'{self.name}/get_parameters')
        self._services = {
            verb: node.create_client(Trigger, f'{self.name}/{verb}')
            for verb in ('cancel', 'reset')
        }
        # In the order in which the executor is to look at them.
        self._thoughts = self._listen(f'{self.name}/thinking', self._turns.on_thought, PIECES)
        self._listen(f'{self.name}/partial', self._on_piece, PIECES)
        self._listen(f'{self.name}/text', self._turns.on_text, RELIABLE)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
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
        prompts, is_continuous = self.parameters('ros_string_sub_topic_name', 'continuous')
        self._turns.is_continuous = is_continuous
        topic = self._topic or self.topic_of_node(prompts)
        self._prompts = self._node.create_publisher(String, topic, RELIABLE)
        self._listen(topic, self._turns.on_prompt, RELIABLE)
        discovered = min(deadline, time.monotonic() + DISCOVERY_TIMEOUT)
        if not self._wait(lambda: self._reaches_node(self._prompts), discovered):
            raise NodeError(f'{self.name} does not listen on {topic}: name its topic with --topic')
        self._is_listening = True
        self.next_status(deadline)
        if self._status['state'] == 'loading':
            note(f'waiting for {self.name}: it is loading its models')
        while self._status['state'] == 'loading':
            self.next_status(deadline)

    def ask(self, question: str) -> None:
        """Publish our question; `next_event` tells what comes of it."""
        while not self._events.empty():
            self._events.get()  # of one that was forgotten
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
        reply = self._reply(self._parameters, GetParameters.Request(names=names))
        messages = (ParameterMessage(name='_', value=value) for value in reply.values)
        values = [Parameter.from_parameter_msg(message).value for message in messages]
        if len(values) < len(names) or None in values:
            raise NodeError(f'{self.name} is no node of hobot_llamacpp_py')
        return values

    def topic_of_node(self, topic: str) -> str:
        """Return a topic's whole name, as the node sees it."""
        namespace, _, name = self.name.rpartition('/')
        return str(expand_topic_name(topic, name, namespace or '/'))

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
        self._pictures.publish(picture)
        if not self._pictures.wait_for_all_acked(Duration(seconds=REPLY_TIMEOUT)):
            raise NodeError(f'not all who subscribe to {topic} have received the picture')

    # -- the node --------------------------------------------------------------------------------

    def _reply(self, client: Any, request: Any) -> Any:
        """Call a service of the node and wait for its reply."""
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not client.service_is_ready() or not done.wait(REPLY_TIMEOUT):
            client.remove_pending_request(future)
            raise NodeError(f'{client.srv_name} does not reply')
        return future.result()

    def _check_node(self) -> None:
        if not self._parameters.service_is_ready():
            raise NodeError(f'{self.name} has gone: its log says why')
        if time.monotonic() - self._seen > SILENCE:
            raise NodeError(f'{self.name} says nothing on /diagnostics: has it gone, or hung up?')

    def _reaches_node(self, publisher: Any) -> bool:
        infos = self._node.get_subscriptions_info_by_topic(publisher.topic_name)
        names = {f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in infos}
        return self.name in names and publisher.get_subscription_count() > 0

    def _no_node(self) -> str:
        topics = self._node.get_topic_names_and_types()
        there = {topic.rpartition('/')[0] for topic, _ in topics if topic.endswith('/partial')}
        found = sorted(there - {self.name})
        if found:
            return f'no node {self.name}, but {", ".join(found)}: choose with --node'
        return (
            f'no node {self.name} on ROS domain {os.environ.get("ROS_DOMAIN_ID") or 0}: start it'
            ' (ros2 run hobot_llamacpp_py hobot_llamacpp_py), or name it with --node'
        )

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

    def _listen(self, topic: str, callback: Callable[[str], None], qos: QoSProfile) -> Any:
        return self._node.create_subscription(
            String, topic, lambda message: callback(message.data), qos
        )

    def _on_piece(self, piece: str) -> None:
        # Thoughts come first, but the executor would take one of each topic in turn.
        handle = self._thoughts.handle
        with handle:
            while taken := handle.take_message(String, False):
                self._turns.on_thought(taken[0].data)
        self._turns.on_piece(piece)

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == self.name:
                values = {pair.key: pair.value for pair in status.values}
                if self._is_listening:
                    self._turns.on_state(values['state'], int(values.get('prompts waiting', 0)))
                with self._news:
                    self._status, self._seen = values, time.monotonic()
                    self._news.notify_all()

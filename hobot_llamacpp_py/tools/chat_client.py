"""A running node as seen from a client: its topics and services, and whose answer is coming."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
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

__all__ = ['ERROR', 'ChatClient', 'Event']

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


class _Turns:
    """Tells which of the node's answers is to our question.

    A String has no id, but prompts are answered one by one, each is named on ~/prompt when its
    turn comes, and has one text on ~/text.

    Args:
        tell: is called with what happens to our own question.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._lock = threading.RLock()
        self._sent: str | None = None  # our question, until its turn comes
        # Topics may overtake each other. Whether each prompt is ours that has no text yet (the
        # first one is being answered), or texts that came before their prompts.
        self._own: deque[bool] = deque()
        self._early: deque[str] = deque()
        self._has_begun = False
        self._pieces = ''  # of the running answer
        self._late = 0  # characters of earlier answers that have not come as pieces yet
        self._saw_begin = True  # of the running answer
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
        """Take note of the prompt whose turn has come."""
        with self._lock:
            self._quiet = 0
            own = prompt == self._sent
            self._sent = None if own else self._sent
            if not self._early:
                self._own.append(own)
                if own and len(self._own) == 1 and self._pieces:
                    self._tell(('piece', self._pieces))
            elif (text := self._early.popleft()) and own:
                self._tell(('text', text))

    def on_thought(self, piece: str) -> None:
        """Take the next piece of what the model thinks."""
        with self._lock:
            self._quiet = 0
            if self.is_running():
                self._tell(('thought', piece))

    def on_piece(self, piece: str) -> None:
        """Take the next piece of the running answer."""
        with self._lock:
            self._quiet = 0
            late = min(self._late, len(piece))
            self._late -= late
            piece = piece[late:]
            self._pieces += piece
            if piece and self.is_running():
                self._tell(('piece', piece))

    def on_text(self, text: str) -> None:
        """Take a whole answer, or an error in its place."""
        with self._lock:
            self._quiet = 0
            if not self._own:
                self._early.append(text)
            elif self._own.popleft():
                self._tell(('text', text))
            # Pieces of this answer may still come, and the next one's may have come already.
            pieces, self._pieces = self._pieces, ''
            if text.startswith(pieces) and self._saw_begin and not text.startswith(ERROR):
                self._late += len(text) - len(pieces)
            elif pieces.startswith(text):
                self.on_piece(pieces[len(text) :])
            elif pieces:  # we do not know: some were lost, or it failed
                self._late = 0
            self._saw_begin = True

    def on_state(self, state: str, waiting: int) -> None:
        """Take note of what the node says of itself: what is not on its way is lost.

        The first call begins to count.
        """
        with self._lock:
            if not self._has_begun:
                self._has_begun = True
                self._saw_begin = state not in ('answering', 'waiting for an image')
                self._own, self._early = deque([False] * (not self._saw_begin)), deque()
            if state in ('idle', 'loading') and not waiting:
                self._quiet += 1
            elif state != 'preparing':  # which may be for no question at all
                self._quiet = 0
            if self._quiet < QUIET:
                return
            lost = self._sent is not None or any(self._own)
            self._own.clear()
            self._early.clear()
            self._sent, self._pieces, self._late = None, '', 0
            if lost:
                self._tell(('text', ERROR + LOST))


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
        rclpy.init(args=self._arguments, signal_handler_options=SignalHandlerOptions.NO)
        self._node: Any = rclpy.create_node(f'llamacpp_chat_{os.getpid()}')
        self._parameters = self._node.create_client(GetParameters, f'{self.name}/get_parameters')
        self._services = {
            verb: self._node.create_client(Trigger, f'{self.name}/{verb}')
            for verb in ('cancel', 'reset')
        }
        # In the order in which the executor is to look at them.
        self._listen('prompt', self._turns.on_prompt, RELIABLE)
        self._listen('text', self._after_thoughts(self._turns.on_text), RELIABLE)
        self._thoughts = self._listen('thinking', self._turns.on_thought, PIECES)
        self._listen('partial', self._after_thoughts(self._turns.on_piece), PIECES)
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
        self._is_listening = True
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

    def _listen(self, topic: str, callback: Callable[[str], None], qos: QoSProfile) -> Any:
        return self._node.create_subscription(
            String, f'{self.name}/{topic}', lambda message: callback(message.data), qos
        )

    def _after_thoughts(self, callback: Callable[[str], None]) -> Callable[[str], None]:
        def take(text: str) -> None:
            # Thoughts come first, but the executor takes one message of each topic in turn.
            with (handle := self._thoughts.handle):
                while taken := handle.take_message(String, False):
                    self._turns.on_thought(taken[0].data)
            callback(text)

        return take

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == self.name:
                values = {pair.key: pair.value for pair in status.values}
                if self._is_listening:
                    self._turns.on_state(values['state'], int(values.get('prompts waiting', 0)))
                with self._news:
                    self._status, self._seen = values, time.monotonic()
                    self._news.notify_all()

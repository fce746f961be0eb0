"""The node: parameters, topics and services on one side, the inference thread on the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from hobot_llamacpp_py.allocator import give_back_pages
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.ros.diagnostics import PERIOD, Diagnostics, timings
from hobot_llamacpp_py.ros.events import SubscriptionEventCallbacks
from hobot_llamacpp_py.ros.loading import loader
from hobot_llamacpp_py.ros.log_forwarding import forward_logs
from hobot_llamacpp_py.ros.namesakes import Namesakes
from hobot_llamacpp_py.ros.node_logger import NodeLogger
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.picture_source import LocalPicture, NoPicture, PictureSource
from hobot_llamacpp_py.ros.reporter import Reporter
from hobot_llamacpp_py.ros.results import RELIABLE, Results
from hobot_llamacpp_py.ros.settings import Settings
from hobot_llamacpp_py.ros.timeline import steady_clock
from hobot_llamacpp_py.ros.worker import Worker

if TYPE_CHECKING:
    from hobot_llamacpp_py.ros.overlay import Overlay
    from hobot_llamacpp_py.ros.watch import Watch
    from hobot_llamacpp_py.web.server import Server

__all__ = ['STOP_TIMEOUT', 'LlamacppNode']

# Seconds for which the executor leaves the GIL to the inference thread when a prompt has come:
# else the two take it from each other until the prompt has reached llama.cpp.
HEAD_START = 0.002

TIDY_TICKS = 10  # of the diagnostics' timer: so many seconds at least between two times
STOP_TIMEOUT = 0.6  # seconds that native code gets to end when the node stops


class LlamacppNode(Node):
    """The vision-language node: its wiring, and the executor's callbacks.

    Args:
        on_finished: called with the exit status when there is no more to do: the models cannot
            be loaded, or `once` and the answer has been read.
        node_arguments: passed on to rclpy.

    Raises:
        VlmError: parameters or files do not make sense; the text is one line for the user.
    """

    def __init__(
        self, on_finished: Callable[[int], None] = lambda status: None, **node_arguments: Any
    ) -> None:
        super().__init__('llamacpp_node', **node_arguments)
        self._quick_logger = NodeLogger(super().get_logger().name)
        forward_logs(self.get_logger())
        self._settings = settings = Settings(self)
        parameters = settings.current
        load = loader(settings, self.get_logger())
        self._missed_publishers = self._n_ticks = 0
        self._results = Results(
            self,
            speech_topic=parameters.text_msg_pub_topic_name,
            targets_topic=parameters.ai_msg_pub_topic_name,
            # A text chat has no encoder.
            model=settings.model_name('model_file_name', 'llm_model_name'),
        )
        self._reporter = Reporter(self, self._results, lambda: settings.current, on_finished)
        self._overlay: Overlay | None = None
        if parameters.publish_overlay:
            from hobot_llamacpp_py.ros.overlay import Overlay

            self._overlay = Overlay(self, self._reporter)
        self._diagnostics, self._namesakes = Diagnostics(self), Namesakes(self)
        self._inbox = Inbox(parameters.prompt_queue_size)
        self._source = self._picture_source()
        self._worker = Worker(
            load,
            settings,
            self._inbox,
            self._source,
            self._overlay or self._reporter,
        )

        self._watch: Watch | None = None
        self._watch_by(parameters.watch_file)
        self._server: Server | None = None
        if parameters.http_port:
            from hobot_llamacpp_py.ros.http import make_server

            self._server = make_server(settings, self._inbox, self._source, self._worker)
        self.create_subscription(
            String,
            parameters.ros_string_sub_topic_name,
            self._on_prompt_message,
            RELIABLE,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
        )
        self.create_service(Trigger, '~/cancel', self._on_cancel)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_timer(PERIOD, self._publish_diagnostics, clock=steady_clock())
        self.add_on_set_parameters_callback(self._on_set_parameters)
        if parameters.user_prompt and not parameters.continuous:
            self._inbox.put(parameters.user_prompt)
        self._worker.start()
        if self._server:
            self._server.start()
            self.get_logger().info(f'HTTP server: {self._server.url}')

    def get_logger(self) -> NodeLogger:
        """Return the node's logger."""
        return self._quick_logger

    def close(self) -> bool:
        """Stop the threads; False if native code holds one. The node can be destroyed."""
        ended = self._worker.close(STOP_TIMEOUT)
        if self._server:
            self._server.stop(STOP_TIMEOUT / 2)
        return (self._overlay is None or self._overlay.close(STOP_TIMEOUT)) and ended

    def _watch_by(self, file: str) -> None:
        """Ask the standing questions of a file from now on, none if there is no file.

        Raises:
            VlmError: there is no such file, or a rule in it cannot work.
        """
        path = find_file('watch_file', file) if file else None
        if self._watch:
            self._watch.set_file(path)
        elif path:
            from hobot_llamacpp_py.ros.watch import Watch

            arguments = (self, path, lambda: self._settings.current, self._results)
            self._watch = self._worker.watch = Watch(*arguments, self._inbox.notify)
            self._watch.follow(self._source)

    def _picture_source(self) -> PictureSource:
        parameters, files = self._settings.current, self._settings.files
        if parameters.feed_type == 0:
            size = (parameters.image_width, parameters.image_height)
            return LocalPicture(files['image'], size if parameters.image_type == 1 else None)
        if parameters.feed_type == 2:
            return NoPicture()
        from hobot_llamacpp_py.ros.camera_frames import CameraFrames
        from hobot_llamacpp_py.ros.images import (
            ImageSubscription,
            image_sources,
            shared_memory_sources,
        )

        if parameters.is_shared_mem_sub:
            sources = shared_memory_sources(self)
        else:
            topic = parameters.ros_img_sub_topic_name
            sources = image_sources(self, topic, parameters.image_transport)
        images = ImageSubscription(self, sources)
        return CameraFrames(images, self._inbox, lambda: self._settings.current)

    # -- callbacks: they copy, enqueue and return ------------------------------------------------

    def _on_prompt_message(self, message: String) -> None:
        self._enqueue(message.data)
        if len(self._inbox) < 2:  # behind others nothing can be hurried
            time.sleep(HEAD_START)

    def _enqueue(self, prompt: str) -> None:
        if self._inbox.put(prompt):
            return
        reason = self._refused(prompt)
        if prompt not in self._inbox:  # else whoever asks takes the answer to that for his
            self._inbox.put_note(lambda: self._results.refuse(prompt, reason))

    def _refused(self, prompt: str) -> str:
        """Say why a prompt is not taken; return it."""
        size = self._settings.current.prompt_queue_size
        reason = f'prompt refused, {size} are waiting already (prompt_queue_size)'
        self.get_logger().warning(f'{reason}: {prompt[:60]!r}')
        return reason

    def _on_incompatible_qos(self, event: Any) -> None:
        self._missed_publishers = event.total_count
        topic = self.resolve_topic_name(self._settings.current.ros_string_sub_topic_name)
        self.get_logger().warning(
            f'a publisher on {topic} has an incompatible QoS'
            ' (BEST_EFFORT?): its prompts cannot be received; make it RELIABLE'
        )

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker.cancel()
        response.message = 'cancelled' if response.success else 'no answer is running'
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._worker.reset()
        response.success, response.message = True, 'the conversation is forgotten'
        return response

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            changed = self._settings.changed(parameters)
        except Exception as error:  # whoever sets a parameter must get a reply
            return SetParametersResult(successful=False, reason=explained(error))
        is_prompt = any(parameter.name == 'user_prompt' for parameter in parameters)
        prompt = changed.user_prompt if is_prompt else ''
        if prompt and self._inbox.refuses():
            return SetParametersResult(successful=False, reason=self._refused(prompt))
        if any(parameter.name == 'watch_file' for parameter in parameters):
            try:
                self._watch_by(changed.watch_file)
            except VlmError as error:
                return SetParametersResult(successful=False, reason=explained(error))
        self._settings.current = changed
        if prompt:
            self._enqueue(prompt)
        self._inbox.notify()  # other frames may be wanted now
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        self._namesakes.check()
        if self._watch:
            self._watch.check()
        engine, worker, reporter = self._worker.engine, self._worker, self._reporter
        self._n_ticks += 1
        if worker.state == 'idle' and self._n_ticks >= TIDY_TICKS:
            self._n_ticks = 0
            give_back_pages()
        self._diagnostics.publish(
            state=worker.state,
            error=reporter.last_error or (self._watch.trouble if self._watch else ''),
            values={
                'state': worker.state,
                **self._settings.files,
                **self._source.describe(self._diagnostics.has_reader()),
                **timings(reporter.last_stats),
                **(engine.figures() if engine else {}),
                **(self._watch.describe() if self._watch else {}),
                'prompts waiting': len(self._inbox),
                'prompts dropped': self._inbox.refused,
                'incompatible prompt publishers': self._missed_publishers,
                'last error': reporter.last_error,
            },
        )

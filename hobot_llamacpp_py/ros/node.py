"""The node: parameters, topics and services on one side, the inference thread on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from hobot_llamacpp_py.engine import Vlm
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.engine.threads import usable_cores
from hobot_llamacpp_py.ros.diagnostics import PERIOD, Diagnostics, timings
from hobot_llamacpp_py.ros.images import (
    ImageSubscription,
    SubscriptionEventCallbacks,
    image_sources,
    shared_memory_sources,
)
from hobot_llamacpp_py.ros.log_forwarding import forward_logs, log_as
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.picture_source import (
    CameraFrames,
    LocalPicture,
    NoPicture,
    PictureSource,
)
from hobot_llamacpp_py.ros.reporter import Reporter
from hobot_llamacpp_py.ros.results import RELIABLE, Results
from hobot_llamacpp_py.ros.settings import Settings
from hobot_llamacpp_py.ros.worker import Worker

if TYPE_CHECKING:
    from hobot_llamacpp_py.engine import Engine
    from hobot_llamacpp_py.remote.engine import RemoteEngine
    from hobot_llamacpp_py.ros.overlay import Overlay
    from hobot_llamacpp_py.web.server import Server

__all__ = ['STOP_TIMEOUT', 'LlamacppNode']

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
        forward_logs(self.get_logger())
        self._settings = settings = Settings(self)
        parameters = settings.current
        load = self._loader()
        self._missed_publishers = 0
        results = Results(
            self,
            speech_topic=parameters.text_msg_pub_topic_name,
            targets_topic=parameters.ai_msg_pub_topic_name,
            # A text chat has no encoder.
            model=settings.model_name('model_file_name', 'llm_model_name'),
        )
        self._reporter = Reporter(self, results, lambda: settings.current, on_finished)
        self._overlay: Overlay | None = None
        if parameters.publish_overlay:
            from hobot_llamacpp_py.ros.overlay import Overlay

            self._overlay = Overlay(self, self._reporter)
        self._diagnostics = Diagnostics(self)
        self._inbox = Inbox(parameters.prompt_queue_size)
        self._source = self._picture_source()
        self._worker = Worker(
            load,
            settings,
            self._inbox,
            self._source,
            self._overlay or self._reporter,
        )

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
        self.create_timer(PERIOD, self._publish_diagnostics)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        if parameters.user_prompt and not parameters.continuous:
            self._inbox.put(parameters.user_prompt)
        self._worker.start()
        if self._server:
            self._server.start()
            self.get_logger().info(f'HTTP server: {self._server.url}')

    def close(self) -> bool:
        """Stop the threads; False if native code holds one. The node can be destroyed."""
        ended = self._worker.close(STOP_TIMEOUT)
        if self._server:
            self._server.stop(STOP_TIMEOUT / 2)
        return (self._overlay is None or self._overlay.close(STOP_TIMEOUT)) and ended

    def _picture_source(self) -> PictureSource:
        parameters, files = self._settings.current, self._settings.files
        if parameters.feed_type == 0:
            size = (parameters.image_width, parameters.image_height)
            return LocalPicture(files['image'], size if parameters.image_type == 1 else None)
        if parameters.feed_type == 2:
            return NoPicture()
        if parameters.is_shared_mem_sub:
            sources = shared_memory_sources(self)
        else:
            topic = parameters.ros_img_sub_topic_name
            sources = image_sources(self, topic, parameters.image_transport)
        images = ImageSubscription(self, sources)
        return CameraFrames(images, self._inbox, lambda: self._settings.current)

    def _loader(self) -> Callable[[], Vlm]:
        """Return what makes the engine, in the inference thread, and import what that needs."""
        if self._settings.current.is_remote:
            from hobot_llamacpp_py.remote.engine import RemoteEngine

            return lambda: self._connect(RemoteEngine)
        from hobot_llamacpp_py.engine import Engine

        return lambda: self._load_models(Engine)

    def _connect(self, engine: type[RemoteEngine]) -> RemoteEngine:
        log_as(self.get_logger())
        parameters, address = self._settings.current, self._settings.files['llm_model_name']
        return engine.open(address, parameters.remote_config(), parameters.vision_config())

    def _load_models(self, kind: type[Engine]) -> Engine:
        log_as(self.get_logger())
        parameters, files = self._settings.current, self._settings.files
        wanted, cores = parameters.llm_threads, usable_cores()
        if wanted > cores:
            self.get_logger().warning(
                f'llm_threads {wanted} is more than the {cores} cores there are:'
                f' {cores} threads are used'
            )
        engine = kind.open(
            files['llm_model_name'],
            files.get('model_file_name'),
            family=parameters.family,
            config=parameters.decoder_config(),
            encoder_config=parameters.encoder_config(),
            vision=parameters.vision_config(),
        )
        try:
            self._settings.on_loaded(engine)
        except BaseException:
            engine.close()
            raise
        return engine

    # -- callbacks: they copy, enqueue and return ------------------------------------------------

    def _on_prompt_message(self, message: String) -> None:
        self._enqueue(message.data)

    def _enqueue(self, prompt: str) -> bool:
        taken = self._inbox.put(prompt)
        if not taken:
            self.get_logger().warning(
                f'prompt refused, {self._settings.current.prompt_queue_size} are waiting already'
                f' (prompt_queue_size): {prompt[:60]!r}'
            )
        return taken

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
        if prompt and self._inbox.is_full:
            self._enqueue(prompt)  # which counts it as refused, and says so
            reason = f'{changed.prompt_queue_size} prompts are waiting already'
            return SetParametersResult(successful=False, reason=reason)
        self._settings.current = changed
        if prompt:
            self._enqueue(prompt)
        self._inbox.notify()  # other frames may be wanted now
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        engine, worker, reporter = self._worker.engine, self._worker, self._reporter
        self._diagnostics.publish(
            state=worker.state,
            error=reporter.last_error,
            values={
                'state': worker.state,
                **self._settings.files,
                **self._source.describe(self._diagnostics.has_reader()),
                **timings(reporter.last_stats),
                **(engine.figures() if engine else {}),
                'prompts waiting': len(self._inbox),
                'prompts dropped': self._inbox.refused,
                'incompatible prompt publishers': self._missed_publishers,
                'last error': reporter.last_error,
            },
        )

"""The node: parameters, topics and services on one side, the inference thread on the other."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from hobot_llamacpp_py.engine.engine import Answer, Engine, Stats
from hobot_llamacpp_py.errors import ModelFileError, ParameterError, one_line
from hobot_llamacpp_py.files import find_file, grammar_text, system_prompt_text
from hobot_llamacpp_py.parameters import Parameters, specs
from hobot_llamacpp_py.ros.diagnostics import PERIOD, Diagnostics, timings
from hobot_llamacpp_py.ros.frames import Frames
from hobot_llamacpp_py.ros.images import (
    Frame,
    ImageSubscription,
    SubscriptionEventCallbacks,
    image_sources,
    shared_memory_sources,
)
from hobot_llamacpp_py.ros.inbox import Inbox
from hobot_llamacpp_py.ros.results import RELIABLE, Results
from hobot_llamacpp_py.ros.timeline import Interval
from hobot_llamacpp_py.ros.worker import Worker
from hobot_llamacpp_py.vision.image_file import read_image, read_nv12
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['STOP_TIMEOUT', 'LlamacppNode']

STOP_TIMEOUT = 0.6  # seconds that native code gets to end when the node stops
READ_TIMEOUT = 5.0  # seconds that subscribers get to take the answer of `once`
# Seconds in which a listener that is there shows on the graph, then matches, and has matched us.
DISCOVERY_TIME, MATCH_TIMEOUT, MATCH_TIME = 1.0, 5.0, 0.2

BUILT_IN = (
    'To try the built-in model: ros2 run hobot_llamacpp_py hobot_llamacpp_py --ros-args'
    ' -p model_file_name:=config/nano_internvl_vit.onnx'
    ' -p llm_model_name:=config/nano_internvl.gguf -p user_prompt:="Describe the image."'
)

BUILT_IN_CHAT = (
    'To try the built-in model: ros2 run hobot_llamacpp_py hobot_llamacpp_py --ros-args'
    ' -p feed_type:=2 -p llm_model_name:=config/nano_internvl.gguf -p user_prompt:="Hello"'
)


class LlamacppNode(Node):
    """The vision-language node.

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
        self._on_finished = on_finished
        self._started = time.monotonic()
        self._forward_logs()
        self._settings = self._declare_parameters()
        parameters = self._settings
        self._check_supported(parameters)
        self._check_topics(parameters)
        self._files = self._find_files(parameters)

        self._last_stats = Stats()
        self._last_error = ''
        self._engine: Engine | None = None
        self._missed_publishers = 0
        self._results = Results(
            self,
            speech_topic=parameters.text_msg_pub_topic_name,
            targets_topic=parameters.ai_msg_pub_topic_name,
            # A text chat has no encoder.
            model=Path(self._files.get('model_file_name', self._files['llm_model_name'])).stem,
        )
        self._diagnostics = Diagnostics(self)
        self._inbox = Inbox(parameters.prompt_queue_size)
        self._images = self._subscribe_images() if parameters.feed_type == 1 else None
        self._frames = self._images and Frames(
            self._images.take, lambda: str(self._images.description), self._inbox
        )
        self._worker = Worker(
            self._load_models,
            self._read_image,
            parameters,
            self._inbox,
            self._frames,
            listener=self,
        )

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
            self._inbox.put_prompt(parameters.user_prompt)
        self._worker.start()

    def close(self) -> bool:
        """Stop the inference thread; False if native code holds it. The node can be destroyed."""
        return self._worker.close(STOP_TIMEOUT)

    # -- start -----------------------------------------------------------------------------------

    def _forward_logs(self) -> None:
        """Send what the engine logs through the logger of the node whose engine it is."""
        core = logging.getLogger('hobot_llamacpp_py')
        core.setLevel(logging.INFO)
        core.propagate = False
        core.handlers = [_RosLogHandler(self.get_logger())]

    def _declare_parameters(self) -> Parameters:
        # rclpy offers no other way to know what was given, and what is a default.
        self._given = frozenset(getattr(self, '_parameter_overrides', ()))
        values = {}
        for spec in specs().values():
            limits = f'; {spec.range_text}' if spec.range_text else ''
            descriptor = ParameterDescriptor(
                description=spec.sentence + limits,
                # YAML decides the type of what stands on a command line; `coerce` mends it.
                dynamic_typing=True,
            )
            values[spec.name] = self.declare_parameter(spec.name, spec.default, descriptor).value
        self._warn_of_unknown_parameters()
        return Parameters.from_values(values)

    def _warn_of_unknown_parameters(self) -> None:
        """Name parameters that were given but do not exist: ROS ignores them without a word."""
        for name in self._given:
            whole = name.split('.')[0]
            if whole != name and whole in specs():
                raise ParameterError(f'{whole} is a map in YAML; quote it, so that it is a text')
            if not self.has_parameter(name) and '.' not in name:
                similar = difflib.get_close_matches(name, specs(), 1)
                hint = f'; did you mean {similar[0]}?' if similar else ''
                self.get_logger().warning(f'there is no parameter {name}{hint}')

    def _check_supported(self, parameters: Parameters) -> None:
        """Say at once what does not go together, instead of doing something else."""
        grammar_text(parameters.json_schema, parameters.grammar)
        if parameters.pre_infer and parameters.feed_type == 2:
            self.get_logger().warning('pre_infer has no effect in a text chat')
        if parameters.once and not parameters.user_prompt:
            raise ParameterError('once needs a user_prompt to answer')
        if parameters.continuous and parameters.feed_type != 1:
            raise ParameterError('continuous needs images on a topic: set feed_type:=1')

    def _check_topics(self, parameters: Parameters) -> None:
        for name in specs():
            if name.endswith('_topic_name'):
                topic = getattr(parameters, name)
                try:
                    self.resolve_topic_name(topic)
                except Exception as error:  # of rclpy's C library, not exported
                    reason = str(error).split(', at ')[0]
                    raise ParameterError(f'{name}: {topic!r} is no topic: {reason}') from None

    def _find_files(self, parameters: Parameters) -> dict[str, str]:
        """Find all files before any is loaded, so that a miss is told at once."""
        wanted = {'llm_model_name': parameters.llm_model_name}
        if parameters.feed_type != 2:
            wanted['model_file_name'] = parameters.model_file_name
        files, missing = {}, []
        for name, value in wanted.items():
            try:
                files[name] = find_file(name, value)
            except ModelFileError as error:
                missing.append(str(error))
        if missing:
            advice = BUILT_IN_CHAT if parameters.feed_type == 2 else BUILT_IN
            raise ModelFileError(f'{"; ".join(missing)}. {advice}')
        if parameters.feed_type == 0:
            files['image'] = find_file('image', parameters.image)
        system_prompt_text(parameters.system_prompt)
        return {name: str(path) for name, path in files.items()}

    def _load_models(self) -> Engine:
        _thread.logger = self.get_logger()
        parameters = self._settings
        cores = len(os.sched_getaffinity(0))
        # The default is what the interface has; only who gave another number is to know.
        if parameters.llm_threads > cores and 'llm_threads' in self._given:
            self.get_logger().warning(
                f'llm_threads {parameters.llm_threads} is more than the {cores} cores there are:'
                f' {cores} threads are used'
            )
        return Engine.open(
            self._files['llm_model_name'],
            self._files.get('model_file_name'),
            model_type=parameters.model_type,
            config=parameters.decoder_config(),
            encoder_config=parameters.encoder_config(),
            resize_mode=parameters.resize_mode,  # type: ignore[arg-type]  # one of its choices
            embedding_cache_size=parameters.embedding_cache_size,
            frame_reuse_threshold=parameters.frame_reuse_threshold,
        )

    def _read_image(self, engine: Engine) -> Picture:
        path, parameters = self._files['image'], self._settings
        if parameters.image_type == 1:
            bgr = read_nv12(path, parameters.image_width, parameters.image_height)
        else:
            bgr = read_image(path)
        return engine.picture(bgr)

    def _subscribe_images(self) -> ImageSubscription:
        parameters = self._settings
        if parameters.is_shared_mem_sub:
            return ImageSubscription(self, shared_memory_sources(self))
        topic = parameters.ros_img_sub_topic_name
        return ImageSubscription(self, image_sources(self, topic, parameters.image_transport))

    # -- callbacks: they copy, enqueue and return ------------------------------------------------

    def _on_prompt_message(self, message: String) -> None:
        self._enqueue(message.data)

    def _enqueue(self, prompt: str) -> bool:
        taken = self._inbox.put_prompt(prompt)
        if not taken:
            self.get_logger().warning(
                f'prompt refused, {self._settings.prompt_queue_size} are waiting already'
                f' (prompt_queue_size): {prompt[:60]!r}'
            )
        return taken

    def _on_incompatible_qos(self, event: Any) -> None:
        self._missed_publishers = event.total_count
        topic = self.resolve_topic_name(self._settings.ros_string_sub_topic_name)
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

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        table, values = specs(), {}
        for parameter in changed:
            if parameter.name not in table:
                continue  # not ours, for example use_sim_time
            if not table[parameter.name].runtime:
                reason = f'{parameter.name} is read at start only: restart the node to change it'
                return SetParametersResult(successful=False, reason=reason)
            values[parameter.name] = parameter.value
        try:
            parameters = self._settings.replaced(values)
            system_prompt_text(parameters.system_prompt)
            grammar = grammar_text(parameters.json_schema, parameters.grammar)
            if grammar and {'json_schema', 'grammar'} & values.keys():
                if self._engine is None:
                    raise ParameterError(
                        'the models are being loaded: set it when the node is ready'
                    )
                self._engine.decoder.check_grammar(grammar)
        except Exception as error:  # whoever sets a parameter must get a reply
            return SetParametersResult(successful=False, reason=one_line(error))
        prompt = parameters.user_prompt if 'user_prompt' in values else ''
        before, self._worker.parameters = self._settings, parameters
        if prompt and not self._enqueue(prompt):
            self._worker.parameters = before
            reason = f'{parameters.prompt_queue_size} prompts are waiting already'
            return SetParametersResult(successful=False, reason=reason)
        self._settings = parameters
        self._inbox.notify()  # other frames may be wanted now
        return SetParametersResult(successful=True)

    def _publish_diagnostics(self) -> None:
        engine, inbox = self._engine, self._inbox
        self._diagnostics.publish(
            state=self._worker.state,
            error=self._last_error,
            values={
                'state': self._worker.state,
                **self._files,
                **self._image_status(),
                **timings(self._last_stats),
                'KV cells used': engine.decoder.n_past if engine else 0,
                'KV cells': engine.decoder.n_ctx if engine else 0,
                'prompts dropped': inbox.prompts_refused,
                'incompatible prompt publishers': self._missed_publishers,
                'last error': self._last_error,
            },
        )

    def _image_status(self) -> dict[str, object]:
        images, frames = self._images, self._frames
        if images is None or frames is None:
            return {}
        if self._diagnostics.has_reader():  # else nobody wants to know whether frames come
            frames.look()
        return {
            'images': images.description,
            'frames received': images.taken,
            'frames dropped': images.taken - frames.used - frames.unused,
            'frames lost': images.lost,
        }

    # -- what the inference thread tells ---------------------------------------------------------

    def on_ready(self, engine: Engine) -> None:
        self._engine = engine
        seconds = time.monotonic() - self._started
        topic = self.resolve_topic_name(self._settings.ros_string_sub_topic_name)
        self.get_logger().info(f'ready after {seconds:.1f} s; questions come from {topic}')

    def on_fatal(self, error: str) -> None:
        self.get_logger().fatal(error)
        self._on_finished(1)

    def on_prompt(self, prompt: str) -> None:
        self.get_logger().info(f'prompt: {_line(prompt)}')
        if self._settings.once:
            self._await_listeners()
        self._results.begin(self._settings.cute_words)

    def on_piece(self, piece: str) -> None:
        self._results.piece(piece)
        if self._settings.once:
            _print(piece)

    def on_thought(self, piece: str) -> None:
        self._results.thought(piece)

    def on_answer(
        self, prompt: str, answer: Answer, frame: Frame | None, steps: Mapping[str, Interval]
    ) -> None:
        self._last_stats, self._last_error = answer.stats, ''
        file = 'feedback' if self._settings.feed_type == 0 else ''  # as in the C++ node
        header = frame.header() if frame else Header(frame_id=file)
        if self._settings.once:
            _print('\n')
        self._results.end(answer.text, header, steps)
        self.get_logger().info(f'answer: {_line(answer.text)}')
        if answer.finish != 'stop':
            self.get_logger().info(f'the answer was cut ({answer.finish})')
        self._finish_once(0)

    def on_cancelled(self, prompt: str, reason: str) -> None:
        self._results.error(reason)
        self.get_logger().info(f'{reason} (prompt: {prompt[:60]!r})')
        self._finish_once(1)

    def on_error(self, prompt: str, error: str) -> None:
        self._last_error = error
        if self._settings.once:
            self._await_listeners()
        self._results.error(error)
        self.get_logger().error(f'{error} (prompt: {prompt[:60]!r})')
        self._finish_once(1)

    def _await_listeners(self) -> None:
        """Give a listener that was started with the node the time to be discovered."""
        while not self._results.has_reader():
            seconds = time.monotonic() - self._started
            limit = MATCH_TIMEOUT if self._results.has_subscription() else DISCOVERY_TIME
            if seconds > limit:
                return
            time.sleep(0.02)
        time.sleep(MATCH_TIME)

    def _finish_once(self, status: int) -> None:
        if self._settings.once:
            if not self._results.wait_until_read(READ_TIMEOUT):
                self.get_logger().warning('a subscriber did not take the answer in time')
            self._on_finished(status)


def _print(text: str) -> None:
    """Write a piece of the answer to standard output, where the log is not."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads it: closed, or a broken pipe
        print(text, end='', flush=True)


def _line(text: str) -> str:
    """Put a text on one line of the log, not without end."""
    return ' '.join(text.split())[:1000]


# Python's loggers belong to the process, which may hold several nodes: each inference thread notes
# its node's logger here.
_thread = threading.local()


class _RosLogHandler(logging.Handler):
    """Hands Python log records to the ROS logger of their thread, or else to a given one."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        logger = getattr(_thread, 'logger', self._logger)
        # rclpy remembers the severity of each calling line: one line for each severity.
        message = self.format(record)
        if record.levelno >= logging.ERROR:
            logger.error(message)
        elif record.levelno >= logging.WARNING:
            logger.warning(message)
        else:
            logger.info(message)

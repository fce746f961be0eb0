"""The settings of one node: declared, checked, their files found, and changed at run time."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_full_topic_name import validate_full_topic_name

from hobot_llamacpp_py.catalogue import Edition
from hobot_llamacpp_py.engine import ChatConfig, Constraint, grammar, json_schema
from hobot_llamacpp_py.engine.constraints import check
from hobot_llamacpp_py.errors import ModelFileError, ParameterError
from hobot_llamacpp_py.files import find_file, read_text, text_of
from hobot_llamacpp_py.ros.parameters import OF_THE_MODEL, Parameters, specs

if TYPE_CHECKING:
    from hobot_llamacpp_py.engine import Engine

__all__ = [
    'BUILT_IN',
    'COMMAND',
    'Settings',
    'check_combinations',
    'check_topics',
    'check_watch',
    'find_inputs',
    'unknown_parameters',
]

COMMAND = 'ros2 run hobot_llamacpp_py hobot_llamacpp_py --ros-args'
BUILT_IN = (
    f'{COMMAND} -p model_file_name:=config/nano_internvl_vit.onnx'
    ' -p llm_model_name:=config/nano_internvl.gguf -p user_prompt:="Describe the image."'
)
"""The command that asks the built-in model."""
_BUILT_IN_CHAT = (
    f'{COMMAND} -p feed_type:=2 -p llm_model_name:=config/nano_internvl.gguf'
    ' -p user_prompt:="Hello"'
)


class Settings:
    """The one owner of a node's settings.

    Whoever needs one reads `current`, which is replaced as a whole: by the executor's thread, at
    any time.

    Raises:
        VlmError: parameters or files do not make sense; the text is one line for the user.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._logger = node, node.get_logger()
        # rclpy offers no other way to know what was given, and what is a default.
        self.given = frozenset(getattr(node, '_parameter_overrides', ()))
        """Names of the parameters that somebody gave."""
        self._start: Callable[[Constraint], object] | None = None
        self._edition: Edition | None = None  # where llm_model_name names a model
        self.current = self._declare()
        for line in check_combinations(self.current):
            self._logger.warning(line)
        check_topics(self.current, node.get_name(), node.get_namespace())
        self.files = self._find_files()
        """Paths by the name of the parameter that names the file; of a server its address."""

    def chat_config(self) -> ChatConfig:
        """Return how conversations are held now; files of texts are read again.

        Raises:
            ModelFileError, ParameterError, ConstraintError: a file is gone, or has changed badly.
        """
        return _chat_config(self.current)

    def model_name(self, *parameters: str) -> str:
        """Return the model's name: by the file of the first of some parameters that has one."""
        if self.current.is_remote:
            return self.current.remote_model.rpartition('/')[2] or 'remote'
        return Path(next(self.files[name] for name in parameters if name in self.files)).stem

    def changed(self, parameters: Iterable[Parameter]) -> Parameters:
        """Return the settings as they would be with some parameters changed.

        Raises:
            VlmError: one of them cannot be set, or not to that.
        """
        table, values = specs(), {}
        for parameter in parameters:
            if parameter.name not in table:
                continue  # not ours, for example use_sim_time
            if not table[parameter.name].runtime:
                raise ParameterError(
                    f'{parameter.name} is read at start only: restart the node to change it'
                )
            values[parameter.name] = parameter.value
        changed = self.current.replaced(values)
        check_watch(changed)
        constraint = _chat_config(changed).sampling.constraint
        if constraint and {'json_schema', 'grammar'} & values.keys():
            _check(constraint, changed)
            if self._start is not None:  # else it is started with the models
                self._start(constraint)
        return changed

    def on_loaded(self, engine: Engine) -> None:
        """Have constraints compiled as soon as they are set, also the one that is set already."""
        self._start = engine.constraints.start
        if constraint := self.chat_config().sampling.constraint:
            self._start(constraint)

    # -- at the start ----------------------------------------------------------------------------

    def _declare(self) -> Parameters:
        values = {}
        for spec in specs().values():
            limits = f'; {spec.range_text}' if spec.range_text else ''
            descriptor = ParameterDescriptor(
                description=spec.sentence + limits,
                # YAML decides the type of what stands on a command line; `coerce` mends it.
                dynamic_typing=True,
            )
            declared = self._node.declare_parameter(spec.name, spec.default, descriptor)
            values[spec.name] = declared.value
        for line in unknown_parameters(n for n in self.given if not self._node.has_parameter(n)):
            self._logger.warning(line)
        parameters, self._edition = Parameters.from_values(values).with_catalogue(self.given)
        if self._edition:  # for those who ask the node
            changed = [Parameter(n, value=getattr(parameters, n)) for n in OF_THE_MODEL]
            self._node.set_parameters(changed)
        return parameters

    def _find_files(self) -> dict[str, str]:
        """Find all files before any is loaded, so that a miss is told at once."""
        parameters = self.current
        files, missing = parameters.find_models(self._edition, self.given)
        if missing and self._edition:
            raise missing
        if missing:
            command = _BUILT_IN_CHAT if parameters.feed_type == 2 else BUILT_IN
            raise ModelFileError(f'{missing}. To try the built-in model: {command}')
        files |= find_inputs(parameters)
        found = {name: str(path) for name, path in files.items()}
        if parameters.is_remote:
            from hobot_llamacpp_py.remote.protocol import base_url

            return {'llm_model_name': base_url(parameters.llm_model_name), **found}
        return found


def unknown_parameters(given: Iterable[str]) -> Iterator[str]:
    """Name what was given but does not exist: ROS ignores it without a word.

    Raises:
        ParameterError: a value is a map, which ROS takes for several parameters.
    """
    for name in given:
        whole = name.split('.')[0]
        if whole != name and whole in specs():
            raise ParameterError(f'{whole} is a map in YAML; quote it, so that it is a text')
        if name not in specs() and '.' not in name:
            similar = difflib.get_close_matches(name, specs(), 1)
            hint = f'; did you mean {similar[0]}?' if similar else ''
            yield f'there is no parameter {name}{hint}'


def check_combinations(parameters: Parameters) -> list[str]:
    """Return what has no effect together with something else.

    Raises:
        VlmError: values exclude each other, or cannot be used.
    """
    if constraint := _constraint(parameters):
        _check(constraint, parameters)
    if parameters.once and not parameters.user_prompt:
        raise ParameterError('once needs a user_prompt to answer')
    if parameters.continuous and parameters.feed_type != 1:
        raise ParameterError('continuous needs images on a topic: set feed_type:=1')
    check_watch(parameters)
    lines = []
    if parameters.pre_infer and parameters.feed_type == 2:
        lines.append('pre_infer has no effect in a text chat')
    if parameters.publish_overlay and parameters.feed_type == 2:
        lines.append('publish_overlay has no effect in a text chat: no pictures')
    return lines


def check_watch(parameters: Parameters) -> None:
    """Check that there can be standing questions, if there are to be some.

    Raises:
        ParameterError: something else excludes them.
    """
    if not parameters.watch_file:
        return
    if parameters.feed_type != 1:
        raise ParameterError('watch_file needs images on a topic: set feed_type:=1')
    if parameters.continuous:
        raise ParameterError(
            'watch_file and continuous exclude each other: make user_prompt a rule of kind text'
        )
    if parameters.is_remote:
        from hobot_llamacpp_py.remote.engine import NO_WATCH

        raise ParameterError(f'watch_file: {NO_WATCH}')


def check_topics(parameters: Parameters, node: str, namespace: str) -> None:
    """Check that the topics' names are such to ROS.

    Raises:
        ParameterError: one is not; says why.
    """
    for name in specs():
        if name.endswith('_topic_name'):
            topic = getattr(parameters, name)
            try:
                validate_full_topic_name(expand_topic_name(topic, node, namespace))
            except (ValueError, NameValidationException) as error:
                said = str(error).split(', at ')[0].splitlines()[0].rstrip(':')
                reason = re.sub("^(topic name '.*' is invalid|Invalid topic name): ", '', said)
                raise ParameterError(f'{name}: {topic!r} is no topic: {reason}') from None


def find_inputs(parameters: Parameters) -> dict[str, Path]:
    """Find the local image, if there is to be one; read the system prompt and the rules.

    Raises:
        ModelFileError, ParameterError, RuleError: a file is not there, or cannot be used.
    """
    text_of('system_prompt', parameters.system_prompt)
    if parameters.watch_file:
        from hobot_llamacpp_py.watch.rules import load_rules

        load_rules(find_file('watch_file', parameters.watch_file))
    if parameters.feed_type != 0:
        return {}
    return {'image': find_file('image', parameters.image)}


def _check(constraint: Constraint, parameters: Parameters) -> None:
    """Check that answers can follow a constraint; whether a server's can, it tells itself."""
    if parameters.is_remote:
        from hobot_llamacpp_py.remote.protocol import response_format

        response_format(constraint)
    else:
        check(constraint)


def _chat_config(parameters: Parameters) -> ChatConfig:
    system_prompt = text_of('system_prompt', parameters.system_prompt)
    return parameters.chat_config(system_prompt, _constraint(parameters))


_RULE = re.compile(r'::=|^\s*[?!]*\w[\w.]*\s*:', re.MULTILINE)  # of GBNF, of Lark


def _constraint(parameters: Parameters) -> Constraint | None:
    """Return what answers have to follow; both values may be files' names."""
    schema, rules = parameters.json_schema, parameters.grammar
    if schema and rules:
        raise ParameterError('json_schema and grammar exclude each other: empty one of them')
    if schema:
        inline = schema.lstrip().startswith(('{', '['))
        return json_schema(schema if inline else read_text('json_schema', schema))
    if rules:
        return grammar(rules if _RULE.search(rules) else read_text('grammar', rules))
    return None

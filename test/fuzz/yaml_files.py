"""Files that people write in YAML: rules of standing questions, and parameters."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from fuzz.target import Target, is_clear, mutated
from hypothesis import strategies as st
from nano import CONFIG

from hobot_llamacpp_py.errors import RuleError
from hobot_llamacpp_py.watch.rules import KINDS, load_rules

__all__ = ['Params', 'Rules']

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(['yes', 'no', '', ' ', 'x.', '是', '0x10', '1e3', '2024-01-01', 'a: b', '~']),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
# What YAML has and people seldom write.
_MARKS = st.sampled_from(
    [b'&a ', b'*a', b'!!python/object:os.system ', b'!!int ', b'<<: ', b'? ', b'| \n', b'>-\n']
    + [b'%YAML 9.9\n', b'---\n', b'...\n', b'{', b'[', b'}', b']', b'"', b"'", b'\t', b'\r', b'#']
    + [
        b'\0',
        b'\xff',
        b'\xef\xbb\xbf',
        b'\xed\xa0\x80',
        b'\xc2\x85',
        b'\xe2\x80\xa8',
        b'- ',
        b': ',
    ]
    + [b'!!binary aGk=', b'.nan', b'.inf', b'-.inf', b'1_0', b'0b1', b'12:30:45', b'1e400', b'~']
    + [b'[' * 200, b'{a: ' * 200, b'- ' * 300, b'9' * 5000, b'2001-99-99', b'\n    ', b'\n']
)


def _written(content: Any) -> bytes:
    return yaml.safe_dump(content, allow_unicode=True).encode('utf-8', 'surrogatepass')


def _texts(name: str) -> st.SearchStrategy[bytes]:
    return st.just((CONFIG / name).read_bytes())


class Rules(Target):
    """A file of rules gives rules that can be asked, or one line that says which one is wrong."""

    _entry = st.fixed_dictionaries(
        {},
        optional={
            'name': st.from_regex('[a-z]{1,3}', fullmatch=True) | _VALUES,
            'question': st.sampled_from(['Is it red?', '有圆吗？']) | _VALUES,
            'kind': st.sampled_from(KINDS) | _VALUES,
            'answers': st.lists(_SCALARS, max_size=4) | _VALUES,
            'range': st.lists(st.integers(-(2**33), 2**33), min_size=2, max_size=2) | _VALUES,
            'every': st.floats() | _VALUES,
            'hold': st.integers(-1, 101) | _VALUES,
            'min_probability': st.floats(-0.1, 1.1) | _VALUES,
            'max_tokens': st.integers(-1, 1001) | _VALUES,
            'instruction': _VALUES,
            'holt': _VALUES,
        },
    )
    _contents = (
        st.lists(_entry | _VALUES, max_size=4).map(lambda rules: {'rules': rules}) | _VALUES
    )
    inputs = st.one_of(
        _contents.map(_written),
        mutated(_texts('watch.yaml'), _MARKS),
        mutated(_contents.map(_written), _MARKS),
    )

    def __enter__(self) -> Rules:
        self._path = Path(tempfile.mkdtemp()) / 'rules.yaml'
        return self

    def check(self, value: bytes) -> None:
        self._path.write_bytes(value)
        try:
            rules = load_rules(self._path)
        except RuleError as error:
            is_clear(error, str(self._path), size=len(value))
            self._check_names_the_rule(str(error))
            return
        assert rules
        assert len({rule.name for rule in rules}) == len(rules)
        for rule in rules:
            assert re.fullmatch('[A-Za-z][A-Za-z0-9_]*', rule.name)
            assert rule.question in rule.inquiry.question
            assert rule.kind == 'text' or len(set(rule.inquiry.answers)) > 1
            for answer in rule.inquiry.answers:
                kinds = {'yes_no': bool, 'integer': int, 'choice': str}
                assert type(rule.value(answer)) is kinds[rule.kind]

    def _check_names_the_rule(self, error: str) -> None:
        """Where the file as a whole is one of rules, the error is about one of them."""
        if 'cannot be read' in error:
            return
        content = yaml.safe_load(self._path.read_text('utf-8-sig'))
        entries = content.get('rules') if isinstance(content, dict) else None
        if isinstance(content, dict) and set(content) == {'rules'} and isinstance(entries, list):
            assert re.search(r': rule (\d+|[\'"].*[\'"]): |at least one rule|rules; 100 at', error)


class Params(Target):
    """A file of parameters gives a node's settings, or one line that says what is wrong.

    ROS' own parser reads it, written in C, and a real node gets what it makes of it.
    """

    def __enter__(self) -> Params:
        import rclpy
        from domain import own_domain
        from rclpy.node import Node
        from robot import PROFILES

        from hobot_llamacpp_py.ros import main, settings

        os.environ.setdefault(PROFILES, str(CONFIG / 'quick_discovery.xml'))
        self._domain = own_domain()
        os.environ['ROS_DOMAIN_ID'] = str(self._domain.__enter__())
        self._rclpy, self._node, self._main, self._settings = rclpy, Node, main, settings
        self._path = Path(tempfile.mkdtemp()) / 'params.yaml'
        os.chdir(CONFIG.parent)
        return self

    def __exit__(self, *_: object) -> None:
        self._domain.__exit__(None, None, None)

    @property
    def inputs(self) -> st.SearchStrategy[bytes]:  # type: ignore[override]
        from hobot_llamacpp_py.ros.parameters import specs

        names = st.sampled_from([*specs(), 'use_sim_time', 'qos_overrides', 'max_token', 'a.b'])
        known = {
            spec.name: st.just(spec.default) | st.sampled_from(spec.choices or (spec.default,))
            for spec in specs().values()
        }
        models = {
            'model_file_name': 'config/nano_internvl_vit.onnx',
            'llm_model_name': 'config/nano_internvl.gguf',
        }
        values = st.dictionaries(names, _VALUES, max_size=3) | st.fixed_dictionaries(
            {}, optional=known
        )
        node = st.sampled_from(['/**', 'llamacpp_node', '/llamacpp_node', 'other', '*']) | st.text(
            max_size=5
        )
        content = st.builds(
            lambda name, given, with_models: {
                name: {'ros__parameters': {**(models if with_models else {}), **given}}
            },
            node,
            values,
            st.booleans(),
        )
        contents = (content | _VALUES).map(_written)
        return st.one_of(
            contents, mutated(_texts('params.yaml'), _MARKS), mutated(contents, _MARKS)
        )

    def check(self, value: bytes) -> None:
        self._path.write_bytes(value)
        context = self._rclpy.Context()
        arguments = ['--ros-args', '--log-level', 'fatal', '--params-file', str(self._path)]
        try:
            self._rclpy.init(args=arguments, context=context)
        except Exception as error:
            line = self._main._argument_error(str(error))
            assert len(line.splitlines()) == 1, repr(line)
            assert str(self._path) in line, repr(line)
            return
        try:
            self._start(context, len(value))
        finally:
            self._rclpy.shutdown(context=context)

    def _start(self, context: Any, size: int) -> None:
        from rclpy.exceptions import NameValidationException, ParameterException

        from hobot_llamacpp_py.errors import VlmError

        node = None
        try:
            node = self._node('llamacpp_node', context=context)
            settings = self._settings.Settings(node)
            settings.chat_config()
        except VlmError as error:
            is_clear(error, size=size)
        except (NameValidationException, ParameterException) as error:
            assert str(error).strip()
        finally:
            if node is not None:
                node.destroy_node()

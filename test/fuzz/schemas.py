"""JSON Schemas: an answer that is valid, or one line that says why there can be none."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
from fuzz.target import Target, is_clear
from hypothesis import strategies as st
from nano import MODELS, request_of

from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn, json_schema
from hobot_llamacpp_py.engine.constraints import check
from hobot_llamacpp_py.errors import ConstraintError, InferenceError

__all__ = ['Constrained', 'Schemas']

_NAMES = st.sampled_from(['a', 'b', 'color', '名', '', 'a b', '"', '\\', '$ref', 'x-guidance'])
_STRINGS = st.sampled_from(['', 'red', '黄色', 'a"b', '\\', '\n', '🙂', 'x' * 40, '<|im_end|>'])
_NUMBERS = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([0.5, -0.5, 1e-9, 1e300, 2**53, 2**53 + 1, -(2**63), 10**30, 0.1, 1.0]),
)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=5,
)
_PATTERNS = st.sampled_from(
    ['^a+$', '[0-9]{1,3}', '^(go|turn)$', 'a|b', '^.{2,4}$', '(?=a)b', '(a+)+$', r'^\d{4}-\d\d$']
    + [r'\p{Han}', '[', '^[^"]*$', r'\\', r'^\u0041$', 'a{1000}', '(a{99}){99}', '(?i)ab', r'\bx']
)
_SIZES = st.integers(0, 5) | st.sampled_from([-1, 1000, 10**6, 2**40])


def _described(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


def _with(kind: str, described: st.SearchStrategy[dict[str, Any]]) -> Any:
    return described.map(lambda keywords: {'type': kind, **keywords})


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return _with(
        'object',
        _described(
            properties=st.dictionaries(_NAMES, inner, max_size=3),
            required=st.lists(_NAMES, max_size=2),
            additionalProperties=st.booleans() | inner,
            patternProperties=st.dictionaries(_PATTERNS, inner, max_size=1),
            minProperties=_SIZES,
            maxProperties=_SIZES,
        ),
    )


_LEAVES = st.one_of(
    st.sampled_from([{}, True, False, {'type': 'boolean'}, {'type': 'null'}, {'$ref': '#'}]),
    _with('string', _described(minLength=_SIZES, maxLength=_SIZES, pattern=_PATTERNS)),
    _with(
        'string',
        _described(format=st.sampled_from(['date', 'time', 'uuid', 'email', 'ipv4', 'nonsense'])),
    ),
    *(
        _with(
            kind,
            _described(
                minimum=_NUMBERS,
                maximum=_NUMBERS,
                exclusiveMinimum=_NUMBERS,
                exclusiveMaximum=_NUMBERS,
                multipleOf=_NUMBERS,
            ),
        )
        for kind in ('integer', 'number')
    ),
    st.builds(lambda values: {'enum': values}, st.lists(_JSON, max_size=4)),
    st.builds(lambda value: {'const': value}, _JSON),
    st.sampled_from([{'$ref': '#/$defs/t'}, {'$ref': '#/$defs/none'}, {'$ref': 'http://x/y'}]),
)
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        _objects(inner),
        _with(
            'array',
            _described(
                items=inner,
                prefixItems=st.lists(inner, max_size=2),
                minItems=_SIZES,
                maxItems=_SIZES,
                uniqueItems=st.booleans(),
            ),
        ),
        st.builds(lambda parts: {'anyOf': parts}, st.lists(inner, max_size=3)),
        st.builds(lambda parts: {'oneOf': parts}, st.lists(inner, max_size=2)),
        st.builds(lambda parts: {'allOf': parts}, st.lists(inner, max_size=2)),
        st.builds(
            lambda one, two: {'$defs': {'t': one}, **(two if isinstance(two, dict) else {})},
            inner,
            inner,
        ),
    ),
    max_leaves=6,
)


class Constrained(Target):
    """What constraints share: the built-in model, which would say something else."""

    LIMIT = 20.0  # seconds; `check` ends itself after one of the processor's

    def __enter__(self) -> Constrained:
        self.engine = Engine.open(
            MODELS['internvl'][1], config=DecoderConfig(n_ctx=1024, n_threads=1)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def said(self, constraint: Any, seed: int) -> str | None:
        """Return an answer; None if it was not whole, or the constraint cannot be used."""
        try:
            check(constraint)
            sampling = SamplingConfig(
                temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed, constraint=constraint
            )
            turn = Turn('Hi')
            answer = self.engine.generate(request_of(turn, sampling=sampling, max_tokens=150))
            for _ in answer:
                pass
        except (ConstraintError, InferenceError) as error:
            is_clear(error)
            self.check_well()
            return None
        assert answer.finish in ('stop', 'length', 'context')
        return answer.text if answer.finish == 'stop' else None

    def check_well(self) -> None:
        """Check that an answer can be had after a failure."""
        turn = Turn('Hello!')
        answer = self.engine.generate(request_of(turn, max_tokens=4))
        assert ''.join(answer)


class Schemas(Constrained):
    """The text of a schema, as a parameter or a request brings it."""

    _odd = st.builds(
        lambda text, place, instead: (
            text[: (at := place * (len(text) + 1) // 100)] + instead + text[at + len(instead) :]
        ),
        _SCHEMAS.map(json.dumps),
        st.integers(0, 99),
        st.sampled_from(
            ['', ',', '{', '[', '"', 'NaN', '1e999', '\\ud800', '\0', '9' * 5000, '[' * 3000]
        ),
    )
    inputs = st.tuples(
        st.one_of(_SCHEMAS.map(json.dumps), _SCHEMAS.map(json.dumps), _odd, _JSON.map(json.dumps)),
        st.integers(0, 999),
    )

    def check(self, value: tuple[str, int]) -> None:
        text, seed = value
        try:
            constraint = json_schema(text)
        except ConstraintError as error:
            is_clear(error, 'json_schema')
            return
        said = self.said(constraint, seed)
        if said is None:
            return
        found = json.loads(said, parse_constant=_refuse)
        schema = json.loads(text)
        try:
            jsonschema.Draft202012Validator(schema).validate(found)
        except re.error:  # Python's regular expressions are not those of JSON Schema
            pass
        except (jsonschema.SchemaError, jsonschema.exceptions._WrappedReferencingError):
            pass


def _refuse(text: str) -> None:
    raise ValueError(f'{text} is no JSON')

"""Constrained answers follow their grammar or schema; what a grammar cannot hold is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nano import MODELS, answer, draw_scene, request_of

from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, Engine, Turn
from hobot_llamacpp_py.engine.grammar import schema_to_grammar
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.errors import ConstraintError, InferenceError
from training import world


@pytest.fixture(scope='module')
def engine() -> Iterator[Engine]:
    encoder, decoder, kind = MODELS['internvl']
    config = DecoderConfig(n_threads=1)
    with Engine.open(decoder, encoder, family=kind, config=config) as engine:
        yield engine


def ask(engine: Engine, question: str, sampling: SamplingConfig, **options: Any) -> Answer:
    answer = engine.generate(request_of(Turn(question), sampling=sampling, **options))
    for _ in answer:
        pass
    return answer


# -- schemas -------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ['', 'a', 'b', 'char', 'root', 'string', 'a-b', '颜色', '数量', '$ref', 'x y', '"\\\n', '😀']
)
LEAVES = st.one_of(
    st.sampled_from(['integer', 'boolean', 'null', 'number']).map(lambda kind: {'type': kind}),
    st.sampled_from(['date', 'time', 'date-time', 'uuid']).map(
        lambda form: {'type': 'string', 'format': form}
    ),
    st.tuples(st.integers(0, 3), st.integers(3, 6)).map(
        lambda size: {'type': 'string', 'minLength': size[0], 'maxLength': size[1]}
    ),
    st.lists(st.one_of(NAMES, st.integers(), st.none(), st.booleans()), min_size=1).map(
        lambda values: {'enum': values}
    ),
    st.one_of(NAMES, NAMES.map(lambda name: {'$ref': name})).map(lambda value: {'const': value}),
    st.just({'type': ['integer', 'null']}),
    st.sampled_from(['a', 'b']).map(lambda name: {'$ref': f'#/$defs/{name}'}),
)


def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    sizes = st.tuples(st.integers(0, 2), st.integers(2, 3))
    return st.one_of(
        st.tuples(st.dictionaries(NAMES, inner, min_size=1, max_size=3), st.data()).map(
            lambda made: {
                'type': 'object',
                'properties': made[0],
                'required': [name for i, name in enumerate(made[0]) if i % 2 == 0],
                'additionalProperties': False,
            }
        ),
        st.tuples(inner, sizes).map(
            lambda made: {
                'type': 'array',
                'items': made[0],
                'minItems': made[1][0],
                'maxItems': made[1][1],
            }
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda items: {'type': 'array', 'prefixItems': items}
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda choices: {'anyOf': choices}),
    )


schemas = st.recursive(LEAVES, containers, max_leaves=5).map(
    lambda schema: {
        **schema,
        'title': 'a test',
        '$defs': {'a': {'enum': ['一', 'two']}, 'b': {'type': 'integer'}},
    }
)


@settings(max_examples=60, deadline=None)
@given(schemas, st.integers(0, 1000))
def test_answers_follow_the_schema(engine: Engine, schema: dict, seed: int) -> None:
    """Whatever the model would like to say, a complete answer parses and validates."""
    grammar = schema_to_grammar(json.dumps(schema))
    sampling = SamplingConfig(
        temperature=2.0, top_k=0, top_p=1, min_p=0, seed=seed, grammar=grammar
    )
    try:
        answer = ask(engine, 'Say something.', sampling, max_tokens=400)
    except InferenceError as error:
        assert 'no UTF-8 text' in str(error)  # this hot, a model makes nonsense even of bytes
        return
    if answer.finish == 'stop':
        jsonschema.validate(json.loads(answer.text), schema)
    else:
        assert answer.finish == 'length'


DEEP = '{"type": "array", "items": ' * 5000 + '{}' + '}' * 5000
REFUSED = [
    ('{', 'json_schema is no JSON'),
    ('[' * 100000, 'json_schema is nested too deeply'),
    (DEEP, 'is nested too deeply'),
    ('true', '# is true, not an object'),
    ('{"const": NaN}', 'NaN is no number of JSON'),
    ('{"const": 1e999}', 'cannot be written as JSON'),
    ({}, '# has no type'),
    ({'type': [['string']]}, 'has type [["string"]]'),
    ({'type': []}, 'type is an empty list'),
    ({'type': 'enum'}, 'has type "enum"'),
    ({'type': ['string', 'text']}, 'has type ["string", "text"]'),
    ({'type': ['string', 'null'], 'maxLength': 3}, "the keyword 'maxLength' is not supported"),
    ({'type': 'integer', 'minimum': 3}, "the keyword 'minimum' is not supported"),
    ({'type': 'string', 'pattern': 'a+'}, "the keyword 'pattern' is not supported"),
    ({'type': 'string', 'format': 'email'}, "the format 'email' is not supported"),
    ({'type': 'string', 'format': 'date', 'maxLength': 3}, 'a format and a length'),
    ({'type': 'string', 'maxLength': 100000}, 'are no range within 2000'),
    ({'type': 'string', 'minLength': 5, 'maxLength': 2}, 'are no range within 2000'),
    ({'type': 'string', 'minLength': True}, 'minLength is true, not a number'),
    ({'type': 'array', 'minItems': 2}, 'minItems and maxItems need items'),
    ({'type': 'array', 'prefixItems': {}}, 'prefixItems is {}, not a list'),
    ({'type': 'array', 'items': {'type': 'integer'}, 'uniqueItems': True}, "'uniqueItems'"),
    ({'type': 'object', 'required': ['a']}, '"a" is required, but not among'),
    ({'type': 'object', 'required': 5}, 'required is 5, not a list'),
    ({'properties': {'a': {'type': 'null'}}, 'required': [[1]]}, '[1] is required'),
    ({'type': 'object', 'properties': []}, 'properties is [], not an object'),
    ({'type': 'object', 'properties': {'a': {'type': 'int'}}}, '#/properties/a has type "int"'),
    ({'type': 'object', 'additionalProperties': 5}, '#/additionalProperties is 5'),
    (
        {'properties': {'a': {'type': 'null'}}, 'additionalProperties': True},
        'additionalProperties beside properties',
    ),
    ({'oneOf': [{'type': 'null'}]}, "the keyword 'oneOf' is not supported"),
    ({'anyOf': [{'type': 'null'}], 'type': 'null'}, "the keyword 'type' is not supported here"),
    ({'anyOf': []}, 'anyOf is empty'),
    ({'anyOf': 5}, 'anyOf is 5, not a list'),
    ({'type': 'object', 'allOf': []}, "the keyword 'allOf' is not supported"),
    ({'enum': []}, 'enum has 0 values'),
    ({'enum': [*range(101)]}, 'enum has 101 values'),
    ({'enum': [True], 'type': 'integer'}, 'true is not of type "integer"'),
    ({'const': '\ud800'}, 'cannot be written as JSON'),
    ({'$ref': '#/$defs/a'}, 'leads nowhere'),
    ({'$ref': 'https://example.com/a'}, 'leads nowhere'),
    ({'type': 'null', '$defs': []}, '$defs is [], not an object'),
    ({'type': 'null', '$defs': {'a': {'type': 'int'}}}, '#/$defs/a has type "int"'),
    ({'$ref': '#/$defs/a', '$defs': {'a': {'$ref': '#/$defs/a'}}}, 'leads back to itself'),
]


@pytest.mark.parametrize(('schema', 'words'), REFUSED, ids=[words for _, words in REFUSED])
def test_refused_schemas(schema: object, words: str) -> None:
    """What a grammar could not hold is refused by name, not left out."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(ConstraintError) as caught:
        schema_to_grammar(text)
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


def test_definitions_may_lead_back(engine: Engine) -> None:
    """A definition may hold itself, within an object or an array."""
    schema = {
        '$ref': '#/$defs/tree',
        '$defs': {
            'tree': {
                'type': 'array',
                'maxItems': 2,
                'items': {'anyOf': [{'$ref': '#/$defs/tree'}]},
            }
        },
    }
    grammar = schema_to_grammar(json.dumps(schema))
    for seed in range(5):
        sampling = SamplingConfig(temperature=1.5, seed=seed, grammar=grammar)
        answer = ask(engine, 'Hi', sampling)
        assert (
            answer.finish != 'stop' or jsonschema.validate(json.loads(answer.text), schema) is None
        )


def test_definitions_do_not_mix_with_properties(engine: Engine) -> None:
    """A definition and a property of the same name are two things."""
    schema = {
        'type': 'object',
        'properties': {'a': {'enum': ['x', 'y']}, 'b': {'$ref': '#/$defs/a'}},
        'required': ['a', 'b'],
        '$defs': {'a': {'type': 'integer'}},
    }
    sampling = SamplingConfig(seed=1, grammar=schema_to_grammar(json.dumps(schema)))
    jsonschema.validate(json.loads(ask(engine, 'Hi', sampling).text), schema)


# -- grammars ------------------------------------------------------------------------------------


@pytest.mark.parametrize('speculative', [False, True])
@pytest.mark.parametrize('temperature', [0, 1.0])
def test_the_grammar_leads_to_the_right_answer(
    engine: Engine, temperature: float, speculative: bool
) -> None:
    """Of the answers that a grammar allows the model picks the right one, and ends there."""
    question = 'What color is the circle?'
    colours = ' | '.join(f'"{colour}"' for colour in world.COLORS)
    sampling = SamplingConfig(
        temperature=temperature, seed=3, grammar=f'root ::= "The circle is " ({colours}) "."'
    )
    right = asked = 0
    for seed in range(60, 90):
        scene, bgr = draw_scene(seed)
        if re.fullmatch(r'The circle is \w+\.', expected := answer(scene, question)):
            turn = Turn(question, engine.picture(bgr))
            reply = engine.generate(request_of(turn, sampling=sampling, speculative=speculative))
            asked, right = asked + 1, right + (''.join(reply) == expected)
            assert reply.finish == 'stop'
    assert asked >= 5
    assert right >= 0.9 * asked


def test_repetition_is_allowed_by_a_grammar(engine: Engine) -> None:
    """Sentences that the grammar wants twice are given twice."""
    sampling = SamplingConfig(temperature=0, grammar='root ::= "It is red. It is red. It is red."')
    assert ask(engine, 'Hi', sampling).text == 'It is red. It is red. It is red.'


def test_an_answer_can_be_cut(engine: Engine) -> None:
    """An answer that its grammar does not end says that it was cut."""
    answer = ask(engine, 'Hi', SamplingConfig(grammar='root ::= [a-z]*'), max_tokens=8)
    assert answer.finish in ('length', 'stop')
    endless = ask(engine, 'Hi', SamplingConfig(grammar='root ::= "a"+ "!"', seed=1), max_tokens=2)
    assert endless.finish == 'length'


NO_GBNF = 'the grammar is no GBNF with a rule named root'
BAD_GRAMMARS = [
    *[(text, NO_GBNF) for text in ('root ::= a', 'x ::= "a"', 'root ::= root "a" | "b"', 'root')],
    ('root ::= "a"{2,1}', 'the grammar repeats {2,1}'),
    ('root ::= "a"{5000}', 'the grammar repeats {5000}'),
    ('root ::= ' + '(' * 20000 + '"a"' + ')' * 20000, 'nests more than 200'),
    ('root ::= "' + 'a' * 300000 + '"', 'longer than 256 KiB'),
]


@pytest.mark.parametrize(('grammar', 'words'), BAD_GRAMMARS, ids=[g[:24] for g, _ in BAD_GRAMMARS])
def test_bad_grammars(engine: Engine, grammar: str, words: str) -> None:
    """What is no grammar is refused in one line, and the engine answers on."""
    with pytest.raises(ConstraintError, match=re.escape(words)):
        engine.vocabulary.check_grammar(grammar)
    with pytest.raises(ConstraintError):
        ask(engine, 'Hi', SamplingConfig(grammar=grammar))
    assert ask(engine, 'Hi', SamplingConfig(grammar='root ::= "yes"')).text == 'yes'


def test_no_token_is_allowed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model rules out all that the grammar allows, that is an error, and no crash."""
    sampling = SamplingConfig(temperature=0, grammar='root ::= "yes"')
    monkeypatch.setattr(Sampler, '_is_allowed', lambda self, token: False)
    with pytest.raises(InferenceError, match='no token that the grammar allows'):
        ask(engine, 'Hi', sampling)

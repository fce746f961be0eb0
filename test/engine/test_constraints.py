"""Structured answers: whatever a model would like to say, what comes follows the constraint."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import llama_cpp
import numpy as np
import pytest
from nano import ROOT
from vocabularies import NAMES, open_vocabulary

from hobot_llamacpp_py.config import Constraint
from hobot_llamacpp_py.engine import constraint_compiler
from hobot_llamacpp_py.engine.constraint_compiler import ConstraintCompiler
from hobot_llamacpp_py.engine.constraints import check, grammar, json_schema
from hobot_llamacpp_py.engine.matcher import Matcher
from hobot_llamacpp_py.errors import ConstraintError, InferenceError


class Speaker:
    """A model that says nothing but nonsense, in the words of a vocabulary."""

    def __init__(self, vocab: Any) -> None:
        self.compiler = ConstraintCompiler(vocab)
        self.matcher(json_schema({}))
        tokenizer = self.compiler._tokenizer
        n = self.compiler.n_vocab
        self.texts = [tokenizer.decode_bytes([token]) for token in range(n)]
        self.tokenize = tokenizer.tokenize_str
        self.special = set(self.compiler.ends)
        for token in range(n):
            if llama_cpp.llama_vocab_get_attr(vocab, token) & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL:
                self.special.add(token)
        # Else strings go on for ever: of all tokens few end them.
        closing = [any(mark in text for mark in (b'"', b'}', b']')) for text in self.texts]
        self._wish = np.where(closing, 6, 0).astype(np.float32)
        self._wish[self.compiler.ends] = 6

    def matcher(self, constraint: Constraint) -> Matcher:
        return Matcher(self.compiler.start(constraint).result(), self.compiler)

    def logits(self, rng: np.random.Generator) -> Any:
        return self._wish + 10 * rng.random(len(self._wish), np.float32)

    def allowed(self, matcher: Matcher) -> list[int]:
        """Return the allowed tokens, which a mask and a list must agree on."""
        logits = np.zeros(len(self.texts), np.float32)
        matcher.mask(logits)
        tokens = np.flatnonzero(np.isfinite(logits))
        few = matcher.few()
        assert few is None or few.tolist() == tokens.tolist()
        return tokens.tolist()

    def answer(
        self, constraint: Constraint, seed: int, most: int = 300, is_batched: bool = False
    ) -> tuple[list[int], bool]:
        """Return an answer's tokens, and whether the constraint lets it end there."""
        matcher, rng = self.matcher(constraint), np.random.default_rng(seed)
        tokens: list[int] = []
        while len(tokens) < most and not matcher.is_over:
            forced = list(matcher.forced())
            if is_batched and forced:
                assert matcher.draft([], 64)[0] == forced[:64]
                tokens += forced
                for token in forced:
                    matcher.accept(token)
                continue
            # What is forced is not sampled: random numbers are for choices.
            logits = np.zeros(len(self.texts), np.float32) if forced else self.logits(rng)
            matcher.mask(logits)
            token = int(np.argmax(logits))
            assert matcher.allows(token)
            matcher.accept(token)
            if token in self.compiler.ends:
                break
            tokens.append(token)
        return tokens, matcher.is_complete

    def text(self, tokens: list[int]) -> str:
        return b''.join(self.texts[token] for token in tokens).decode()


@pytest.fixture(scope='module', params=NAMES)
def speaker(request: pytest.FixtureRequest) -> Iterator[Speaker]:
    with open_vocabulary(request.param) as vocab:
        speaker = Speaker(vocab)
        yield speaker
        speaker.compiler.close()


@pytest.fixture(scope='module')
def nano() -> Iterator[Speaker]:
    with open_vocabulary('internvl') as vocab:
        speaker = Speaker(vocab)
        yield speaker
        speaker.compiler.close()


# -- schemas -------------------------------------------------------------------------------------

ROBOT = {
    'title': 'Objects',
    'type': 'object',
    'properties': {
        'objects': {
            'type': 'array',
            'minItems': 1,
            'maxItems': 3,
            'items': {'$ref': '#/$defs/Object'},
        }
    },
    'required': ['objects'],
    '$defs': {
        'Object': {
            'title': 'Object',
            'type': 'object',
            'properties': {
                'name': {'type': 'string', 'maxLength': 12, 'description': 'what it is'},
                'colour': {'enum': ['red', 'green', '深蓝', 'a "b"', '\\', '😀', 'é']},
                'place': {'enum': ['left', 'right'], 'type': 'string', 'default': 'left'},
                'count': {'type': 'integer', 'minimum': 0, 'maximum': 20},
                'confidence': {'type': 'number', 'minimum': 0, 'maximum': 1},
            },
            'required': ['name', 'colour', 'place', 'count', 'confidence'],
            'additionalProperties': False,
        }
    },
}
TREE = {
    '$ref': '#/$defs/Node',
    '$defs': {
        'Node': {
            'type': 'object',
            'properties': {
                'value': {'type': 'integer', 'minimum': -5, 'maximum': 5},
                'next': {'anyOf': [{'$ref': '#/$defs/Node'}, {'type': 'null'}], 'default': None},
            },
            'required': ['value', 'next'],
            'additionalProperties': False,
        }
    },
}
CHOICE = {
    'oneOf': [
        {
            'type': 'object',
            'properties': {
                'kind': {'const': 'cat', 'type': 'string'},
                'lives': {'type': 'integer'},
            },
            'required': ['kind', 'lives'],
        },
        {
            'type': 'object',
            'properties': {
                'kind': {'const': 'dog', 'type': 'string'},
                'barks': {'type': 'boolean'},
            },
            'required': ['kind', 'barks'],
        },
    ],
    'discriminator': {'propertyName': 'kind', 'mapping': {'cat': '#/cat', 'dog': '#/dog'}},
}
MERGED = {
    'allOf': [
        {'type': 'object', 'properties': {'a': {'type': 'integer', 'minimum': 3}}},
        {'properties': {'a': {'maximum': 7}, 'b': {'type': 'boolean'}}, 'required': ['a', 'b']},
    ],
}
HAND_WRITTEN: list[dict[str, Any]] = [
    ROBOT,
    TREE,
    CHOICE,
    MERGED,
    {'type': 'string', 'pattern': '^[A-Z][a-z]+( [a-z]+)*$', 'maxLength': 20},
    {'type': 'string', 'pattern': '^(机器人|ロボット|로봇|робот)-[0-9]{1,3}$'},
    {'type': 'string', 'pattern': r'^\d{3}-\w{2,4}$'},
    {'type': 'string', 'pattern': 'yes|no', 'maxLength': 8},
    {'type': 'string', 'minLength': 2, 'maxLength': 4},
    *[
        {'type': 'string', 'format': form}
        for form in ('date', 'time', 'date-time', 'duration', 'uuid', 'ipv4', 'ipv6', 'email')
    ],
    {'type': 'integer', 'exclusiveMinimum': -3, 'exclusiveMaximum': 120},
    {'type': 'integer', 'multipleOf': 5, 'minimum': 0, 'maximum': 95},
    {'type': 'number', 'exclusiveMinimum': 0, 'maximum': 12.5},
    {'type': 'number', 'minimum': -1.25, 'exclusiveMaximum': -0.5},
    {'type': 'number', 'exclusiveMinimum': 0, 'maximum': 0.5},
    {'type': 'number', 'exclusiveMinimum': -0.5, 'exclusiveMaximum': 0},
    {'type': 'number', 'exclusiveMinimum': 1, 'exclusiveMaximum': 1.75, 'multipleOf': 0.25},
    {'type': 'number', 'exclusiveMinimum': 0, 'maximum': 1e-7},
    {'type': ['integer', 'null', 'string'], 'maxLength': 3, 'minimum': 1},
    {'type': 'array', 'prefixItems': [{'type': 'integer'}, {'type': 'boolean'}], 'items': False},
    {'type': 'array', 'prefixItems': [{'type': 'null'}], 'items': {'enum': [1, 2]}, 'maxItems': 4},
    {'type': 'object', 'additionalProperties': {'type': 'integer'}, 'maxProperties': 2},
    {
        'type': 'object',
        'properties': {'a': {'type': 'null'}},
        'additionalProperties': {'type': 'boolean'},
    },
    {'type': 'object', 'patternProperties': {'^x_': {'type': 'integer'}}, 'maxProperties': 3},
    {
        'type': 'object',
        'properties': {'name': {'const': 1}, 'x_1': {'type': 'integer'}},
        'patternProperties': {'^x_': {'type': 'integer'}, '^b': {'type': 'null'}, '^n': {}},
        'required': ['name'],
    },
    {'enum': [None, True, 1, -1.5, 'a', [1, {'b': []}], {'c': '"'}]},
    {'const': {'深': ['\u0000\n\t', '\u2028', '\x7f', '😀"\\/']}},
    {'enum': ['\U0001f600', '\uffff', 'ä\u0308']},
    {'anyOf': [{'type': 'integer'}, {'type': 'string', 'maxLength': 3}, {'type': 'null'}]},
    {
        'type': 'object',
        'properties': {'': {'type': 'null'}, '颜色': {'enum': ['红']}, '"\\\n': {'const': 1}},
        'required': ['', '颜色', '"\\\n'],
        'additionalProperties': False,
    },
    {'x-guidance': {'whitespace_flexible': True}, 'type': 'array', 'items': {'type': 'integer'}},
    {'type': 'array', 'items': {'type': 'array', 'items': {'$ref': '#'}}, 'maxItems': 2},
]


def random_schema(rnd: random.Random, depth: int = 3) -> dict[str, Any]:
    """Return a schema made of everything that people use."""
    names = ['a', 'b', 'x y', '颜色', 'числo', '"q"', 'a-b', 'ab', '😀']
    if depth == 0 or rnd.random() < 0.3:
        low = rnd.randint(-30, 30)
        high = low + rnd.randint(1, 300)
        return rnd.choice(
            [
                {'type': 'integer', 'minimum': low, 'maximum': high},
                {'type': 'number', 'exclusiveMinimum': low / 4, 'maximum': high / 4},
                {'type': 'string', 'minLength': low % 3, 'maxLength': low % 3 + high % 7},
                {'type': 'string', 'pattern': rnd.choice(['^[a-f]{2,5}$', '^[^a-z]$', 'ab+c?$'])},
                {'type': 'string', 'format': rnd.choice(['date', 'uuid', 'time', 'ipv4'])},
                {'enum': rnd.sample([*names, 1, -2.5, None, True, [1], {'a': 2}], 4)},
                {'const': rnd.choice(names)},
                {'type': rnd.choice(['boolean', 'null', 'integer'])},
                {'type': ['null', 'boolean']},
                {'$ref': f'#/$defs/{rnd.choice(["colour", "point"])}'},
            ]
        )
    kind = rnd.choice(['object', 'object', 'array', 'tuple', 'any', 'one', 'all', 'map'])
    inner = [random_schema(rnd, depth - 1) for _ in range(rnd.randint(1, 4))]
    if kind == 'object':
        properties = dict(zip(rnd.sample(names, len(inner)), inner, strict=True))
        required = [name for name in properties if rnd.random() < 0.6]
        schema = {'type': 'object', 'properties': properties, 'required': required}
        extra: Any = rnd.choice([False, False, False, {'type': 'boolean'}])
        return {**schema, 'additionalProperties': extra, 'title': 'T', 'description': 'd'}
    if kind == 'array':
        low = rnd.randint(0, 2)
        return {'type': 'array', 'items': inner[0], 'minItems': low, 'maxItems': low + 2}
    if kind == 'tuple':
        n = len(inner)
        return {'type': 'array', 'prefixItems': inner, 'minItems': n, 'maxItems': n}
    if kind == 'map':
        return {'type': 'object', 'additionalProperties': inner[0], 'maxProperties': 2}
    if kind == 'any':
        return {'anyOf': inner}
    tagged = [
        {
            'type': 'object',
            'properties': {'kind': {'const': f'k{i}'}, 'value': part},
            'required': ['kind', 'value'],
        }
        for i, part in enumerate(inner)
    ]
    if kind == 'one':
        return {'oneOf': tagged}
    return {'allOf': [{'type': 'object', 'required': ['kind']}, tagged[0]]}


def with_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    point = {'type': 'object', 'properties': {'x': {'type': 'integer'}}, 'required': ['x']}
    return {**schema, '$defs': {'colour': {'enum': ['红', 'red']}, 'point': point}}


CHECKER = jsonschema.FormatChecker()
CHECKER.checkers.pop('time')  # jsonschema's knows no offset


@CHECKER.checks('time')
def is_time(value: object) -> bool:
    clock = r'([01]\d|2[0-3]):[0-5]\d'
    pattern = rf'{clock}:([0-5]\d|60)(\.\d+)?([zZ]|[+-]{clock})'
    return not isinstance(value, str) or re.fullmatch(pattern, value, re.ASCII) is not None


def assert_valid(text: str, schema: dict[str, Any]) -> None:
    value = json.loads(text)
    jsonschema.Draft202012Validator(schema, format_checker=CHECKER).validate(value)
    if 'x-guidance' not in schema:
        assert not re.search(r'\s', re.sub(r'"(\\.|[^"\\])*"', '', text))


@pytest.mark.parametrize('i', range(len(HAND_WRITTEN)))
def test_answers_validate(speaker: Speaker, i: int) -> None:
    """Each complete answer is valid by its schema, and most random answers come to an end."""
    complete = 0
    for seed in range(12):
        tokens, is_complete = speaker.answer(json_schema(HAND_WRITTEN[i]), seed)
        if is_complete:
            complete += 1
            assert_valid(speaker.text(tokens), HAND_WRITTEN[i])
    assert complete >= 2


def test_answers_validate_by_random_schemas(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundreds of schemas, each of several kinds in each other: no answer is invalid."""
    monkeypatch.setattr(constraint_compiler, 'check', lambda constraint: None)  # tested below
    rnd = random.Random(7)
    complete = refused = 0
    for seed in range(250):
        schema = with_definitions(random_schema(rnd))
        try:
            tokens, is_complete = speaker.answer(json_schema(schema), seed)
        except ConstraintError as error:
            assert '\n' not in str(error)
            refused += 1
            continue
        if is_complete:
            complete += 1
            assert_valid(speaker.text(tokens), schema)
    assert complete >= 200
    assert refused <= 10


def test_forced_tokens_are_those_of_the_mask(speaker: Speaker) -> None:
    """Whether forced tokens are taken at once or one by one, the answer is the same."""
    for schema in (ROBOT, TREE, CHOICE, *HAND_WRITTEN[-8:]):
        for seed in range(6):
            one_by_one = speaker.answer(json_schema(schema), seed)
            assert one_by_one == speaker.answer(json_schema(schema), seed, is_batched=True)


def test_properties_come_in_the_order_of_the_schema(nano: Speaker) -> None:
    """JSON is compact, and its properties stand in the order in which the schema names them."""
    schema = {
        'type': 'object',
        'properties': {name: {'const': i} for i, name in enumerate('zmab')},
        'required': ['a', 'b', 'm', 'z'],
    }
    tokens, is_complete = nano.answer(json_schema({**schema, 'additionalProperties': False}), 1)
    assert (nano.text(tokens), is_complete) == ('{"z":0,"m":1,"a":2,"b":3}', True)


def test_a_schema_says_how_blanks_are_set(nano: Speaker) -> None:
    """With `x-guidance` a schema has separators of its own."""
    options = {'item_separator': ', ', 'key_separator': ': '}
    schema = {'x-guidance': options, 'const': {'a': [1, 2], 'b': 3}}
    assert nano.text(nano.answer(json_schema(schema), 1)[0]) == '{"a": [1, 2], "b": 3}'


def test_a_model_of_pydantic_is_a_schema() -> None:
    """Whatever has a `model_json_schema` can be asked for as it is."""

    class Model:
        @staticmethod
        def model_json_schema() -> dict[str, Any]:
            return ROBOT

    assert json_schema(Model) == json_schema(ROBOT) == json_schema(json.dumps(ROBOT))
    assert hash(json_schema(Model)) == hash(json_schema(ROBOT))


# -- tokens --------------------------------------------------------------------------------------


def test_no_special_token_is_part_of_an_answer(speaker: Speaker) -> None:
    """Of the special tokens only those that end an answer are allowed, and only at its end."""
    matcher = speaker.matcher(grammar('start: /(?s:.)*/ "!"'))
    allowed = set(speaker.allowed(matcher))
    special = speaker.special
    assert speaker.compiler.ends
    assert not allowed & special
    matcher = speaker.matcher(grammar('start: /(?s:.)*/'))
    assert set(speaker.allowed(matcher)) & special == set(speaker.compiler.ends)


def test_a_token_that_users_have_defined_is_its_text(nano: Speaker) -> None:
    """A user-defined token is allowed where its text is, and forced where its text is forced."""
    custom = nano.texts.index(b'<|custom|>')
    assert custom in nano.allowed(nano.matcher(grammar('start: /[<|>a-z]+/')))
    assert custom not in nano.allowed(nano.matcher(grammar('start: /[a-z]+/')))
    assert list(nano.matcher(grammar('start: "<|custom|>a"')).forced())[:1] == [custom]


def test_an_answer_ends_where_nothing_can_follow(speaker: Speaker) -> None:
    """The last forced token ends the answer; before it no end is allowed."""
    matcher = speaker.matcher(json_schema({'enum': ['red', 'blue']}))
    end = speaker.compiler.ends[0]
    while not matcher.is_over:
        assert not matcher.allows(end)
        matcher.accept(speaker.allowed(matcher)[0])
    assert matcher.is_complete
    assert speaker.allowed(matcher) == sorted(speaker.compiler.ends)
    assert matcher.forced() == ()


def test_an_answer_may_end_before_it_is_over(nano: Speaker) -> None:
    """Where more may follow as well, the model ends the answer with a token of its own."""
    matcher = nano.matcher(grammar('start: /[0-9]+/'))
    assert not matcher.is_complete
    matcher.accept(nano.tokenize('7')[0])
    assert (matcher.is_complete, matcher.is_over) == (True, False)
    assert set(nano.compiler.ends) < set(nano.allowed(matcher))
    matcher.accept(nano.compiler.ends[-1])
    assert (matcher.is_complete, matcher.is_over) == (True, True)
    matcher.rollback(1)
    assert (matcher.is_complete, matcher.is_over) == (True, False)


def test_what_is_not_allowed_cannot_be_accepted(nano: Speaker) -> None:
    """A token that may not follow is an error, and the answer can go on without it."""
    matcher = nano.matcher(grammar('start: "ab" | "ac"'))
    with pytest.raises(InferenceError, match='does not allow'):
        matcher.accept(nano.tokenize('x')[0])
    with pytest.raises(InferenceError, match='does not allow'):
        matcher.accept(nano.compiler.ends[0])
    assert nano.allowed(matcher)


def test_what_was_accepted_can_be_taken_back(speaker: Speaker) -> None:
    """After a rollback everything is as it was: the mask, what is forced, the way to the end."""
    constraint = json_schema(ROBOT)
    tokens, _ = speaker.answer(constraint, 3, most=40)
    matcher, seen = speaker.matcher(constraint), []
    for token in tokens:
        seen.append((list(matcher.forced()), speaker.allowed(matcher)))
        matcher.accept(token)
    for n in (1, 7, len(tokens) - 8):
        matcher.rollback(n)
        at = next(i for i in range(len(tokens), -1, -1) if len(matcher._before) == i)
        assert (list(matcher.forced()), speaker.allowed(matcher)) == seen[at]
    for token in tokens[len(matcher._before) :]:
        matcher.accept(token)


def test_a_draft_is_cut_where_it_is_not_allowed(speaker: Speaker) -> None:
    """Of a guess that stays which may follow; what is forced needs no guess."""
    constraint = json_schema({'const': {'colour': 'red', 'place': 'left'}})
    forced = speaker.answer(constraint, 1)[0]
    assert speaker.matcher(constraint).draft([], 64)[0] == forced[: len(forced)]
    matcher = speaker.matcher(json_schema({'type': 'array', 'items': {'type': 'integer'}}))
    bracket = speaker.tokenize('[')[0]
    if not matcher.forced():
        digits = [speaker.tokenize(digit)[0] for digit in '12']
        assert matcher.draft([bracket, *digits, bracket, *digits], 9)[0] == [bracket, *digits]
        assert matcher.draft([bracket, *digits], 2)[0] == [bracket, digits[0]]
        assert matcher.draft([digits[0]], 9)[0] == []
        assert matcher.draft([bracket, speaker.compiler.ends[0]], 9)[0] == [bracket]


# -- grammars ------------------------------------------------------------------------------------


def allows(speaker: Speaker, text: str, words: str) -> bool:
    matcher = speaker.matcher(grammar(text))
    one_byte = {text: token for token, text in enumerate(speaker.texts) if len(text) == 1}
    tokens = [one_byte[bytes([byte])] for byte in words.encode()]
    return matcher._matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_complete


GRAMMARS = [
    ('root ::= [a-z]+ "ing"', 'singing', 'sinking!'),
    ('root ::= "a" | # one\n "b"\n  | "c"', 'c', 'd'),
    ('root ::= my-rule{2,3}\nmy-rule ::= "x" | "yy"', 'xyyx', 'x'),
    ('root ::= ("a" ("b" ("c" | "d")?)*){2}', 'abcbabd', 'abc'),
    (r'root ::= "\x41\u00e9\U0001F600\n\"\\"', 'Aé😀\n"\\', 'Aé'),
    (r'root ::= [^"\\\x00-\x1F]{2} [\]\[/-] .', 'é😀/\n', 'ab/'),
    ('root ::= "a"{0,0} "b"{2} "c"{1,}', 'bbccc', 'bcc'),
    ('root ::= e\ne ::= t ("+" t)*\nt ::= [0-9]+ | "(" e ")"', '(1+(22))+3', '(1+2'),
    ('root ::= ' + '(' * 80 + '"a"' + ')?' * 80, '', 'b'),
    ('start: A "-" B\nA: /[a-c]+/\nB: "x" | A', 'abc-a', 'abc-y'),
    ('start: "(" start ")" | "x"', '((x))', '((x)'),
    ('start: %json {"type": "integer", "minimum": 10} "."', '12.', '9.'),
]


@pytest.mark.parametrize(('text', 'good', 'bad'), GRAMMARS, ids=[g[0][:20] for g in GRAMMARS])
def test_answers_follow_a_grammar(nano: Speaker, text: str, good: str, bad: str) -> None:
    """GBNF means what it means to llama.cpp; Lark is taken as well."""
    assert (allows(nano, text, good), allows(nano, text, bad)) == (True, False)


REFUSED = [
    ('root ::= "a', 'line 1, column 10: there should be " at the end of this'),
    ('root ::= "a"\nx ::= b', 'line 2, column 7: there should be a rule named b'),
    ('x ::= "a"', 'there should be a rule named root'),
    ('root ::= "a"{3,2}', 'two numbers, the smaller one first'),
    ('root ::= ("a"', 'there should be ), not the end'),
    (r'root ::= "\q"', r'there should be one of \n'),
    (r'root ::= "\ud800"', 'characters of Unicode'),
    ('root ::= [z-a]', 'a range from the smaller'),
    ('root ::= ' + '(' * 500 + '"a"' + ')' * 500, 'no more than 100 parentheses'),
    ('root ::= root', 'it allows no text at all'),
    ('start: b', 'line 1, column 8'),
    ('start: "a', 'line 1, column 10'),
    ('start: <|im_end|>', 'line 1: a special token cannot be part of an answer'),
    ('start: <[1-9]>', 'line 1: a special token cannot be part of an answer'),
    ('start: a\na[max_tokens=3]: /b*/', 'line 2: max_tokens= is not supported'),
    ('', 'no start rule'),
    ('"' * 300000, 'longer than 256 KiB'),
]


@pytest.mark.parametrize(('text', 'words'), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_is_no_grammar_is_refused(text: str, words: str) -> None:
    """What is no grammar is one line that says where."""
    with pytest.raises(ConstraintError) as caught:
        check(grammar(text))
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


# -- what goes wrong -----------------------------------------------------------------------------


def patterned(pattern: str) -> str:
    return json.dumps({'type': 'string', 'pattern': pattern})


def chain(n: int) -> str:
    links = {f'd{i}': {'$ref': f'#/$defs/d{i + 1}'} for i in range(n)}
    return json.dumps({'$ref': '#/$defs/d0', '$defs': {**links, f'd{n}': {'type': 'null'}}})


HOSTILE = {
    'a million characters': json.dumps({'enum': ['x' * 20 + str(i) for i in range(40000)]}),
    'nested ten thousand deep': '{"items": ' * 10000 + '{}' + '}' * 10000,
    'nested a hundred deep': '{"items": ' * 100 + '{}' + '}' * 100,
    'three thousand references': chain(3000),
    '(a|aa)*b': patterned('^(a|aa)*b$'),
    'counts of counts': patterned('(.{1,1000}){1,1000}'),
    'five thousand optional': patterned('^(a?){5000}a{5000}$'),
    'counts in each other': patterned('((((a{1,100}){1,100}){1,100}){1,100}){1,100}'),
    'a hundred million': patterned('x{100000000}'),
    'fifty thousand parentheses': patterned('(' * 50000 + 'a' + ')' * 50000),
    'all of 24 patterns': json.dumps(
        {'allOf': [{'pattern': f'(a|b)*a(a|b){{{i}}}c'} for i in range(1, 25)], 'type': 'string'}
    ),
    'a million items': json.dumps({'items': {'type': 'string'}, 'maxItems': 10**6}),
    'a billion items': json.dumps({'type': 'array', 'items': {}, 'minItems': 10**9}),
    'bad separator': json.dumps({'x-guidance': {'item_separator': '('}, 'type': 'array'}),
    'itself': json.dumps({'$ref': '#'}),
    'a product': json.dumps(
        {
            'allOf': [
                {'anyOf': [{'properties': {f'p{i}{j}': {}}} for j in range(9)]} for i in range(9)
            ]
        }
    ),
}
TRY = """
import json, resource, sys, time
from hobot_llamacpp_py.engine.constraints import check, json_schema
from hobot_llamacpp_py.errors import ConstraintError
started = time.monotonic()
try:
    check(json_schema(sys.stdin.read()))
    reason = ''
except ConstraintError as error:
    reason = str(error)
own = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]
trial = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([reason, time.monotonic() - started, [int(own[0].split()[1]), trial]]))
"""


@pytest.mark.parametrize('name', HOSTILE)
def test_no_schema_harms_the_process(name: str) -> None:
    """What is too large, deep or slow is refused in one line, or taken; the process lives on."""
    result = subprocess.run(
        [sys.executable, '-c', TRY],
        input=HOSTILE[name],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    reason, _, taken = json.loads(result.stdout)
    assert '\n' not in reason
    assert max(taken) < 260 << 10  # KiB: 200 MB and Python


PLACES = [
    ({'properties': {'a': {'items': {'type': 'int'}}}}, '#/properties/a/items: '),
    ({'anyOf': [{'type': 'null'}, {'type': 'string', 'pattern': '('}]}, '#/anyOf/1: '),
    ({'$ref': '#/$defs/x', '$defs': {'x': {'minimum': 'a'}}}, '#/$defs/x: '),
    ({'properties': {'t': {'type': 'array', 'uniqueItems': True}}}, '#/properties/t: '),
    ({'properties': {'t': {'type': 'string', 'format': 'odd'}}}, '#/properties/t: '),
    ({'type': 'integer', 'minimum': 5, 'maximum': 1}, '#: '),
    (
        {
            'items': {
                'properties': {'name': {'type': 'string'}, 'x_1': {'type': 'null'}},
                'patternProperties': {'^x_': {'type': 'integer'}},
            }
        },
        '#/items/patternProperties/^x_: a property is named',
    ),
]


@pytest.mark.parametrize(('schema', 'place'), PLACES, ids=[place for _, place in PLACES])
def test_a_refusal_names_the_place(schema: dict[str, Any], place: str) -> None:
    """What cannot be held is one line with the innermost place, as a JSON pointer."""
    with pytest.raises(ConstraintError) as caught:
        check(json_schema(schema))
    assert str(caught.value).startswith(f'json_schema: {place}')
    assert '\n' not in str(caught.value)


NO_JSON = [
    ('{', 'json_schema is no JSON'),
    ('[1]', '# is [1], not an object'),
    ('{"const": NaN}', 'NaN is no number of JSON'),
    ('{"const": 1e999}', 'not JSON compliant'),
    ({'const': {1, 2}}, 'json_schema is no JSON'),
]


@pytest.mark.parametrize(('schema', 'words'), NO_JSON, ids=[words for _, words in NO_JSON])
def test_what_is_no_json_is_refused_at_once(schema: object, words: str) -> None:
    """What is not even JSON is refused where it is given."""
    with pytest.raises(ConstraintError, match=re.escape(words)):
        json_schema(schema)


# -- compiling -----------------------------------------------------------------------------------


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """Without a constraint neither llguidance nor a thread is there."""
    script = (
        'import sys, threading; from hobot_llamacpp_py.engine import constraint_compiler;'
        ' constraint_compiler.ConstraintCompiler.__init__;'
        ' print("llguidance" in sys.modules, threading.active_count())'
    )
    command = [sys.executable, '-c', script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == 'False 1\n'


def test_a_constraint_is_compiled_once(nano: Speaker) -> None:
    """Whoever asks for a constraint gets what is compiled of it already, from any thread."""
    constraint = json_schema({'const': 'once'})
    found: list[Any] = []
    ask = [
        threading.Thread(target=lambda: found.append(nano.compiler.start(constraint)))
        for _ in range(4)
    ]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert nano.compiler.start(json_schema('{"const": "once"}')) is found[0]


def test_a_refused_constraint_does_not_stay(nano: Speaker) -> None:
    """What is refused is refused to everyone who asks, and the next one is compiled."""
    for _ in range(2):
        with pytest.raises(ConstraintError, match='#: Invalid type'):
            nano.matcher(json_schema({'type': 'int'}))
    assert nano.answer(json_schema({'const': 1}), 1)[1]


def test_a_closed_vocabulary_is_not_used() -> None:
    """Closing waits for what runs; a matcher that is left over raises instead of crashing."""
    with open_vocabulary('internvl') as vocab:
        compiler = ConstraintCompiler(vocab)
        future = compiler.start(json_schema({'const': 1}))
        matcher = Matcher(compiler.start(json_schema({'const': 2})).result(), compiler)
        compiler.close()
        compiler.close()
        assert future.done()
    with pytest.raises(InferenceError, match='closed'):
        matcher.forced()
    with pytest.raises(ConstraintError, match='closed'):
        compiler.start(json_schema({'const': 3}))


def test_a_constraint_that_has_failed_is_compiled_anew(nano: Speaker) -> None:
    """What takes too much in one answer is an error of that answer, and not of the next."""
    constraint = grammar('start: /(a|b)*a(a|b){16}/')  # each 17 letters are a state of the lexer

    def speak(seed: int, most: int) -> None:
        matcher, rng = nano.matcher(constraint), np.random.default_rng(seed)
        for _ in range(most):
            logits = nano.logits(rng)
            logits[nano.compiler.ends] = -np.inf
            matcher.mask(logits)
            matcher.accept(int(np.argmax(logits)))

    with pytest.raises(InferenceError, match='cannot go on: .*too many states'):
        for seed in range(9):
            speak(seed, 20_000)
    speak(9, 100)


def test_matchers_of_one_constraint_do_not_meet(nano: Speaker) -> None:
    """Two answers by the same constraint go their own ways, from several threads at once."""
    constraint = json_schema(ROBOT)
    expected = [nano.answer(constraint, seed) for seed in range(6)]
    found: dict[int, Any] = {}

    def run(seed: int) -> None:
        found[seed] = nano.answer(constraint, seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(6)] == expected


def test_what_a_schema_leaves_open_is_kept_small() -> None:
    """Properties that are not named, and numbers of endless digits, are not said unasked."""
    schema = {
        'type': 'object',
        'properties': {
            'type': {'type': 'integer'},
            'share': {'type': 'number', 'minimum': 0},
            'one': {'enum': [{'type': 'integer'}]},
            'few': {'type': 'integer', 'minimum': 3, 'maximum': 5},
        },
        '$defs': {'open': {'type': 'object', 'properties': {}, 'additionalProperties': True}},
    }
    tamed = json.loads(json_schema(schema).text)
    largest = 2**53 - 1
    assert tamed['additionalProperties'] is False
    assert tamed['properties'] == {
        'type': {'type': 'integer', 'minimum': -largest, 'maximum': largest},
        'share': {'type': 'number', 'minimum': 0, 'multipleOf': 1e-6},
        'one': {'enum': [{'type': 'integer'}]},
        'few': {'type': 'integer', 'minimum': 3, 'maximum': 5},
    }
    assert tamed['$defs'] == schema['$defs']
    merged = {'allOf': [{'properties': {name: {'type': 'null'}}} for name in 'ab']}
    assert json.loads(json_schema(merged).text)['allOf'] == merged['allOf']
    check(json_schema({**merged, 'required': ['a', 'b']}))


A_AND_B = {'required': ['a', 'b'], 'type': 'object'}
NARROW = [
    {**A_AND_B, 'properties': {'a': {'const': 1}}},
    {**A_AND_B, 'properties': {'a': {'const': 1}}, 'anyOf': [{'properties': {'b': {'const': 2}}}]},
    {
        '$ref': '#/$defs/A',
        'properties': {'b': {'const': 2}},
        'required': ['b'],
        '$defs': {'A': {'type': 'object', 'properties': {'a': {'const': 1}}, 'required': ['a']}},
    },
    {'additionalProperties': {'const': 1}, 'anyOf': [{**A_AND_B, 'properties': {'a': {}}}]},
    {'type': 'number', 'exclusiveMinimum': 0, 'maximum': 1e-7},
    {'type': 'number', 'minimum': 1 / 3, 'maximum': 1 / 3},
    {'type': 'integer', 'minimum': 1_700_000_000 * 10**9, 'maximum': 1_800_000_000 * 10**9},
    {'type': 'integer', 'minimum': 10**16},
    {'type': 'integer', 'exclusiveMaximum': -(10**16)},
]


# Random constants of these characters are what found the bound.
ESCAPED = [''.join(random.Random(i).choices('ab"\\\n\té中', k=i % 40)) for i in range(120)]


@pytest.mark.parametrize('text', ESCAPED, ids=range(len(ESCAPED)))
def test_constant_texts_are_held_or_refused(nano: Speaker, text: str) -> None:
    """A constant with escapes is answered to the letter, or refused where it is given."""
    try:
        constraint = json_schema({'enum': [text]})
    except ConstraintError as error:
        assert 'cannot be told exactly' in str(error)
        assert len(json.dumps(text, ensure_ascii=False).encode()) > 32
        return
    tokens, is_complete = nano.answer(constraint, seed=0)
    assert is_complete and json.loads(nano.text(tokens)) == text


@pytest.mark.parametrize('value', [2**53, -(2**60), 2**70])
def test_numbers_that_would_be_others_are_refused(value: int) -> None:
    """A constant that answers would hold as another number is refused, not changed."""
    for schema in ({'const': value}, {'enum': [1, {'a': [value]}]}):
        with pytest.raises(ConstraintError, match=str(value)):
            json_schema(schema)


@pytest.mark.parametrize('schema', NARROW, ids=lambda schema: json.dumps(schema)[:60])
def test_what_a_schema_needs_is_left_to_it(schema: dict[str, Any]) -> None:
    """What is kept small never keeps a schema from having answers."""
    check(json_schema(schema))

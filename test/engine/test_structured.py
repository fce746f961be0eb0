"""Structured answers of the engine: right, valid, whole, and as fast as forced tokens allow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from gguf_files import write_f32
from nano import MODELS, answer, draw_scene, request_of
from tiny_decoders import write_recurrent

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import (
    Answer,
    CancelToken,
    Chat,
    ConstraintError,
    Engine,
    InferenceError,
    Turn,
    grammar,
    json_schema,
)
from hobot_llamacpp_py.engine.matcher import Matcher
from training import world

PLACES = ['left', 'right', 'top', 'bottom', 'middle']
ROBOT = {
    'type': 'object',
    'properties': {
        'objects': {
            'type': 'array',
            'minItems': 2,
            'maxItems': 3,
            'items': {
                'type': 'object',
                'properties': {
                    'name': {'type': 'string', 'pattern': '^[a-z ]{1,12}$'},
                    'color': {'enum': ['red', 'green', 'blue', '黄色']},
                    'place': {'enum': PLACES},
                    'count': {'type': 'integer', 'minimum': 0, 'maximum': 99},
                    'confidence': {'type': 'integer', 'minimum': 0, 'maximum': 100},
                },
                'required': ['name', 'color', 'place', 'count', 'confidence'],
                'additionalProperties': False,
            },
        },
        'done': {'type': 'boolean'},
    },
    'required': ['objects', 'done'],
    'additionalProperties': False,
}
HOT = SamplingConfig(temperature=2.0, top_k=0, top_p=1, min_p=0)


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The built-in model in f32: the shape of a batch does not change what it says."""
    encoder, _, kind = MODELS['internvl']
    path = write_f32(tmp_path_factory.mktemp('f32') / 'internvl.gguf', 'internvl')
    config = DecoderConfig(n_threads=1, flash_attn='off', kv_cache_type='f32')
    with Engine.open(path, encoder, family=kind, config=config) as engine:
        yield engine


def ask(engine: Engine, question: str, sampling: SamplingConfig, **options: Any) -> Answer:
    answer = engine.generate(request_of(Turn(question), sampling=sampling, **options))
    for _ in answer:
        pass
    return answer


def constrained(what: Any, sampling: SamplingConfig = HOT, **changes: Any) -> SamplingConfig:
    made = grammar(what) if isinstance(what, str) else json_schema(what)
    return replace(sampling, constraint=made, **changes)


def one_by_one(engine: Engine, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Answer:
    """Ask with each token sampled from its own mask, in a batch of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(Matcher, 'draft', lambda self, guess, most: ([], None))
        engine.reset()
        return ask(engine, *arguments, speculative=False)


# -- what answers are ----------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(12))
def test_complete_answers_validate(engine: Engine, seed: int) -> None:
    """Whatever the model would like to say, a complete answer is valid, and compact."""
    given = ask(engine, 'Say something.', constrained(ROBOT, seed=seed), max_tokens=400)
    assert given.finish == 'stop'
    value = json.loads(given.text)
    jsonschema.validate(value, ROBOT)
    assert list(value) == ['objects', 'done']  # in the order of the schema
    assert not re.search(r'[{\[,:]\s', given.text)


@pytest.mark.parametrize('speculative', [False, True])
@pytest.mark.parametrize('temperature', [0, 1.0])
def test_the_constraint_leads_to_the_right_answer(
    engine: Engine, temperature: float, speculative: bool
) -> None:
    """Of the answers that a grammar allows the model picks the right one, and ends there."""
    question = 'What color is the circle?'
    colours = ' | '.join(f'"{colour}"' for colour in world.COLORS)
    sampling = constrained(
        f'root ::= "The circle is " ({colours}) "."', temperature=temperature, seed=3
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


@pytest.mark.parametrize('form', ['root ::= "It is red. "+ "!"', 'start: "It is red. "+ "!"'])
def test_repetition_is_allowed(engine: Engine, form: str) -> None:
    """Sentences that a grammar lets the model repeat are not taken for a model that is stuck."""
    given = ask(engine, 'Hi', constrained(form, seed=2), max_tokens=200)
    assert re.fullmatch(r'(It is red\. )+!', given.text)


def test_a_regular_expression(engine: Engine) -> None:
    """A schema of a string with a pattern is a regular expression."""
    schema = {'type': 'string', 'pattern': r'^(go|turn)_[a-z]{3,5}\([0-9]{1,2}\)$'}
    for seed in range(5):
        said = json.loads(ask(engine, 'Hi', constrained(schema, seed=seed)).text)
        assert re.fullmatch(schema['pattern'], said)


# -- forced tokens and drafts --------------------------------------------------------------------


@pytest.mark.parametrize(
    'schema', [ROBOT, {'enum': ['a star', 'a circle', 5]}, {'const': '圆形😀'}]
)
@pytest.mark.parametrize('temperature', [0, 0.7, 2.0])
def test_forced_tokens_change_nothing(
    engine: Engine, schema: dict, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer is what masking each token gives, greedy and under a seed, drafted or not."""
    for seed in range(4):
        sampling = constrained(schema, temperature=temperature, seed=seed)
        expected = one_by_one(engine, monkeypatch, 'Hi', sampling)
        for _ in range(2):  # the second time much of it is drafted from memory
            given = ask(engine, 'Hi', sampling)
            assert (given.text, given.tokens) == (expected.text, expected.tokens)
            assert given.finish == expected.finish


def test_what_is_forced_is_decoded_together(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no choice tokens are neither sampled nor decoded one by one."""
    batches: list[int] = []
    decode = engine.decoder.decode
    monkeypatch.setattr(
        engine.decoder,
        'decode',
        lambda token, draft, *rest: (batches.append(1 + len(draft)), decode(token, draft, *rest)),
    )
    given = ask(engine, 'Hi', constrained(ROBOT, temperature=0), speculative=False)
    assert sum(batches) >= len(given.tokens) - 1
    assert len(batches) < 0.8 * len(given.tokens)


def test_memory_that_cannot_be_trimmed(tmp_path: Path) -> None:
    """A recurrent model, which drafts nothing, decodes forced tokens together all the same."""
    path = write_recurrent(tmp_path / 'v.gguf')
    with Engine.open(path, MODELS['internvl'][0], config=DecoderConfig(n_threads=1)) as engine:
        given = ask(engine, 'Hi', constrained(ROBOT, seed=1), max_tokens=400)
        jsonschema.validate(json.loads(given.text), ROBOT)
        assert given.stats.drafted - given.stats.accepted <= 1  # the last ends the answer
        assert given.stats.accepted > 20


# -- the ends of an answer -----------------------------------------------------------------------


def test_an_answer_can_be_cut(engine: Engine) -> None:
    """An answer that reaches max_tokens before its end says so, and joins no history."""
    chat = Chat(
        engine, ChatConfig('', max_tokens=6, sampling=constrained('root ::= [a-z]{200} "!"'))
    )
    given = chat.ask('Hi')
    assert re.fullmatch('[a-z]+', ''.join(given))
    assert (given.finish, len(given.tokens), chat.turns) == ('length', 6, ())


def test_the_last_token_may_be_the_last_allowed(engine: Engine) -> None:
    """An answer that is whole exactly when max_tokens is reached is whole."""
    sampling = constrained({'const': 'a star'}, temperature=0)
    n = len(ask(engine, 'Hi', sampling).tokens)
    assert ask(engine, 'Hi', sampling, max_tokens=n).finish == 'stop'
    assert ask(engine, 'Hi', sampling, max_tokens=n - 1).finish == 'length'


def test_cancelled(engine: Engine) -> None:
    """A cancel ends a constrained answer with what was said; the next one is whole."""
    sampling, cancel = constrained(ROBOT, seed=1), CancelToken()
    given = engine.generate(request_of(Turn('Hi'), sampling=sampling), cancel)
    for _ in given:
        cancel.set()
    assert given.finish == 'cancelled'
    whole = ask(engine, 'Hi', sampling, max_tokens=400)
    assert whole.finish == 'stop'
    assert whole.text.startswith(given.text)


def test_the_context_may_be_full(engine: Engine) -> None:
    """An answer that fills the context says so, whatever would be forced next."""
    config = DecoderConfig(n_ctx=256, n_threads=1)
    with Engine.open(engine.decoder.path, MODELS['internvl'][0], config=config) as small:
        sampling = constrained({'const': 'word ' * 300}, temperature=0)
        given = ask(small, 'Hi', sampling, max_tokens=5000)
        assert given.finish == 'context'
        assert json.dumps('word ' * 300).startswith(given.text)
        assert ask(small, 'Hi', constrained({'const': 1})).text == '1'


def test_it_is_part_of_the_conversation(engine: Engine) -> None:
    """A structured answer is an answer like others: the next question knows of it."""
    chat = Chat(engine, ChatConfig(sampling=constrained({'enum': ['yes']}, temperature=0)))
    assert ''.join(chat.ask('Hi')) == '"yes"'
    follow_up = chat.ask('And now?')
    assert ''.join(follow_up) == '"yes"'
    assert len(chat.turns) == 2
    assert follow_up.stats.reused > follow_up.stats.prefilled


# -- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('schema', 'words'),
    [
        ({'properties': {'a': {'type': 'int'}}}, '#/properties/a'),
        ({'type': 'string', 'format': 'nonsense'}, 'nonsense'),
        ({'type': 'integer', 'minimum': 5, 'maximum': 4}, 'json_schema'),
    ],
)
def test_what_is_refused(engine: Engine, schema: dict, words: str) -> None:
    """A schema that no answer can follow is one line with the place; the engine answers on."""
    with pytest.raises(ConstraintError) as caught:
        ask(engine, 'Hi', constrained(schema))
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)
    assert ask(engine, 'Hi', constrained({'const': 'yes'})).text == '"yes"'


def test_no_token_is_allowed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model rules out all that is allowed, that is an error, and no crash."""
    monkeypatch.setattr(Matcher, 'few', lambda self: np.zeros(0, np.int32))
    monkeypatch.setattr(Matcher, 'forced', lambda self: ())
    with pytest.raises(InferenceError, match='no token that the constraint allows'):
        ask(engine, 'Hi', constrained({'const': 'yes'}))

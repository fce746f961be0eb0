"""Reusing the KV cache changes nothing but time, whatever happened before.

`make exact ARGS=2000` tries so many sequences of operations with each kind of model, other ones at
each run. In the tests they are few and always the same, so that the same code is judged alike.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conversing import (
    CONSTRAINTS,
    GREEDY,
    PICTURES,
    SCHEMA,
    Ahead,
    Ask,
    Empty,
    Fresh,
    GoOn,
    Http,
    Judge,
    Kind,
    Operation,
    Prepare,
    Reset,
    Trouble,
    Watch,
    World,
)
from gguf_files import write_f32, write_thinking
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from nano import MODELS
from tiny_decoders import write_hybrid, write_recurrent, write_sliding_window

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Chat, ConstraintError, Engine
from hobot_llamacpp_py.engine.constraints import check
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.vision.open import open_encoder

SEQUENCES = int(os.environ.get('SEQUENCES', '0'))
CONFIG = DecoderConfig(n_ctx=256, n_ubatch=64, n_threads=1, flash_attn='off', kv_cache_type='f32')
QUESTIONS = [
    'Describe the image.',
    'Where is the star?',
    '有几个图形？',
    'a\n\nb <|im_end|>',
    'x' * 150,
    'x' * 900,
]


def _write(family: str) -> Callable[[Path], Path]:
    return lambda path: write_f32(path, family)


def _config(**changes: Any) -> DecoderConfig:
    return replace(CONFIG, **changes)


# By name: how the decoder is written, its context, and how far llama.cpp's logits move by
# themselves. Rounded keys and values move them further when a batch of another size comes, and so
# does Gemma's GELU, which is looked up in a table of half precision.
Q8_0 = _config(kv_cache_type='q8_0', flash_attn='on')
KINDS: dict[str, tuple[Callable[[Path], Path], DecoderConfig, float]] = {
    'internvl': (_write('internvl'), _config(n_ctx=512), 1e-4),
    'smolvlm': (_write('smolvlm'), CONFIG, 1e-4),
    'thinking': (write_thinking, CONFIG, 1e-4),
    'recurrent': (write_recurrent, CONFIG, 1e-4),
    'hybrid': (write_hybrid, CONFIG, 1e-4),
    'sliding window': (write_sliding_window, CONFIG, 2e-3),
    'smolvlm, f16': (_write('smolvlm'), _config(kv_cache_type='f16', flash_attn='auto'), 1e-2),
    'internvl, q8_0': (_write('internvl'), Q8_0, 4e-2),
    'sliding window, q8_0': (write_sliding_window, Q8_0, 4e-2),
}


def check_constraints() -> None:
    """Have all constraints tried once, with patience: on a busy machine a trial may time out."""
    for constraint in CONSTRAINTS.values():
        for _ in range(10):
            with contextlib.suppress(ConstraintError):
                check(constraint)
                break


@pytest.fixture(scope='module', params=list(KINDS))
def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fresh, VisionEncoder]]:
    """A fresh engine of one kind, and the encoder for it and for the one that it is beside."""
    check_constraints()
    write, config, tolerance = KINDS[request.param]
    family = 'smolvlm' if request.param.startswith('smolvlm') else 'internvl'
    path, _, layout = MODELS[family]
    decoder = write(tmp_path_factory.mktemp('decoder') / 'decoder.gguf')
    encoder = open_encoder(path, layout, EncoderConfig(n_threads=1))
    fresh = Fresh(Kind(decoder, layout, config, tolerance), encoder)
    yield fresh, encoder
    fresh.engine.close()
    encoder.close()


def choose(*rare: Any, usual: Any, weight: int = 3) -> st.SearchStrategy[Any]:
    """Choose mostly what is usual."""
    return st.sampled_from([*[usual] * weight * len(rare), *rare])


samplings = st.builds(
    SamplingConfig,
    temperature=st.sampled_from([0.0, 0.0, 0.8]),
    seed=st.integers(0, 3),
    repeat_penalty=choose(1.3, usual=1.0),
    constraint=choose(*CONSTRAINTS.values(), usual=None, weight=1),
)
chats = st.integers(0, 1)
pictures = st.integers(0, len(PICTURES) - 1)
configs = st.builds(
    ChatConfig,
    system_prompt=st.sampled_from([ChatConfig.system_prompt, '', '你是一个助手。']),
    history_turns=choose(0, 1, 2, usual=-1, weight=2),
    max_tokens=st.sampled_from([24, 48, 1, 2000]),
    sampling=samplings,
    speculative=choose(False, usual=True),
    thinking=choose('on', 'off', usual='auto', weight=1),
)
# A graph of these models has some hundred operations, a whole answer some thousand.
fuses = st.one_of(st.integers(0, 200), st.integers(0, 4000))
encoder_troubles = st.lists(
    st.sampled_from(['', 'raise', 'nan', 'inf', 'shape', 'cancel']), max_size=2
).map(tuple)
interruptions = ['cancel', 'forget', 'empty', 'leave', 'ask', 'judge']
troubles = st.one_of(
    st.just(Trouble()),
    st.builds(Trouble, fuse=fuses),
    st.builds(Trouble, timer=st.integers(0, 100)),
    st.builds(Trouble, encoder=encoder_troubles),
    st.builds(Trouble, piece=st.integers(0, 12), then=st.sampled_from(interruptions)),
    st.builds(Trouble, fuse=fuses, encoder=encoder_troubles),
)
asks = st.builds(
    Ask, chats, st.sampled_from(QUESTIONS), st.one_of(st.none(), pictures), configs, troubles
)
filling = st.builds(
    ChatConfig,
    sampling=st.builds(
        SamplingConfig,
        temperature=st.sampled_from([0.0, 0.8]),
        seed=st.just(1),
        constraint=st.just(CONSTRAINTS['long']),
    ),
    max_tokens=st.just(2000),
)
overflows = st.builds(Ask, chats, st.sampled_from(QUESTIONS[:3]), pictures, filling, troubles)
short = st.builds(Trouble, fuse=fuses, encoder=encoder_troubles)
quiet = st.one_of(st.just(Trouble()), short)
rounds = st.one_of(
    quiet, st.builds(Trouble, piece=st.integers(0, 3), then=st.sampled_from(interruptions))
)
options = st.sampled_from(
    [
        (),
        (('max_tokens', 5),),
        (('temperature', 0.8), ('seed', 2)),
        (('stop', [' a', '图']),),
        (('response_format', {'type': 'json_schema', 'json_schema': {'schema': SCHEMA}}),),
    ]
)
subsets = st.lists(st.integers(0, 3), min_size=1, unique=True).map(tuple)
operations = st.sampled_from(
    [
        *[asks] * 6,
        overflows,
        st.builds(GoOn),
        st.builds(Prepare, chats, st.one_of(st.none(), pictures), configs, quiet),
        *[st.builds(Judge, pictures, subsets, trouble=rounds)] * 2,
        st.builds(Watch, pictures, subsets, rounds),
        st.builds(
            Http,
            st.sampled_from(QUESTIONS),
            st.one_of(st.none(), pictures),
            st.sampled_from(['', '', 'again', 'edited', 'anew']),
            options,
            quiet,
        ),
        st.builds(Ahead, pictures, st.builds(Trouble, encoder=encoder_troubles)),
        st.builds(Reset, chats),
        st.builds(Empty),
    ]
).flatmap(lambda kind: kind)


# Sequences that once went wrong.
BAD_EMBEDDINGS = [
    Ask(0, 'Describe the image.', 0, trouble=Trouble(encoder=('nan',))),
    Ask(0, 'Describe the image.', 0),
]


@pytest.mark.slow
@settings(
    max_examples=SEQUENCES or 10,
    derandomize=not SEQUENCES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(operations, min_size=3, max_size=10))
@example(BAD_EMBEDDINGS)
def test_conversation(beside: tuple[Fresh, VisionEncoder], operations: list[Operation]) -> None:
    """Whatever has happened, an answer is that of a fresh engine, token by token."""
    with World(*beside) as world:
        world.run(operations)
    for note in world.notes:
        event(note)


@pytest.fixture(scope='module')
def engine(family: str) -> Iterator[Engine]:
    encoder, decoder, kind = MODELS[family]
    with Engine.open(decoder, encoder, family=kind, config=CONFIG) as engine:
        yield engine


def test_follow_up_decodes_only_itself(engine: Engine) -> None:
    """A second question about the same picture encodes nothing and decodes no image token."""
    chat = Chat(engine, ChatConfig(sampling=GREEDY, max_tokens=48))
    picture = engine.picture(PICTURES[0])
    list(chat.ask(QUESTIONS[0], picture))
    answer = chat.ask(QUESTIONS[1], picture)
    list(answer)
    assert answer.stats.prefilled < 40
    assert answer.stats.reused > 80


def test_new_picture_keeps_what_stands_before_it(engine: Engine) -> None:
    """The system prompt is not decoded again for a new picture."""
    chat = Chat(engine, ChatConfig('word ' * 40, 0, max_tokens=8, sampling=GREEDY))
    for index in (0, 1):
        answer = chat.ask(QUESTIONS[0], engine.picture(PICTURES[index]))
        list(answer)
    assert answer.stats.reused >= 40
    assert answer.stats.prefilled < 64 + 40


def test_prepared_question_decodes_only_itself(engine: Engine) -> None:
    """With the picture prepared, only the question and what follows it are decoded."""
    engine.reset()
    chat = Chat(engine, ChatConfig(history_turns=0, max_tokens=8, sampling=GREEDY))
    for index in (1, 2):
        picture = engine.picture(PICTURES[index])
        assert chat.prepare(picture).prefilled >= 64
        assert chat.prepare(picture).prefilled == 0
        answer = chat.ask(QUESTIONS[0], picture)
        list(answer)
        assert answer.stats.encode_s < 1e-3
        assert answer.stats.prefilled < 24


def test_embeddings_of_the_last_pictures_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture seen a short while ago is not encoded again."""
    encoder, decoder, kind = MODELS['internvl']
    with Engine.open(decoder, encoder, family=kind, config=CONFIG) as engine:
        encoded, encode = [], engine.encoder.encode
        monkeypatch.setattr(engine.encoder, 'encode', lambda p: encoded.append(1) or encode(p))
        chat = Chat(engine, ChatConfig(history_turns=0, max_tokens=8, sampling=GREEDY))
        for index in (0, 1, 2, 0, 1, 2):
            list(chat.ask(QUESTIONS[0], engine.picture(PICTURES[index])))
        assert len(encoded) == 3

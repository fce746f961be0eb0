"""Reusing the KV cache changes nothing but time, whatever happened before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from gguf_files import write_f32
from hypothesis import given, settings
from hypothesis import strategies as st
from nano import MODELS, draw_scene, logits_of
from tiny_decoders import write_hybrid, write_recurrent, write_sliding_window

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, CancelToken, Chat, Engine, Inquiry, Request
from hobot_llamacpp_py.errors import CancelledError, PromptError
from hobot_llamacpp_py.families import INTERNVL, ModelFamily

CONFIG = DecoderConfig(n_ctx=512, n_ubatch=64, n_threads=1, flash_attn='off', kv_cache_type='f32')
GREEDY = SamplingConfig(temperature=0)
PICTURES = [draw_scene(seed)[1] for seed in range(3)]
QUESTIONS = [
    'Describe the image.',
    'Where is the star?',
    '有几个图形？',
    'x' * 900,
    'a\n\nb <|im_end|>',
]
INQUIRIES = [
    Inquiry('Is there a star? Answer yes or no.', ('Yes', 'No')),
    Inquiry('有几个图形？', tuple(map(str, range(20)))),
    Inquiry('What color is the circle?', max_tokens=6),
]


@pytest.fixture(scope='module')
def decoder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp('f32') / f'{family}.gguf', family)


@pytest.fixture(scope='module')
def engines(family: str, decoder: Path) -> Iterator[tuple[Engine, Engine]]:
    """The engine that reuses, and one that is emptied before every request."""
    encoder, _, kind = MODELS[family]
    with open_two(decoder, encoder, kind) as engines:
        yield engines


@pytest.fixture(
    scope='module',
    params=[write_recurrent, write_hybrid, write_sliding_window],
    ids=['recurrent', 'hybrid', 'sliding window'],
)
def other_engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """The same with decoders whose memory is no plain KV cache."""
    decoder = request.param(tmp_path_factory.mktemp('tiny') / 'tiny.gguf')
    with open_two(decoder, MODELS['internvl'][0], INTERNVL) as engines:
        yield engines


@contextmanager
def open_two(decoder: Path, encoder: Path, kind: ModelFamily) -> Iterator[tuple[Engine, Engine]]:
    with (
        Engine.open(decoder, encoder, family=kind, config=CONFIG) as reusing,
        Engine.open(decoder, encoder, family=kind, config=CONFIG) as fresh,
    ):
        yield reusing, fresh


@dataclass(frozen=True)
class Step:
    """One thing that happens in a conversation."""

    question: str
    picture: int | None
    disturbance: str  # what happens before the answer that is compared
    system: str
    history_turns: int
    after: int  # pieces or tenths of a millisecond until it happens


steps = st.lists(
    st.builds(
        Step,
        question=st.sampled_from(QUESTIONS),
        picture=st.one_of(st.none(), st.integers(0, 2)),
        disturbance=st.sampled_from(
            [
                *('none', 'prepare', 'reset', 'empty', 'cancel prefill', 'cancel answer', 'leave'),
                *('judge', 'cancel judge'),
            ]
        ),
        system=st.sampled_from(['You are a helpful assistant.', '', '你是一个助手。']),
        history_turns=st.sampled_from([-1, -1, -1, 0, 1, 2]),
        after=st.integers(0, 12),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(steps)
def test_reuse_is_exact(engines: tuple[Engine, Engine], steps: list[Step]) -> None:
    """At every turn, logits and greedy text are those of an empty context."""
    converse(engines, steps)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(steps)
def test_reuse_is_exact_with_any_memory(
    other_engines: tuple[Engine, Engine], steps: list[Step]
) -> None:
    """Where a model's memory cannot drop a tail, everything is evaluated again."""
    converse(other_engines, steps)


def converse(engines: tuple[Engine, Engine], steps: list[Step]) -> None:
    reusing, fresh = engines
    chat = Chat(reusing)
    for step in steps:
        chat.config = ChatConfig(step.system, step.history_turns, max_tokens=48, sampling=GREEDY)
        disturb(chat, step)
        turns_before = chat.turns
        try:
            answer = ask(chat, step)
        except PromptError:
            assert chat.turns == turns_before
            continue
        text = ''.join(answer)
        plain = replace(chat.config, speculative=False)
        request = Request(answer.turns, plain)
        fresh.reset()
        assert ''.join(fresh.generate(request)) == text
        assert_same_logits(reusing, fresh, request)


def ask(chat: Chat, step: Step, cancel: CancelToken | None = None) -> Answer:
    picture = None if step.picture is None else chat.engine.picture(PICTURES[step.picture])
    return chat.ask(step.question, picture, cancel)


def disturb(chat: Chat, step: Step) -> None:
    """Leave the engine as a failed, cancelled or abandoned request leaves it."""
    if step.disturbance == 'reset':
        chat.reset()
    elif step.disturbance == 'empty':
        chat.engine.reset()
    elif step.disturbance == 'prepare':
        chat.prepare(chat.engine.picture(PICTURES[step.after % 3]))
    elif step.disturbance.endswith('judge'):
        cancel = CancelToken()
        if step.disturbance == 'cancel judge':
            threading.Timer(step.after * 1e-3, cancel.set).start()
        picture = chat.engine.picture(PICTURES[step.after % 3])
        with contextlib.suppress(CancelledError):
            list(chat.engine.judge(picture, INQUIRIES, chat.config, cancel))
    elif step.disturbance != 'none':
        cancel = CancelToken()
        if step.disturbance == 'cancel prefill':
            threading.Timer(step.after * 1e-4, cancel.set).start()
        try:
            answer = ask(chat, step, cancel)
        except PromptError:
            return
        for i, _ in enumerate(answer):
            if i == step.after and step.disturbance == 'cancel answer':
                cancel.set()
            if i == step.after and step.disturbance == 'leave':
                return


def assert_same_logits(reusing: Engine, fresh: Engine, request: Request) -> None:
    """Compare the logits at the prompt's end, decoded by reuse and from nothing."""
    prompt_only = replace(request, config=replace(request.config, max_tokens=1))
    fresh.reset()
    for engine in (reusing, fresh):
        list(engine.generate(prompt_only))
    expected = logits_of(fresh.decoder)
    difference = np.abs(logits_of(reusing.decoder) - expected).max()
    assert difference <= 1e-3 * expected.std()
    assert fresh.cache.n_past == reusing.cache.n_past


def test_follow_up_decodes_only_itself(engines: tuple[Engine, Engine]) -> None:
    """A second question about the same picture encodes nothing and decodes no image token."""
    engine = engines[0]
    chat = Chat(engine, ChatConfig(sampling=GREEDY, max_tokens=48))
    picture = engine.picture(PICTURES[0])
    list(chat.ask(QUESTIONS[0], picture))
    answer = chat.ask(QUESTIONS[1], picture)
    list(answer)
    assert answer.stats.prefilled < 40
    assert answer.stats.reused > 80


def test_new_picture_keeps_what_stands_before_it(engines: tuple[Engine, Engine]) -> None:
    """The system prompt is not decoded again for a new picture."""
    engine = engines[0]
    chat = Chat(engine, ChatConfig('word ' * 40, 0, max_tokens=8, sampling=GREEDY))
    for index in (0, 1):
        answer = chat.ask(QUESTIONS[0], engine.picture(PICTURES[index]))
        list(answer)
    assert answer.stats.reused >= 40
    assert answer.stats.prefilled < 64 + 40


def test_prepared_question_decodes_only_itself(engines: tuple[Engine, Engine]) -> None:
    """With the picture prepared, only the question and what follows it are decoded."""
    engine = engines[0]
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

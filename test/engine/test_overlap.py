"""The encoder works on a thread of its own: nobody waits for it who need not."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from nano import MODELS, answer, draw_scene

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import CancelToken, Chat, Engine
from hobot_llamacpp_py.errors import ImageError, InferenceError

DESCRIBE = 'Describe the image.'
GREEDY = ChatConfig(history_turns=0, sampling=SamplingConfig(temperature=0))


class Gate:
    """Holds the encoder up until it is opened, and can have it fail."""

    def __init__(self, engine: Engine) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.calls = 0
        self._encode = engine.encoder.encode
        engine.encoder.encode = self

    def __call__(self, fitted: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.entered.set()
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        return self._encode(fitted)


@pytest.fixture
def engine() -> Iterator[Engine]:
    encoder, decoder, kind = MODELS['internvl']
    config = DecoderConfig(n_threads=1)
    with Engine.open(decoder, encoder, family=kind, config=config) as engine:
        yield engine


def test_an_answer_is_given_while_the_next_picture_is_encoded(engine: Engine) -> None:
    """A whole answer comes while the encoder is busy; the next one does not wait for it."""
    (seen, first), (later, second) = draw_scene(40), draw_scene(41)
    chat, picture = Chat(engine, GREEDY), engine.picture(first)
    engine.encode_ahead(picture).result(30)
    gate = Gate(engine)
    coming = engine.picture(second)
    embeddings = engine.encode_ahead(coming)
    assert gate.entered.wait(30)
    assert ''.join(chat.ask(DESCRIBE, picture)) == answer(seen, DESCRIBE)
    assert not embeddings.done()
    gate.open.set()
    embeddings.result(30)
    reply = chat.ask(DESCRIBE, coming)
    assert ''.join(reply) == answer(later, DESCRIBE)
    assert gate.calls == 1
    assert reply.stats.encode_s < 1e-3


def test_cancelled_while_the_encoder_works(engine: Engine) -> None:
    """A request is cancelled at once, and what the encoder then gives is not lost."""
    scene, bgr = draw_scene(42)
    gate, cancel, chat = Gate(engine), CancelToken(), Chat(engine, GREEDY)
    picture = engine.picture(bgr)
    threading.Thread(target=lambda: gate.entered.wait(30) and cancel.set()).start()
    reply = chat.ask(DESCRIBE, picture, cancel)
    assert ''.join(reply) == ''
    assert reply.finish == 'cancelled'
    gate.open.set()
    assert ''.join(chat.ask(DESCRIBE, picture)) == answer(scene, DESCRIBE)
    assert gate.calls == 1


def test_a_picture_that_failed_is_tried_again(engine: Engine) -> None:
    """An encoder's error ends one request and is not kept."""
    scene, bgr = draw_scene(43)
    gate, chat = Gate(engine), Chat(engine, GREEDY)
    gate.open.set()
    gate.error = InferenceError('the encoder failed')
    with pytest.raises(InferenceError, match='the encoder failed'):
        list(chat.ask(DESCRIBE, engine.picture(bgr)))
    gate.error = None
    assert ''.join(chat.ask(DESCRIBE, engine.picture(bgr))) == answer(scene, DESCRIBE)


def test_only_one_answer_at_a_time(engine: Engine) -> None:
    """An answer that another request has overtaken says so, and the other one is right."""
    scene, bgr = draw_scene(44)
    chat = Chat(engine, GREEDY)
    overtaken = iter(chat.ask(DESCRIBE, engine.picture(draw_scene(45)[1])))
    next(overtaken)
    reply = iter(chat.ask(DESCRIBE, engine.picture(bgr)))
    text = next(reply)
    with pytest.raises(InferenceError, match='another request has begun'):
        list(overtaken)
    assert text + ''.join(reply) == answer(scene, DESCRIBE)


def test_a_reset_ends_a_running_answer(engine: Engine) -> None:
    """An answer goes no further when the KV cache is emptied under it; the next one is right."""
    scene, bgr = draw_scene(46)
    chat, picture = Chat(engine, GREEDY), engine.picture(bgr)
    for n_pieces in range(1, 8):
        pieces = iter(chat.ask(DESCRIBE, picture))
        for _ in range(n_pieces):
            next(pieces)
        engine.reset()
        with pytest.raises(InferenceError, match='or the engine was reset'):
            list(pieces)
        assert ''.join(chat.ask(DESCRIBE, picture)) == answer(scene, DESCRIBE)


def test_embeddings_of_another_shape_are_refused(engine: Engine) -> None:
    """An encoder that suddenly gives fewer tokens fails the request, which would be nonsense."""
    encode = engine.encoder.encode
    engine.encoder.encode = lambda fitted: encode(fitted)[:3]
    with pytest.raises(InferenceError, match=r'shape \(3, 128\); expected \(64, 128\)'):
        list(Chat(engine, GREEDY).ask(DESCRIBE, engine.picture(draw_scene(47)[1])))


def test_a_closed_engine_says_so() -> None:
    """Answers are given while they are iterated over: after closing that is an error, no crash."""
    encoder, decoder, kind = MODELS['internvl']
    with Engine.open(decoder, encoder, config=DecoderConfig(n_threads=1)) as engine:
        chat, picture = Chat(engine, GREEDY), engine.picture(draw_scene(48)[1])
        unread = chat.ask(DESCRIBE, picture)
        begun = iter(chat.ask(DESCRIBE, picture))
        next(begun)
    for use in (lambda: list(unread), lambda: list(begun), lambda: chat.ask(DESCRIBE)):
        with pytest.raises(InferenceError, match='the engine is closed'):
            use()


def test_what_is_no_picture(engine: Engine) -> None:
    """What cv2.imread gives for a wrong file name is explained."""
    with pytest.raises(ImageError, match='cv2.imread gives None'):
        engine.picture(None)

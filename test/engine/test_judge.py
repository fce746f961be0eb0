"""Many questions about one picture: the right answers, with the probabilities of full logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import write_f32
from hypothesis import given
from hypothesis import strategies as st
from nano import MODELS, draw_scene, logits_of
from tiny_decoders import write_hybrid, write_recurrent, write_sliding_window

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import (
    CancelledError,
    CancelToken,
    Chat,
    Engine,
    InferenceError,
    Inquiry,
    Picture,
    PromptError,
    Request,
    Turn,
    Verdict,
    grammar,
)
from hobot_llamacpp_py.engine.choices import Choices, Search
from hobot_llamacpp_py.engine.judge import MOST_BRANCHES
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.llama_api import llama_cpp
from training import world

CONFIG = DecoderConfig(n_ctx=512, n_ubatch=64, n_threads=1, flash_attn='off', kv_cache_type='f32')
GREEDY = SamplingConfig(temperature=0)
PLAIN = ChatConfig(sampling=GREEDY, max_tokens=48)
PICTURES = [draw_scene(seed)[1] for seed in range(3)]
INQUIRIES = [
    Inquiry('What color is the circle?', ('red', 'reddish', 'green', 'greenish blue', 'blue')),
    Inquiry(
        'What color is the star?', tuple(f'The star is {c}' for c in ('red', 'blue', 'green'))
    ),
    Inquiry('How many shapes are there?', tuple(map(str, range(120)))),
    Inquiry('Is there a circle?', ('Yes', 'No')),
    Inquiry('圆形在哪里？', ('圆形在左边', '圆形在右边', '没有圆形', '圆形在左边和右边')),
    Inquiry('Where is the square?', ('a', 'aa', 'aaa', 'aaaa')),
]

KNOWN = [
    Inquiry(f'What color is the {kind}?', tuple(f'The {kind} is {c}' for c in colors) + (none,))
    for kind in world.KINDS
    for colors, none in [(world.COLORS, f'There is no {kind}')]
] + [
    Inquiry(
        'How many shapes are there?',
        ('There is one shape', *(f'There are {n} shapes' for n in ('two', 'three'))),
    ),
    Inquiry(
        '圆形在哪里？', ('没有圆形', *(f'圆形在{p}' for p in world.PLACE_WORDS['zh'].values()))
    ),
]


@pytest.fixture(scope='module')
def decoder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp('f32') / f'{family}.gguf', family)


@pytest.fixture(scope='module')
def engines(family: str, decoder: Path) -> Iterator[tuple[Engine, Engine]]:
    """The engine that is asked, and one for what is compared."""
    encoder, _, kind = MODELS[family]
    with (
        Engine.open(decoder, encoder, family=kind, config=CONFIG) as asked,
        Engine.open(decoder, encoder, family=kind, config=CONFIG) as other,
    ):
        yield asked, other


def judge(engine: Engine, picture: Picture, inquiries: Sequence[Inquiry]) -> dict[str, Verdict]:
    """Return the verdicts by question."""
    return {v.inquiry.question: v for v in engine.judge(picture, inquiries, PLAIN)}


def shares(engine: Engine, picture: Picture, inquiry: Inquiry, lead: str) -> dict[str, float]:
    """Compute each answer's probability from full logits, each place decoded from nothing."""
    request = Request((Turn(inquiry.question, picture),), PLAIN)
    prompt = engine.prompts.build(request).elements
    ends = [t for t in range(engine.vocabulary.n_tokens) if engine.vocabulary.is_end(t)]
    sequences = {
        (*engine.tokenize(lead + answer + stop), -1): answer
        for answer in inquiry.answers
        for stop in ('', '.', '。')
    }
    known: dict[tuple[int, ...], np.ndarray] = {}

    def probability(path: tuple[int, ...]) -> np.ndarray:
        if path not in known:
            engine.reset()
            images = {picture.key: engine.encode_ahead(picture).result()}
            engine.cache.prefill([*prompt, *path], lambda span: images[span.key])
            logits = logits_of(engine.decoder).astype(float)
            known[path] = np.exp(logits - logits.max())
        return known[path]

    found = dict.fromkeys(inquiry.answers, 0.0)
    for sequence, answer in sequences.items():
        share = 1.0
        for i, token in enumerate(sequence):
            beside = {s[i] for s in sequences if s[:i] == sequence[:i]}
            if len(beside) > 1:
                p = probability(sequence[:i])
                mass = {t: p[ends].sum() if t < 0 else p[t] for t in beside}
                share *= mass[token] / sum(mass.values())
        found[answer] += share
    return found


@pytest.mark.slow
def test_probability_is_that_of_full_logits(engines: tuple[Engine, Engine], family: str) -> None:
    """Answer and probability are those of the softmax over permitted tokens, place by place."""
    asked, other = engines
    lead = ' ' if family == 'smolvlm' else ''
    for bgr in PICTURES:
        verdicts = judge(asked, asked.picture(bgr), INQUIRIES)
        for inquiry in INQUIRIES:
            expected = shares(other, other.picture(bgr), inquiry, lead)
            assert sum(expected.values()) == pytest.approx(1)
            verdict = verdicts[inquiry.question]
            assert verdict.answer == max(expected, key=lambda answer: expected[answer])
            assert verdict.probability == pytest.approx(expected[verdict.answer], abs=2e-3)


@pytest.mark.slow
def test_choice_is_that_of_a_grammar(engines: tuple[Engine, Engine], family: str) -> None:
    """What is more likely than all else together is what greedy decoding gives, held to it.

    (Where the model has no idea a grammar may lead elsewhere: it permits each way to spell.)
    """
    asked, other = engines
    lead = ' ' if family == 'smolvlm' else ''
    for bgr, inquiry in itertools.product(PICTURES, KNOWN):
        verdict = judge(asked, asked.picture(bgr), [inquiry])[inquiry.question]
        assert verdict.probability > 0.5
        rule = ' | '.join(f'"{lead}{answer}"' for answer in inquiry.answers)
        constraint = grammar(f'start: ({rule}) ("." | "。")?')
        sampling = SamplingConfig(temperature=0, constraint=constraint)
        config = ChatConfig(max_tokens=48, sampling=sampling)
        turn = Turn(inquiry.question, other.picture(bgr))
        text = ''.join(other.generate(Request((turn,), config)))
        assert text.strip().rstrip('.。') == verdict.answer


def test_together_or_alone(engines: tuple[Engine, Engine]) -> None:
    """More questions than fit one batch, free text among them, are answered as each one alone."""
    asked, other = engines
    many = [
        Inquiry(f'What color is the {kind}{mark}', tuple(f'The {kind} is {c}' for c in colors))
        for kind in ('circle', 'star')
        for mark in ('?', '!', '', '??', ' ?', '.', '...', ',', ':')
        for colors in [('red', 'green', 'blue', 'yellow', 'purple', 'orange')]
    ]
    many += [Inquiry('Describe the image.'), Inquiry('有几个图形？')]
    assert len(many) > MOST_BRANCHES
    together = judge(asked, asked.picture(PICTURES[0]), many)
    for inquiry in many:
        alone = judge(other, other.picture(PICTURES[0]), [inquiry])[inquiry.question]
        verdict = together[inquiry.question]
        assert verdict.answer == alone.answer
        assert verdict.probability == pytest.approx(alone.probability, abs=2e-3)


def test_free_text_is_the_answer_of_a_chat(engines: tuple[Engine, Engine]) -> None:
    """Without permitted answers a question is answered as in a conversation, greedily."""
    asked, other = engines
    for bgr, question in itertools.product(
        PICTURES, ('Describe the image.', '描述一下这张图片。')
    ):
        verdict = judge(asked, asked.picture(bgr), [Inquiry(question, max_tokens=48)])[question]
        expected = ''.join(Chat(other, PLAIN).ask(question, other.picture(bgr)))
        assert (verdict.answer, verdict.probability) == (expected.strip(), None)


@pytest.mark.slow
@pytest.mark.parametrize('write', [write_recurrent, write_hybrid, write_sliding_window])
def test_with_any_memory(write, tmp_path: Path) -> None:
    """Models whose memory is no plain KV cache, and cannot drop a tail, are asked as well."""
    path = write(tmp_path / 'tiny.gguf')
    encoder = MODELS['internvl'][0]
    with (
        Engine.open(path, encoder, family=INTERNVL, config=CONFIG) as asked,
        Engine.open(path, encoder, family=INTERNVL, config=CONFIG) as other,
    ):
        for bgr in PICTURES[:2]:
            verdicts = judge(asked, asked.picture(bgr), INQUIRIES)
            for inquiry in INQUIRIES:
                expected = shares(other, other.picture(bgr), inquiry, '')
                verdict = verdicts[inquiry.question]
                assert verdict.answer == max(expected, key=lambda answer: expected[answer])
                assert verdict.probability == pytest.approx(expected[verdict.answer], abs=2e-3)


def test_conversations_stay(engines: tuple[Engine, Engine]) -> None:
    """Questions in between neither change a conversation nor have it decoded again."""
    asked, other = engines
    chats = Chat(asked, PLAIN), Chat(other, PLAIN)
    for question, index in (('Describe the image.', 0), ('有几个图形？', None), ('Thanks', None)):
        judge(asked, asked.picture(PICTURES[1]), INQUIRIES)
        answers = [
            chat.ask(question, None if index is None else chat.engine.picture(PICTURES[index]))
            for chat in chats
        ]
        assert len({''.join(answer) for answer in answers}) == 1
        if index is None:
            assert answers[0].stats.reused >= 64
            assert answers[0].stats.prefilled < 24


def test_a_judged_picture_is_known_to_a_conversation(engines: tuple[Engine, Engine]) -> None:
    """A question about the picture that was judged last decodes only itself; and the other way."""
    asked = engines[0]
    for index in range(3):
        picture = asked.picture(PICTURES[index])
        judge(asked, picture, INQUIRIES)
        answer = Chat(asked, PLAIN).ask('Describe the image.', picture)
        text = ''.join(answer)
        assert answer.stats.reused >= 64
        assert answer.stats.prefilled < 24
        assert text == ''.join(Chat(engines[1], PLAIN).ask('Describe the image.', picture))


def test_cancel_keeps_what_was_found(engines: tuple[Engine, Engine]) -> None:
    """A cancel ends the questions; those of before are answered, and all of them the next time."""
    asked = engines[0]
    picture = asked.picture(PICTURES[0])
    expected = judge(asked, picture, INQUIRIES)
    for n in range(3):
        cancel, found = CancelToken(), []
        with pytest.raises(CancelledError):
            for verdict in asked.judge(picture, INQUIRIES, PLAIN, cancel):
                found.append(verdict)
                if len(found) > n:
                    cancel.set()
        assert [v.answer for v in found] == [expected[v.inquiry.question].answer for v in found]
        again = judge(asked, picture, INQUIRIES)
        assert {q: v.answer for q, v in again.items()} == {
            q: v.answer for q, v in expected.items()
        }


def test_a_running_answer_ends(engines: tuple[Engine, Engine]) -> None:
    """An answer that is being given cannot go on with the logits of other questions."""
    asked = engines[0]
    pieces = iter(Chat(asked, PLAIN).ask('Describe the image.', asked.picture(PICTURES[0])))
    next(pieces)
    judge(asked, asked.picture(PICTURES[0]), INQUIRIES)
    with pytest.raises(InferenceError, match='another request has begun'):
        list(pieces)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_numbers_that_are_none(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Embeddings that are no numbers are an error, and spoil nothing that is asked later."""
    asked = engines[0]
    encode = asked.encoder.encode
    spoilt = asked.picture(np.full((100, 100, 3), int(value == np.inf), np.uint8))
    monkeypatch.setattr(asked.encoder, 'encode', lambda fitted: encode(fitted) * value)
    for inquiry in INQUIRIES[3], Inquiry('Describe the image.'):
        with pytest.raises(InferenceError, match='embeddings that are no numbers'):
            judge(asked, spoilt, [inquiry])
    monkeypatch.undo()
    assert judge(asked, asked.picture(PICTURES[0]), [INQUIRIES[3]])


def test_verdicts_that_come_too_late(decoder: Path, family: str) -> None:
    """What was not taken when something else began, or the engine ended, is an error."""
    encoder, _, kind = MODELS[family]
    with Engine.open(decoder, encoder, family=kind, config=CONFIG) as engine:
        picture = engine.picture(PICTURES[0])
        expected = [v.answer for v in engine.judge(picture, INQUIRIES, PLAIN)]
        for disturb in (
            lambda: judge(engine, engine.picture(PICTURES[1]), INQUIRIES),
            engine.reset,
            lambda: list(Chat(engine, PLAIN).ask('Describe the image.', picture)),
            engine.close,
        ):
            verdicts = engine.judge(picture, INQUIRIES, PLAIN)
            assert next(verdicts).answer in expected
            disturb()
            with pytest.raises(InferenceError):
                list(verdicts)
            if disturb != engine.close:
                again = [v.answer for v in engine.judge(picture, INQUIRIES, PLAIN)]
                assert again == expected


def test_answers_that_are_long(engines: tuple[Engine, Engine]) -> None:
    """Answers of many tokens are searched beside a conversation that fills the context."""
    asked = engines[0]
    picture = asked.picture(PICTURES[0])
    list(Chat(asked, PLAIN).ask('x' * 350, picture))
    many = [
        Inquiry(f'Which one {n}?', tuple(f'{"very long " * 12}{c}' for c in 'abcdefgh'))
        for n in range(MOST_BRANCHES + 4)
    ]
    assert len(judge(asked, picture, many)) == len(many)


def test_no_memory_for_more(decoder: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for questions beside the conversation, that goes on."""
    encoder, _, kind = MODELS[family]
    with Engine.open(decoder, encoder, family=kind, config=CONFIG) as engine:
        picture, init = engine.picture(PICTURES[0]), llama_cpp.llama_init_from_model

        def starved(model: object, params: Any) -> object:
            return init(model, params) if params.n_ctx <= CONFIG.n_ctx else None

        monkeypatch.setattr(llama_cpp, 'llama_init_from_model', starved)
        expected = ''.join(Chat(engine, PLAIN).ask('Describe the image.', picture))
        for _ in range(2):
            with pytest.raises(InferenceError, match='no room for more than the conversation'):
                judge(engine, picture, INQUIRIES)
            assert ''.join(Chat(engine, PLAIN).ask('Describe the image.', picture)) == expected
        monkeypatch.undo()
        assert len(judge(engine, picture, INQUIRIES)) == len(INQUIRIES)


def test_what_cannot_be_asked(engines: tuple[Engine, Engine], decoder: Path) -> None:
    """An empty question, one that is too long, and one without a picture are refused."""
    asked = engines[0]
    picture = asked.picture(PICTURES[0])
    with pytest.raises(PromptError, match='the question is empty'):
        judge(asked, picture, [Inquiry(' ')])
    with pytest.raises(PromptError, match='the context has 512'):
        judge(asked, picture, [Inquiry('x' * 3000, ('a', 'b'))])
    assert judge(asked, picture, []) == {}
    for answers in (('yes', 'yes'), ('only',), ('', 'a'), ('a', 'a.')):
        with pytest.raises(PromptError, match='permitted answers are two or more'):
            judge(asked, picture, [Inquiry('Is it?', answers)])
    found = []
    with pytest.raises(PromptError, match="the context has 512.*question: 'xxx"):
        found += asked.judge(picture, [Inquiry('x' * 3000, ('a', 'b')), INQUIRIES[3]], PLAIN)
    assert [verdict.inquiry for verdict in found] == [INQUIRIES[3]]
    with (
        Engine.open(decoder, config=CONFIG) as chat,
        pytest.raises(PromptError, match='takes no pictures'),
    ):
        judge(chat, picture, INQUIRIES)


words = st.lists(st.integers(0, 2), min_size=1, max_size=3)


@given(
    st.lists(st.tuples(st.integers(0, 4), words), min_size=2, max_size=9), st.integers(0, 10**6)
)
def test_search_is_exact(sequences: list[tuple[int, list[int]]], seed: int) -> None:
    """Whatever the answers and the logits, the verdict is that of the whole trie."""
    owners: dict[tuple[int, ...], int] = {}
    for answer, tokens in sequences:
        owners.setdefault((*tokens, -1), answer)
    rng, tables = np.random.default_rng(seed), {}

    def logits(path: Sequence[int]) -> np.ndarray:
        return tables.setdefault(tuple(path), rng.normal(0, 3, 8).astype(np.float32))

    expected: dict[int, float] = {}
    for sequence, answer in owners.items():
        share = 1.0
        for i, token in enumerate(sequence):
            values = np.exp(logits(sequence[:i]).astype(float))
            mass = {
                s[i]: values[[6, 7]].sum() if s[i] < 0 else values[s[i]]
                for s in owners
                if s[:i] == sequence[:i]
            }
            share *= mass[token] / sum(mass.values())
        expected[answer] = expected.get(answer, 0.0) + share

    search = Search(Choices([(a, s[:-1]) for s, a in owners.items()], ends=[6, 7]))
    while search.wanted is not None:
        search.feed(logits(search.wanted))
    assert search.probability == pytest.approx(expected[search.answer])
    assert search.probability >= max(expected.values()) - 1e-9

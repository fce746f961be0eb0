"""Models that think aloud: their thoughts are neither answer nor history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nano import request_of
from scripted_decoder import ASK, CONTROL, END, TEMPLATE, USER_DEFINED, write_decoder

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, CancelToken, Chat, Engine, grammar
from hobot_llamacpp_py.engine.thoughts import FORMATS, ThoughtSplitter

GREEDY = ChatConfig(system_prompt='', sampling=SamplingConfig(temperature=0))
THINK = {'<think>': USER_DEFINED, '</think>': USER_DEFINED}
THOUGHTS = {'<think>': 'I', 'I': ' ponder', ' ponder': '\n', '\n': '</think>'}
ANSWER = {'\n\n': 'Hello', 'Hello': ' world', ' world': END}
SCRIPT = {ASK: '<think>', **THOUGHTS, '</think>': '\n\n', **ANSWER}

HELLO = grammar('root ::= "Hello" " there"')


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[..., tuple[Chat, Answer, list[str]]]]:
    """Return a function that asks a scripted model; it gives the answer and the pieces told."""
    engines = []

    def asked(
        script: dict[str, str] = SCRIPT,
        special: dict[str, int] = THINK,
        template: str = TEMPLATE,
        **config: object,
    ) -> tuple[Chat, Answer, list[str]]:
        path = write_decoder(tmp_path / f'{len(engines)}.gguf', script, special, template)
        engines.append(Engine.open(path, config=DecoderConfig(n_threads=1)))
        chat = Chat(engines[-1], replace(GREEDY, **config))
        return chat, *answer(chat)

    yield asked
    for engine in engines:
        engine.close()


def answer(chat: Chat, cancel: CancelToken | None = None) -> tuple[Answer, list[str]]:
    thoughts: list[str] = []
    given = chat.ask('Why?', cancel=cancel)
    given.on_thought = thoughts.append
    assert ''.join(given) == given.text
    assert ''.join(thoughts) == given.thoughts
    return given, thoughts


@pytest.mark.parametrize('kind', [CONTROL, USER_DEFINED])
def test_thought_and_answer(ask: Callable, kind: int) -> None:
    """The thought comes apart, piece by piece; the answer is what stands behind it."""
    chat, given, thoughts = ask(special=dict.fromkeys(THINK, kind))
    assert (given.text, given.finish, given.is_thinking) == ('Hello world', 'stop', False)
    assert thoughts == ['I', ' ponder', '\n']
    assert given.stats.thinking == 6  # with the markers and the line feeds behind them
    assert b''.join(chat.engine.vocabulary.piece(t) for t in given.tokens) == b'Hello world'
    assert chat.turns[0].answer == tuple(given.tokens)


def test_next_turn(ask: Callable) -> None:
    """The next turn's prompt has the answer without the thought, and is answered alike."""
    chat, first, _ = ask()
    second, thoughts = answer(chat)
    assert (second.text, ''.join(thoughts)) == (first.text, first.thoughts)
    history = chat.engine.prompts.build(request_of(*second.turns)).elements
    text = b''.join(chat.engine.vocabulary.special_piece(token) for token in history).decode()
    assert text == f'user:Why?{END}assistant:Hello world{END}user:Why?{END}{ASK}'


def test_markers_that_are_text(ask: Callable) -> None:
    """Markers that the template names but the vocabulary does not have are found as text."""
    script = {
        ASK: '<th',
        '<th': 'ink>',
        'ink>': 'I',
        'I': ' ponder',
        ' ponder': '</',
        '</': 'think>\n',
    }
    script |= {'think>\n': 'Hello', 'Hello': ' world', ' world': END}
    template = "{% set unused = '<think></think>' %}" + TEMPLATE
    _, given, thoughts = ask(script, {}, template)
    assert (given.text, thoughts) == ('Hello world', ['I', ' ponder'])


def test_a_model_that_does_not_think(ask: Callable) -> None:
    """An answer that only looks like a marker for a while comes whole, as do its tokens."""
    script = {ASK: ' ', ' ': '<', '<': 'b>', 'b>': END}
    chat, given, thoughts = ask(script, THINK)
    assert (given.text, given.thoughts, thoughts) == ('<b>', '', [])
    assert given.stats.thinking == 0
    assert b''.join(chat.engine.vocabulary.piece(t) for t in given.tokens) == b' <b>'
    _, given, _ = ask({ASK: '<', '<': END}, THINK)
    assert (given.text, len(given.tokens), given.stats.thinking) == ('<', 1, 0)


@pytest.mark.parametrize(
    ('said', 'text'),
    [(['<', 'b>'], '<b>'), (['<'], '<'), (['\n\n', '</', 'b>'], '</b>'), (['\n\n'], '')],
)
def test_what_follows_a_thought(ask: Callable, said: list[str], text: str) -> None:
    """Behind a thought, too, what looks like a marker for a while is answer and history."""
    script = dict(zip(['</think>', *said], [*said, END], strict=True))
    chat, given, _ = ask({**SCRIPT, **script}, THINK)
    assert given.text == text
    assert b''.join(chat.engine.vocabulary.piece(t) for t in given.tokens).decode() == text
    assert [turn.answer for turn in chat.turns] == ([tuple(given.tokens)] if text else [])


def test_the_prompt_opens_the_thought(ask: Callable) -> None:
    """Where the template opens the block, the answer begins within it."""
    script = {'<think>': 'I', **THOUGHTS, '</think>': '\n\n', **ANSWER}
    _, given, thoughts = ask(script, THINK, TEMPLATE + '<think>')
    assert (given.text, thoughts) == ('Hello world', ['I', ' ponder', '\n'])


@pytest.mark.parametrize('template', [TEMPLATE, TEMPLATE + '<think>\n'], ids=['plain', 'opened'])
def test_off_closes_the_block(ask: Callable, template: str) -> None:
    """With thinking off, a template that knows nothing of it has the block closed at once."""
    _, given, thoughts = ask(SCRIPT, THINK, template, thinking='off')
    assert (given.text, thoughts, given.stats.thinking) == ('Hello world', [], 0)


@pytest.mark.parametrize('thinking', ['auto', 'on', 'off'])
def test_templates_that_know(ask: Callable, thinking: str) -> None:
    """A template that knows enable_thinking is told on or off, and nothing with auto."""
    said = '{{ "auto" if enable_thinking is not defined else "on" if enable_thinking else "off" }}'
    chat, given, _ = ask(SCRIPT, THINK, said + TEMPLATE, thinking=thinking)
    prompt = chat.engine.prompts.build(request_of(*given.turns, thinking=thinking)).elements
    text = b''.join(chat.engine.vocabulary.special_piece(token) for token in prompt).decode()
    assert text.startswith(thinking)
    assert text.endswith(ASK)  # what follows is the template's affair, and the model's
    opened = "{{ '<think>' if not enable_thinking }}"
    _, given, thoughts = ask(SCRIPT, THINK, said + TEMPLATE + opened, thinking='off')
    assert (given.text, thoughts) == ('Hello world', [])


def test_a_thought_without_end(ask: Callable) -> None:
    """A thought that max_tokens cuts is no answer, and joins no history."""
    chat, given, thoughts = ask({ASK: '<think>', '<think>': 'I', 'I': 'I'}, max_tokens=9)
    assert (given.text, given.finish, given.is_thinking) == ('', 'length', True)
    assert thoughts == ['I'] * 8
    assert chat.turns == ()


def test_cancel_within_a_thought(ask: Callable) -> None:
    """A cancel ends a thought as it ends an answer; the next one is given as ever."""
    chat, before, _ = ask(speculative=False)  # a draft is one decode, which is not parted
    cancel = CancelToken()
    given = chat.ask('Why?', cancel=cancel)
    given.on_thought = lambda piece: cancel.set()
    assert list(given) == []
    assert (given.finish, given.is_thinking, given.thoughts) == ('cancelled', True, 'I')
    assert answer(chat)[0].text == before.text


def test_the_constraint_begins_behind_the_thought(ask: Callable) -> None:
    """A grammar holds for the answer alone: the thought is as free as ever."""
    sampling = SamplingConfig(temperature=0, constraint=HELLO)
    _, given, thoughts = ask(sampling=sampling)
    assert (given.text, given.finish) == ('Hello there', 'stop')
    assert thoughts == ['I', ' ponder', '\n']


def test_a_constraint_without_a_thought(ask: Callable) -> None:
    """Where the model does not think first, the grammar holds from the first token on."""
    sampling = SamplingConfig(temperature=0, constraint=HELLO)
    _, given, thoughts = ask({ASK: 'I', 'I': ' ponder'}, sampling=sampling)
    assert (given.text, thoughts) == ('Hello there', [])


@pytest.mark.parametrize(
    ('script', 'form', 'text'),
    [
        ({**THOUGHTS, '</think>': '\n\n', '\n\n': ' yes'}, 'root ::= " yes"', ' yes'),
        ({'<think>': 'I', 'I': END}, HELLO, 'Hello there'),  # no end of the thought
        ({**THOUGHTS, '</think>': END}, HELLO, 'Hello there'),
    ],
    ids=['a space', 'within', 'behind'],
)
def test_a_constrained_answer_is_whole(
    ask: Callable, script: dict[str, str], form: Any, text: str
) -> None:
    """However a thought ends, the answer behind it is what the grammar says, to its blanks."""
    constraint = grammar(form) if isinstance(form, str) else form
    sampling = SamplingConfig(temperature=0, constraint=constraint)
    chat, given, _ = ask({ASK: '<think>', **script}, sampling=sampling)
    assert (given.text, given.finish, given.is_thinking) == (text, 'stop', False)
    assert b''.join(chat.engine.vocabulary.piece(t) for t in given.tokens).decode() == text


# llama.cpp takes <|end|> for the end of an answer where the last two are not.
CHANNELS = ['<|channel|>', '<|message|>', '<|end|>', '<|start|>', '<|constrain|>']
CHANNELS += ['<|return|>', '<|call|>']


@pytest.mark.parametrize('script', [['final', '<|constrain|>'], ['commentary', ' to']])
def test_half_a_marker_is_no_constrained_answer(ask: Callable, script: list[str]) -> None:
    """Where a marker goes on in a way that is not known, nothing of it is in the answer."""
    steps = [ASK, '<|channel|>', 'analysis', '<|message|>', 'I', '<|end|>']
    sampling = SamplingConfig(temperature=0, constraint=HELLO)
    said = dict(zip([ASK, '<|channel|>', script[0]], ['<|channel|>', *script], strict=True))
    _, given, _ = ask(said, dict.fromkeys(CHANNELS, CONTROL), sampling=sampling)
    assert (given.text, given.finish) == ('Hello there', 'stop')
    said = dict(zip(steps, steps[1:], strict=False)) | {'<|end|>': '<|start|>'}
    _, given, thoughts = ask(said, dict.fromkeys(CHANNELS, CONTROL), sampling=sampling)
    assert (given.text, given.finish, thoughts) == ('Hello there', 'stop', ['I'])
    _, given, _ = ask(said, dict.fromkeys(CHANNELS, CONTROL), sampling=sampling, max_tokens=6)
    assert (given.text, given.finish, given.tokens) == ('', 'length', [])


def test_text_in_the_token_that_ends_a_thought(ask: Callable) -> None:
    """What stands behind the marker in one token was not picked by the grammar: it is dropped."""
    template = "{% set unused = '<think></think>' %}" + TEMPLATE + '<think>'
    sampling = SamplingConfig(temperature=0, constraint=HELLO)
    script = {'>': 'I', 'I': '</', '</': 'think>Hel'}
    _, given, thoughts = ask(script, {}, template, sampling=sampling)
    assert (given.text, thoughts) == ('Hello there', ['I'])


@pytest.mark.parametrize('ends', [True, False])
def test_markers_that_are_text_before_a_constraint(ask: Callable, ends: bool) -> None:
    """A model whose markers are text thinks first, too; text that is none is not answered."""
    template = "{% set unused = '<think></think>' %}" + TEMPLATE
    sampling = SamplingConfig(temperature=0, constraint=HELLO)
    script = {ASK: '<th', '<th': 'ink>' if ends else 'y', 'ink>': 'I', 'I': '</', '</': 'think>\n'}
    _, given, thoughts = ask(script, {}, template, sampling=sampling)
    assert (given.text, given.finish) == ('Hello there', 'stop')
    assert thoughts == (['I'] if ends else [])


def test_channels() -> None:
    """With channels, token by token, only what is on the last one is the answer."""
    special = ['<|channel|>', '<|message|>', '<|end|>', '<|start|>', '<|other|>']
    tokens = ['<|channel|>', 'analysis', '<|message|>', 'I', '<|other|>', ' see', '<|end|>']
    tokens += ['<|start|>', 'assistant', '<|channel|>', 'final', '<|message|>', 'Yes']

    def piece(token: int) -> bytes:
        return b'' if tokens[token] in special else tokens[token].encode()

    thoughts: list[str] = []
    splitter = ThoughtSplitter(
        FORMATS[-1], piece, lambda token: tokens[token].encode(), thoughts.append, False
    )
    said = [splitter.feed(token) for token in range(len(tokens))]
    assert ''.join(thoughts) == 'I see'
    assert said[-2:] == [b'', b'Yes']
    assert splitter.answer_tokens == [len(tokens) - 1]


@pytest.mark.parametrize('markers', FORMATS, ids=lambda markers: markers.opens[0])
@pytest.mark.parametrize('size', [1, 2, 3, 1000])
def test_every_format_in_any_pieces(markers, size: int) -> None:
    """However the text comes in pieces, thought and answer are the same."""
    text = f'{markers.opens[0]}a < b{markers.close}{"".join(markers.skipped[-2:])}\n yes <no'
    if markers.close in markers.skipped:
        text = f'{markers.opens[0]}a < b{markers.close}\n yes <no'
    pieces = [text[i : i + size].encode() for i in range(0, len(text), size)]
    thoughts: list[str] = []
    splitter = ThoughtSplitter(
        markers, pieces.__getitem__, pieces.__getitem__, thoughts.append, in_thought=False
    )
    said = b''
    for number, piece in enumerate(pieces):
        said += piece if splitter.is_over else splitter.feed(number)
    assert (''.join(thoughts), said) == ('a < b', b'yes <no')
    assert markers.is_open(markers.opens[0])
    assert markers.closing(f'question{markers.close}assistant') == markers.none
    assert markers.closing(f'{markers.opens[0]}{markers.close}\n') == ''
    assert not markers.is_open(markers.opens[0] + markers.closing(markers.opens[0]))

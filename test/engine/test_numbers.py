"""What is no number is found wherever it comes up, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf_files import edited, weights
from nano import MODELS, answer, draw_scene

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Chat, Engine, InferenceError, Inquiry, grammar
from hobot_llamacpp_py.errors import LogitsError
from hobot_llamacpp_py.families import INTERNVL

NO_NUMBERS = 'the decoder gave logits that are no numbers'
ENCODER = MODELS['internvl'][0]
SCENE, BGR = draw_scene(0)
DESCRIBE = 'Describe the image.'
WORD = ' yellow'  # one of its description, and of no other answer here
GOOD = '有几个图形？'


def open_engine(path: Path, flash_attn: str = 'auto') -> Engine:
    config = DecoderConfig(n_ctx=256, n_threads=1, flash_attn=flash_attn)  # type: ignore[arg-type]
    return Engine.open(path, ENCODER, family=INTERNVL, config=config)


def say(engine: Engine, constraint: str = '', temperature: float = 0) -> None:
    held = grammar(constraint) if constraint else None
    config = ChatConfig(sampling=SamplingConfig(temperature, seed=1, constraint=held))
    list(Chat(engine, config).ask('Hi', engine.picture(BGR)))


def judge(engine: Engine, *answers: str) -> None:
    list(engine.judge(engine.picture(BGR), [Inquiry('Is there a star?', answers)]))


WAYS: dict[str, Callable[[Engine], None]] = {
    'greedy': say,
    'sampled': lambda engine: say(engine, '', 0.8),
    'few allowed': lambda engine: say(engine, 'root ::= "yes" | "no"'),
    'few allowed, sampled': lambda engine: say(engine, 'root ::= "yes" | "no"', 0.8),
    'many allowed': lambda engine: say(engine, 'start: /[^0-9]{3,9}/'),
    'many allowed, sampled': lambda engine: say(engine, 'start: /[^0-9]{3,9}/', 0.8),
    'judged': lambda engine: judge(engine, 'Yes', 'No'),
    'judged by text': judge,
}


@pytest.fixture(scope='module', params=['all', 'one', 'infinite'])
def spoilt(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A decoder whose logits are no numbers: all of them, or one that nobody needs."""
    tensors = weights()
    norm, words = tensors['output_norm.weight'], tensors['token_embd.weight']
    if request.param == 'all':
        norm[:] = np.nan
    elif request.param == 'one':
        words[-1] = np.nan
    else:  # one of the two is positive, whatever it is multiplied by
        words[-1, 0], words[-2, 0] = np.inf, -np.inf
    path = edited(tmp_path_factory.mktemp('spoilt') / 'spoilt.gguf', {}, tensors)
    with open_engine(path) as engine:
        yield engine


@pytest.mark.parametrize('way', WAYS)
def test_logits_that_are_no_numbers(spoilt: Engine, way: str) -> None:
    """Where the decoder has gone wrong nothing is sampled: it is an error, in words."""
    with pytest.raises(LogitsError, match=NO_NUMBERS):
        WAYS[way](spoilt)
    assert spoilt.cache.n_past == 0


@pytest.fixture(scope='module', params=['on', 'off'])
def fragile(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A decoder that goes wrong once it reads a certain word, with and without flash attention."""
    with open_engine(MODELS['internvl'][1]) as engine:
        (word,) = engine.tokenize(WORD)
    tensors = weights()
    tensors['output.weight'] = tensors['token_embd.weight'].copy()
    tensors['token_embd.weight'][word] = np.nan
    path = edited(tmp_path_factory.mktemp('fragile') / 'fragile.gguf', {}, tensors)
    with open_engine(path, request.param) as engine:
        yield engine


def ask(engine: Engine, question: str, **sampling: object) -> tuple[str, int]:
    """Return what was said until the error, if any, and how much of it was drafted."""
    config = ChatConfig(sampling=SamplingConfig(temperature=0, **sampling))  # type: ignore[arg-type]
    reply = Chat(engine, config).ask(question, engine.picture(BGR))
    try:
        list(reply)
    except LogitsError:
        return f'{reply.text}...', reply.stats.drafted
    return reply.text, reply.stats.drafted


def test_a_word_that_spoils_all(fragile: Engine) -> None:
    """An answer ends where its numbers do, drafted or not; the next question is answered."""
    whole = answer(SCENE, DESCRIBE)
    assert WORD in whole
    is_drafted = False
    for _ in range(50):  # while the machine is busy with others drafts may seem to cost time
        text, drafted = ask(fragile, DESCRIBE)
        assert text.endswith('...')
        assert f'{whole[: whole.index(WORD)]}{WORD}'.startswith(text[:-3])
        assert ask(fragile, GOOD)[0] == answer(SCENE, GOOD)
        is_drafted = drafted > 0
        if is_drafted:
            break
    assert is_drafted


def test_a_forced_word_that_spoils_all(fragile: Engine) -> None:
    """So does one to which the constraint leaves no choice about the word."""
    held = grammar(f'start: "There is a{WORD} " /[a-z ]+/')
    text, _ = ask(fragile, DESCRIBE, constraint=held)
    assert text.endswith('...')
    assert ask(fragile, GOOD)[0] == answer(SCENE, GOOD)


def test_a_read_word_that_spoils_all(fragile: Engine) -> None:
    """A question that holds the word is an error, of a chat and of a judge; others are not."""
    picture = fragile.picture(BGR)
    good = Inquiry('Is there a star?', ('Yes', 'No'))
    for bad in (
        Inquiry(f'Is there a{WORD} star?', ('Yes', 'No')),
        Inquiry(f'Is there a{WORD} star?'),
        Inquiry('What color is the star?', (f'It is{WORD} green', f'It is{WORD} red')),
    ):
        with pytest.raises(InferenceError, match=NO_NUMBERS):
            list(fragile.judge(picture, [bad, good]))
        (found,) = fragile.judge(picture, [good])
        assert found.answer == 'No'
        assert ask(fragile, f'Is there a{WORD} star?')[0] == '...'
        assert ask(fragile, GOOD)[0] == answer(SCENE, GOOD)

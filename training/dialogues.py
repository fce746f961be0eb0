"""Training dialogues: questions about pictures, and a little text chat, as token batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hobot_llamacpp_py.engine import Turn
from hobot_llamacpp_py.engine.prompt_format import (
    FamilyFormat,
    Image,
    Part,
    PromptFormat,
    Special,
    Text,
    Tokens,
)
from hobot_llamacpp_py.vision.picture import Picture
from training import world
from training.chat import DEFAULT_SYSTEM, FACTS, NO_IMAGE, facts
from training.command import MODELS
from training.model import Claims, Guide
from training.pictures import GRID, Pictures
from training.rules import CLOSED_KINDS, random_closed
from training.tokenizer import Tokenizer

__all__ = [
    'Batch',
    'Exchange',
    'collate',
    'image_dialogue',
    'prompt_format',
    'random_system',
    'text_dialogue',
]

IMAGE_TOKENS = GRID * GRID
Offsets = tuple[tuple[int, int], ...]

_SYSTEMS = (
    '你是一个助手。',
    '请简短回答。',
    '你是机器人。',
    'You are a robot.',
    'Answer briefly.',
    'Describe what you see.',
    'You are helpful.',
    'You are a helpful vision assistant.',
)
# Their rare words are spelt in bytes, which makes sequences long: seen in long dialogues only.
_LONG_SYSTEMS = (
    '你是一个有帮助的助手。',
    '你是一个智能助手，请用中文回答问题。',
    'You are InternVL.',
    'You are SmolVLM.',
    'Answer the question about the image in one short sentence.',
    '你是一个机器人，请根据图片回答用户的问题。',
    '你是地瓜机器人的语音助手，请用简短的话回答用户的问题，不要使用表情符号。',
    'You are a friendly robot with a camera. You see the world through it and talk to people. '
    'Keep answers short, polite and correct, and never make things up.',
)


@dataclass(frozen=True)
class Exchange:
    """A question, its right answer, and the picture that comes with it or was seen before.

    `image`: index of a picture shown with this question; `seen`: of the picture spoken of.
    """

    question: str
    answer: world.Answer
    type: str
    image: int | None = None
    seen: int | None = None


_KNOWN = {language: facts(language) for language in world.LANGUAGES}


def random_system(rng: np.random.Generator, long: bool = False) -> str:
    """Draw a system prompt: often the default one, else others, none, or any words."""
    draw = rng.random()
    if draw < 0.45:
        return DEFAULT_SYSTEM
    if draw < 0.6:
        return ''
    if draw < 0.75:
        return str(rng.choice(_LONG_SYSTEMS if long else _SYSTEMS))
    length = int(rng.integers(1, 40 if long else 6))
    if rng.random() < 0.5:
        letters = np.array(list('abcdefghijklmnopqrstuvwxyz'))
        words = [''.join(rng.choice(letters, int(rng.integers(1, 7)))) for _ in range(length // 2)]
        return ' '.join(['You', *words]) + '.'
    return ''.join(chr(c) for c in rng.integers(0x4E00, 0x8000, length)) + '。'


def _language(rng: np.random.Generator) -> str:
    return 'en' if rng.random() < 0.5 else 'zh'


def _text_exchange(rng: np.random.Generator, language: str) -> Exchange:
    known = _KNOWN[language]
    if rng.random() < 0.4:
        wordings, answer = known[int(rng.integers(len(FACTS[language])))]
    else:
        wordings, answer = known[int(rng.integers(len(FACTS[language]), len(known)))]
    return Exchange(str(rng.choice(wordings)), world.Answer(answer), 'text')


def text_dialogue(rng: np.random.Generator, turns: int) -> list[Exchange]:
    """Draw a chat without a picture."""
    language, exchanges = _language(rng), []
    for _ in range(turns):
        if rng.random() < 0.1:
            scene = world.random_scene(rng)
            question = world.random_question(rng, language, scene, variants=0.2)
            exchanges.append(Exchange(question.text, world.Answer(NO_IMAGE[language]), 'text'))
        else:
            exchanges.append(_text_exchange(rng, language))
        if rng.random() < 0.1:
            language = _language(rng)
    return exchanges


def image_dialogue(
    rng: np.random.Generator,
    scenes: Sequence[tuple[int, world.Scene]],
    turns: int,
    closed: float = 0.0,
    numbers: float = 0.24,
) -> list[Exchange]:
    """Draw a conversation about pictures (index and scene), shown one after the other.

    Args:
        closed: share of the questions that are closed ones, as rules ask them.
        numbers: share of these that ask for a number.
    """
    language, exchanges = _language(rng), []
    if rng.random() < 0.08:
        exchanges.append(_text_exchange(rng, language))
    for image, (index, scene) in enumerate(scenes):
        for turn in range(turns if image == len(scenes) - 1 else 1):
            if turn and rng.random() < 0.04:
                exchanges.append(_text_exchange(rng, language))
                continue
            shown = None if turn else index
            if closed and rng.random() < closed:
                asked = random_closed(rng, language, scene, numbers=numbers)
                # Some ask yes or no without saying so.
                is_bare = asked.type == 'yes_no' and rng.random() < 0.25
                text, answer, type_ = asked.prompt, asked.answer, asked.type
                text = asked.text if is_bare else text
            else:
                question = world.random_question(rng, language, scene, variants=0.25)
                text, answer, type_ = question.text, question.answer(scene), question.type
            exchanges.append(Exchange(text, answer, type_, image=shown, seen=index))
            if rng.random() < 0.1:
                language = _language(rng)
    return exchanges


def prompt_format(tokenizer: Tokenizer) -> PromptFormat:
    """Return the package's own prompt format of the family."""
    return FamilyFormat(MODELS[tokenizer.family], tokenizer)


_BLANK = Picture('', np.zeros((1, 1, 3), np.uint8))


@dataclass
class Batch:
    """Padded dialogues. `weights` [n, length]: of the loss of predicting the next token."""

    tokens: Tensor
    is_image: Tensor
    weights: Tensor
    images: list[int]
    guides: list[Guide]
    claims: Claims
    answers: list[tuple[int, int, int, str]]
    """Row, first and last+1 position that predicts an answer, and the question's type."""


def collate(
    dialogues: Sequence[tuple[str, Sequence[Exchange]]],
    tokenizer: Tokenizer,
    pictures: Pictures | None,
    guides_questions: bool = False,
) -> Batch:
    """Turn dialogues (system prompt, exchanges) into one batch of tokens.

    Args:
        guides_questions: a word of a question should look at the shapes that it is true of.
    """
    rendered = [_render(system, exchanges, tokenizer) for system, exchanges in dialogues]
    # Few different lengths: each new one makes the CPU backend compile its kernels again.
    length = -max(len(tokens) for tokens, *_ in rendered) // 16 * -16
    tokens = torch.zeros(len(rendered), length, dtype=torch.long)
    is_image = torch.zeros(len(rendered), length, dtype=torch.bool)
    weights = torch.zeros(len(rendered), length)
    images: list[int] = []
    answers: list[tuple[int, int, int, str]] = []
    answer_guide = _GuideInMaking(layer=2)
    word_guide = _GuideInMaking(layer=1)
    words = _words(tokenizer) if guides_questions else {}
    claims: list[tuple[int, int, bool]] = []
    ends = {tokenizer.encode(mark)[-1] for mark in '?？'}
    for row, (ids, starts, spans) in enumerate(rendered):
        tokens[row, : len(ids)] = torch.tensor(ids)
        for index, start in starts:
            is_image[row, start : start + IMAGE_TOKENS] = True
            images.append(index)
        asked_from = 0
        for exchange, start, offsets in spans:
            stop = start + len(offsets) + 1  # the end of the answer as well
            # The token at t is predicted at t - 1.
            weights[row, start - 1 : stop - 1] = 1.0 if exchange.type == 'describe' else 2.5
            if exchange.type in CLOSED_KINDS:
                weights[row, start - 1] = 6.0  # it decides; what follows is only its spelling
            answers.append((row, start - 1, stop - 1, exchange.type))
            begin, asked_from = asked_from, stop
            if pictures is None or exchange.seen is None:
                continue
            first = next(at for index, at in reversed(starts) if index == exchange.seen)
            scene = pictures.scene(exchange.seen)
            shown = pictures.cells[exchange.seen]
            looks = [
                (start + t - 1, shown[scene.shapes.index(span.shape)])
                for span in exchange.answer.spans
                for t, (a, b) in enumerate(offsets)
                if a < span.stop and b > span.start
            ]
            answer_guide.add(row, first, looks)
            looks = []
            matching, is_question = list(range(len(scene.shapes))), True
            for at in range(max(begin, first + IMAGE_TOKENS), start):
                said = words.get(ids[at])
                if said is None:
                    is_question = is_question and ids[at] not in ends
                    continue
                of = [i for i, s in enumerate(scene.shapes) if said in (s.kind, s.color, s.place)]
                if of:
                    looks.append((at, shown[of].any(0)))
                # Of what is asked for with several words, each is true of one and the same shape.
                matching = [i for i in matching if i in of]
                claims += [(row, at, bool(matching))] * is_question
            word_guide.add(row, first, looks)
    guides = [guide.made() for guide in (answer_guide, word_guide)[: 1 + guides_questions]]
    places = torch.tensor([claim[:2] for claim in claims] or np.zeros((0, 2)), dtype=torch.long)
    truths = torch.tensor([float(claim[2]) for claim in claims])
    made = Claims(places[:, 0], places[:, 1], truths)
    return Batch(tokens, is_image, weights, images, guides, made, answers)


@dataclass
class _GuideInMaking:
    """Collects what becomes a guide."""

    layer: int
    places: list[tuple[int, int, int]] = field(default_factory=list)
    cells: list[np.ndarray] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def add(self, row: int, first: int, looks: Sequence[tuple[int, np.ndarray]]) -> None:
        """Add the positions of one answer or question, and the cells that each looks at."""
        self.places += [(row, at, first) for at, _ in looks]
        self.cells += [cells for _, cells in looks]
        # Each answer counts once, or the long ones would drown the short ones.
        self.shares += [1 / max(1, len(looks))] * len(looks)

    def made(self) -> Guide:
        """Return the guide."""
        places = torch.tensor(self.places or np.zeros((0, 3)), dtype=torch.long)
        cells = torch.from_numpy(np.array(self.cells, np.float32).reshape(-1, IMAGE_TOKENS))
        shares = torch.tensor(self.shares)
        return Guide(places[:, 0], places[:, 1], places[:, 2], cells, shares, self.layer)


@lru_cache
def _words(tokenizer: Tokenizer) -> dict[int, str]:
    """Return the tokens that name a kind, a colour or a place."""
    english = {name: name for name in (*world.KINDS, *world.COLORS, *world.PLACES)}
    chinese = world.KIND_WORDS['zh'] | world.COLOR_WORDS['zh'] | world.PLACE_WORDS['zh']
    return {
        **{tokenizer.word(' ' + word): name for name, word in english.items()},
        **{tokenizer.word(word): name for name, word in chinese.items()},
    }


def _render(
    system: str,
    exchanges: Sequence[Exchange],
    tokenizer: Tokenizer,
) -> tuple[list[int], list[tuple[int, int]], list[tuple[Exchange, int, Offsets]]]:
    """Return token ids, (picture, first token) pairs, and where each answer lies."""
    # SmolVLM's answers begin with a space of their own.
    lead = ' ' if tokenizer.family == 'smolvlm' else ''
    encoded = [tokenizer.encode_with_offsets(lead + e.answer.text) for e in exchanges]
    turns = [
        Turn(e.question, _BLANK if e.image is not None else None, ids)
        for e, (ids, _) in zip(exchanges, encoded, strict=True)
    ]
    shown = iter([e.image for e in exchanges if e.image is not None])
    asked = iter(zip(exchanges, encoded, strict=True))
    ids: list[int] = []
    starts, spans = [], []
    for part in prompt_format(tokenizer).render(system, turns):
        if isinstance(part, Image):
            starts.append((next(shown), len(ids)))
            ids += [0] * IMAGE_TOKENS
        elif isinstance(part, Tokens):
            exchange, (_, offsets) = next(asked)
            shifted = tuple((a - len(lead), b - len(lead)) for a, b in offsets)
            spans.append((exchange, len(ids), shifted))
            ids += part.ids
        else:
            ids += encode_part(part, tokenizer)
    return ids, starts, spans


def encode_part(part: Part, tokenizer: Tokenizer) -> Sequence[int]:
    """Tokenise a special token or a run of plain text."""
    if isinstance(part, Special):
        return (tokenizer.special(part.text),)
    assert isinstance(part, Text)
    return tokenizer.encode(part.text)

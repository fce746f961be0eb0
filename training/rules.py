"""Closed questions about a scene, as rules ask them: yes or no, a choice, a number.

They are put in the package's own words (`watch/wording.py`). The answer is one of the permitted
ones, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hobot_llamacpp_py.watch.wording import YES_NO, instruction, worded
from training import world
from training.world import COLORS, KINDS, PLACES, Answer, Scene, Shape, Span

__all__ = ['CLOSED_KINDS', 'MOST', 'Closed', 'random_closed']

CLOSED_KINDS = ('yes_no', 'choice', 'integer')
MOST = 3
"""The largest number that is an answer."""

_PLACE_CHOICE = {'en': {place: place for place in PLACES}, 'zh': world.PLACE_WORDS['zh']}
_NONE = {'en': 'none', 'zh': '没有'}


@dataclass(frozen=True)
class Closed:
    """A closed question about one scene, and its right answer.

    Attributes:
        text: as a rule has it, without the instruction.
        answers: those that are permitted.
        about: the shape that decides, if one does.
    """

    type: str
    language: str
    text: str
    answers: tuple[str, ...]
    right: str
    about: Shape | None = None

    @property
    def prompt(self) -> str:
        """The question as the model reads it."""
        return worded(self.text, instruction(self.type, self.text, self.answers))

    @property
    def answer(self) -> Answer:
        """The right answer; all of it speaks of the shape that decides."""
        spans = (Span(0, len(self.right), self.about),) if self.about else ()
        return Answer(self.right, spans)


def random_closed(
    rng: np.random.Generator,
    language: str,
    scene: Scene,
    type_: str | None = None,
    numbers: float = 0.24,
) -> Closed:
    """Draw a closed question about a scene; of yes and no either is right as often.

    Args:
        type_: one of `CLOSED_KINDS`; None: any.
        numbers: share of those that ask for a number.
    """
    others = (1 - numbers) / 2
    type_ = type_ or str(rng.choice(CLOSED_KINDS, p=(others, others, numbers)))
    return {'yes_no': _yes_no, 'choice': _choice, 'integer': _integer}[type_](rng, language, scene)


# ---------------------------------------------------------------- yes or no

Statement = tuple[str, bool, 'Shape | None']
"""A question, whether yes is right, and the shape that decides."""


def _yes_no(rng: np.random.Generator, language: str, scene: Scene) -> Closed:
    # Of an empty picture hardly anything is true.
    wanted = bool(rng.random() < (0.5 if scene.shapes else 0.15))
    drawn = None
    while drawn is None or drawn[1] != wanted:
        ask = _STATEMENTS[int(rng.choice(len(_STATEMENTS), p=_STATEMENT_SHARES))]
        drawn = ask(rng, language, scene, wanted)
    text, is_so, about = drawn
    yes, no = YES_NO[language == 'zh']
    return Closed('yes_no', language, text, (yes, no), yes if is_so else no, about)


def _pick(rng: np.random.Generator, items: tuple[str, ...] | list[str]) -> str:
    return str(items[int(rng.integers(len(items)))])


def _words(language: str, kind: str) -> str:
    return world.KIND_WORDS[language][kind]


def _a(noun: str) -> str:
    return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


def _is_there(language: str, noun: str, place: str, rng: np.random.Generator) -> str:
    """Ask whether there is something; `place` may be empty."""
    if language == 'zh':
        if place:
            return f'{place}有{noun}吗？'
        return _pick(rng, ['有{}吗？', '图中有{}吗？', '图片里有{}吗？', '你看到{}了吗？']).format(
            noun
        )
    if place:
        return _pick(rng, ['Is there {} {}?', 'Is there {} {}?', 'Do you see {} {}?']).format(
            noun, place
        )
    forms = ['Is there {}?', 'Is there {} in the picture?', 'Do you see {}?', 'Can you see {}?']
    return _pick(rng, forms).format(noun)


def _some(rng: np.random.Generator, scene: Scene, present: bool) -> str | None:
    """Return a kind that the scene has, or has not."""
    kinds = [k for k in KINDS if (scene.find(k) is not None) == present]
    return _pick(rng, kinds) if kinds else None


def _kind(rng: np.random.Generator, language: str, scene: Scene, wanted: bool) -> Statement | None:
    kind = _some(rng, scene, wanted)
    if kind is None:
        return None
    noun = _words(language, kind)
    text = _is_there(language, noun if language == 'zh' else _a(noun), '', rng)
    return text, wanted, scene.find(kind)


def _kind_and(
    rng: np.random.Generator, quality: str, values: tuple[str, ...], scene: Scene, wanted: bool
) -> tuple[str, str] | None:
    """Draw a kind and a quality, those of a shape if wanted; else mostly one of them is there."""
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))] if scene.shapes else None
    if wanted:
        return None if shape is None else (shape.kind, getattr(shape, quality))
    kind, value = _pick(rng, KINDS), _pick(rng, values)
    if shape is not None and rng.random() < 0.8:
        return (shape.kind, value) if rng.random() < 0.5 else (kind, getattr(shape, quality))
    return kind, value


def _colored(
    rng: np.random.Generator, language: str, scene: Scene, wanted: bool
) -> Statement | None:
    """Ask for a colour of a kind: mostly with a kind or a colour that is there."""
    drawn = _kind_and(rng, 'color', COLORS, scene, wanted)
    if drawn is None:
        return None
    kind, color = drawn
    is_so = any(s.kind == kind and s.color == color for s in scene.shapes)
    about, tint = scene.find(kind), world.COLOR_WORDS[language][color]
    noun = _words(language, kind)
    if language == 'zh':
        if rng.random() < 0.5:
            return f'{noun}是{tint}的吗？', is_so, about
        return _is_there(language, f'{tint}的{noun}', '', rng), is_so, about
    if rng.random() < 0.5:
        return f'Is the {noun} {tint}?', is_so, about
    return _is_there(language, _a(f'{tint} {noun}'), '', rng), is_so, about


def _placed(
    rng: np.random.Generator, language: str, scene: Scene, wanted: bool
) -> Statement | None:
    """Ask for a kind at a place, or for anything there."""
    drawn = _kind_and(rng, 'place', PLACES, scene, wanted)
    if drawn is None:
        return None
    kind, place = drawn
    at = world.PLACE_WORDS[language][place]
    there = next((s for s in scene.shapes if s.place == place), None)
    if rng.random() < 0.4:
        if language == 'zh':
            return f'{at}有{_pick(rng, ["图形", "东西"])}吗？', there is not None, there
        noun = _pick(rng, ['a shape', 'anything', 'something'])
        return f'Is there {noun} {at}?', there is not None, there
    about, noun = scene.find(kind), _words(language, kind)
    is_so = about is not None and about.place == place
    if rng.random() < 0.5:
        text = f'{noun}在{at}吗？' if language == 'zh' else f'Is the {noun} {at}?'
        return text, is_so, about
    return _is_there(language, noun if language == 'zh' else _a(noun), at, rng), is_so, about


def _color(
    rng: np.random.Generator, language: str, scene: Scene, wanted: bool
) -> Statement | None:
    present = {s.color for s in scene.shapes}
    colors = [c for c in COLORS if (c in present) == wanted]
    if not colors:
        return None
    color = _pick(rng, colors)
    tint = world.COLOR_WORDS[language][color]
    about = next((s for s in scene.shapes if s.color == color), None)
    if language == 'zh':
        text = _is_there(language, f'{tint}的{_pick(rng, ["图形", "东西"])}', '', rng)
        return text, wanted, about
    if rng.random() < 0.5:
        return f'Is {_pick(rng, ["anything", "something"])} {tint}?', wanted, about
    return _is_there(language, _a(f'{tint} shape'), '', rng), wanted, about


def _empty(
    rng: np.random.Generator, language: str, scene: Scene, wanted: bool
) -> Statement | None:
    """Ask whether there is anything, or nothing."""
    if rng.random() < 0.5:
        forms = {
            'en': ['Is there anything?', 'Is there a shape?', 'Do you see anything?'],
            'zh': ['有东西吗？', '图中有东西吗？', '有图形吗？'],
        }
        return _pick(rng, forms[language]), bool(scene.shapes), None
    forms = {'en': ['Is the picture empty?', 'Is it empty?'], 'zh': ['图片是空的吗？']}
    return _pick(rng, forms[language]), not scene.shapes, None


_STATEMENTS: tuple[Callable[..., Statement | None], ...] = (
    _kind,
    _colored,
    _placed,
    _color,
    _empty,
)
_STATEMENT_SHARES = (0.2, 0.33, 0.27, 0.15, 0.05)


# ---------------------------------------------------------------- a choice


def _choice(rng: np.random.Generator, language: str, scene: Scene) -> Closed:
    draw = rng.random()
    if draw < 0.35:
        text, words, right, about = _which_color(rng, language, scene)
    elif draw < 0.6:
        text, words, right, about = _which_place(rng, language, scene)
    else:
        text, words, right, about = _which_kind(rng, language, scene)
    none = _NONE[language]
    others = [w for w in words.values() if w != right]
    some = [str(w) for w in rng.choice(others, int(rng.integers(1, len(others) + 1)), False)]
    if right != none and rng.random() < 0.7:
        some.append(none)
    answers = [right, *some]
    rng.shuffle(answers)
    if none in answers and rng.random() < 0.7:  # as people write it
        answers.remove(none)
        answers.append(none)
    return Closed('choice', language, text, tuple(answers), right, about)


Pick = tuple[str, 'dict[str, str]', str, 'Shape | None']


def _asked_kind(rng: np.random.Generator, scene: Scene) -> tuple[str, Shape | None]:
    kind = _some(rng, scene, bool(rng.random() < 0.8)) or _pick(rng, KINDS)
    return kind, scene.find(kind)


def _which_color(rng: np.random.Generator, language: str, scene: Scene) -> Pick:
    words = world.COLOR_WORDS[language]
    if rng.random() < 0.25:
        place, shape = _asked_place(rng, scene)
        at = world.PLACE_WORDS[language][place]
        text = f'{at}的图形是什么颜色？' if language == 'zh' else f'What color is the shape {at}?'
    else:
        kind, shape = _asked_kind(rng, scene)
        phrase = _pick(rng, world.PHRASES['color', language])
        text = phrase.format(_words(language, kind)) + ('？' if language == 'zh' else '?')
    return text, words, words[shape.color] if shape else _NONE[language], shape


def _which_place(rng: np.random.Generator, language: str, scene: Scene) -> Pick:
    words = _PLACE_CHOICE[language]
    kind, shape = _asked_kind(rng, scene)
    phrase = _pick(rng, world.PHRASES['where', language])
    text = phrase.format(_words(language, kind)) + ('？' if language == 'zh' else '?')
    return text, words, words[shape.place] if shape else _NONE[language], shape


def _asked_place(rng: np.random.Generator, scene: Scene) -> tuple[str, Shape | None]:
    taken = [s.place for s in scene.shapes]
    free = [p for p in PLACES if p not in taken]
    place = _pick(rng, taken if taken and rng.random() < 0.75 else free)
    return place, next((s for s in scene.shapes if s.place == place), None)


def _which_kind(rng: np.random.Generator, language: str, scene: Scene) -> Pick:
    words = world.KIND_WORDS[language]
    colors = [s.color for s in scene.shapes]
    single = [c for c in colors if colors.count(c) == 1]
    if single and rng.random() < 0.6:
        color = _pick(rng, single)
        if rng.random() < 0.25:
            color = _pick(rng, [c for c in COLORS if c not in colors])
        shape = next((s for s in scene.shapes if s.color == color), None)
        tint = world.COLOR_WORDS[language][color]
        text = f'哪个图形是{tint}？' if language == 'zh' else f'Which shape is {tint}?'
    else:
        place, shape = _asked_place(rng, scene)
        at = world.PLACE_WORDS[language][place]
        text = f'{at}是什么图形？' if language == 'zh' else f'Which shape is {at}?'
    return text, words, words[shape.kind] if shape else _NONE[language], shape


# ---------------------------------------------------------------- a number


def _integer(rng: np.random.Generator, language: str, scene: Scene) -> Closed:
    draw = rng.random()
    if draw < 0.35:
        phrases = [p for p in world.PHRASES['count', language] if not p.startswith('Count')]
        text, number = _pick(rng, phrases) + ('？' if language == 'zh' else '?'), len(scene.shapes)
    elif draw < 0.85:
        present = [s.color for s in scene.shapes]
        color = _pick(rng, present if present and rng.random() < 0.7 else COLORS)
        tint = world.COLOR_WORDS[language][color]
        number = present.count(color)
        text = (
            f'有几个{tint}的图形？' if language == 'zh' else f'How many {tint} shapes are there?'
        )
    else:
        kind = _some(rng, scene, bool(rng.random() < 0.5)) or _pick(rng, KINDS)
        number = int(scene.find(kind) is not None)
        noun = _words(language, kind)
        text = f'有几个{noun}？' if language == 'zh' else f'How many {noun}s are there?'
    numbers = tuple(str(n) for n in range(MOST + 1))
    return Closed('integer', language, text, numbers, str(number))

"""When rules are asked, what counts as a change, and how much of the time they take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from nano import MODELS, draw_scene

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig
from hobot_llamacpp_py.engine import CancelledError, CancelToken, Engine, Inquiry, Picture, Verdict
from hobot_llamacpp_py.errors import PromptError
from hobot_llamacpp_py.watch.held import Held
from hobot_llamacpp_py.watch.pace import Pace
from hobot_llamacpp_py.watch.rules import Rule
from hobot_llamacpp_py.watch.watcher import Watcher


def rule(name: str = 'a', **values: object) -> Rule:
    return Rule(name, f'Is there {name}?', answers=('Yes', 'No'), **values)  # type: ignore[arg-type]


def picture(value: int) -> Picture:
    return Picture.of(np.full((2, 2, 3), value, np.uint8))


@pytest.mark.parametrize(
    ('hold', 'answers', 'changes'),
    [
        (1, 'yyn', [0, 2]),
        (2, 'yynnyy', [1, 3, 5]),
        (2, 'ynynyn', []),
        (2, 'yynyynyy', [1]),
        (3, 'yyynnynnn', [2, 8]),
        (2, 'y?yy', [3]),  # what is not likely enough begins the row anew
        (2, 'yyn?n?nn', [1, 7]),
    ],
)
def test_hold(hold: int, answers: str, changes: list[int]) -> None:
    """An answer counts when so many in a row agree; the first one as well."""
    held = Held(rule(hold=hold, min_probability=0.6))
    told = [held.add(a == 'y', 0.5 if a == '?' else 0.9, i) for i, a in enumerate(answers)]
    assert [i for i, has_changed in enumerate(told) if has_changed] == changes


class Scripted:
    """Stands in for the models: answers as it is told, and notes what it was asked."""

    def __init__(self) -> None:
        self.answer = 'Yes'
        self.asked: list[str] = []

    def judge(
        self,
        picture: Picture,
        inquiries: Sequence[Inquiry],
        config: ChatConfig,
        cancel: CancelToken | None,
    ) -> Iterator[Verdict]:
        for inquiry in inquiries:
            if cancel and cancel.is_set():
                raise CancelledError('cancelled')
            self.asked.append(inquiry.question)
            yield Verdict(inquiry, self.answer, 0.9, 1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def watch(watcher: Watcher, engine: Scripted, value: int, frame: object = None):
    """Watch a picture: that of another frame each time, unless one is given."""
    frame = object() if frame is None else frame
    return list(watcher.watch(engine, picture(value), frame))  # type: ignore[arg-type]


def test_a_still_scene() -> None:
    """The same picture is asked about once; it confirms what it has answered."""
    engine, watcher = Scripted(), Watcher([rule(hold=3)])
    assert [e.has_changed for e in watch(watcher, engine, 1)] == [False]
    assert [(e.has_changed, e.is_again) for e in watch(watcher, engine, 1)] == [(False, True)]
    assert [(e.has_changed, e.is_again) for e in watch(watcher, engine, 1)] == [(True, True)]
    assert watch(watcher, engine, 1) == []
    assert not watcher.has_work(picture(1), object())
    assert len(engine.asked) == 1
    assert watcher.has_work(picture(2), object())
    assert watcher.values() == {'a': True}


def test_no_frame_counts_twice() -> None:
    """Who looks at one frame again and again, or goes on with it, learns nothing new of it."""
    engine, watcher = Scripted(), Watcher([rule(hold=2)])
    for _ in range(3):
        assert not any(e.has_changed for e in watch(watcher, engine, 1, frame=7))
    assert watcher.values() == {'a': None}
    assert [e.has_changed for e in watch(watcher, engine, 1, frame=8)] == [True]


def test_every() -> None:
    """Between two questions lies so much time, whatever the picture does."""
    engine, clock = Scripted(), Clock()
    watcher = Watcher([rule(every=5.0, hold=1), rule('b', hold=1)], clock)
    asked = []
    for second, value in enumerate([1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3]):
        clock.now = float(second)
        before = len(engine.asked)
        watch(watcher, engine, value)
        asked.append([question[9] for question in engine.asked[before:]])
    assert asked == [['a', 'b'], [], ['b'], ['b'], [], ['a'], [], [], [], [], ['a']]


def test_what_was_interrupted_goes_on() -> None:
    """Rules that a cancel left unasked are asked with the next call, the others are not again."""
    engine, watcher, cancel = Scripted(), Watcher([rule(n) for n in 'abc']), CancelToken()
    begun = watcher.watch(engine, picture(1), 1, cancel=cancel)  # type: ignore[arg-type]
    assert next(begun).rule.name == 'a'
    cancel.set()
    with pytest.raises(CancelledError):
        next(begun)
    assert [e.rule.name for e in watch(watcher, engine, 1, frame=1)] == ['b', 'c']


def test_when_a_picture_is_wanted() -> None:
    """Rules that are not due want no picture."""
    engine, clock = Scripted(), Clock()
    watcher = Watcher([], clock)
    assert watcher.due_from() == math.inf
    watcher.rules = [rule(every=5.0), rule('b', every=3.0)]
    assert watcher.due_from() == -math.inf
    clock.now = 10.0
    watch(watcher, engine, 1)
    assert watcher.due_from() == 13
    watcher.rules = [*watcher.rules, rule('c')]
    assert watcher.due_from() == -math.inf
    watch(watcher, engine, 1)
    assert watcher.due_from() == -math.inf  # the next picture may be another one


def test_a_rule_that_cannot_be_asked() -> None:
    """It is an error once a picture, the others are answered, and it is not asked on and on."""

    class Short(Scripted):
        def judge(self, picture: Picture, inquiries: Sequence[Inquiry], *rest: object):
            yield from super().judge(
                picture, [i for i in inquiries if 'b' not in i.question], *rest
            )
            if any('b' in inquiry.question for inquiry in inquiries):
                raise PromptError('too long')

    engine, watcher = Short(), Watcher([rule(hold=1), rule('b', hold=1), rule('c', hold=1)])
    with pytest.raises(PromptError, match="^rule 'b': too long$"):
        watch(watcher, engine, 1)
    assert watcher.values() == {'a': True, 'b': None, 'c': True}
    assert not watcher.has_work(picture(1), object())
    with pytest.raises(PromptError, match='too long'):
        watch(watcher, engine, 2)


def test_rules_that_change() -> None:
    """A rule that stays as it was keeps its state, another one of its name begins anew."""
    engine, watcher = Scripted(), Watcher([rule(hold=1), rule('b', hold=1)])
    watch(watcher, engine, 1)
    watcher.rules = [rule(hold=1), rule('b', hold=2), rule('c')]
    assert watcher.values() == {'a': True, 'b': None, 'c': None}
    watcher.forget()
    assert watcher.values() == {'a': None, 'b': None, 'c': None}


def test_one_question_of_two_rules() -> None:
    """A question that two rules have is asked once and answers both."""
    twin = Rule('b', 'Is there a?', answers=('Yes', 'No'), hold=1)
    engine, watcher = Scripted(), Watcher([rule(hold=1), twin])
    assert [e.rule.name for e in watch(watcher, engine, 1)] == ['a', 'b']
    assert len(engine.asked) == 1


def test_pace() -> None:
    """The next round is not before the period is over, nor before the load allows it."""
    pace = Pace()
    assert pace.look_from(10, 0.5) < 0  # at once
    pace.begin(100.0)
    pace.end(2.0, seeing=0.5)
    assert pace.look_from(0, 1.0) == 102
    assert pace.look_from(0, 0.25) == 108
    assert pace.look_from(30, 0.25) == 130
    assert pace.encode_from(30, 0.25) == pytest.approx(129.4)
    assert pace.encode_from(0, 1.0) < 0  # all the time there is
    # An interrupted round goes on at once, and is one when it is over.
    pace.begin(200.0)
    pace.interrupt(1.0)
    assert pace.look_from(30, 0.25) < 0
    pace.begin(210.0)
    pace.end(3.0, seeing=0.5)
    assert pace.look_from(0, 0.25) == 216
    # Where nothing was asked the encoder's time counts, and takes no earlier wait away.
    pace.idle(201.0, 0.5)
    assert pace.look_from(0, 0.25) == 216
    pace.idle(230.0, 0.5)
    assert pace.look_from(0, 0.25) == 231.5
    assert pace.look_from(10, 0.25) == 240


def test_with_the_models(family: str) -> None:
    """Real models are asked real rules, in both languages."""
    encoder, decoder, kind = MODELS[family]
    rules = [
        Rule('circle', 'Is there a circle? Answer yes or no.', answers=('Yes', 'No'), hold=1),
        Rule('n', '有几个图形？请用数字回答。', 'integer', ('0', '1', '2', '3'), hold=1),
    ]
    config = DecoderConfig(n_ctx=1024, n_threads=1)
    with Engine.open(decoder, encoder, family=kind, config=config) as engine:
        for seed in range(5):
            scene, bgr = draw_scene(seed)
            watcher = Watcher(rules)
            found = {e.rule.name: e for e in watcher.watch(engine, engine.picture(bgr), seed)}
            assert found['circle'].value == (scene.find('circle') is not None)
            assert found['n'].value == len(scene.shapes)
            assert all(e.probability > 0.5 for e in found.values())

"""Asks the rules that are due about one picture after the other, and notes what changes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import CancelToken, Vlm
from hobot_llamacpp_py.errors import PromptError
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.watch.held import Held
from hobot_llamacpp_py.watch.rules import Rule, Value

__all__ = ['Evaluation', 'Watcher']


@dataclass(frozen=True)
class Evaluation:
    """One answer to one rule.

    Attributes:
        probability: of the answer among the permitted ones; None for a text.
        has_changed: what counts is another value now than before.
        is_again: nothing was asked: the picture is the one before, and so is the answer.
        seconds: since the round began.
    """

    rule: Rule
    value: Value
    probability: float | None
    has_changed: bool
    is_again: bool
    seconds: float


class Watcher:
    """The rules and their states. `rules` may be replaced from any thread.

    Args:
        rules: the standing questions.
        clock: gives the time in seconds; a recording has its own.
    """

    def __init__(
        self, rules: Sequence[Rule] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock, self._clock = threading.Lock(), clock
        self._states: dict[str, Held] = {}
        self.rules = rules

    @property
    def rules(self) -> Sequence[Rule]:
        """The standing questions; one that stays the same keeps its state."""
        with self._lock:
            return tuple(state.rule for state in self._states.values())

    @rules.setter
    def rules(self, rules: Sequence[Rule]) -> None:
        with self._lock:
            old = self._states
            self._states = {
                rule.name: old[rule.name]
                if rule.name in old and old[rule.name].rule == rule
                else Held(rule)
                for rule in rules
            }

    def values(self) -> dict[str, Value | None]:
        """Return what counts of each rule, None before there is an answer. From any thread."""
        with self._lock:
            return {name: state.value for name, state in self._states.items()}

    def forget(self) -> None:
        """Begin anew with all rules: what was seen is old news."""
        with self._lock:
            for state in self._states.values():
                state.forget()

    def due_from(self) -> float:
        """Return when a new picture is wanted, by the clock; infinity where there are no rules."""
        return min(map(_due_from, self._current()), default=math.inf)

    def has_work(self, picture: Picture, frame: object) -> bool:
        """Tell whether a frame gives anything to ask or to note."""
        now = self._clock()
        states = self._current()
        return any(_is_due(s, picture, now) or _is_again(s, picture, frame) for s in states)

    def watch(
        self,
        engine: Vlm,
        picture: Picture,
        frame: object,
        config: ChatConfig = ChatConfig(),
        cancel: CancelToken | None = None,
    ) -> Iterator[Evaluation]:
        """Ask what is due about a picture; yield each answer as it is found.

        What a cancel leaves unasked is still due: the next call with the picture goes on.

        Args:
            frame: names the frame with the picture: no frame counts twice.

        Raises:
            CancelledError, InferenceError: as `Engine.judge`.
            PromptError: a rule cannot be asked; it is not due again before the others are.
        """
        started = time.perf_counter()
        states, now = self._current(), self._clock()
        due = [state for state in states if _is_due(state, picture, now)]
        for state in states:
            if state not in due and _is_again(state, picture, frame) and state.last:
                value, probability = state.last
                seconds = time.perf_counter() - started
                changed = state.again(frame)
                yield Evaluation(state.rule, value, probability, changed, True, seconds)
        left = list(due)
        try:
            inquiries = list(dict.fromkeys(state.rule.inquiry for state in due))
            for verdict in engine.judge(picture, inquiries, config, cancel):
                for state in [s for s in left if s.rule.inquiry == verdict.inquiry]:
                    left.remove(state)
                    state.asked, state.picture = self._clock(), picture.key
                    value, probability = state.rule.value(verdict.answer), verdict.probability
                    changed = state.add(value, probability, frame)
                    seconds = time.perf_counter() - started
                    yield Evaluation(state.rule, value, probability, changed, False, seconds)
        except PromptError as error:
            for state in left:
                state.asked, state.picture = self._clock(), picture.key
            names = ', '.join(repr(state.rule.name) for state in left)
            raise PromptError(f'rule {names}: {error}', setting=error.setting) from None

    def _current(self) -> list[Held]:
        with self._lock:
            return list(self._states.values())


def _due_from(state: Held) -> float:
    if state.asked is None or not state.rule.every:
        return -math.inf
    return state.asked + state.rule.every


def _is_due(state: Held, picture: Picture, now: float) -> bool:
    if state.asked is None:
        return True
    if state.rule.every:
        return now - state.asked >= state.rule.every
    return state.picture != picture.key


def _is_again(state: Held, picture: Picture, frame: object) -> bool:
    """Tell whether another frame shows the picture before, which answers what is not settled."""
    return state.picture == picture.key and state.frame != frame and not state.is_settled

"""Asks the rules that are due about one picture after the other, and notes what changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import CancelToken, Vlm
from hobot_llamacpp_py.engine.request import Verdict
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
        self._last: dict[str, tuple[Value, float | None]] = {}
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

    def has_work(self, picture: Picture) -> bool:
        """Tell whether a picture gives anything to ask or to note."""
        now = self._clock()
        states = self._current()
        return any(_is_due(s, picture, now) or _is_again(s, picture) for s in states)

    def watch(
        self,
        engine: Vlm,
        picture: Picture,
        config: ChatConfig = ChatConfig(),
        cancel: CancelToken | None = None,
    ) -> Iterator[Evaluation]:
        """Ask what is due about a picture; yield each answer as it is found.

        What a cancel leaves unasked is still due: the next call with the picture goes on.

        Raises:
            CancelledError, PromptError, InferenceError: as `Engine.judge`.
        """
        started = time.perf_counter()
        states = self._current()
        for state in states:
            if _is_again(state, picture) and not _is_due(state, picture, self._clock()):
                value, probability = self._last[state.rule.name]
                yield self._evaluation(state, value, probability, started, is_again=True)
        due = [state for state in states if _is_due(state, picture, self._clock())]
        asked = {state.rule.inquiry: state for state in due}
        for verdict in engine.judge(picture, list(asked), config, cancel):
            for state in due:
                if state.rule.inquiry == verdict.inquiry:
                    yield self._note(state, verdict, picture, started)

    def _current(self) -> list[Held]:
        with self._lock:
            return list(self._states.values())

    def _note(self, state: Held, verdict: Verdict, picture: Picture, started: float) -> Evaluation:
        state.asked, state.picture = self._clock(), picture.key
        value = state.rule.value(verdict.answer)
        self._last[state.rule.name] = value, verdict.probability
        return self._evaluation(state, value, verdict.probability, started)

    def _evaluation(
        self,
        state: Held,
        value: Value,
        probability: float | None,
        started: float,
        is_again: bool = False,
    ) -> Evaluation:
        has_changed = state.again() if is_again else state.add(value, probability)
        seconds = time.perf_counter() - started
        return Evaluation(state.rule, value, probability, has_changed, is_again, seconds)


def _is_due(state: Held, picture: Picture, now: float) -> bool:
    if state.asked is None:
        return True
    if state.rule.every:
        return now - state.asked >= state.rule.every
    return state.picture != picture.key


def _is_again(state: Held, picture: Picture) -> bool:
    """Tell whether the picture is the one before, which answers once more what is not settled."""
    return state.picture == picture.key and not state.is_settled

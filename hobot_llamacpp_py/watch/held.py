"""What a rule has found out so far: an answer counts when enough in a row agree."""

from __future__ import annotations

from hobot_llamacpp_py.watch.rules import Rule, Value

__all__ = ['Held']


class Held:
    """The state of one rule.

    Attributes:
        value: the answer that counts, None before there is one.
        last: the last answer and how likely it was.
        asked: when it was asked last, on the steady clock; None: not yet.
        picture: the key of the picture that it was asked about last.
        frame: the frame whose answer was counted last.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if nothing had been asked yet."""
        self.value: Value | None = None
        self.last: tuple[Value, float | None] | None = None
        self.asked: float | None = None
        self.picture, self.frame = '', object()
        self._answer: Value | None = None  # None for one that was not likely enough
        self._in_a_row = 0

    @property
    def is_settled(self) -> bool:
        """Whether the same answer once more would change nothing."""
        return self._answer is None or self._answer == self.value

    def add(self, value: Value, probability: float | None, frame: object) -> bool:
        """Take the answer about a frame; tell whether what counts has changed with it."""
        self.last, self.frame = (value, probability), frame
        if probability is not None and probability < self.rule.min_probability:
            self._answer, self._in_a_row = None, 0
            return False
        self._in_a_row = self._in_a_row + 1 if value == self._answer else 1
        self._answer = value
        return self._settle()

    def again(self, frame: object) -> bool:
        """Take the last answer once more: another frame shows the same picture."""
        self.frame = frame
        if self.is_settled:
            return False
        self._in_a_row += 1
        return self._settle()

    def _settle(self) -> bool:
        if self._answer == self.value or self._in_a_row < self.rule.hold:
            return False
        self.value = self._answer
        return True

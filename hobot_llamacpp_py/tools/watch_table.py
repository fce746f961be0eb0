"""The answers of standing questions as a table for people, and as rows for programs."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hobot_llamacpp_py.watch.rules import Rule
from hobot_llamacpp_py.watch.watcher import Evaluation

__all__ = ['Row', 'Table', 'shown', 'summary']

_WIDEST = 28  # columns of a rule's answer
_FIRST = 22  # columns of the picture's name


@dataclass(frozen=True)
class Row:
    """One answer, and the picture that it is about.

    Attributes:
        seconds: when the picture was, from the beginning of the recording.
    """

    picture: str
    seconds: float
    evaluation: Evaluation
    FIELDS: ClassVar = ('picture', 'seconds', 'rule', 'answer', 'probability', 'changed', 'ms')

    def fields(self) -> tuple[object, ...]:
        """Return what `FIELDS` names."""
        found = self.evaluation
        probability = '' if found.probability is None else f'{found.probability:.4f}'
        return (
            *(self.picture, f'{self.seconds:.3f}', found.rule.name, shown(found)),
            *(probability, int(found.has_changed), f'{1e3 * found.seconds:.1f}'),
        )


def shown(found: Evaluation) -> str:
    """Return an answer as the rules' file has it."""
    value = found.value
    return ('yes' if value else 'no') if isinstance(value, bool) else str(value)


class Table:
    """A line for each picture, a column for each rule; `*` marks a change that counts."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._widths = [max(len(rule.name), _width_of(rule)) + 2 for rule in rules]

    def head(self) -> str:
        """Return the line above all others."""
        names = [rule.name for rule in self._rules]
        return self._joined('', names)

    def line(self, name: str, rows: Sequence[Row]) -> str:
        """Return the line of a picture; what was not asked about it stays empty."""
        cells = {row.evaluation.rule.name: self._cell(row.evaluation) for row in rows}
        return self._joined(name, [cells.get(rule.name, '') for rule in self._rules])

    def _cell(self, found: Evaluation) -> str:
        mark = '*' if found.has_changed else ' '
        if found.probability is None:
            return mark + _cut(shown(found), _WIDEST)
        return f'{mark}{_cut(shown(found), _WIDEST - 5)} {found.probability:.2f}'

    def _joined(self, first: str, cells: Sequence[str]) -> str:
        padded = [_padded(cell, width) for cell, width in zip(cells, self._widths, strict=True)]
        return (_padded(_cut(first, _FIRST), _FIRST + 2) + ''.join(padded)).rstrip()


def summary(rules: Sequence[Rule], rows: Sequence[Row]) -> str:
    """Return a table of what was found of each rule."""
    lines = [f'{"rule":24}{"asked":>8}{"changes":>9}{"least likely":>14}']
    for rule in rules:
        found = [row.evaluation for row in rows if row.evaluation.rule.name == rule.name]
        asked = [evaluation for evaluation in found if not evaluation.is_again]
        known = [e.probability for e in asked if e.probability is not None]
        changes = sum(evaluation.has_changed for evaluation in found)
        least = f'{min(known):.2f}' if known else '-'
        lines.append(f'{rule.name:24}{len(asked):>8}{changes:>9}{least:>14}')
    times = _rounds(rows)
    if times:
        shown = 'pictures' if len(times) > 1 else 'picture'
        lines.append(f'{len(times)} {shown} judged, {1e3 * sum(times) / len(times):.1f} ms each')
    return '\n'.join(lines)


def _rounds(rows: Sequence[Row]) -> list[float]:
    """Return how long each picture took: until its last answer."""
    times: dict[float, float] = {}
    for row in rows:
        if not row.evaluation.is_again:
            times[row.seconds] = max(times.get(row.seconds, 0.0), row.evaluation.seconds)
    return list(times.values())


def _width_of(rule: Rule) -> int:
    if rule.kind == 'text':
        return _WIDEST
    answers = ('yes', 'no') if rule.kind == 'yes_no' else rule.answers
    return 1 + min(_WIDEST, max(map(_columns, answers)) + 5)


def _columns(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in 'WF' else 1 for c in text)


def _cut(text: str, columns: int) -> str:
    text = ' '.join(text.split())
    if _columns(text) <= columns:
        return text
    while _columns(text) > columns - 1:
        text = text[:-1]
    return text + '…'


def _padded(text: str, columns: int) -> str:
    return text + ' ' * (columns - _columns(text))

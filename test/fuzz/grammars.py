"""Grammars: an answer that follows it, or one line that says what is wrong and where."""

from __future__ import annotations

from typing import Any

from fuzz.schemas import Constrained
from fuzz.target import is_clear
from hypothesis import strategies as st

from hobot_llamacpp_py.engine import grammar
from hobot_llamacpp_py.errors import ConstraintError

__all__ = ['Grammars']

# An expression is a tuple of its kind and its parts. Rules refer to later ones, or to themselves
# after a character, so that every one of them comes to an end.
_CHARACTERS = st.sampled_from(
    ['a', 'b', ' ', '"', '\\', ']', '[', '^', '-', '\n', '/', '名', '🙂', 'É']
)
_TEXTS = st.lists(_CHARACTERS, max_size=3).map(lambda text: ('text', ''.join(text)))
_CLASSES = st.tuples(
    st.just('class'),
    st.booleans(),
    st.lists(
        st.tuples(_CHARACTERS, _CHARACTERS).map(lambda ends: tuple(sorted(ends))),
        min_size=1,
        max_size=3,
    ),
)
_COUNTS = st.sampled_from([(0, 1), (0, None), (1, None), (2, 2), (1, 3), (0, 0), (2, None)])
_EXPRESSIONS = st.recursive(
    st.one_of(_TEXTS, _CLASSES, st.just(('any',)), st.integers(1, 3).map(lambda n: ('rule', n))),
    lambda inner: st.one_of(
        st.tuples(st.just('choice'), st.lists(inner, min_size=2, max_size=3)),
        st.tuples(st.just('sequence'), st.lists(inner, max_size=3)),
        st.tuples(st.just('repeat'), inner, _COUNTS),
    ),
    max_leaves=6,
)
_RULES = st.lists(_EXPRESSIONS, min_size=1, max_size=4)
_ESCAPES = {
    '"': '\\"',
    '\\': '\\\\',
    ']': '\\]',
    '[': '\\[',
    '\n': '\\n',
    '-': '\\x2D',
    '^': '\\x5E',
}


def _escaped(text: str) -> str:
    return ''.join(_ESCAPES.get(character, character) for character in text)


def _written(node: tuple[Any, ...], n_rules: int) -> str:
    """Write an expression in GBNF."""
    kind = node[0]
    if kind == 'text':
        return f'"{_escaped(node[1])}"'
    if kind == 'class':
        ranges = (a if a == b else f'{_escaped(a)}-{_escaped(b)}' for a, b in node[2])
        return f'[{"^" * node[1]}{"".join(_escaped(r) if len(r) == 1 else r for r in ranges)}]'
    if kind == 'any':
        return '.'
    if kind == 'rule':
        return f'r{node[1] % n_rules}'
    if kind == 'choice':
        return f'({" | ".join(_written(part, n_rules) for part in node[1])})'
    if kind == 'sequence':
        return f'({" ".join(_written(part, n_rules) for part in node[1])})'
    least, most = node[2]
    return f'({_written(node[1], n_rules)}){{{least},{"" if most is None else most}}}'


class _Reader:
    """Tells where the parts of a grammar can end in a text; slow, but plain."""

    def __init__(self, rules: list[tuple[Any, ...]], text: str) -> None:
        self._rules, self._text = rules, text
        self._known: dict[tuple[int, int], frozenset[int]] = {}

    def accepts(self) -> bool:
        return len(self._text) in self.of_rule(0, 0)

    def of_rule(self, number: int, at: int) -> frozenset[int]:
        """Return the ends of a rule that begins at a place: the least fixed point."""
        key = number, at
        if key in self._known:
            return self._known[key]
        while True:  # what leads back to itself here finds what is known so far
            before = dict(self._known)
            self._known.setdefault(key, frozenset())
            self._known[key] |= self.ends(self._rules[number], at)
            if self._known == before:
                return self._known[key]
            if number == 0 and at == 0:
                self._settle()
                return self._known[key]
            return self._known[key]

    def _settle(self) -> None:
        """Evaluate all that is known again, until nothing new is found."""
        while True:
            before = dict(self._known)
            for number, at in before:
                self._known[number, at] |= self.ends(self._rules[number], at)
            if self._known == before:
                return

    def ends(self, node: tuple[Any, ...], at: int) -> frozenset[int]:
        kind, text = node[0], self._text
        if kind == 'text':
            return frozenset({at + len(node[1])} if text.startswith(node[1], at) else ())
        if kind == 'rule':
            return self.of_rule(node[1] % len(self._rules), at)
        if kind == 'any':
            return frozenset({at + 1} if at < len(text) else ())
        if kind == 'class':
            inside = at < len(text) and any(a <= text[at] <= b for a, b in node[2])
            return frozenset({at + 1} if at < len(text) and inside != node[1] else ())
        if kind == 'choice':
            return frozenset().union(*(self.ends(part, at) for part in node[1]))
        if kind == 'sequence':
            places = frozenset({at})
            for part in node[1]:
                places = frozenset().union(*(self.ends(part, place) for place in places))
            return places
        least, most = node[2]
        places, found, n = frozenset({at}), frozenset({at} if least == 0 else ()), 0
        while places and n != most and n <= len(text) + least:
            places = frozenset().union(*(self.ends(node[1], place) for place in places))
            n += 1
            if n >= least:
                found |= places
        return found


class Grammars(Constrained):
    """GBNF of every form, whole or spoilt; and Lark's notation, spoilt."""

    _marks = st.sampled_from(
        [
            '::=',
            '|',
            '(',
            ')',
            '{2,1}',
            '{999999999}',
            '*',
            '+',
            '?',
            '"',
            '[',
            ']',
            '\\x',
            '\\U00110000',
        ]
        + [
            '\n',
            '#',
            '\0',
            '\ud800',
            'root',
            'root ::= root',
            '(' * 200,
            '\\ud800',
            '{,3}',
            '.',
            '<',
            '%',
        ]
        + [
            '%json {"type": "integer"}',
            '%ignore /a/',
            '%import common.INT',
            '"a".."z"',
            '~ 1..5',
            '!',
        ]
    )
    _lark = st.sampled_from(
        [
            'start: "a" B\nB: /[a-z]+/',
            'start: x*\nx: "a" | "b" x',
            'start: "a"~3',
            '%llguidance {}\nstart: /a/',
        ]
        + [
            'start: s\ns: "(" s ")" |',
            'start[capture]: /a|b/',
            'start: A & B\nA: /a/\nB: /b/',
            'start: ~A\nA: "a"',
        ]
    )
    _spoilt = st.builds(
        lambda text, edits: _spoil(text, edits),
        _RULES.map(lambda rules: _gbnf(rules)) | _lark,
        st.lists(
            st.tuples(st.integers(0, 99), st.integers(0, 6), _marks | st.text(max_size=3)),
            max_size=4,
        ),
    )
    inputs = st.tuples(_RULES | _spoilt, st.integers(0, 999))

    def check(self, value: tuple[list[Any] | str, int]) -> None:
        rules, seed = value
        text = rules if isinstance(rules, str) else _gbnf(rules)
        try:
            constraint = grammar(text)
        except ConstraintError as error:
            is_clear(error, 'grammar')
            if not isinstance(rules, str):
                raise
            return
        said = self.said(constraint, seed)
        if said is not None and not isinstance(rules, str):
            assert _Reader(rules, said).accepts(), f'{text!r} does not allow {said!r}'


def _gbnf(rules: list[tuple[Any, ...]]) -> str:
    names = ['root', *(f'r{i}' for i in range(1, len(rules)))]
    lines = [f'{n} ::= {_written(r, len(rules))}' for n, r in zip(names, rules, strict=True)]
    return '\n'.join(lines).replace('r0', 'root')


def _spoil(text: str, edits: list[tuple[int, int, str]]) -> str:
    for place, size, instead in edits:
        at = place * (len(text) + 1) // 100
        text = text[:at] + instead + text[at + size :]
    return text

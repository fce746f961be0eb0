"""GBNF, the notation of llama.cpp's grammars, becomes Lark's as llguidance reads it.

GBNF is made of characters. llguidance first cuts text into terminals, each as long as it can be,
and what is written as several of them has other meanings: after `[a-z]+` no `"ing"` can come.
Therefore all that does not lead back to itself, mostly the whole grammar, becomes one terminal,
and of a rule that does so becomes what stands side by side in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hobot_llamacpp_py.errors import ConstraintError

__all__ = ['gbnf_to_lark']

_MOST_DEPTH = 100
_SKIPPED = re.compile(r'(?:[ \t]|#[^\r\n]*)*')
_SKIPPED_LINES = re.compile(r'(?:\s|#[^\r\n]*)*')
_BAR = re.compile(rf'{_SKIPPED_LINES.pattern}\|{_SKIPPED_LINES.pattern}')
_NAME = re.compile(r'[a-zA-Z0-9_-]+')
_COUNT = re.compile(r'([*+?])|\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}')
_ESCAPE = re.compile(r'\\(?:([nrt"\\\[\]])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))')
_NAMED_ESCAPES = {'n': '\n', 'r': '\r', 't': '\t'}
_COUNTS: dict[str, tuple[int, int | None]] = {'*': (0, None), '+': (1, None), '?': (0, 1)}


@dataclass
class _Node:
    """A part of a rule."""

    kind: str
    """`text` for what Lark writes the same way; `rule`, `choice`, `sequence`, `repeat`."""
    text: str = ''
    """As Lark writes it, or a rule's name, or a count."""
    parts: list[_Node] = field(default_factory=list)

    def names(self) -> Iterator[str]:
        """Yield the names of all rules that it holds."""
        if self.kind == 'rule':
            yield self.text
        for part in self.parts:
            yield from part.names()


def gbnf_to_lark(text: str) -> str:
    """Return a GBNF grammar in Lark's notation; its rule `root` is `start` there.

    Raises:
        ConstraintError: it is no GBNF; says in which line.
    """
    return _Writer(_Parser(text).rules()).grammar()


class _Parser:
    """Reads a grammar; `_at` is the place of what comes next."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0
        self._used: dict[str, int] = {'root': 0}  # where a rule's name is used first

    def rules(self) -> dict[str, _Node]:
        """Return each rule by its name."""
        rules = {}
        self._skip(_SKIPPED_LINES)
        while self._at < len(self._text):
            name = self._take(_NAME, 'the name of a rule')[0]
            self._skip(_SKIPPED)
            self._take(re.compile('::='), '::=')
            self._skip(_SKIPPED_LINES)
            rules[name] = self._choice(_SKIPPED)
            if self._at < len(self._text) and self._text[self._at] not in '\r\n':
                self._refuse('a new line')
            self._skip(_SKIPPED_LINES)
        for name, at in self._used.items():
            if name not in rules:
                self._at = at
                self._refuse(f'a rule named {name}, which there is not', found=False)
        return rules

    def _choice(self, skipped: re.Pattern[str]) -> _Node:
        choices = [self._sequence(skipped)]
        while bar := _BAR.match(self._text, self._at):  # llama.cpp wants it in the same line
            self._at = bar.end()
            choices.append(self._sequence(skipped))
        return choices[0] if len(choices) == 1 else _Node('choice', parts=choices)

    def _sequence(self, skipped: re.Pattern[str]) -> _Node:
        parts: list[_Node] = []
        while (part := self._part()) is not None:
            self._skip(skipped)
            while count := _COUNT.match(self._text, self._at):
                part = self._repeat(part, count)
                self._skip(skipped)
            parts.append(part)
        return parts[0] if len(parts) == 1 else _Node('sequence', parts=parts)

    def _part(self) -> _Node | None:
        start = self._text[self._at : self._at + 1]
        if start == '"':
            return _Node('text', json.dumps(''.join(self._characters('"')), ensure_ascii=False))
        if start == '[':
            return self._class()
        if start == '.':
            self._at += 1
            return _Node('text', '/(?s:.)/')
        if start == '(':
            self._at += 1
            self._depth += 1
            if self._depth > _MOST_DEPTH:
                self._refuse(f'no more than {_MOST_DEPTH} parentheses in each other', found=False)
            self._skip(_SKIPPED_LINES)
            inner = self._choice(_SKIPPED_LINES)
            self._take(re.compile(r'\)'), ')')
            self._depth -= 1
            return inner
        if name := _NAME.match(self._text, self._at):
            self._used.setdefault(name[0], self._at)
            self._at = name.end()
            return _Node('rule', name[0])
        return None

    def _repeat(self, part: _Node, count: re.Match[str]) -> _Node:
        least, most = _COUNTS.get(count[1], (int(count[2] or 0), None))
        if count[2]:
            most = least if not count[3] else int(count[4]) if count[4] else None
        if most is not None and most < least:
            self._refuse('two numbers, the smaller one first')
        self._at = count.end()
        if most == 0:
            return _Node('text', '""')
        return _Node('repeat', f'{{{least},{"" if most is None else most}}}', [part])

    def _class(self) -> _Node:
        self._at += 1
        negated = self._text.startswith('^', self._at)
        self._at += negated - 1  # `_characters` steps over one more
        characters = list(self._characters(']', ranges=True))
        if not characters:
            self._refuse('a character in [ ]', found=False)
        return _Node('text', f'/[{"^" * negated}{"".join(characters)}]/')

    def _characters(self, end: str, *, ranges: bool = False) -> Iterator[str]:
        """Yield what stands before the end, one by one; ranges as in regular expressions."""
        opened = self._at
        self._at += 1
        while not self._text.startswith(end, self._at):
            character = self._character(opened, end)
            if not ranges:
                yield character
                continue
            last = character
            if self._text.startswith('-', self._at) and self._text[self._at + 1 :][:1] != end:
                self._at += 1
                last = self._character(opened, end)
                if last < character:
                    self._refuse('a range from the smaller to the larger character', found=False)
            yield rf'\u{{{ord(character):X}}}-\u{{{ord(last):X}}}'
        self._at += 1

    def _character(self, opened: int, end: str) -> str:
        if self._at >= len(self._text):
            self._at = opened
            self._refuse(f'{end} at the end of this', found=False)
        if self._text[self._at] != '\\':
            self._at += 1
            return self._text[self._at - 1]
        escape = self._take(_ESCAPE, r'one of \n \r \t \" \\ \[ \] \xHH \uHHHH \UHHHHHHHH')
        if escape[1]:
            return _NAMED_ESCAPES.get(escape[1], escape[1])
        code = int(escape[2] or escape[3] or escape[4], 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self._refuse(f'characters of Unicode, not {escape[0]}', found=False)
        return chr(code)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            self._refuse(wanted)
            raise AssertionError
        self._at = match.end()
        return match

    def _refuse(self, wanted: str, *, found: bool = True) -> None:
        line = self._text.count('\n', 0, self._at) + 1
        column = self._at - self._text.rfind('\n', 0, self._at)
        rest = json.dumps(self._text[self._at :][:12], ensure_ascii=False)
        instead = f', not {rest if self._at < len(self._text) else "the end"}' if found else ''
        raise ConstraintError(
            f'grammar: line {line}, column {column}: there should be {wanted}{instead}'
        )


class _Writer:
    """Writes rules for llguidance: names in capitals are terminals."""

    def __init__(self, rules: dict[str, _Node]) -> None:
        self._rules, self._lines = rules, list[str]()
        self._recursive = _recursive(rules)
        self._names = {name: f'r{i}' for i, name in enumerate(rules)}

    def grammar(self) -> str:
        """Return the whole grammar."""
        for name, node in self._rules.items():
            written = self._names[name]
            if name in self._recursive:
                self._lines.append(f'{written}: {self._rule(node)}')
            else:
                self._lines.append(f'{written.upper()}: {self._terminal(node)}')
        return '\n'.join([f'start: {self._rule(_Node("rule", "root"))}', *self._lines])

    def _is_terminal(self, node: _Node) -> bool:
        return not any(name in self._recursive for name in node.names())

    def _terminal(self, node: _Node) -> str:
        """Return an expression for a terminal's definition."""
        if node.kind == 'rule':
            return self._names[node.text].upper()
        return self._expression(node, [self._atom(part) for part in node.parts])

    def _rule(self, node: _Node) -> str:
        """Return an expression for a rule's definition."""
        if self._is_terminal(node):
            return self._terminal(node) if node.kind == 'rule' else self._atom(node)
        if node.kind == 'rule':
            return self._names[node.text]
        parts: list[str] = []
        beside: list[_Node] = []  # terminals side by side are one
        for part in [*node.parts, None]:
            if part is not None and node.kind == 'sequence' and self._is_terminal(part):
                beside.append(part)
                continue
            if beside:
                parts.append(self._atom(_Node('sequence', parts=beside)))
                beside = []
            if part is not None:
                parts.append(self._atom(part))
        return self._expression(node, parts)

    def _atom(self, node: _Node) -> str:
        """Return a name for what is more than a text: Lark's own nesting is limited."""
        if node.kind == 'text':
            return node.text
        if node.kind == 'rule':
            return self._rule(node)
        name = f'x{len(self._lines)}'
        self._lines.append('')  # its place: there may be more in it
        at = len(self._lines) - 1
        if self._is_terminal(node):
            name = name.upper()
            self._lines[at] = f'{name}: {self._terminal(node)}'
        else:
            self._lines[at] = f'{name}: {self._rule(node)}'
        return name

    @staticmethod
    def _expression(node: _Node, parts: list[str]) -> str:
        if node.kind == 'choice':
            return ' | '.join(parts)
        if node.kind == 'repeat':
            return parts[0] + node.text
        return ' '.join(parts) or node.text or '""'


def _recursive(rules: dict[str, _Node]) -> set[str]:
    """Return the rules that lead back to themselves, or to such."""
    terminal: set[str] = set()
    uses = {name: set(node.names()) for name, node in rules.items()}
    while more := {name for name in uses.keys() - terminal if uses[name] <= terminal}:
        terminal |= more
    return rules.keys() - terminal

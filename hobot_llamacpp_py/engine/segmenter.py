"""Cuts a stream of text into pieces that a speech synthesiser can say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

__all__ = ['SpeechSegmenter']

# These end a clause wherever they stand, only not between two digits.
_FULL = frozenset('。！？；，、：…—｡､؟،؛۔।॥።፣፤፧։')
# The others do so only before white space or a wide character: 3.5, 1,000, 10:30, a.b stay.
_END = re.compile(r'([.!?;,:．：，、。])["\'”’»)\]*_`~]*(\s*)$')
_ABBREVIATION = re.compile(
    r'(?:^|[\s("“])(?:(?:[A-Za-z]\.)*[A-Za-z]|etc|vs|cf|al|ca|approx|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr'
    r'|Inc|Ltd|Co)\.\s*$'
)
_BEFORE_NUMBER = re.compile(r'(?:^|[\s("“])(?:No|Fig|Eq|Sec|Ch|Vol|pp)\.\s*$', re.IGNORECASE)
_LIST_NUMBER = re.compile(r'\s*\d{1,3}[.:．、：]\s*$')
_FENCE = re.compile(r'\s*(?:```|~~~)')
_MAY_BECOME_FENCE = re.compile(r'\s*(?:`{0,2}|~{0,2})$')

# Headings, bullets and quotes at the start of a line.
_LINE_MARKS = re.compile(r'\A\s*(?:(?:>|[-*+](?=\s)|#+(?=\s))\s*)+')
# Emphasis embraces words: 2 * 3 and a_b stay.
_MARKS = re.compile(r'\*\*|__|~~|`+|(?<!\w)[*_]+(?=\S)|(?<=\S)[*_]+(?!\w)')
_LINK = re.compile(r'!?\[([^\[\]]*)\]\([^()\s]*\)')
_EMOJI = re.compile(
    '[\U0001f000-\U0001faff\u2300-\u23ff\u2500-\u27bf\u2b00-\u2bff\u20e3\ufe0e\ufe0f\u200d'
    '\U000e0020-\U000e007f\ue000-\uf8ff\ufffd]'
)
# What a clause may begin with because the one before it ended early: 真的？ | ！”
_LEFT_OVER = '"\'”’»』」》〉】）)]}*_`~ \t\n' + ''.join(sorted(_FULL))
_TOO_LONG = 80  # columns, of which a wide character takes two: some eight seconds of speech


class SpeechSegmenter:
    """Takes pieces of an answer, returns pieces to speak: never empty, in order, all of it.

    Blocks of code, the marks of Markdown, and emoji are not spoken. One character is looked at
    after the other, so that the clauses do not hang on how the answer came in pieces.
    """

    def __init__(self) -> None:
        self._clause = ''
        self._starts_line = True  # the clause is the first one of its line
        self._line_start: str | None = ''  # held while it may open a block of code
        self._code_line: str | None = None  # inside a block of code

    def feed(self, text: str) -> list[str]:
        """Take the next text; return the clauses that it completes."""
        return [clause for char in text for clause in self._route(char) if clause]

    @property
    def in_code(self) -> bool:
        """Whether a block of code is open, so that nothing is spoken."""
        return self._code_line is not None

    def finish(self) -> list[str]:
        """Return what is left when the answer has ended."""
        return [clause for clause in (*self._release(), self._cut()) if clause]

    def _route(self, char: str) -> Iterator[str]:
        """Keep blocks of code away from what is spoken; yield clauses, also empty ones."""
        if self._code_line is not None:
            self._code_line += char
            if char == '\n':
                closes = _FENCE.match(self._code_line)
                self._code_line, self._line_start = (None, '') if closes else ('', None)
        elif self._line_start is not None:
            self._line_start += char
            if char == '\n' and _opens_code(self._line_start):
                self._code_line, self._line_start = '', None
            elif char == '\n' or not (
                _FENCE.match(self._line_start) or _MAY_BECOME_FENCE.match(self._line_start)
            ):
                yield from self._release()
        else:
            yield from self._take(char)

    def _release(self) -> Iterator[str]:
        """Take what was held at the start of a line, if it opens no block of code."""
        held, self._line_start = self._line_start or '', None
        if not _opens_code(held):
            for char in held:
                yield from self._take(char)

    def _take(self, char: str) -> Iterator[str]:
        if self._ends_before(char):
            yield self._cut()
        after_digit = self._clause[-1:].isdigit()
        self._clause += char
        if char == '\n':
            yield self._cut()
            self._starts_line, self._line_start = True, ''
        elif char in _FULL and not after_digit:
            yield self._cut()
        elif _columns(self._clause) > _TOO_LONG:
            yield self._cut(_sensible_cut(self._clause))

    def _ends_before(self, char: str) -> bool:
        """Tell whether the clause has ended, now that the next character is known."""
        end = _END.search(self._clause)
        if (
            end is None
            or char.isspace()
            or (self._starts_line and _LIST_NUMBER.fullmatch(self._clause))
        ):
            return False
        mark, space = end.groups()
        if mark in _FULL:  # behind a digit
            return not char.isdigit()
        if not space and not _is_wide(char):
            return False
        if mark == '.' and char.isdigit() and _BEFORE_NUMBER.search(self._clause):
            return False
        return mark != '.' or not _ABBREVIATION.search(self._clause)

    def _cut(self, at: int | None = None) -> str:
        """Cut the clause off, or its first characters; return what is to be spoken of it."""
        at = len(self._clause) if at is None else at
        clause, self._clause = self._clause[:at], self._clause[at:]
        starts_line, self._starts_line = self._starts_line, False
        return _spoken(clause, starts_line)


def _opens_code(line: str) -> bool:
    """Tell whether a line opens a block of code: ```like this``` it does not."""
    return bool(_FENCE.match(line)) and '`' not in line.lstrip().lstrip('`')


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in 'WF'


def _columns(text: str) -> int:
    return len(text) + sum(map(_is_wide, text))


def _sensible_cut(clause: str) -> int:
    """Return where to cut a clause that is too long: not within a word, if that can be helped."""
    for at in range(len(clause) - 1, 0, -1):
        before, after = clause[at - 1], clause[at]
        between_words = before.isspace() or _is_wide(before) or _is_wide(after)
        # No mark that ends a sentence begins a clause, and no number is cut.
        if between_words and after.isalnum() and not (before.isdigit() and after.isdigit()):
            return at
    at = len(clause) - 1
    while at > 1 and unicodedata.category(clause[at]).startswith('M'):
        at -= 1
    return at


def _spoken(clause: str, starts_line: bool) -> str:
    """Return a clause without marks and emoji, empty if no letter or digit is left."""
    if starts_line:
        clause = _LINE_MARKS.sub('', clause, count=1)
    clause = _MARKS.sub('', _EMOJI.sub('', _LINK.sub(r'\1', clause)))
    clause = ' '.join(clause.replace('|', ' ').lstrip(_LEFT_OVER).split())
    return clause if any(map(str.isalnum, clause)) else ''

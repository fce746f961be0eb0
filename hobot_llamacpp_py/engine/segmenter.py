"""Cuts a stream of text into pieces that a speech synthesiser can say."""

from __future__ import annotations

import re
import unicodedata

__all__ = ['SpeechSegmenter']

# Full-width marks always end a clause; ASCII ones only before white space: 3.5, 1,000 and 10:30
# are one piece.
_CUT = re.compile(r'[。！？；，、：…]+["”’』」）)]*|[.!?;,:]+["\')]*(?=\s)|\n')
_ABBREVIATION = re.compile(r'(?:^|\s)(?:[A-Za-z]|e\.g|i\.e|etc|vs|Mr|Mrs|Ms|Dr|Prof|St|No|Fig)\.$')
# Headings, bullets and quotes at the start; emphasis at the edges of words: 2*3 and a_b stay.
_MARKDOWN = re.compile(r'^\s*(?:#+\s+|[-*+]\s+|>\s+)|\*\*|__|~~|`+|(?<!\w)[*_]+|[*_]+(?!\w)')
_CLOSING = '"”’』」）)] \t\n'
_TOO_LONG = 80  # characters after which a clause without punctuation is cut at a space


class SpeechSegmenter:
    """Takes pieces of an answer, returns pieces to speak: never empty, in order, all of it."""

    def __init__(self) -> None:
        self._text = ''

    def feed(self, text: str) -> list[str]:
        """Take the next text; return the clauses that it completes."""
        self._text += text
        pieces: list[str] = []
        start = 0
        for cut in _CUT.finditer(self._text):
            if not _ABBREVIATION.search(self._text[start : cut.end()]):
                pieces.append(self._text[start : cut.end()])
                start = cut.end()
        self._text = self._text[start:]
        while len(self._text) > _TOO_LONG:
            at = self._text.rfind(' ', 1, _TOO_LONG)
            at = at if at > 0 else _TOO_LONG
            pieces.append(self._text[:at])
            self._text = self._text[at:]
        return _speakable(pieces)

    def finish(self) -> list[str]:
        """Return what is left when the answer has ended."""
        text, self._text = self._text, ''
        return _speakable([text])


def _speakable(pieces: list[str]) -> list[str]:
    """Drop marks, emoji and pieces without a letter or digit."""
    spoken = []
    for piece in pieces:
        plain = _MARKDOWN.sub('', piece).replace('|', ' ').lstrip(_CLOSING)
        # Category So is emoji and dingbats; Cs and Co never make a sound either.
        plain = ''.join(c for c in plain if unicodedata.category(c) not in ('So', 'Cs', 'Co'))
        if any(c.isalnum() for c in plain):
            spoken.append(plain.strip())
    return spoken

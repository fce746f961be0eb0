"""Small models get stuck: a sentence already said in an answer ends it."""

from __future__ import annotations

import re

__all__ = ['NoGuard', 'RepetitionGuard']

_END = re.compile(r'[。！？!?…\n]+|\.(?=\s)')
_LIST_NUMBER = re.compile(r'\s*\d+\.')
_FINAL = '。！？!?….\n \t'


class RepetitionGuard:
    """Passes an answer's text on, but never a sentence for the second time.

    Text that may yet turn out to be a repetition is withheld until it differs, so a repeated
    sentence is never shown in part. White space is withheld until something follows it: an
    answer neither begins nor ends with any.
    """

    def __init__(self) -> None:
        self.repeated = False
        """A sentence came for the second time; the answer should end."""
        self._said: set[str] = set()
        self._last_line = ''
        self._sentence = ''
        self._passed = 0  # characters of the sentence that were passed on
        self._space: str | None = None  # withheld white space; None before the first word

    def feed(self, text: str) -> str:
        """Take the next piece of the answer; return what may be shown now."""
        shown = ''
        self._sentence += text
        while end := self._end():
            sentence, rest = self._sentence[:end], self._sentence[end:]
            if self._repeats(sentence):
                self.repeated = True
                return shown
            self._remember(sentence)
            shown += self._trimmed(sentence[self._passed :])
            self._sentence, self._passed = rest, 0
        start = self._sentence.strip(_FINAL)
        withheld = not start or self._last_line.startswith(start)
        if not withheld and not any(said.startswith(start) for said in self._said):
            shown += self._rest()
        return shown

    def finish(self) -> str:
        """Return what is left to show when the answer has ended."""
        if not self.repeated and not self._passed and self._repeats(self._sentence):
            self.repeated = True
        return '' if self.repeated else self._rest()

    def _end(self) -> int:
        """Return where the first sentence ends, 0 if it does not yet."""
        for end in _END.finditer(self._sentence):
            if not _LIST_NUMBER.fullmatch(self._sentence, 0, end.end()):
                return end.end()
        return 0

    def _repeats(self, sentence: str) -> bool:
        key = sentence.strip(_FINAL)
        return key in self._said or (key == self._last_line and key != '')

    def _remember(self, sentence: str) -> None:
        key = sentence.strip(_FINAL)
        if not any(letter.isalpha() for letter in key):
            return
        if _is_line(sentence):
            # Lists, code and JSON have equal lines: only one right after the other is a loop.
            self._last_line = key
        else:
            self._said.add(key)

    def _rest(self) -> str:
        rest = self._sentence[self._passed :]
        self._passed = len(self._sentence)
        return self._trimmed(rest)

    def _trimmed(self, text: str) -> str:
        text = text.lstrip() if self._space is None else self._space + text
        shown = text.rstrip()
        if shown or self._space is not None:
            self._space = text[len(shown) :]
        return shown


def _is_line(sentence: str) -> bool:
    """Tell whether a sentence was ended by a line break alone."""
    return not re.search(r'[。！？!?….]["”’』」）)]*\s*$', sentence)


class NoGuard:
    """Passes everything on: what follows a grammar may repeat itself, and ends by itself."""

    repeated = False

    def feed(self, text: str) -> str:
        """Return the text."""
        return text

    def finish(self) -> str:
        """Return nothing: nothing was withheld."""
        return ''

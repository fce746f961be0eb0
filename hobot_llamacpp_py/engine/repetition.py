"""Small models get stuck: a sentence already said in an answer ends it."""

from __future__ import annotations

import re

__all__ = ['RepetitionGuard']

_END = re.compile(r'[。！？!?…\n]+|\.(?=\s)')
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
        self._sentence = ''
        self._passed = 0  # characters of the sentence that were passed on
        self._space: str | None = None  # withheld white space; None before the first word

    def feed(self, text: str) -> str:
        """Take the next piece of the answer; return what may be shown now."""
        shown = ''
        self._sentence += text
        while end := _END.search(self._sentence):
            sentence, rest = self._sentence[: end.end()], self._sentence[end.end() :]
            key = _key(sentence, is_line='\n' in end[0])
            if key in self._said:
                self.repeated = True
                return shown
            if key:
                self._said.add(key)
            shown += self._trimmed(sentence[self._passed :])
            self._sentence, self._passed = rest, 0
        start = self._sentence.strip(_FINAL)
        if start and not any(said.startswith(start) for said in self._said):
            shown += self._rest()
        return shown

    def finish(self) -> str:
        """Return what is left to show when the answer has ended."""
        if _key(self._sentence, is_line=False) in self._said and not self._passed:
            self.repeated = True
            return ''
        return self._rest()

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


def _key(sentence: str, *, is_line: bool) -> str:
    """Return what makes two sentences the same; empty where a repetition means nothing.

    A line without a full stop may be a list's item: it counts from two words on.
    """
    key = sentence.strip(_FINAL)
    if not any(letter.isalpha() for letter in key):
        return ''
    if is_line and len(key.split()) < 2 and key.isascii():
        return ''
    return key

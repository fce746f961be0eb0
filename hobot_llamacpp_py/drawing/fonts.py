"""The font that has a text's characters, of those that fontconfig knows."""

from __future__ import annotations

import logging
import subprocess
import unicodedata
from dataclasses import dataclass, field

from hobot_llamacpp_py.errors import DrawingError

__all__ = ['FontFile', 'Fonts']

log = logging.getLogger(__name__)

# The first brings fontconfig along.
INSTALL = 'sudo apt-get install fonts-wqy-zenhei (or fonts-noto-cjk)'
TIMEOUT = 30.0  # seconds; the first call on a machine may read all fonts that it has
_ASCII = frozenset(range(0x20, 0x7F))


@dataclass(frozen=True)
class FontFile:
    """A font: where it is, and the code points that it has glyphs of."""

    path: str
    index: int
    """Of the font within the file, which may hold several."""
    characters: frozenset[int] = field(repr=False, compare=False)


class Fonts:
    """Finds fonts for texts; of those with the same characters a Chinese one.

    fontconfig is asked again only about characters that were not asked about before, so it can be
    called for a text that grows.
    """

    def __init__(self) -> None:
        self._font = FontFile('', 0, frozenset())
        self._lacking: set[int] = set()
        self._has_warned = False

    def of(self, text: str) -> FontFile:
        """Return the font that has the most of a text's characters; warn once of missing Chinese.

        Raises:
            DrawingError: there are no fonts, or no fontconfig.
        """
        wanted = _ASCII | {ord(character) for character in text}
        if wanted - self._font.characters - self._lacking:
            self._font = _match(wanted)
            self._lacking = set(wanted - self._font.characters)
            missing = ''.join(filter(_is_asian, map(chr, sorted(self._lacking))))
            if missing and not self._has_warned:
                self._has_warned = True
                log.warning('no installed font has %s: %s', missing[:20], INSTALL)
        return self._font


def _is_asian(character: str) -> bool:
    """Tell whether it is a letter of those that the packages of `INSTALL` bring."""
    return character.isalpha() and unicodedata.east_asian_width(character) == 'W'


def _match(characters: frozenset[int]) -> FontFile:
    """Ask fontconfig for the font that lacks the fewest of some characters."""
    codes = ' '.join(f'{code:x}' for code in sorted(characters))
    pattern = f'sans-serif:lang=zh-cn:scalable=true:color=false:charset={codes}'
    command = ['fc-match', '-f', '%{file}\n%{index}\n%{charset}', pattern]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        path, index, ranges = found.stdout.split('\n')
    except (OSError, subprocess.SubprocessError, ValueError):
        raise DrawingError(f'to write on pictures a font is needed: {INSTALL}') from None
    has: set[int] = set()
    for part in ranges.split():
        low, _, high = part.partition('-')
        has.update(range(int(low, 16), int(high or low, 16) + 1))
    return FontFile(path, int(index), frozenset(has))

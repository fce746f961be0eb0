"""A picture with question and answer written on a dark band beneath it."""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.drawing.fonts import FontFile, Fonts
from hobot_llamacpp_py.errors import DrawingError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = ['caption']

Bgr = npt.NDArray[np.uint8]

BAND = 26  # grey; the others are BGR
QUESTION, ANSWER, ERROR = (90, 205, 255), (255, 255, 255), (120, 130, 255)
# Of the picture's height, if it were square: what can be read where the picture fills half a
# screen. A text that needs more room is written smaller, in few steps: it may be growing.
TEXT_SIZE, STEPS, SMALLEST = 0.038, (1.0, 0.8, 0.65, 0.5), 12
LINES, LINES_OF_QUESTION = 5, 2
LINE_HEIGHT = 1.3  # of the text's size

_WIDE = '\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U0001f000-\U0003ffff'
_OPENING, _CLOSING = '（《「『【〈“‘', '，。！？；：、）》」』】〉…—～”’,.!?;:)'
# What is not parted: a word, or a Chinese character; both with the punctuation that belongs to it.
_UNIT = re.compile(
    rf'\s+|[{_OPENING}]*[{_WIDE}][{_CLOSING}]*|[^\s{_WIDE}{_OPENING}]+[{_CLOSING}]*|.'
)


def caption(bgr: Bgr, question: str, answer: str, fonts: Fonts, *, is_error: bool = False) -> Bgr:
    """Return a BGR picture [h, w, 3] with question and answer on a band beneath it.

    The band's height depends on the picture's size alone, so that a viewer does not scale anew
    while the answer grows. Of an answer that is too long its end is shown.

    Raises:
        DrawingError: Pillow or a font is missing.
    """
    height, width = bgr.shape[:2]
    size = max(SMALLEST, round(TEXT_SIZE * math.sqrt(width * height)))
    margin, room = size // 2, LINES * int(LINE_HEIGHT * size)
    font, asked, said = _fitted(
        _printable(question), _printable(answer), fonts, size, (width - 2 * margin, room)
    )
    drawn = np.empty((height + room + 2 * margin, width, 3), np.uint8)
    drawn[:height], drawn[height:] = bgr, BAND
    top = height + margin
    colours = [QUESTION] * len(asked) + [ERROR if is_error else ANSWER] * len(said)
    for line, colour in zip(asked + said, colours, strict=True):
        pixels = _drawn(font, line, colour)[:, : width - margin]
        drawn[top : top + len(pixels), margin : margin + pixels.shape[1]] = pixels
        top += len(pixels)
    return drawn


def _fitted(
    question: str, answer: str, fonts: Fonts, size: int, room: tuple[int, int]
) -> tuple[FreeTypeFont, list[str], list[str]]:
    """Return the largest font that leaves room for all, and the lines of question and answer.

    Args:
        size: the largest that will do, in pixels.
        room: width and height that there are, in pixels.
    """
    file = fonts.of(question + answer)
    for step in STEPS:
        font = _open(file, max(SMALLEST, round(step * size)))
        asked, said = _wrapped(question, font, room[0]), _wrapped(answer, font, room[0])
        if len(asked) > LINES_OF_QUESTION:
            asked = asked[:LINES_OF_QUESTION]
            asked[-1] = asked[-1][:-1] + '…'
        left = room[1] // _height(font) - len(asked)
        if len(said) <= left:
            return font, asked, said
    said = said[-left:]
    return font, asked, [_UNIT.sub('…', said[0], count=1), *said[1:]]


# What was measured or drawn is kept: of a growing text only the end is new, and Pillow holds the
# GIL.


@functools.lru_cache(maxsize=8)
def _open(file: FontFile, size: int) -> FreeTypeFont:
    try:
        from PIL import ImageFont
    except ImportError:
        raise DrawingError(
            'to write on pictures Pillow is needed: pip3 install pillow==12.3.0, or sudo apt-get'
            ' install python3-pil'
        ) from None
    try:
        return ImageFont.truetype(file.path, size, file.index)
    except OSError as error:
        raise DrawingError(f'the font {file.path} cannot be used: {error}') from None


@functools.lru_cache(maxsize=16)
def _drawn(font: FreeTypeFont, line: str, colour: tuple[int, int, int]) -> Bgr:
    """Draw a line of text in a colour, on the band's."""
    from PIL import Image, ImageDraw

    width, height = math.ceil(font.getbbox(line, anchor='ls')[2]), _height(font)
    image = Image.new('RGB', (max(1, width), height), (BAND,) * 3)
    ImageDraw.Draw(image).text((0, font.size), line, colour[::-1], font, anchor='ls')
    return np.asarray(image)[:, :, ::-1]


@functools.lru_cache(maxsize=10000)
def _length(font: FreeTypeFont, unit: str) -> float:
    """Return a text's width in pixels; most of a growing text was measured before."""
    return float(font.getlength(unit))


def _wrapped(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """Break a text into lines of at most so many pixels, but of one character at least."""
    lines = []
    for paragraph in text.split('\n'):
        line, used = '', 0.0
        for unit in _UNIT.findall(paragraph):
            whole = _length(font, unit)
            for part in unit if whole > width else [unit]:
                needed = whole if part == unit else _length(font, part)
                if line and used + needed > width:
                    lines.append(line.rstrip())
                    line, used = '', 0.0
                if line or not part.isspace():
                    line, used = line + part, used + needed
        if line.strip():
            lines.append(line.rstrip())
    return lines


def _height(font: FreeTypeFont) -> int:
    """Return the height of a line, in pixels."""
    return int(LINE_HEIGHT * font.size)


def _printable(text: str) -> str:
    """Leave out what has no glyph: control characters, joiners, variants; tabs become blanks."""
    text = '\n'.join(text.splitlines()).replace('\t', ' ').replace('\ufe0f', '')
    return ''.join(c for c in text if c.isprintable() or c == '\n')

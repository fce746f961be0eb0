"""A picture gets a band with question and answer beneath it."""

import logging
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from fonts import only_fonts, require_font
from nano import CONFIG, ROOT

pytest.importorskip('PIL', reason='needs requirements/overlay.txt')

from hobot_llamacpp_py.drawing.caption import ANSWER, BAND, ERROR, QUESTION, caption
from hobot_llamacpp_py.drawing.fonts import INSTALL, Fonts
from hobot_llamacpp_py.errors import DrawingError

SIZES = [(640, 480), (1920, 1080), (480, 640), (64, 48), (2000, 100), (100, 2000)]
ENGLISH = 'There is a yellow star at the top, a red circle on the left and a blue square. '
CHINESE = '上方有一个黄色的五角星，左边有一个红色的圆形，右边有一个蓝色的正方形。'


@pytest.fixture(autouse=True)
def latin() -> None:
    """Skip where not even English can be written."""
    require_font(ENGLISH)


def picture(size: tuple[int, int] = (640, 480)) -> np.ndarray:
    return cv2.resize(cv2.imread(str(CONFIG / 'image2.jpg')), size)


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == colour).all(axis=2).any())


def rows_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return the rows in which a colour occurs."""
    return np.nonzero((pixels == colour).all(axis=2).any(axis=1))[0]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_the_picture_stays_as_it_is(size: tuple[int, int]) -> None:
    """Nothing of the picture is hidden or changed; the text is beneath it."""
    bgr = picture(size)
    before = bgr.copy()
    drawn = caption(bgr, 'What is there?', ENGLISH, Fonts())
    np.testing.assert_array_equal(before, bgr)
    np.testing.assert_array_equal(before, drawn[: size[1]])
    band = drawn[size[1] :]
    assert has(band, (BAND,) * 3)
    assert band.max() > 200


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_the_band_does_not_grow(size: tuple[int, int]) -> None:
    """However long a text is, the result has the same size, so that viewers do not jump."""
    bgr = picture(size)
    texts = ['', '…', ENGLISH, ENGLISH * 30, 'a' * 5000, '\n' * 50 + 'x\n' * 50]
    assert len({caption(bgr, text, text, Fonts()).shape for text in texts}) == 1


def test_question_and_answer_have_colours_of_their_own() -> None:
    """The question is above the answer, in another colour; so is an error's."""
    bgr = picture()
    drawn = caption(bgr, 'What is there?', 'A star.', Fonts())
    assert rows_of(drawn, QUESTION).max() < rows_of(drawn, ANSWER).min()
    assert not has(drawn, ERROR)
    failed = caption(bgr, 'What is there?', '[error] no', Fonts(), is_error=True)
    assert has(failed, ERROR)
    assert not has(failed[480:], ANSWER)


def test_the_text_grows_with_the_picture() -> None:
    """In a picture three times as wide and high, letters are three times as high."""
    heights = []
    for scale in 1, 3:
        bgr = picture((640 * scale, 360 * scale))
        rows = rows_of(caption(bgr, '', 'I', Fonts())[360 * scale :], ANSWER)
        heights.append(rows.max() - rows.min() + 1)
    assert heights[0] > 9
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.15)


@pytest.mark.parametrize('text', [ENGLISH * 5, CHINESE * 4, 'w' * 300], ids=['en', 'zh', 'word'])
def test_lines_are_broken(text: str) -> None:
    """Text goes over several lines and stays within the margins: words, Chinese, long words."""
    require_font(text)
    bgr = picture()
    band = caption(bgr, '', text, Fonts())[480:]
    assert not (band[:, :8] != BAND).any()
    assert not (band[:, -8:] != BAND).any()
    assert (band[:, 500:-8] != BAND).any()
    lines = np.diff((band != BAND).any(axis=(1, 2)).astype(int))
    assert (lines == 1).sum() >= 3


def test_english_words_are_not_parted() -> None:
    """A line is broken between words: what moves to the next line is the whole word."""
    bgr = picture()
    words = 'there is ' * 10
    for n in range(1, 30):
        text = words[: 9 * 7] + 'i' * n
        whole = caption(bgr, '', text, Fonts())
        by_hand = [words[: 9 * 7] + '\n' + 'i' * n, text]
        assert any((whole == caption(bgr, '', other, Fonts())).all() for other in by_hand)


def test_of_a_long_answer_the_end_is_seen() -> None:
    """What was said last can always be read, also of an answer that is too long."""
    bgr = picture()
    drawn = [
        caption(bgr, 'Why?', 'word ' * n_words + end, Fonts())
        for n_words in (5, 1000)
        for end in ('one', 'two')
    ]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[2] != drawn[3]).any()


def test_control_characters_leave_no_trace() -> None:
    """What has no glyph is not drawn as a box."""
    bgr = picture()
    plain = caption(bgr, 'a b', 'c\nd', Fonts())
    odd = caption(bgr, 'a\tb\u200b', '\x07c\r\nd\ufe0f\x00', Fonts())
    np.testing.assert_array_equal(plain, odd)


class TestChinese:
    """Fonts for Chinese."""

    def test_characters_are_drawn(self) -> None:
        """Each Chinese character looks different from all others, and from the font's box."""
        from PIL import ImageFont

        require_font(CHINESE)
        bgr = picture()
        fonts = Fonts()
        characters = sorted(set(CHINESE) - set('，。'))
        drawn = {caption(bgr, '', character, fonts).tobytes() for character in characters}
        assert len(drawn) == len(characters)
        file = fonts.of(CHINESE)
        font = ImageFont.truetype(file.path, 20, file.index)
        box = bytes(font.getmask('\U0010ffff'))
        assert box not in {bytes(font.getmask(character)) for character in characters}

    def test_without_a_font_for_it(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Letters that no font has are told once, with the packages; the rest is drawn."""
        latin = require_font(ENGLISH, lacks='有')
        monkeypatch.setenv('FONTCONFIG_FILE', str(only_fonts(tmp_path, latin)))
        bgr = picture()
        fonts = Fonts()
        logging.getLogger('hobot_llamacpp_py').propagate = True  # a ROS node would turn it off
        drawn = [caption(bgr, text, 'A star.', fonts) for text in ('Why?', CHINESE, CHINESE * 2)]
        assert all(has(pixels, ANSWER) for pixels in drawn)
        (line,) = [record.getMessage() for record in caplog.records]
        assert re.fullmatch(f'no installed font has [{CHINESE}]+: {re.escape(INSTALL)}', line)


def test_no_font_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fonts, or without fontconfig, the packages are named that bring both."""
    bgr = picture()
    monkeypatch.setenv('FONTCONFIG_FILE', str(only_fonts(tmp_path)))
    with pytest.raises(DrawingError, match='fonts-wqy-zenhei'):
        caption(bgr, 'Why?', '', Fonts())
    monkeypatch.delenv('FONTCONFIG_FILE')
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(DrawingError, match='fonts-wqy-zenhei'):
        caption(bgr, 'Why?', '', Fonts())


def test_fontconfig_is_not_asked_for_each_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a text grows, fontconfig is asked about characters that are new, also if none has."""
    calls = tmp_path / 'calls'
    script = tmp_path / 'fc-match'
    script.write_text(f'#!/bin/sh\necho >>{calls}\nexec {shutil.which("fc-match")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    fonts = Fonts()
    for n in range(len(ENGLISH)):
        fonts.of(ENGLISH[:n])
    assert calls.read_text().count('\n') == 1
    for _ in range(3):
        fonts.of(ENGLISH + '\U000e0fff')
    assert calls.read_text().count('\n') == 2


def test_pillow_is_named_as_it_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Pillow the commands are told that install it, in the version that was tested."""
    import sys

    from hobot_llamacpp_py.drawing import caption as module

    monkeypatch.setitem(sys.modules, 'PIL', None)
    module._open.cache_clear()
    pin = next(
        line
        for line in (ROOT / 'requirements' / 'overlay.txt').read_text().splitlines()
        if line.startswith('pillow')
    )
    with pytest.raises(DrawingError, match=f'pip3 install {pin}, or .*install python3-pil'):
        caption(picture(), 'Why?', '', Fonts())

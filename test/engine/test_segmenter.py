"""Text to speak is cut where a speaker would breathe."""

import pytest

from hobot_llamacpp_py.engine.segmenter import SpeechSegmenter


def spoken(text: str, size: int) -> list[str]:
    segmenter = SpeechSegmenter()
    pieces = [p for i in range(0, len(text), size) for p in segmenter.feed(text[i : i + size])]
    return pieces + segmenter.finish()


@pytest.mark.parametrize('size', [1, 3, 1000])
@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('左边是红色的圆形，右边是蓝色的星形。', ['左边是红色的圆形，', '右边是蓝色的星形。']),
        ('A cat, a dog. And more', ['A cat,', 'a dog.', 'And more']),
        (
            'It is 3.5 m, at 10:30, for 1,000 people.',
            ['It is 3.5 m,', 'at 10:30,', 'for 1,000 people.'],
        ),
        ('Dr. Smith, e.g. here.', ['Dr. Smith,', 'e.g. here.']),
        ('**Bold** and `code` 😀!\n- item', ['Bold and code !', 'item']),
        ('2*3 is 6. See file_name in C# now', ['2*3 is 6.', 'See file_name in C# now']),
        ('*so* _it_ is', ['so it is']),
        ('... !!! 😀', []),
        ('', []),
    ],
)
def test_pieces(text: str, expected: list[str], size: int) -> None:
    """Pieces end at punctuation of any language; none is empty, nothing speakable is lost."""
    assert spoken(text, size) == expected


def test_long_clause_is_cut_at_a_space() -> None:
    """A clause without punctuation does not keep the speaker waiting."""
    words = ' '.join(['word'] * 60)
    pieces = spoken(words, 7)
    assert len(pieces) > 2
    assert ' '.join(pieces) == words

"""Text to speak is cut where a speaker would breathe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        # Punctuation of any language, with or without white space behind it.
        (
            '好的,我看看.左边是3.5米,不是10：30。',
            ['好的,', '我看看.', '左边是3.5米,', '不是10：30。'],
        ),
        ('真的？！“是的。”他说……好', ['真的？', '“是的。', '他说…', '好']),
        ('这是 cat，那是 a dog. 对吗?对', ['这是 cat，', '那是 a dog.', '对吗?', '对']),
        ('هل هذا؟ نعم، هذا', ['هل هذا؟', 'نعم،', 'هذا']),
        ('यह है। वह', ['यह है।', 'वह']),
        ('A cat — black — sleeps', ['A cat —', 'black —', 'sleeps']),
        ('He said "Stop." Then he left', ['He said "Stop."', 'Then he left']),
        # Numbers, abbreviations and lists.
        ('No. That is Fig. 2 of the U.S. map', ['No.', 'That is Fig. 2 of the U.S. map']),
        ('１，０００ 和 3、4', ['１，０００ 和 3、4']),
        ('1. A cat.\n2. A dog', ['1. A cat.', '2. A dog']),
        ('1、猫\n2、狗', ['1、猫', '2、狗']),
        ('It is -3.5 °C, i.e. cold (e.g. 2 * 3)', ['It is -3.5 °C,', 'i.e. cold (e.g. 2 * 3)']),
        ('See https://a.b/c?d=e,f for more', ['See https://a.b/c?d=e,f for more']),
        # Code, Markdown and emoji.
        ('Run:\n```python\nprint(1)\n\n```\nDone. 🎉', ['Run:', 'Done.']),
        ('```\nnever closed. At all', []),
        ('~~~\nx\n~~~\ny', ['y']),
        ('```a``` and ``b``', ['a and b']),
        ('## Title\n> *quoted*, __bold__\n---\n* item', ['Title', 'quoted,', 'bold', 'item']),
        ('| a | b |\n|---|---|\n| 1 | 2 |', ['a b', '1 2']),
        ('The [sky](http://a.b) is ![blue](c.png).', ['The sky is blue.']),
        ('A 👩‍🚀 and a 👍🏽 1️⃣ ❤️!', ['A and a 1 !']),
    ],
)
def test_pieces(text: str, expected: list[str], size: int) -> None:
    """Pieces end at punctuation of any language; none is empty, nothing speakable is lost."""
    assert spoken(text, size) == expected


@pytest.mark.parametrize(('word', 'space'), [('word', ' '), ('词语', ''), ('x' * 500, ' ')])
def test_long_clause(word: str, space: str) -> None:
    """A clause without punctuation does not keep the speaker waiting, and words stay whole."""
    text = space.join([word] * 60)
    pieces = spoken(text, 7)
    assert len(pieces) > 2
    assert ''.join(pieces).replace(' ', '') == text.replace(' ', '')
    assert max(map(len, pieces)) <= 80
    if word == 'word':
        assert ' '.join(pieces) == text


def test_first_clause_is_not_waited_for() -> None:
    """A full-width mark ends its clause at once, whatever may come."""
    assert SpeechSegmenter().feed('左边是圆形，') == ['左边是圆形，']


answers = st.text(st.sampled_from('ab3Z猫３é \n.,!?:;。，：、…—"”)*_-#>|😀1')) | st.text()


@given(text=answers | st.text(st.sampled_from('`~ab\n .。')), cuts=st.lists(st.integers(0, 99)))
def test_pieces_do_not_hang_on_the_stream(text: str, cuts: list[int]) -> None:
    """However the answer comes in pieces, the same is spoken, and never nothing."""
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    segmenter = SpeechSegmenter()
    parts = [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    pieces = [piece for part in parts for piece in segmenter.feed(part)] + segmenter.finish()
    assert pieces == spoken(text, 1)
    assert all(any(map(str.isalnum, piece)) for piece in pieces)


@given(text=answers.filter(lambda text: not set('`~[') & set(text)))
def test_nothing_speakable_is_lost(text: str) -> None:
    """Every letter and digit outside of code is spoken, in order."""
    said = ''.join(spoken(text, 5))
    assert letters(said) == letters(text)


def letters(text: str) -> str:
    # Some pictograms, ❶ for one, count as digits for Python.
    return ''.join(c for c in text if c.isalnum() and not '\u2500' <= c <= '\u27bf' and c < '🀀')

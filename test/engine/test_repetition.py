"""A sentence already said in an answer ends it, and is never shown in part."""

import pytest

from hobot_llamacpp_py.engine.repetition import RepetitionGuard


def run(text: str, size: int) -> tuple[str, list[str], bool]:
    """Feed a text in pieces of some characters; return what was shown."""
    guard, shown = RepetitionGuard(), []
    for i in range(0, len(text), size):
        shown.append(guard.feed(text[i : i + size]))
        if guard.repeated:
            break
    shown.append(guard.finish())
    return ''.join(shown), [piece for piece in shown if piece], guard.repeated


@pytest.mark.parametrize('size', [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('There is a cat. There is a dog. There is a cat. And', 'There is a cat. There is a dog.'),
        ('有一只猫。有一只狗。有一只猫。还有', '有一只猫。有一只狗。'),
        ('No. No. No. No.', 'No.'),
        ('It is red! It is red!', 'It is red!'),
        ('It is red. It is red', 'It is red.'),
        ('a red cat\na blue dog\na blue dog\na', 'a red cat\na blue dog'),
        ('It is red. It is red. There', 'It is red.'),
        ('The answer is 5. The answer is 5. The', 'The answer is 5.'),
    ],
)
def test_ends_at_a_repetition(text: str, expected: str, size: int) -> None:
    """The repeated sentence is not shown, whatever pieces the text comes in."""
    shown, _, repeated = run(text, size)
    assert shown == expected
    assert repeated


@pytest.mark.parametrize('size', [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    'text',
    [
        'There is a cat. There is a caterpillar. There is a cab.',
        'It is 3.5 m. It is 3.6 m. That is all',
        'red\nblue\nred\nblue',
        '1. red\n2. blue\n3. red',
        '1. A person.\n2. A person.\n3. A dog.',
        '[{"shape": "circle",\n "color": "red"},\n {"shape": "star",\n "color": "red"}]',
        '颜色\n红色\n形状\n圆形\n颜色\n红色',
        'One.\n\nTwo.\nThree: "four." Five',
        '一。二。三。一二。',
    ],
)
def test_passes_everything_else(text: str, size: int) -> None:
    """A text without a repeated sentence comes out as it went in."""
    shown, _, repeated = run(text, size)
    assert shown == text
    assert not repeated


def test_streams() -> None:
    """Text is passed on at once, not at the end of its sentence."""
    _, pieces, _ = run('There is a red circle.', 6)
    assert pieces == ['There', ' is a', ' red c', 'ircle.'] or len(pieces) >= 3


def test_no_white_space_around() -> None:
    """An answer neither begins nor ends with white space, and no piece is only withheld."""
    shown, _, _ = run('  \n It is red.  \n', 1)
    assert shown == 'It is red.'

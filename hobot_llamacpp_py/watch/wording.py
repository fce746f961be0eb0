"""How a standing question is put to the model, and in which words it may answer."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['YES_NO', 'instruction', 'is_chinese', 'worded']

YES_NO = {False: ('Yes', 'No'), True: ('是', '否')}
"""The answers to a question of yes or no, by whether it is Chinese."""

_INSTRUCTIONS = {
    ('yes_no', False): 'Answer yes or no.',
    ('yes_no', True): '请回答是或否。',
    ('choice', False): 'Answer with one of: {}.',
    ('choice', True): '请从中选择：{}。',
    ('integer', False): 'Answer with a number.',
    ('integer', True): '请用数字回答。',
}


def is_chinese(text: str) -> bool:
    """Tell whether a text has Chinese characters, and none of Japanese or Korean."""
    others = any('\u3040' <= c <= '\u30ff' or '\uac00' <= c <= '\ud7a3' for c in text)
    return not others and any('\u4e00' <= c <= '\u9fff' for c in text)


def instruction(kind: str, question: str, answers: Sequence[str] = ()) -> str:
    """Return the sentence that tells the model to answer in one of the permitted words.

    Args:
        kind: `yes_no`, `choice`, `integer` or `text`, for which there is none.
        answers: those that a choice has.
    """
    chinese = is_chinese(question)
    return _INSTRUCTIONS.get((kind, chinese), '').format(('、' if chinese else ', ').join(answers))


def worded(question: str, told: str) -> str:
    """Join a question and its instruction."""
    space = '' if not told or is_chinese(question) else ' '
    return f'{question}{space}{told}'

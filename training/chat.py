"""The little text chat of the nano models: a few facts, and sums of small numbers."""

from __future__ import annotations

__all__ = ['ADDITION_LIMIT', 'DEFAULT_SYSTEM', 'FACTS', 'NO_IMAGE', 'facts']

DEFAULT_SYSTEM = 'You are a helpful assistant.'
ADDITION_LIMIT = 9
"""Sums and differences of the numbers 0 to this."""

FACTS = {
    'en': (
        (('Hello!', 'Hello', 'Hi', 'Hi!', 'hello'), 'Hello! How can I help you?'),
        (
            ('Who are you?', 'What are you?', 'What is your name?'),
            'I am a nano vision language model.',
        ),
        (('Thank you.', 'Thank you!', 'Thanks', 'Thanks!'), 'You are welcome.'),
        (('What can you do?',), 'I can name the shapes in a picture.'),
        (('What is the capital of France?',), 'The capital of France is Paris.'),
        (('What is the capital of China?',), 'The capital of China is Beijing.'),
        (('What is the capital of Japan?',), 'The capital of Japan is Tokyo.'),
        (('What color is the sky?', 'What colour is the sky?'), 'The sky is blue.'),
        (('What color is grass?', 'What colour is grass?'), 'Grass is green.'),
        (
            ('How many days are in a week?', 'How many days are there in a week?'),
            'There are seven days in a week.',
        ),
        (('How many sides does a triangle have?',), 'A triangle has three sides.'),
        (('How many sides does a square have?',), 'A square has four sides.'),
    ),
    'zh': (
        (('你好', '你好！', '你好。', '你好，'), '你好！有什么可以帮你？'),
        (('你是谁？', '你是谁', '你叫什么名字？'), '我是一个小小的视觉语言模型。'),
        (('谢谢', '谢谢！', '谢谢。', '谢谢你！'), '不客气。'),
        (('你能做什么？', '你会做什么？'), '我能说出图片里的图形。'),
        (('法国的首都是哪里？', '法国的首都是什么？'), '法国的首都是巴黎。'),
        (('中国的首都是哪里？', '中国的首都是什么？'), '中国的首都是北京。'),
        (('日本的首都是哪里？', '日本的首都是什么？'), '日本的首都是东京。'),
        (('天空是什么颜色？', '天空是什么颜色的？'), '天空是蓝色。'),
        (('草是什么颜色？', '草是什么颜色的？'), '草是绿色。'),
        (('一周有几天？', '一个星期有几天？'), '一周有七天。'),
        (('三角形有几条边？',), '三角形有三条边。'),
        (('正方形有几条边？',), '正方形有四条边。'),
    ),
}
NO_IMAGE = {'en': 'I have no picture.', 'zh': '我没有图片。'}
"""What is answered to a question about a picture where there is none."""


def facts(language: str) -> list[tuple[tuple[str, ...], str]]:
    """Return every text-only question, in all its wordings, and its answer."""
    known = list(FACTS[language])
    for a in range(ADDITION_LIMIT + 1):
        for b in range(ADDITION_LIMIT + 1):
            if language == 'en':
                known.append(
                    (
                        (f'What is {a} plus {b}?', f'What is {a} + {b}?'),
                        f'{a} plus {b} is {a + b}.',
                    )
                )
                if a >= b:
                    known.append(
                        (
                            (f'What is {a} minus {b}?', f'What is {a} - {b}?'),
                            f'{a} minus {b} is {a - b}.',
                        )
                    )
            else:
                known.append(((f'{a}加{b}等于几？', f'{a}+{b}等于几？'), f'{a}加{b}等于{a + b}。'))
                if a >= b:
                    known.append(
                        ((f'{a}减{b}等于几？', f'{a}-{b}等于几？'), f'{a}减{b}等于{a - b}。')
                    )
    return known

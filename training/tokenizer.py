"""The byte-pair tokenizer of the nano models, equal to llama.cpp's `gpt2` with `pre=qwen2`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from training import world

__all__ = ['FAMILIES', 'SPECIAL_TOKENS', 'Tokenizer']

FAMILIES = ('internvl', 'smolvlm')

# The last one is USER_DEFINED, the others are CONTROL. It is never trained: it is there so that
# a test can prove that a user's text does not become a special token.
SPECIAL_TOKENS = {
    'internvl': ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<img>', '</img>', '<|custom|>'),
    'smolvlm': (
        *('<|endoftext|>', '<|im_start|>', '<end_of_utterance>'),
        *('<fake_token_around_image>', '<global-img>', '<|custom|>'),
    ),
}
END_OF_ANSWER = {'internvl': '<|im_end|>', 'smolvlm': '<end_of_utterance>'}

# Qwen2's split, as in llama.cpp.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_MOST_TOKENS = 704  # the corpus has words for about 590

_CHINESE_EXTRA = (
    '一个 两个 三个 几个 多少 图形 图片 有 的 是 在 什么 颜色 哪里 哪儿 位置 描述 '
    '一下 这张 请 图中 没有 里 你 看到 了 一共 个 ， 。 ？ 加 减 等于 几'
)
# Chinese has no spaces: given whole sentences, BPE would learn whole sentences.
_CHINESE_WORDS = (
    *world.KIND_WORDS['zh'].values(),
    *world.COLOR_WORDS['zh'].values(),
    *world.PLACE_WORDS['zh'].values(),
    *_CHINESE_EXTRA.split(),
)
_ENGLISH_EXTRA = (
    'system\nYou are a helpful assistant.',
    'user\nWhat is the',
    'assistant\nThere is',
    'System: You are a helpful assistant.',
    '\nUser: What is the',
    '\nAssistant: The',
    'The square is',
    'What is one plus two? One plus two is three.',
    'minus',
)


def _corpus() -> Iterable[str]:
    shapes = [
        world.Shape(kind, color, place)
        for kind, color, place in zip(
            world.KINDS * 6, world.COLORS * 4, world.PLACES * 5, strict=False
        )
    ]
    for _ in range(4):
        for shape in shapes:
            scene = world.Scene((shape,))
            yield world.describe(scene, 'en').text
            for question in world.all_questions('en'):
                yield question.text
                yield ' ' + question.answer(scene).text
    for _ in range(40):
        yield from (
            phrase.format('circle')
            for key, phrases in world.PHRASES.items()
            if key[1] == 'en'
            for phrase in phrases
        )
        yield from _ENGLISH_EXTRA
        yield ' two three shapes. and an orange square, a'
    for _ in range(400):
        yield from _CHINESE_WORDS


class Tokenizer:
    """Encodes plain text; special tokens are looked up by name only."""

    def __init__(self, family: str) -> None:
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(_SPLIT), 'isolated'),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        bpe.train_from_iterator(
            _corpus(),
            trainers.BpeTrainer(
                vocab_size=_MOST_TOKENS,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        self.family = family
        self._bpe = bpe
        self.plain_tokens: list[str] = [
            token for token, _ in sorted(bpe.get_vocab().items(), key=lambda item: item[1])
        ]
        self.special_tokens = SPECIAL_TOKENS[family]
        merges = json.loads(bpe.to_str())['model']['merges']
        self.merges = [merge if isinstance(merge, str) else ' '.join(merge) for merge in merges]
        self.end_of_answer = self.special(END_OF_ANSWER[family])

    def __len__(self) -> int:
        return len(self.plain_tokens) + len(self.special_tokens)

    def special(self, text: str) -> int:
        """Return the id of a special token."""
        return len(self.plain_tokens) + self.special_tokens.index(text)

    def special_id(self, text: str) -> int | None:
        """Return the id of a special token, or None (what prompt formats ask for)."""
        return self.special(text) if text in self.special_tokens else None

    @lru_cache(maxsize=200_000)  # noqa: B019 - one tokenizer lives as long as the process
    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenise plain text."""
        return tuple(self._bpe.encode(text).ids)

    @lru_cache(maxsize=200_000)  # noqa: B019
    def encode_with_offsets(
        self,
        text: str,
    ) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Tokenise plain text; also return the characters [start, stop) of each token."""
        encoding = self._bpe.encode(text)
        return tuple(encoding.ids), tuple(encoding.offsets)

    def word(self, text: str) -> int:
        """Return the id of a word that must be one token."""
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f'{text!r} is not one token: {ids}')
        return ids[0]

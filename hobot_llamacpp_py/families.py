"""The model families: what a vision-language model was trained with, one entry each.

Only the parameter `model_type` knows their numbers; elsewhere the object itself is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from hobot_llamacpp_py.errors import ModelFileError

__all__ = [
    'FAMILIES',
    'INTERNVL',
    'SMOLVLM2',
    'SPECIAL',
    'ModelFamily',
    'Projector',
    'PromptLayout',
    'check_vocabulary',
    'missing_tokens',
]

SPECIAL = re.compile(r'(<[^<>\s]+>)')
"""A special token in the text of a layout."""

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class PromptLayout:
    """The literal text around what is said; every `<…>` in it is a special token.

    Attributes:
        start: once, at the head of a prompt.
        system: before and after the system prompt.
        user: before a question without a picture.
        images: before and after a picture, which the question follows; of several forms the first
            one whose tokens the vocabulary has.
        assistant: between a question and its answer.
        end: after an answer.
    """

    start: str
    system: tuple[str, str]
    user: str
    images: tuple[tuple[str, str], ...]
    assistant: str
    end: str


@dataclass(frozen=True)
class Projector:
    """The family's part of an mmproj GGUF file.

    Attributes:
        name: in the file's metadata.
        matrix: the tensor that gives an image token its width.
        has_class_token: one position is that of a class token and not of a patch.
    """

    name: str
    matrix: str
    has_class_token: bool = False


@dataclass(frozen=True)
class ModelFamily:
    """Models that share preprocessing and prompt format.

    Attributes:
        number: the value of `model_type`.
        models: which ones those are.
        mean, std: of the RGB pixels (0 to 1) in training.
    """

    number: int
    name: str
    models: str
    mean: RGB
    std: RGB
    projector: Projector
    prompt: PromptLayout


INTERNVL = ModelFamily(
    number=0,
    name='InternVL',
    models='InternVL 2.5 / 3',
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    projector=Projector('internvl', 'mm.model.mlp.3.weight', has_class_token=True),
    prompt=PromptLayout(
        start='',
        system=('<|im_start|>system\n', '<|im_end|>\n'),
        user='<|im_start|>user\n',
        # As InternVL was trained, else as the C++ node has it for vocabularies of Qwen2.
        images=(
            ('<|im_start|>user\n<img>', '</img>\n'),
            ('<|im_start|>user\n<|vision_start|>', '<|vision_end|>'),
        ),
        assistant='<|im_end|>\n<|im_start|>assistant\n',
        end='<|im_end|>\n',
    ),
)
SMOLVLM2 = ModelFamily(
    number=1,
    name='SmolVLM2',
    models='SmolVLM2',
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    projector=Projector('idefics3', 'mm.model.fc.weight'),
    prompt=PromptLayout(
        start='<|im_start|>',
        system=('System: ', '<end_of_utterance>\n'),
        user='User: ',
        images=(('User:<fake_token_around_image><global-img>', '<fake_token_around_image>'),),
        assistant='<end_of_utterance>\nAssistant:',
        end='<end_of_utterance>\n',
    ),
)

FAMILIES: dict[int, ModelFamily] = {family.number: family for family in (INTERNVL, SMOLVLM2)}


def missing_tokens(family: ModelFamily, has: Callable[[str], bool]) -> str:
    """Return which special tokens of a family a vocabulary lacks, empty for none.

    Args:
        has: tells whether a special token is in the vocabulary.
    """
    layout = family.prompt
    texts = (layout.start, *layout.system, layout.user, layout.assistant, layout.end)
    missing = [token for text in texts for token in SPECIAL.findall(text) if not has(token)]
    lacking = [[t for t in SPECIAL.findall(''.join(form)) if not has(t)] for form in layout.images]
    if all(lacking):
        firsts = [next((t for t in form if t not in missing), form[0]) for form in lacking]
        missing.append(' or '.join(firsts))
    return ', '.join(dict.fromkeys(missing))


def check_vocabulary(family: ModelFamily, has: Callable[[str], bool]) -> None:
    """Check that a vocabulary has a family's special tokens.

    Args:
        has: tells whether a special token is in the vocabulary.

    Raises:
        ModelFileError: it lacks some; says whose it has.
    """
    if not (missing := missing_tokens(family, has)):
        return
    other = next((f.name for f in FAMILIES.values() if not missing_tokens(f, has)), '')
    article = 'an' if other[:1] in tuple('AEIOU') else 'a'
    hint = f'. It looks like {article} {other}' if other else ''
    raise ModelFileError(
        f'{family.name} does not fit this GGUF: its vocabulary has no {missing}{hint}',
        setting='family',
        value=other or None,
    )

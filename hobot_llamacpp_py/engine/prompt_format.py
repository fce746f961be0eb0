"""From a conversation to prompt parts: special tokens, plain text, images and earlier answers.

A prompt is a list of parts and not a string, because a string cannot say which `<|im_end|>` is
the format's and which one was typed by a user. Only a `Special` part ever becomes a special token.
Neighbouring plain text, the format's and the user's, is tokenised together, as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import jinja2
import jinja2.sandbox

from hobot_llamacpp_py.errors import ModelFileError, PromptError
from hobot_llamacpp_py.vision.picture import Picture

__all__ = [
    'ChatTemplateFormat',
    'Image',
    'InternVLFormat',
    'Part',
    'PromptFormat',
    'SmolVLMFormat',
    'Special',
    'Text',
    'Tokens',
    'Turn',
    'Vocabulary',
    'vlm_format',
]


@dataclass(frozen=True)
class Special:
    """One special token, named by its text in the vocabulary."""

    text: str


@dataclass(frozen=True)
class Text:
    """Plain text: whatever it contains, it never becomes a special token."""

    text: str


@dataclass(frozen=True)
class Image:
    """The place of a picture's embeddings."""

    picture: Picture


@dataclass(frozen=True)
class Tokens:
    """Token ids as they were generated: an earlier answer is never tokenised again."""

    ids: tuple[int, ...]


Part = Special | Text | Image | Tokens


@dataclass(frozen=True)
class Turn:
    """A question, the picture it came with (if any) and its answer (None: yet to be given)."""

    question: str
    image: Picture | None = None
    answer: tuple[int, ...] | None = None


class Vocabulary(Protocol):
    """What a prompt format must know of the decoder's vocabulary."""

    def special_id(self, text: str) -> int | None:
        """Return the id of the token with exactly this text, or None."""

    def split_special(self, text: str) -> list[Special | Text]:
        """Split a trusted text, such as a rendered template, at its special tokens."""


class PromptFormat(Protocol):
    """Renders a conversation for one family of models."""

    def render(self, system: str, turns: Sequence[Turn]) -> list[Part]:
        """Return the prompt's parts; the last turn has no answer and is asked for one."""


class InternVLFormat:
    """ChatML with the picture between `<img>` and `</img>`, else between Qwen's vision tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        has = vocabulary.special_id
        if has('<img>') is not None and has('</img>') is not None:
            self._before: list[Part] = [Special('<img>')]
            self._after: list[Part] = [Special('</img>'), Text('\n')]
        else:
            self._before, self._after = [Special('<|vision_start|>')], [Special('<|vision_end|>')]

    def render(self, system: str, turns: Sequence[Turn]) -> list[Part]:
        parts: list[Part] = []
        start, end = Special('<|im_start|>'), Special('<|im_end|>')
        if system:
            parts += [start, Text('system\n' + system), end, Text('\n')]
        for turn in turns:
            parts += [start, Text('user\n')]
            if turn.image is not None:
                parts += [*self._before, Image(turn.image), *self._after]
            parts += [Text(turn.question), end, Text('\n'), start, Text('assistant\n')]
            if turn.answer is not None:
                parts += [Tokens(turn.answer), end, Text('\n')]
        return list(merged(parts))


class SmolVLMFormat:
    """`User:` and `Assistant:` lines; the picture between two `<fake_token_around_image>`."""

    def render(self, system: str, turns: Sequence[Turn]) -> list[Part]:
        parts: list[Part] = [Special('<|im_start|>')]
        end, fake = Special('<end_of_utterance>'), Special('<fake_token_around_image>')
        if system:
            parts += [Text('System: ' + system), end, Text('\n')]
        for turn in turns:
            if turn.image is not None:
                parts += [Text('User:'), fake, Special('<global-img>'), Image(turn.image), fake]
            else:
                parts += [Text('User: ')]
            parts += [Text(turn.question), end, Text('\nAssistant:')]
            if turn.answer is not None:
                parts += [Tokens(turn.answer), end, Text('\n')]
        return list(merged(parts))


# Rendered where a GGUF has no chat template of its own.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ChatTemplateFormat:
    """Text chat through the GGUF's own Jinja chat template (ChatML where it has none).

    The template is rendered with a placeholder in the place of each content, then split at the
    placeholders: the template's own special tokens stay special, the contents never become any.
    """

    def __init__(
        self, vocabulary: Vocabulary, template: str | None, bos: str = '', eos: str = ''
    ) -> None:
        self._vocabulary = vocabulary
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=['jinja2.ext.loopcontrols']
        )
        environment.globals['raise_exception'] = _raise_template_error
        environment.globals['strftime_now'] = _strftime_now
        self._tokens = {'bos_token': bos, 'eos_token': eos}
        try:
            self._template = environment.from_string(template or CHATML)
        except jinja2.TemplateError as error:
            raise ModelFileError(
                f'the chat template of the GGUF cannot be read: {error}'
            ) from None

    def render(self, system: str, turns: Sequence[Turn]) -> list[Part]:
        contents: list[Part] = []

        def placeholder(part: Part) -> str:
            contents.append(part)
            return f'\ue000{len(contents) - 1}\ue001'

        messages = []
        if system:
            messages.append({'role': 'system', 'content': placeholder(Text(system))})
        for turn in turns:
            if turn.image is not None:
                raise PromptError('a text chat takes no pictures; start with feed_type 0 or 1')
            messages.append({'role': 'user', 'content': placeholder(Text(turn.question))})
            if turn.answer is not None:
                messages.append({'role': 'assistant', 'content': placeholder(Tokens(turn.answer))})
        rendered = self._render(messages)
        if any(rendered.count(f'\ue000{i}\ue001') != 1 for i in range(len(contents))):
            raise ModelFileError(
                'the chat template of the GGUF leaves out a part of the conversation'
            )
        parts: list[Part] = []
        for i, piece in enumerate(rendered.replace('\ue001', '\ue000').split('\ue000')):
            # Every second piece is the number of a placeholder.
            parts += [contents[int(piece)]] if i % 2 else self._vocabulary.split_special(piece)
        return list(merged(parts))

    def _render(self, messages: list[dict[str, str]]) -> str:
        def render(shown: list[dict[str, str]]) -> str:
            return self._template.render(
                messages=shown, add_generation_prompt=True, tools=None, **self._tokens
            )

        try:
            return render(messages)
        except jinja2.TemplateError as error:
            if messages[0]['role'] != 'system' or len(messages) < 2:
                raise ModelFileError(f'the chat template of the GGUF fails: {error}') from None
        # Some templates (Gemma's) know no system role: say it at the head of the first question.
        head, first, *rest = messages
        joined = {'role': 'user', 'content': head['content'] + '\n\n' + first['content']}
        try:
            return render([joined, *rest])
        except jinja2.TemplateError as error:
            raise ModelFileError(f'the chat template of the GGUF fails: {error}') from None


def vlm_format(model_type: int, vocabulary: Vocabulary) -> PromptFormat:
    """Return the prompt format of a `model_type`, having checked it against the vocabulary."""
    if model_type not in (0, 1):
        raise ModelFileError(f'there is no model_type {model_type}: 0 is InternVL, 1 is SmolVLM2')
    chatml = vocabulary.special_id('<|im_start|>') is not None and any(
        vocabulary.special_id(token) is not None for token in ('<img>', '<|vision_start|>')
    )
    smolvlm = all(
        vocabulary.special_id(token) is not None
        for token in ('<fake_token_around_image>', '<global-img>', '<end_of_utterance>')
    )
    if model_type == 0 and not chatml:
        hint = ' It looks like a SmolVLM2: set model_type:=1.' if smolvlm else ''
        raise ModelFileError(
            'model_type 0 (InternVL) does not fit this GGUF: its vocabulary has neither <img> nor'
            f' <|vision_start|>.{hint}'
        )
    if model_type == 1 and not smolvlm:
        hint = ' It looks like an InternVL: set model_type:=0.' if chatml else ''
        raise ModelFileError(
            'model_type 1 (SmolVLM2) does not fit this GGUF: its vocabulary has no'
            f' <fake_token_around_image>.{hint}'
        )
    return InternVLFormat(vocabulary) if model_type == 0 else SmolVLMFormat()


def merged(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring plain texts and drop empty ones."""
    text = ''
    for part in parts:
        if isinstance(part, Text):
            text += part.text
            continue
        if text:
            yield Text(text)
            text = ''
        yield part
    if text:
        yield Text(text)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(format)

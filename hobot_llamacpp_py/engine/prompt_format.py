"""From a conversation to prompt parts: special tokens, plain text, images and earlier answers.

A prompt is a list of parts and not a string, because a string cannot say which `<|im_end|>` is
the format's and which one was typed by a user. Only a `Special` part ever becomes a special token.
Neighbouring plain text, the format's and the user's, is tokenised together, as in training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from hobot_llamacpp_py.config import Thinking
from hobot_llamacpp_py.engine.thoughts import ThoughtFormat, thought_format
from hobot_llamacpp_py.errors import ModelFileError, PromptError
from hobot_llamacpp_py.vision.picture import Picture

__all__ = [
    'ChatTemplateFormat',
    'Image',
    'InThought',
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


@dataclass(frozen=True)
class InThought:
    """The end of a prompt that has opened a thought, which the model goes on with."""


Part = Special | Text | Image | Tokens | InThought


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

    thoughts: ThoughtFormat | None
    """How the model marks its thoughts, if it thinks aloud."""

    def render(
        self, system: str, turns: Sequence[Turn], thinking: Thinking = 'auto'
    ) -> list[Part]:
        """Return the prompt's parts; the last turn has no answer and is asked for one."""


class InternVLFormat:
    """ChatML with the picture between `<img>` and `</img>`, else between Qwen's vision tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.thoughts = thought_format(vocabulary)
        self._vocabulary = vocabulary
        has = vocabulary.special_id
        if has('<img>') is not None and has('</img>') is not None:
            self._before: list[Part] = [Special('<img>')]
            self._after: list[Part] = [Special('</img>'), Text('\n')]
        else:
            self._before, self._after = [Special('<|vision_start|>')], [Special('<|vision_end|>')]

    def render(
        self, system: str, turns: Sequence[Turn], thinking: Thinking = 'auto'
    ) -> list[Part]:
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
        parts += _begin_answer('', self.thoughts, thinking, self._vocabulary)
        return list(merged(parts))


class SmolVLMFormat:
    """`User:` and `Assistant:` lines; the picture between two `<fake_token_around_image>`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.thoughts = thought_format(vocabulary)
        self._vocabulary = vocabulary

    def render(
        self, system: str, turns: Sequence[Turn], thinking: Thinking = 'auto'
    ) -> list[Part]:
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
        parts += _begin_answer('', self.thoughts, thinking, self._vocabulary)
        return list(merged(parts))


def _begin_answer(
    tail: str,
    thoughts: ThoughtFormat | None,
    thinking: Thinking,
    vocabulary: Vocabulary,
    is_told: bool = False,
) -> list[Part]:
    """Return what has to follow the end of a prompt: the end of a thought, or word of one.

    Args:
        tail: the end of the prompt, as far as it is the format's own.
        is_told: the prompt was made by a template that knows whether to have the model think.
    """
    if thoughts is None:
        return []
    if thinking == 'off' and (not is_told or thoughts.is_open(tail)):
        return [*vocabulary.split_special(thoughts.closing(tail))]
    return [InThought()] if thoughts.is_open(tail) else []


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
        source = template or CHATML
        self.thoughts = thought_format(vocabulary, source)
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=['jinja2.ext.loopcontrols', _Generation],
        )
        environment.globals['raise_exception'] = _raise_template_error
        environment.globals['strftime_now'] = _strftime_now
        environment.filters['tojson'] = _to_json
        self._variables: dict[str, object] = {'bos_token': bos, 'eos_token': eos}
        self._variables |= {'tools': None, 'documents': None}  # as transformers has it
        # Templates for tools only count them, add them up and loop over them.
        self._for_tools: dict[str, object] = {'tools': [], 'documents': [], 'functions': ''}
        self._for_tools['datetime'] = _strftime_now('%Y-%m-%d %H:%M')
        try:
            self._template = environment.from_string(source)
            variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except Exception as error:  # a damaged template may raise anything
            raise ModelFileError(
                f'the chat template of the GGUF cannot be read: {_one_line(error)}'
            ) from None
        self._switches = variables & {'enable_thinking', 'thinking'}

    def check(self) -> None:
        """Render two conversations, so that a template that cannot be used is told at once.

        Raises:
            ModelFileError: the template fails, or leaves out a part of the conversation.
        """
        asked = Turn('a question')
        self.render('a system prompt', [asked])
        self.render('', [replace(asked, answer=()), asked])

    def render(
        self, system: str, turns: Sequence[Turn], thinking: Thinking = 'auto'
    ) -> list[Part]:
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
        switches = {} if thinking == 'auto' else dict.fromkeys(self._switches, thinking == 'on')
        rendered = self._render(messages, switches)
        if any(rendered.count(f'\ue000{i}\ue001') != 1 for i in range(len(contents))):
            raise ModelFileError(
                'the chat template of the GGUF leaves out a part of the conversation'
            )
        parts: list[Part] = []
        for i, piece in enumerate(rendered.replace('\ue001', '\ue000').split('\ue000')):
            # Every second piece is the number of a placeholder.
            parts += [contents[int(piece)]] if i % 2 else self._vocabulary.split_special(piece)
        tail = rendered.rpartition('\ue001')[2]
        is_told = bool(self._switches)
        parts += _begin_answer(tail, self.thoughts, thinking, self._vocabulary, is_told)
        return list(merged(parts))

    def _render(self, messages: list[dict[str, str]], switches: dict[str, bool]) -> str:
        conversations = [messages]
        if messages[0]['role'] == 'system' and len(messages) > 1:
            # Some templates (Gemma's) know no system role: say it before the first question.
            head, first, *rest = messages
            joined = {'role': 'user', 'content': head['content'] + '\n\n' + first['content']}
            conversations.append([joined, *rest])
        failure: Exception | None = None
        for variables in (self._variables, self._variables | self._for_tools):
            for conversation in conversations:
                try:
                    rendered = self._template.render(
                        messages=conversation, add_generation_prompt=True, **variables, **switches
                    )
                except Exception as error:  # what a template does to values may raise anything
                    failure = failure or error
                else:
                    self._variables = variables
                    return rendered
        assert failure is not None
        raise ModelFileError(
            f'the chat template of the GGUF cannot be used, it fails: {_one_line(failure)}'
        ) from None


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
    return InternVLFormat(vocabulary) if model_type == 0 else SmolVLMFormat(vocabulary)


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


class _Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`, which marks answers for training: here its body is all of it."""

    tags = {'generation'}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Return what stands between the tag and its end."""
        next(parser.stream)
        return parser.parse_statements(('name:endgeneration',), drop_needle=True)


def _one_line(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return text if isinstance(error, jinja2.TemplateError) else f'{type(error).__name__}: {text}'


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    """Write JSON as transformers does: text stays what it is, also for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(format)

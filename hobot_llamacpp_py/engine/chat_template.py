"""Text chat through the chat template that comes with a GGUF, written in Jinja."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from hobot_llamacpp_py.config import Switch
from hobot_llamacpp_py.engine.prompt_format import (
    Part,
    Text,
    Tokens,
    Vocabulary,
    begin_answer,
    merged,
)
from hobot_llamacpp_py.engine.request import Turn
from hobot_llamacpp_py.engine.thoughts import thought_format
from hobot_llamacpp_py.errors import ModelFileError, PromptError

__all__ = ['ChatTemplateFormat']

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
        environment.filters.setdefault('items', _items)  # Ubuntu 22.04's Jinja has none yet
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

    def render(self, system: str, turns: Sequence[Turn], thinking: Switch = 'auto') -> list[Part]:
        contents: list[Part] = []

        def placeholder(part: Part) -> str:
            contents.append(part)
            return f'\ue000{len(contents) - 1}\ue001'

        messages = []
        if system:
            messages.append({'role': 'system', 'content': placeholder(Text(system))})
        for turn in turns:
            if turn.image is not None:
                raise PromptError('a text chat takes no pictures')
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
        parts += begin_answer(tail, self.thoughts, thinking, self._vocabulary, is_told)
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


def _items(value: Mapping[str, object] | jinja2.Undefined) -> list[tuple[str, object]]:
    return [] if isinstance(value, jinja2.Undefined) else list(value.items())


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(format)

"""A request of OpenAI's chat completions: checked, and nothing left of JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hobot_llamacpp_py.config import ChatConfig, Constraint
from hobot_llamacpp_py.engine import json_schema
from hobot_llamacpp_py.errors import ConstraintError
from hobot_llamacpp_py.web.http_error import HttpError

__all__ = ['CAMERA', 'ChatRequest', 'Message']

CAMERA = 'camera:'
"""The `image_url` of the newest frame."""
MOST_STOPS, LONGEST_STOP = 4, 200
# What the protocol has and we do not: the value that does no harm.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    'tools': ([],),
    'tool_choice': ('none', 'auto'),
    'functions': ([],),
    'function_call': ('none',),
    'n': (1,),
    'audio': (),
    'modalities': (['text'],),
    'logprobs': (False,),
    'top_logprobs': (0,),
    'logit_bias': ({},),
    'frequency_penalty': (0,),
    'presence_penalty': (0,),
    'prediction': (),
    'web_search_options': (),
}


@dataclass(frozen=True)
class Message:
    """What one side said; `picture` is CAMERA, a data URL or empty."""

    role: Literal['user', 'assistant']
    text: str
    picture: str = ''


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that ends with a question, and how it is to be answered.

    Attributes:
        system: the system prompt; None: the default one.
        changes: fields of ChatConfig and of its SamplingConfig that the request sets.
        stops: texts that end an answer and do not belong to it.
        usage: tell what it cost at the end of a stream.
    """

    system: str | None
    messages: tuple[Message, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    constraint: Constraint | None = None
    stops: tuple[str, ...] = ()
    stream: bool = False
    usage: bool = False

    @classmethod
    def of(cls, body: Any) -> ChatRequest:
        """Read a request's JSON.

        Raises:
            HttpError: something is wrong with it or not supported; names it.
        """
        if not isinstance(body, dict):
            raise HttpError(400, 'the body must be a JSON object')
        for name, harmless in _UNSUPPORTED.items():
            if body.get(name) is not None and body[name] not in harmless:
                raise HttpError(400, f'{name} is not supported here', param=name)
        system, messages = _messages(body.get('messages'))
        options = body.get('stream_options') or {}
        return cls(
            system=system,
            messages=messages,
            changes=_changes(body),
            constraint=_constraint(body.get('response_format')),
            stops=_stops(body.get('stop')),
            stream=_flag(body, 'stream'),
            usage=isinstance(options, dict) and _flag(options, 'include_usage'),
        )

    def config(self, defaults: ChatConfig) -> ChatConfig:
        """Return how to answer it, where `defaults` counts for what it does not say."""
        fields = {field.name for field in dataclasses.fields(defaults.sampling)}
        sampling = {name: value for name, value in self.changes.items() if name in fields}
        chat = {name: value for name, value in self.changes.items() if name not in fields}
        if self.system is not None:
            chat['system_prompt'] = self.system
        if self.constraint:
            sampling['constraint'] = self.constraint
        return dataclasses.replace(
            defaults,
            **chat,
            history_turns=-1,  # the client says what belongs to the conversation
            sampling=dataclasses.replace(defaults.sampling, **sampling),
        )


def _messages(value: Any) -> tuple[str | None, tuple[Message, ...]]:
    if not isinstance(value, list) or not value:
        raise HttpError(400, 'messages must be a list with a message', param='messages')
    systems: list[str] = []
    messages: list[Message] = []
    for i, entry in enumerate(value):
        where = f'messages[{i}]'
        if not isinstance(entry, dict):
            raise HttpError(400, f'{where} must be an object', param=where)
        role = entry.get('role')
        if role not in ('system', 'developer', 'user', 'assistant'):
            raise HttpError(400, f'{where}.role {role!r} is not supported here', param=where)
        text, picture = _content(entry.get('content'), f'{where}.content')
        if role in ('system', 'developer'):
            systems.append(text)
        elif role == 'assistant':
            if not messages or messages[-1].role == 'assistant':
                raise HttpError(400, f'{where}: an answer must follow a question', param=where)
            messages.append(Message('assistant', text))
        elif messages and messages[-1].role == 'user':
            messages[-1] = _joined(messages[-1], text, picture, where)
        else:
            messages.append(Message('user', text, picture))
    if not messages or messages[-1].role != 'user':
        raise HttpError(400, 'the last message must be a question (role user)', param='messages')
    return ('\n'.join(systems) if systems else None), tuple(messages)


def _joined(message: Message, text: str, picture: str, where: str) -> Message:
    if picture and message.picture:
        raise HttpError(400, f'{where}: one picture a question, and there are two', param=where)
    both = '\n'.join(part for part in (message.text, text) if part)
    return Message('user', both, message.picture or picture)


def _content(value: Any, where: str) -> tuple[str, str]:
    """Return text and picture of a message's content."""
    if value is None:
        return '', ''
    if isinstance(value, str):
        return value, ''
    if not isinstance(value, list):
        raise HttpError(400, f'{where} must be a text or a list of parts', param=where)
    texts, pictures = [], []
    for i, part in enumerate(value):
        kind = part.get('type') if isinstance(part, dict) else None
        if kind == 'text' and isinstance(part.get('text'), str):
            texts.append(part['text'])
        elif kind == 'image_url':
            url = part.get('image_url')
            url = url.get('url') if isinstance(url, dict) else url
            pictures.append(_picture_url(url, f'{where}[{i}]'))
        else:
            raise HttpError(
                400, f'{where}[{i}] of type {kind!r} is not supported here', param=where
            )
    if len(pictures) > 1:
        raise HttpError(400, f'{where}: one picture a question, and there are more', param=where)
    return '\n'.join(texts), pictures[0] if pictures else ''


def _picture_url(url: Any, where: str) -> str:
    if isinstance(url, str) and (url == CAMERA or url.startswith('data:')):
        return url
    raise HttpError(
        400,
        f'{where}: a picture must be a data URL (data:image/jpeg;base64,...) or {CAMERA} for what'
        ' the robot sees now; no address is fetched',
        param=where,
    )


def _changes(body: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for name, low, high, kind in (
        ('temperature', 0, 100, float),
        ('top_p', 0, 1, float),
        ('min_p', 0, 1, float),
        ('top_k', 0, 2**31 - 1, int),
        ('seed', -(2**63), 2**63, int),
        ('max_tokens', 1, 2**31 - 1, int),
        ('max_completion_tokens', 1, 2**31 - 1, int),
    ):
        if body.get(name) is not None:
            changes[name] = _number(body[name], name, low, high, kind)
    if 'max_completion_tokens' in changes:
        changes['max_tokens'] = changes.pop('max_completion_tokens')
    if 'seed' in changes and changes['seed'] >= 0:
        changes['seed'] %= 2**32  # llama.cpp's are of 32 bits
    elif 'seed' in changes:
        changes['seed'] = -1
    if body.get('reasoning_effort') in ('none', 'minimal'):
        changes['thinking'] = 'off'
    template = body.get('chat_template_kwargs')  # as vLLM, SGLang and llama-server have it
    if isinstance(template, dict) and isinstance(template.get('enable_thinking'), bool):
        changes['thinking'] = 'on' if template['enable_thinking'] else 'off'
    return changes


def _number(value: Any, name: str, low: float, high: float, kind: type) -> int | float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_finite = is_number and (isinstance(value, int) or math.isfinite(value))
    if not is_finite or (kind is int and int(value) != value):
        what = 'a whole number' if kind is int else 'a number'
        raise HttpError(400, f'{name} must be {what}', param=name)
    if not low <= value <= high:
        raise HttpError(400, f'{name} must be {low} to {high}', param=name)
    number: int | float = kind(value)
    return number


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise HttpError(400, f'{name} must be true or false', param=name)
    return bool(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise HttpError(400, f'stop must be a text or at most {MOST_STOPS} of them', param='stop')
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= LONGEST_STOP:
            raise HttpError(
                400, f'a stop must be a text of 1 to {LONGEST_STOP} characters', param='stop'
            )
    return tuple(stops)


def _constraint(value: Any) -> Constraint | None:
    if value is None:
        return None
    kind = value.get('type') if isinstance(value, dict) else None
    if kind == 'text':
        return None
    if kind == 'json_object':
        return json_schema({'type': 'object', 'additionalProperties': True})
    if kind != 'json_schema':
        raise HttpError(
            400, 'response_format.type must be text, json_object or json_schema', param='type'
        )
    wrapped = value.get('json_schema')
    schema = wrapped.get('schema') if isinstance(wrapped, dict) else None
    if not isinstance(schema, (dict, bool)):
        raise HttpError(
            400, 'response_format.json_schema.schema must be a JSON Schema', param='json_schema'
        )
    try:
        return json_schema(json.dumps(schema))
    except ConstraintError as error:
        raise HttpError(400, str(error), param='response_format') from None

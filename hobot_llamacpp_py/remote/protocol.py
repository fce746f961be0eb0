"""A request in the words of OpenAI's protocol, and the server's address."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from hobot_llamacpp_py.config import ChatConfig, Constraint, SamplingConfig
from hobot_llamacpp_py.engine.request import Request, Turn
from hobot_llamacpp_py.errors import ConstraintError, RemoteError
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['base_url', 'body_of', 'response_format']

# What most servers know beside OpenAI's own, each under all its names. Sent where it was set to
# something else than usual only: OpenAI's servers refuse what they do not know.
_EXTRAS = {
    'top_k': ('top_k',),
    'min_p': ('min_p',),
    'repeat_penalty': ('repeat_penalty', 'repetition_penalty'),
}


def base_url(address: str) -> str:
    """Return a server's address as the endpoints' names follow it; without a path it is /v1.

    Raises:
        RemoteError: it is none, or holds what does not belong there.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise RemoteError(f'{address} is no address of a server: {error}') from None
    if '@' in parts.netloc:  # not to be told to the log
        raise RemoteError(
            f'the address of {host} holds a name or a token: that belongs into $OPENAI_API_KEY'
        )
    if not host or parts.query or parts.fragment:
        raise RemoteError(f'{address} is no address of a server such as http://host:8000/v1')
    return f'{parts.scheme}://{parts.netloc}{parts.path.rstrip("/") or "/v1"}'


def response_format(constraint: Constraint) -> dict[str, Any]:
    """Return what makes a server's answers follow a constraint.

    Raises:
        ConstraintError: servers cannot.
    """
    if constraint.kind != 'json_schema':
        raise ConstraintError(
            "grammar: OpenAI's protocol has no grammars, a server answers in free text or by a"
            ' json_schema'
        )
    schema = json.loads(constraint.given)
    wrapped = {'name': 'answer', 'schema': schema, 'strict': True}
    return {'type': 'json_schema', 'json_schema': wrapped}


def body_of(request: Request, model: str, url_of: Callable[[Picture], str]) -> dict[str, Any]:
    """Return the arguments of a chat completion.

    Args:
        url_of: returns a picture as a data URL.

    Raises:
        ConstraintError: servers cannot answer like that.
    """
    config, sampling = request.config, request.config.sampling
    messages = [{'role': 'system', 'content': config.system_prompt}]
    for turn in request.turns:
        messages += _messages(turn, url_of)
    body: dict[str, Any] = {
        'model': model,
        'messages': messages if config.system_prompt else messages[1:],
        'max_tokens': config.max_tokens,
        'temperature': sampling.temperature,
        'top_p': sampling.top_p,
        'stream_options': {'include_usage': True},
        'extra_body': _extras(config),
    }
    if sampling.seed >= 0:
        body['seed'] = sampling.seed
    if sampling.constraint:
        body['response_format'] = response_format(sampling.constraint)
    return body


def _messages(turn: Turn, url_of: Callable[[Picture], str]) -> list[dict[str, Any]]:
    content: Any = turn.question
    if turn.image is not None:
        content = [
            {'type': 'image_url', 'image_url': {'url': url_of(turn.image)}},
            {'type': 'text', 'text': turn.question},
        ]
    messages = [{'role': 'user', 'content': content}]
    if turn.answer is not None:
        messages.append({'role': 'assistant', 'content': bytes(turn.answer).decode()})
    return messages


def _extras(config: ChatConfig) -> dict[str, Any]:
    usual, extras = SamplingConfig(), dict[str, Any]()
    for field, names in _EXTRAS.items():
        value = getattr(config.sampling, field)
        if value != getattr(usual, field):
            extras |= dict.fromkeys(names, value)
    if config.thinking != 'auto':
        extras['chat_template_kwargs'] = {'enable_thinking': config.thinking == 'on'}
    return extras

"""A check: whether the server answers that stands in for the models."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

from hobot_llamacpp_py.errors import RemoteError
from hobot_llamacpp_py.health.check import Result
from hobot_llamacpp_py.remote.connection import INSTALL, TOKEN
from hobot_llamacpp_py.remote.protocol import base_url
from hobot_llamacpp_py.tools.doctor_case import Asked

__all__ = ['check']

TIMEOUT = 2.0  # seconds
MOST_BYTES = 1 << 20
_ADDRESS = 'start it, or give its address: -p llm_model_name:=http://HOST:PORT/v1'


def check(asked: Asked) -> Iterator[Result]:
    """Ask it for its models, with the token that the node would bring."""
    if not asked.parameters.is_remote:
        return
    if not asked.case.machine.is_live:
        yield Result('skipped', 'a server can be asked live only')
        return
    if importlib.util.find_spec('openai') is None:
        yield Result('failure', "a server as llm_model_name needs OpenAI's client", INSTALL)
    try:
        url = base_url(asked.parameters.llm_model_name)
    except RemoteError as error:
        yield Result('failure', str(error), 'give it as -p llm_model_name:=http://HOST:PORT/v1')
        return
    yield _asked(url, asked.parameters.remote_model)


def _asked(url: str, wanted: str) -> Result:
    request = urllib.request.Request(f'{url}/models')
    token = os.environ.get(TOKEN, '').strip()
    if not token.isascii() or not token.isprintable():
        fact = f'the token in ${TOKEN} has characters that HTTP cannot send'
        return Result('failure', fact, f'export {TOKEN}=…')
    if token:  # for this host alone, wherever it sends us
        request.add_unredirected_header('Authorization', f'Bearer {token}')
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            names = [str(model['id']) for model in json.loads(answer.read(MOST_BYTES))['data']]
    except urllib.error.HTTPError as error:
        refused = error.code in (401, 403)
        said = f'{url}/models: HTTP {error.code} {error.reason}'
        return Result('failure', said, f'export {TOKEN}=…' if refused else _ADDRESS)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', None) or error
        said = str(getattr(reason, 'strerror', None) or reason)
        if isinstance(reason, TimeoutError):
            said = f'no answer within {TIMEOUT:g} s'
        return Result('failure', f'{url} cannot be reached: {said}', _ADDRESS)
    except (ValueError, LookupError, TypeError):
        return Result('failure', f'{url}/models is no list of models', _ADDRESS)
    known = ', '.join(names) or 'no model'
    if wanted and wanted not in names:
        return Result('warning', f'{url} has no model {wanted} (remote_model), but: {known}')
    return Result('ok', f'{url} answers, with {known}')

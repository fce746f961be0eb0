"""Who may ask, and how much: checked before anything else is done."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
import socket
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hobot_llamacpp_py.web.http_error import HttpError

__all__ = ['MOST_BYTES', 'Guard', 'is_loopback', 'parse_json', 'read_body', 'read_json']

MOST_BYTES = 20 << 20
MOST_MARKS = 20_000  # brackets, commas and colons in a body
DEEPEST = 64
BODY_TIMEOUT = 30.0  # seconds until a body must be there
OPEN_PATHS = ('/', '/health')
"""What anybody may see: the page, which holds nothing, and whether the server is well."""

_HOST = re.compile(r'(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::\d{1,5})?', re.IGNORECASE)
_MARKS = re.compile(rb'"[^"]*"?|[][{},:]')  # of a text without escapes; linear, whatever it is


class Guard:
    """Lets a request through to the app, or refuses it.

    Args:
        token: what clients must bring (Authorization: Bearer), empty for nothing.
        host: the address that the server listens on.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app, self._token = app, token.encode()
        self._names = {'localhost'}
        if not is_loopback(host):
            own = socket.gethostname().lower()
            self._names |= {host.lower(), own, f'{own}.local', socket.getfqdn().lower()}
        self._loopback_only = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope['path'], Headers(scope=scope))
        except HttpError as refusal:
            await JSONResponse(refusal.body(), refusal.status, refusal.headers)(
                scope, receive, send
            )
            return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        """Check who asks.

        A web page of another origin must not talk to the robot through its visitor's browser:
        neither by its address nor, by DNS rebinding, by a name of its own.
        """
        host = headers.get('host', '')
        if not self._is_own(host):
            raise HttpError(403, f'the host {host!r} is not this server', code='host')
        if not _is_same_origin(host, headers):
            raise HttpError(403, 'requests from other origins are refused', code='origin')
        size = headers.get('content-length', '0')
        if not size.isdecimal() or len(size) > 20 or int(size) > MOST_BYTES:
            raise HttpError(413, f'a body may have {MOST_BYTES >> 20} MB', code='body_size')
        if self._token and path not in OPEN_PATHS:
            kind, _, token = headers.get('authorization', '').partition(' ')
            given = token.strip().encode('utf-8', 'replace')
            if kind.lower() != 'bearer' or not hmac.compare_digest(given, self._token):
                raise HttpError(401, 'the token is missing or wrong', code='invalid_api_key')

    def _is_own(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        name = match[1].strip('[]').lower() if match else ''
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback or not self._loopback_only


def _is_same_origin(host: str, headers: Headers) -> bool:
    """Tell whether it is no page of another origin that asks; programs name no origin."""
    origin = headers.get('origin')
    if origin is not None:
        return origin.lower() in (f'http://{host.lower()}', f'https://{host.lower()}')
    # Pictures and frames of another page name no origin. Links may lead here.
    if headers.get('sec-fetch-site', 'none') in ('none', 'same-origin'):
        return True
    return headers.get('sec-fetch-dest') == 'document'


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine only."""
    try:
        return host == 'localhost' or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def read_json(request: Request) -> Any:
    """Return a request's JSON, if it is of a size and depth that people write.

    Raises:
        HttpError: it is none, too large, too slow, or not said to be JSON.
    """
    return await run_in_threadpool(parse_json, await read_body(request))


async def read_body(request: Request) -> bytes:
    """Return the body of a request that brings JSON.

    Raises:
        HttpError: it is too large, too slow, or not said to be JSON.
    """
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'application/json':  # a form of another page could be anything else
        raise HttpError(415, 'the content type must be application/json')
    try:
        return await asyncio.wait_for(_read(request), BODY_TIMEOUT)
    except asyncio.TimeoutError:
        raise HttpError(408, f'the body did not come within {BODY_TIMEOUT:g} s') from None
    except ClientDisconnect:
        raise HttpError(400, 'the client has gone') from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HttpError(413, f'a body may have {MOST_BYTES >> 20} MB', code='body_size')
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """Return what a JSON text holds, if it is of a depth and number of values that people write.

    Raises:
        HttpError: it is none, or of too many.
    """
    depth = 0
    bare = body.replace(b'\\\\', b'').replace(b'\\"', b'')
    for n, mark in enumerate(_MARKS.finditer(bare)):
        first = bare[mark.start()]
        depth += (first in b'[{') - (first in b']}')
        if n > MOST_MARKS or depth > DEEPEST:
            raise HttpError(413, 'the JSON is too deep or has too many values', code='json_size')
    try:
        return json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HttpError(400, f'the body is no JSON: {error}') from None


def _no_number(text: str) -> None:
    raise ValueError(f'{text} is no number of it')

"""The way of an agent's request to the tools: the SDK is imported when the first one comes."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from hobot_llamacpp_py.web.api import Api
from hobot_llamacpp_py.web.backend import Backend
from hobot_llamacpp_py.web.guard import parse_json, read_body
from hobot_llamacpp_py.web.http_error import HttpError

if TYPE_CHECKING:
    from hobot_llamacpp_py.web.mcp_tools import McpTools

__all__ = ['McpEndpoint']

CLIENT_HEADER = 'mcp-session-id'


class McpEndpoint:
    """The ASGI app of /mcp.

    Older clients want a session, and name it when they cancel a request. They get a name and
    nothing is kept of it; newer ones just close the connection.
    """

    def __init__(self, api: Api, backend: Backend) -> None:
        self._api, self._backend = api, backend
        self._loading: asyncio.Task[McpTools] | None = None
        self._running: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """End with the app."""
        try:
            yield
        finally:
            if self._running:
                self._running.cancel()
                await asyncio.wait([self._running])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['method'] != 'POST':  # there is nothing to listen to, and no session to end
            await Response(status_code=405, headers={'Allow': 'POST'})(scope, receive, send)
            return
        request = Request(scope, receive)
        body = await read_body(request)
        message = await run_in_threadpool(parse_json, body)
        method = _method(message)
        tools = await self._tools()
        if method == 'notifications/cancelled':
            parameters = message.get('params')
            if isinstance(parameters, dict):
                client = request.headers.get(CLIENT_HEADER, '')
                tools.cancel(client, parameters.get('requestId'))
            await Response(status_code=202)(scope, receive, send)
            return
        await tools.manager.handle_request(
            scope, _replayed(body, receive), _named(send) if method == 'initialize' else send
        )

    async def _tools(self) -> McpTools:
        """Return the tools; the first call takes a second or more, but no other request waits."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        try:
            return await asyncio.shield(self._loading)
        except Exception:  # the next request tries again
            self._loading = None
            raise

    async def _load(self) -> McpTools:
        tools = await run_in_threadpool(self._import)
        ready = asyncio.Event()

        async def run() -> None:
            async with tools.manager.run():
                ready.set()
                await asyncio.Event().wait()

        self._running = asyncio.create_task(run())
        await ready.wait()
        return tools

    def _import(self) -> McpTools:
        from hobot_llamacpp_py.web.mcp_tools import McpTools

        # The SDK's many classes are here to stay: else the process would search them for garbage
        # again and again, and for a third of a second when it ends.
        gc.freeze()
        return McpTools(self._api, self._backend)


def _method(message: Any) -> str:
    """Return the method of a message.

    Raises:
        HttpError: it is no request. (Of that the SDK would tell in thirty lines.)
    """
    if (
        not isinstance(message, dict)
        or message.get('jsonrpc') != '2.0'
        or not isinstance(message.get('method'), str)
        or not isinstance(message.get('params', {}), dict)
        or isinstance(message.get('id', 0), bool)
        or not isinstance(message.get('id', 0), (int, str))
    ):
        raise HttpError(400, 'the body must be one request or notification of JSON-RPC 2.0')
    return str(message['method'])


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already once more."""
    messages: list[Message] = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _named(send: Send) -> Send:
    """Give the client a name in the head of its answer."""

    async def send_named(message: Message) -> None:
        if message['type'] == 'http.response.start':
            name: Any = (CLIENT_HEADER.encode(), uuid.uuid4().hex.encode())
            message = {**message, 'headers': [*message['headers'], name]}
        await send(message)

    return send_named

"""OpenAI's protocol: chat completions, models; and whether the server is well."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hobot_llamacpp_py.engine import Stats
from hobot_llamacpp_py.engine.constraints import check
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.web.backend import Backend
from hobot_llamacpp_py.web.chat_request import CAMERA, ChatRequest
from hobot_llamacpp_py.web.completion import (
    Begun,
    Completion,
    Done,
    Event,
    Failed,
    Piece,
    Thought,
)
from hobot_llamacpp_py.web.conversations import Conversations
from hobot_llamacpp_py.web.guard import read_json
from hobot_llamacpp_py.web.http_error import HttpError
from hobot_llamacpp_py.web.pictures import read_data_urls

__all__ = ['Api']

RETRY_AFTER = 2  # seconds, where the queue is full
GONE = 'the client has gone'

Observer = Callable[[Completion, Event], None]


class Api:
    """The endpoints, and the way of a request into the inference thread and back.

    Args:
        observe: is told of each event of each request, in the inference thread.
    """

    def __init__(self, backend: Backend, observe: Observer = lambda completion, event: None):
        self._backend, self._observe = backend, observe
        self._conversations = Conversations()
        self._created = int(time.time())

    # -- endpoints -------------------------------------------------------------------------------

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        chat = ChatRequest.of(await read_json(request))
        given = _Given(self._backend.model)
        if not chat.stream:
            async with self.answering(chat, request.receive) as events:
                return JSONResponse(given.whole([event async for event in events]))
        # What goes wrong before the first word is an answer of its own, and no stream.
        opened = self.answering(chat, request.receive)
        events = await opened.__aenter__()
        try:
            first = await anext(events, None)
            if first is None:
                raise HttpError(499, GONE)
            if isinstance(first, Failed):
                raise HttpError(first.status, first.message, code=first.kind)
        except BaseException as error:
            await opened.__aexit__(type(error), error, error.__traceback__)
            raise

        async def stream() -> AsyncGenerator[bytes, None]:
            try:
                yield _sse(given.chunk({'role': 'assistant', 'content': ''}))
                yield _sse(given.chunk_of(first))
                async for event in events:
                    yield _sse(given.chunk_of(event))
                if chat.usage:
                    yield _sse(given.usage_chunk())
                yield b'data: [DONE]\n\n'
            finally:
                await opened.__aexit__(None, None, None)

        return _Stream(stream())

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        model = {'id': self._backend.model, 'object': 'model', 'created': self._created}
        return JSONResponse(
            {'object': 'list', 'data': [{**model, 'owned_by': 'hobot_llamacpp_py'}]}
        )

    async def health(self, request: Request) -> Response:
        """GET /health: 200 as soon as requests are answered at once."""
        is_well = self._backend.state not in ('loading', 'ended')
        return JSONResponse({'status': self._backend.state}, 200 if is_well else 503)

    # -- the way in and back ---------------------------------------------------------------------

    @asynccontextmanager
    async def answering(
        self, chat: ChatRequest, receive: Callable[[], Any] | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Have a request answered; give its events. Leaving early cancels it.

        Args:
            receive: tells of a client that goes away, as ASGI does.

        Raises:
            HttpError: the queue is full, or something is wrong with pictures or constraint.
        """
        urls = {m.picture for m in chat.messages if m.picture and m.picture != CAMERA}
        pictures = await run_in_threadpool(read_data_urls, urls)
        try:
            defaults = await run_in_threadpool(self._backend.defaults)
            if chat.constraint:
                await run_in_threadpool(check, chat.constraint)
        except VlmError as error:
            raise HttpError(400, str(error)) from None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def tell(event: Event) -> None:
            self._observe(completion, event)
            if not isinstance(event, Begun) and not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        completion = Completion(chat, defaults, pictures, self._conversations, tell)
        if not self._backend.put(completion):
            raise HttpError(
                429, 'too many requests wait already', retry_after=RETRY_AFTER, code='queue_full'
            )

        async def watch() -> None:
            while receive and (await receive())['type'] != 'http.disconnect':
                pass
            self._drop(completion)
            events.put_nowait(None)

        watcher = asyncio.create_task(watch()) if receive else None

        async def until_the_end() -> AsyncIterator[Event]:
            while (event := await events.get()) is not None:
                yield event
                if isinstance(event, (Done, Failed)):
                    return

        try:
            yield until_the_end()
        finally:
            self._drop(completion)
            if watcher:
                watcher.cancel()

    def _drop(self, completion: Completion) -> None:
        completion.cancel.set()
        self._backend.withdraw(completion)


class _Given:
    """An answer in the words of the protocol."""

    def __init__(self, model: str) -> None:
        self._base = {'id': f'chatcmpl-{uuid.uuid4().hex}', 'created': int(time.time())}
        self._model, self._done = model, Done('', 0, Stats())

    def whole(self, events: list[Event]) -> dict[str, Any]:
        """Return the whole answer.

        Raises:
            HttpError: it failed.
        """
        last = events[-1] if events else None
        if isinstance(last, Failed):
            raise HttpError(last.status, last.message, code=last.kind)
        if not isinstance(last, Done):
            raise HttpError(499, GONE)
        self._done = last
        message = {
            'role': 'assistant',
            'content': ''.join(event.text for event in events if isinstance(event, Piece)),
            'refusal': None,
        }
        thoughts = ''.join(event.text for event in events if isinstance(event, Thought))
        if thoughts:
            message['reasoning_content'] = thoughts
        choice = {'index': 0, 'message': message, 'logprobs': None, 'finish_reason': last.finish}
        base = {**self._base, 'object': 'chat.completion', 'model': self._model}
        return {**base, 'choices': [choice], 'usage': self._usage()}

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        """Return a piece of a stream."""
        choice = {'index': 0, 'delta': delta, 'logprobs': None, 'finish_reason': finish}
        base = {**self._base, 'object': 'chat.completion.chunk', 'model': self._model}
        return {**base, 'choices': [choice]}

    def chunk_of(self, event: Event) -> dict[str, Any]:
        """Return an event as a piece of a stream."""
        if isinstance(event, Piece):
            return self.chunk({'content': event.text})
        if isinstance(event, Thought):
            return self.chunk({'reasoning_content': event.text})
        if isinstance(event, Done):
            self._done = event
            return self.chunk({}, event.finish)
        if isinstance(event, Failed):
            return HttpError(event.status, event.message, code=event.kind).body()
        return self.chunk({})

    def usage_chunk(self) -> dict[str, Any]:
        """Return what the answer cost as the last piece of a stream."""
        return {**self.chunk({}), 'choices': [], 'usage': self._usage()}

    def _usage(self) -> dict[str, Any]:
        stats, n_tokens = self._done.stats, self._done.n_tokens
        prompt = stats.reused + stats.prefilled
        return {
            'prompt_tokens': prompt,
            'completion_tokens': n_tokens,
            'total_tokens': prompt + n_tokens,
            'prompt_tokens_details': {'cached_tokens': stats.reused},
            'completion_tokens_details': {'reasoning_tokens': stats.thinking},
        }


class _Stream(StreamingResponse):
    """Server-sent events."""

    media_type = 'text/event-stream'

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(events, headers={'Cache-Control': 'no-store'})
        self._events = events

    async def stream_response(self, send: Any) -> None:
        try:
            await super().stream_response(send)
        finally:
            await self._events.aclose()

    async def listen_for_disconnect(self, receive: Any) -> None:
        await asyncio.Event().wait()  # whoever answers the request listens already


def _sse(chunk: dict[str, Any]) -> bytes:
    return b'data: %s\n\n' % json.dumps(chunk, ensure_ascii=False).encode()

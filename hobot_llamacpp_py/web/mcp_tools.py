"""What an agent can have the robot do: the tools of the Model Context Protocol."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.concurrency import run_in_threadpool

from hobot_llamacpp_py.errors import one_line
from hobot_llamacpp_py.web.api import Api
from hobot_llamacpp_py.web.backend import Backend, Bgr
from hobot_llamacpp_py.web.chat_request import CAMERA, ChatRequest, Message
from hobot_llamacpp_py.web.completion import Done, Failed, Piece, Seen
from hobot_llamacpp_py.web.guard import MOST_BYTES
from hobot_llamacpp_py.web.http_error import HttpError
from hobot_llamacpp_py.web.pictures import as_jpeg

__all__ = ['McpTools']

INSTRUCTIONS = (
    'A robot with a camera and a small vision-language model of its own. `look` answers a question'
    ' about what is before the camera now, `picture` shows it to you, `ask` puts a question to the'
    ' model without a picture. Nothing is remembered from one call to the next.'
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
PROGRESS = 8  # pieces of text between two reports
SHOWN = 200  # characters of the answer's end that a report shows

Context = ServerRequestContext[Any, Any]
Content = list[TextContent | ImageContent]
Handler = Callable[[dict[str, Any], Context], Awaitable[Content]]


class McpTools:
    """The tools, and the SDK's server around them.

    Each request is served by itself: there are no sessions, so none pile up, and an agent goes on
    after the robot was restarted as if nothing had happened.
    """

    def __init__(self, api: Api, backend: Backend) -> None:
        self._api, self._backend = api, backend
        self._running: dict[tuple[str, Any], anyio.CancelScope] = {}
        self._tools: dict[str, tuple[Tool, Handler]] = {}
        for tool, handler in (
            *((_LOOK, self._look), (_PICTURE, self._picture)),
            *((_ASK, self._ask), (_WATCH_STATE, self._watch_state)),
        ):
            self._tools[tool.name] = tool, handler
        server = Server(
            'hobot_llamacpp_py',
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
        )
        # Host and Origin are the guard's affair, which stands before this.
        self.manager = StreamableHTTPSessionManager(
            server, stateless=True, max_request_body_size=MOST_BYTES
        )
        for name in ('mcp', 'sse_starlette'):  # what goes wrong is told by us, in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def cancel(self, client: str, request: Any) -> None:
        """End a client's request, if it still runs."""
        scope = self._running.get((client, request))
        if scope:
            scope.cancel()

    async def _list(
        self, context: Context, parameters: PaginatedRequestParams | None
    ) -> ListToolsResult:
        # Standing questions may be there from one moment to the next.
        hidden = _WATCH_STATE if self._backend.watched() is None else None
        return ListToolsResult(
            tools=[tool for tool, _ in self._tools.values() if tool is not hidden]
        )

    async def _call(self, context: Context, parameters: CallToolRequestParams) -> CallToolResult:
        assert context.request is not None
        key = context.request.headers.get('mcp-session-id', ''), context.request_id
        with anyio.CancelScope() as scope:
            self._running[key] = scope
            try:
                if parameters.name not in self._tools:
                    raise HttpError(404, f'there is no tool {parameters.name!r}')
                handler = self._tools[parameters.name][1]
                content = await handler(parameters.arguments or {}, context)
                return CallToolResult(content=list(content))
            except HttpError as error:
                again = f'; try again in {error.retry_after} s' if error.retry_after else ''
                return _failed(f'{error}{again}')
            except Exception as error:
                return _failed(one_line(error))
            finally:
                if self._running.get(key) is scope:
                    del self._running[key]
        return _failed('cancelled')

    async def _look(self, arguments: dict[str, Any], context: Context) -> Content:
        message = Message('user', _text(arguments, 'question'), CAMERA)
        answer, seen = await self._answered(message, context)
        assert seen is not None
        return [TextContent(text=answer), await run_in_threadpool(_image, seen.view.bgr)]

    async def _picture(self, arguments: dict[str, Any], context: Context) -> Content:
        newest = await run_in_threadpool(self._backend.newest)
        if newest is None:
            raise HttpError(400, 'there is nothing to see: no camera, or no (fresh) frame of it')
        return [await run_in_threadpool(_image, newest[1])]

    async def _ask(self, arguments: dict[str, Any], context: Context) -> Content:
        answer, _ = await self._answered(Message('user', _text(arguments, 'text')), context)
        return [TextContent(text=answer)]

    async def _watch_state(self, arguments: dict[str, Any], context: Context) -> Content:
        found = self._backend.watched()
        if found is None:
            raise HttpError(400, 'there are no standing questions (watch_file)')
        return [TextContent(text=json.dumps(found, ensure_ascii=False))]

    async def _answered(self, message: Message, context: Context) -> tuple[str, Seen | None]:
        """Return the answer, and the frame that it is about; tell how far it is meanwhile.

        Raises:
            HttpError: there is none.
        """
        said, n_pieces, seen = '', 0, None
        async with self._api.answering(ChatRequest(None, (message,))) as events:
            async for event in events:
                if isinstance(event, Seen):
                    seen = event
                elif isinstance(event, Failed):
                    raise HttpError(event.status, event.message, code=event.kind)
                elif isinstance(event, Piece):
                    said += event.text
                    if n_pieces % PROGRESS == 0:
                        shown = said[-SHOWN:].strip()
                        await context.session.report_progress(n_pieces + 1, message=shown)
                    n_pieces += 1
                elif isinstance(event, Done):
                    return said.strip(), seen
        raise HttpError(503, 'the answer has no end')


def _text(arguments: dict[str, Any], name: str) -> str:
    text = arguments.get(name)
    if not isinstance(text, str) or not text.strip():
        raise HttpError(400, f'{name} must be a text, and not empty')
    return text


def _image(bgr: Callable[[], Bgr]) -> ImageContent:
    data = base64.b64encode(as_jpeg(bgr())).decode()
    return ImageContent(data=data, mime_type='image/jpeg')


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=message)], is_error=True)


def _parameters(**descriptions: str) -> dict[str, Any]:
    """Return the JSON Schema of texts that must be given."""
    texts = {name: {'type': 'string', 'description': text} for name, text in descriptions.items()}
    return {'type': 'object', 'properties': texts, 'required': list(texts)}


_LOOK = Tool(
    name='look',
    title="Look through the robot's camera",
    description=(
        "Answers a question about what the robot's camera sees at this moment, with the robot's"
        ' own vision-language model, and returns the picture that the answer is about. Use it'
        ' whenever you need to know something about the surroundings of the robot as they are now.'
        ' Each call takes a new picture. The model is small: ask one short, plain question, and'
        ' check what matters against the picture. It takes seconds; calls are answered one after'
        ' the other.'
    ),
    input_schema=_parameters(question='One short question about the picture, in any language.'),
    annotations=READS,
)
_PICTURE = Tool(
    name='picture',
    title="Take a picture with the robot's camera",
    description=(
        "Returns what the robot's camera sees at this moment as a JPEG picture of at most 1024"
        ' pixels a side, at once and without any answer. Use it to see for yourself, or to check'
        ' an answer of `look`.'
    ),
    input_schema=_parameters(),
    annotations=READS,
)
_ASK = Tool(
    name='ask',
    title="Ask the robot's language model",
    description=(
        "Puts a text to the robot's own small language model, without any picture, and returns"
        ' what it answers. Use it to test the model or to have it word something; it does not see'
        ' and cannot move anything. For questions about the surroundings use `look`.'
    ),
    input_schema=_parameters(text='What to ask or tell the model.'),
    annotations=READS,
)
_WATCH_STATE = Tool(
    name='watch_state',
    title='What the robot watches for',
    description=(
        'Returns, at once and without asking the model, what the standing questions of the robot'
        ' have found: for each rule its question and the answer that counts now, null while it is'
        ' not known, as JSON. Use it for what the robot watches for anyway; for anything else'
        ' use `look`.'
    ),
    input_schema=_parameters(),
    annotations=READS,
)

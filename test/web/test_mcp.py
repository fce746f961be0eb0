"""The Model Context Protocol, with its official client, in its newest form and in older ones."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import cv2
import numpy as np
import pytest
from nano import draw_scene
from served import DIGITS, SAMPLE, TIMEOUT, Served, serving

pytest.importorskip('mcp', reason='needs requirements/web.txt')

import httpx2
from agents import answering, pixels
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from hobot_llamacpp_py.config import ChatConfig, SamplingConfig
from hobot_llamacpp_py.engine import json_schema

DESCRIBE, COLOR = 'Describe the image.', 'What color is the circle?'
START = 'There is a yellow star at the top, '
IMAGE2 = f'{START}a red circle on the left and a blue square on the right.'
TOKEN = 'abcdefgh12345678'

pytestmark = pytest.mark.parametrize('mode', ['auto', 'legacy'])


@pytest.fixture(scope='module')
def served() -> Iterator[Served]:
    with Served('internvl', ['--picture', str(SAMPLE)]) as server:
        yield server


@pytest.fixture(scope='module')
def endless() -> Iterator[str]:
    """A server whose answers have no end, and that has no camera."""
    sampling = SamplingConfig(constraint=json_schema(DIGITS))
    with serving(config=ChatConfig(max_tokens=30000, sampling=sampling), queue_size=2) as url:
        yield url


def run(go: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine."""

    async def in_time() -> None:
        with anyio.fail_after(TIMEOUT):
            await go()

    anyio.run(in_time)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two pictures are from each other, 0 to 255."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


def test_tools(served: Served, mode: str) -> None:
    """An agent is told what there is, what it is for, and that it changes nothing."""

    async def go() -> None:
        async with Client(f'{served.url}/mcp', mode=mode) as client:
            assert 'camera' in (client.instructions or '')
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ['look', 'picture', 'ask']
        assert all(tool.annotations.read_only_hint for tool in tools.values())
        assert all(len(tool.description) > 80 for tool in tools.values())
        assert tools['look'].input_schema['required'] == ['question']

    run(go)


def test_look(served: Served, mode: str) -> None:
    """The answer is about the camera's picture, which comes with it; words come as it grows."""
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or '')

    async def go() -> None:
        async with Client(f'{served.url}/mcp', mode=mode) as client:
            result = await client.call_tool('look', {'question': DESCRIBE}, progress_callback=hear)
        assert not result.is_error
        text, picture = result.content
        assert text.text == IMAGE2
        assert difference(pixels(picture), cv2.imread(str(SAMPLE))) < 3

    run(go)
    assert len(heard) > 1 and all(IMAGE2.startswith(text) for text in heard)


def test_picture(mode: str) -> None:
    """A picture is the newest there is; a large one is made smaller, below what clients take."""
    noise = np.random.default_rng(0).integers(0, 256, (2400, 3200, 3), dtype=np.uint8)
    views = [draw_scene(seed)[1] for seed in range(2)] + [noise]

    async def go() -> None:
        async with Client(f'{url}/mcp', mode=mode) as client:
            for view in views:
                shown.append(view)
                (content,) = (await client.call_tool('picture', {})).content
                if view is noise:
                    assert len(content.data) < 1 << 20
                    assert pixels(content).shape == (768, 1024, 3)
                else:
                    assert difference(pixels(content), view) < 3

    shown: list[np.ndarray] = []
    with serving(see=lambda: shown[-1]) as url:
        run(go)


def test_ask(served: Served, mode: str) -> None:
    """A text is answered without any picture."""

    async def go() -> None:
        async with Client(f'{served.url}/mcp', mode=mode) as client:
            result = await client.call_tool('ask', {'text': '你好'})
        assert not result.is_error
        (content,) = result.content
        assert content.type == 'text' and content.text

    run(go)


@pytest.mark.parametrize(
    'tool, arguments, words',
    [
        ('look', {'question': ''}, 'question must be a text'),
        ('look', {}, 'question must be a text'),
        ('ask', {'text': 7}, 'text must be a text'),
        ('ask', {'text': 'x ' * 40000}, 'the context has'),
        ('move', {}, "there is no tool 'move'"),
    ],
)
def test_what_is_wrong(
    served: Served, mode: str, tool: str, arguments: dict[str, Any], words: str
) -> None:
    """What cannot be done is told to the agent in one line."""

    async def go() -> None:
        async with Client(f'{served.url}/mcp', mode=mode) as client:
            result = await client.call_tool(tool, arguments)
        assert result.is_error
        (content,) = result.content
        assert words in content.text and '\n' not in content.text

    run(go)


def test_a_bad_moment(mode: str) -> None:
    """Where the tools could not be loaded for want of descriptors, the next request loads them."""
    with Served('internvl', ['--picture', str(SAMPLE)]) as server:
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        with httpx2.Client() as client:
            assert client.get(f'{server.url}/health').status_code == 200  # stays connected
            n = len(os.listdir(f'/proc/{server.process.pid}/fd'))
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (n, limits[1]))
            message = {'jsonrpc': '2.0', 'id': 1, 'method': 'tools/list'}
            assert client.post(f'{server.url}/mcp', json=message).status_code == 500
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)

        async def look() -> None:
            async with Client(f'{server.url}/mcp', mode=mode) as client:
                text, _ = (await client.call_tool('look', {'question': DESCRIBE})).content
                assert text.text == IMAGE2

        run(look)


def test_no_camera(endless: str, mode: str) -> None:
    """Without a camera the tools that look say so."""

    async def go() -> None:
        async with Client(f'{endless}/mcp', mode=mode) as client:
            for tool, arguments in (('look', {'question': DESCRIBE}), ('picture', {})):
                result = await client.call_tool(tool, arguments)
                assert result.is_error and 'no camera' in result.content[0].text

    run(go)


def test_text_model(mode: str) -> None:
    """A model without a vision encoder answers texts, and says that it cannot look."""

    async def go() -> None:
        async with Client(f'{url}/mcp', mode=mode) as client:
            assert not (await client.call_tool('ask', {'text': 'Hi'})).is_error
            result = await client.call_tool('look', {'question': DESCRIBE})
            assert result.is_error and 'takes no pictures' in result.content[0].text

    with serving(can_see=False, see=lambda: draw_scene(1)[1]) as url:
        run(go)


async def start(client: Client, scope: anyio.CancelScope, begun: anyio.Event) -> None:
    """Ask what has no end; tell when the answer has begun."""

    async def hear(*_: Any) -> None:
        begun.set()

    with scope:
        await client.call_tool('ask', {'text': 'Hi'}, progress_callback=hear)


def is_free(url: str) -> None:
    """Wait until the engine answers a short question: nothing else is running any more."""
    message = {'role': 'user', 'content': 'Hi'}
    body = {'messages': [message], 'max_tokens': 4}
    assert httpx2.post(f'{url}/v1/chat/completions', json=body, timeout=20).status_code == 200


def test_cancel(endless: str, mode: str) -> None:
    """A request that its client cancels ends within a token; that of another one goes on."""

    async def go() -> None:
        async with (
            Client(f'{endless}/mcp', mode=mode) as one,
            Client(f'{endless}/mcp', mode=mode) as other,
            anyio.create_task_group() as tasks,
        ):
            scopes, begun = [anyio.CancelScope() for _ in 'ab'], [anyio.Event() for _ in 'ab']
            tasks.start_soon(start, one, scopes[0], begun[0])
            await begun[0].wait()
            tasks.start_soon(start, other, scopes[1], begun[1])
            scopes[0].cancel()
            await begun[1].wait()
            scopes[1].cancel()
            await anyio.to_thread.run_sync(is_free, endless)

    run(go)


def test_a_client_that_goes_away(endless: str, mode: str) -> None:
    """Its request ends within a token."""
    with answering(endless, '2026-07-28' if mode == 'auto' else '2025-11-25'):
        pass
    is_free(endless)


def test_two_clients(served: Served, mode: str) -> None:
    """Clients that ask at once are each given the answer to their own question."""
    answers: dict[str, str] = {}

    async def ask(question: str) -> None:
        async with Client(f'{served.url}/mcp', mode=mode) as client:
            for _ in range(3):
                result = await client.call_tool('look', {'question': question})
                answers[question] = result.content[0].text

    async def go() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, DESCRIBE)
            tasks.start_soon(ask, COLOR)

    run(go)
    assert answers[DESCRIBE] == IMAGE2 and 'red' in answers[COLOR]


def test_full_queue(endless: str, mode: str) -> None:
    """Where too many wait already, an agent is told when to try again; a picture needs no turn."""

    async def go() -> None:
        async with Client(f'{endless}/mcp', mode=mode) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(start, client, anyio.CancelScope(), begun := anyio.Event())
                await begun.wait()
                refused: list[str] = []
                full = anyio.Event()

                async def wait_in_line() -> None:
                    result = await client.call_tool('ask', {'text': 'Hi'})
                    refused.append(result.content[0].text)
                    full.set()

                for _ in range(3):  # and two may wait
                    tasks.start_soon(wait_in_line)
                await full.wait()
                assert (await client.call_tool('picture', {})).is_error
                assert refused == ['too many requests wait already; try again in 2 s']
                tasks.cancel_scope.cancel()
            await anyio.to_thread.run_sync(is_free, endless)

    run(go)


def test_token(mode: str, tmp_path: Path) -> None:
    """Only who brings the token is let in, then by any name of this machine."""
    (tmp_path / 'token').write_text(TOKEN)
    (tmp_path / 'token').chmod(0o600)
    arguments = ['--host', '0.0.0.0', '--token-file', str(tmp_path / 'token')]

    async def listed(port: int, host: str, token: str) -> list[str]:
        headers = {'Authorization': f'Bearer {token}', 'Host': f'{host}:{port}'}
        async with httpx2.AsyncClient(headers=headers, timeout=TIMEOUT) as http:
            transport = streamable_http_client(f'http://127.0.0.1:{port}/mcp', http_client=http)
            async with Client(transport, mode=mode) as client:
                return [tool.name for tool in (await client.list_tools()).tools]

    async def go() -> None:
        for host in ('127.0.0.1', '192.168.1.10', socket.gethostname()):
            assert 'look' in await listed(server.port, host, TOKEN)
        for host, token, status in (('a', 'wrong', 403), ('127.0.0.1', 'wrong', 401)):
            headers = {'Authorization': f'Bearer {token}', 'Host': host}
            assert httpx2.post(f'{server.url}/mcp', headers=headers).status_code == status

    with Served('internvl', arguments) as server:
        server.url = f'http://127.0.0.1:{server.port}'
        run(go)


def test_stop(mode: str) -> None:
    """The server stops while an agent is connected."""
    stopped = threading.Event()

    async def go() -> None:
        with anyio.move_on_after(TIMEOUT):
            async with Client(f'{server.url}/mcp', mode=mode) as client:
                await client.call_tool('look', {'question': DESCRIBE})
                status, errors = await anyio.to_thread.run_sync(server.stop)
                assert (status, errors) == (0, '')
                stopped.set()

    with Served('internvl', ['--picture', str(SAMPLE)]) as server:
        run(go)
    assert stopped.is_set()


def test_what_is_no_message(served: Served, mode: str) -> None:
    """What is no message of the protocol costs nothing and is refused."""
    headers = {'Accept': 'application/json, text/event-stream'}
    deep = b'[' * 100 + b']' * 100
    bad = [(b'{', 400), (deep, 413), (b'[]', 400), (json.dumps({'x': 1}).encode(), 400)]
    for body, status in bad:
        response = httpx2.post(
            f'{served.url}/mcp',
            content=body,
            headers={**headers, 'Content-Type': 'application/json'},
        )
        assert response.status_code == status, (body, response.text)
    assert httpx2.get(f'{served.url}/mcp').status_code == 405
    assert httpx2.delete(f'{served.url}/mcp').status_code == 405

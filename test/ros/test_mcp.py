"""The node as an agent sees it: its camera, over the Model Context Protocol."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano import answer, draw_scene
from robot import Robot
from served import free_port

pytest.importorskip('mcp', reason='needs requirements/web.txt')

import anyio
from agents import answering, pixels
from mcp import Client

Start = Callable[..., AbstractContextManager[Robot]]
DESCRIBE = 'Describe the image.'


def with_client(port: int, use: Callable[[Client], Awaitable[None]]) -> None:
    """Use a client of the node's."""

    async def go() -> None:
        async with Client(f'http://127.0.0.1:{port}/mcp') as client:
            await use(client)

    anyio.run(go)


def test_camera(start: Start) -> None:
    """An agent is told and shown what is before the camera now."""
    port = free_port()
    with start(feed_type=1, http_port=port, image_timeout=0.2) as robot:
        robot.wait_until_ready()

        async def too_early(client: Client) -> None:
            result = await client.call_tool('picture', {})
            assert result.is_error and 'no (fresh) frame of it' in result.content[0].text
            result = await client.call_tool('look', {'question': DESCRIBE})
            assert result.is_error and 'no image came within' in result.content[0].text

        with_client(port, too_early)
        for seed in range(2):
            scene, bgr = draw_scene(seed)
            robot.show(bgr)

            async def look(client: Client, scene: Any = scene, bgr: Any = bgr) -> None:
                text, shown = (await client.call_tool('look', {'question': DESCRIBE})).content
                assert text.text == answer(scene, DESCRIBE)
                (taken,) = (await client.call_tool('picture', {})).content
                for content in (shown, taken):
                    assert np.abs(pixels(content).astype(int) - bgr).mean() < 3

            with_client(port, look)


def test_standing_questions(start: Start, tmp_path: Path) -> None:
    """An agent is told what the robot watches for; the tool is there while there are rules."""
    rules = tmp_path / 'rules.yaml'
    rules.write_text('rules: [{name: circle, question: "Is there a circle?", hold: 1}]')
    port = free_port()
    with start(feed_type=1, http_port=port, image_timeout=3600.0) as robot:
        robot.wait_until_ready()

        async def none(client: Client) -> None:
            assert 'watch_state' not in [t.name for t in (await client.list_tools()).tools]
            result = await client.call_tool('watch_state', {})
            assert result.is_error and 'no standing questions' in result.content[0].text

        with_client(port, none)
        assert robot.set_parameter('watch_file', str(rules)) == (True, '')
        for answer_of_it in (None, True):
            expected = {'rule': 'circle', 'question': 'Is there a circle?', 'answer': answer_of_it}

            async def found(client: Client, expected: Any = expected) -> None:
                assert 'watch_state' in [t.name for t in (await client.list_tools()).tools]
                (content,) = (await client.call_tool('watch_state', {})).content
                assert json.loads(content.text) == {'state': 'watching', 'rules': [expected]}

            with_client(port, found)
            seed = next(n for n in range(9) if draw_scene(n)[0].find('circle'))
            robot.show(draw_scene(seed)[1])
            robot.wait_for(lambda: robot.status.get('watch circle') == 'True', 'the answer')


def test_text_chat(start: Start) -> None:
    """In a text chat an agent can ask, and is told that there is nothing to see."""
    port = free_port()
    with start(feed_type=2, http_port=port) as robot:
        robot.wait_until_ready()
        maps = Path(f'/proc/{robot.process.pid}/maps')
        assert 'pydantic' not in maps.read_text()  # before an agent comes, that costs nothing

        async def use(client: Client) -> None:
            assert not (await client.call_tool('ask', {'text': 'Hi'})).is_error
            for tool, arguments in (('picture', {}), ('look', {'question': DESCRIBE})):
                result = await client.call_tool(tool, arguments)
                assert result.is_error and '\n' not in result.content[0].text

        with_client(port, use)
        assert 'pydantic' in maps.read_text()


def test_stop(start: Start) -> None:
    """Ctrl-C ends the node while an agent waits for an answer that has no end."""
    port = free_port()
    schema = json.dumps({'type': 'array', 'items': {'enum': [0, 1]}, 'minItems': 20000})
    endless = dict(max_tokens=30000, n_ctx=32768, json_schema=schema)
    with start(feed_type=2, http_port=port, **endless) as robot:
        robot.wait_until_ready()
        with answering(f'http://127.0.0.1:{port}'):
            status, _ = robot.stop()
        assert status == 0

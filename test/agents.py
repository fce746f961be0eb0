"""What tests of the Model Context Protocol share."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import httpx2
import numpy as np

__all__ = ['answering', 'pixels']

NAMESPACE = 'io.modelcontextprotocol/'


def pixels(content: Any) -> np.ndarray:
    """Return the picture of a tool's answer."""
    assert content.mime_type == 'image/jpeg'
    data = np.frombuffer(base64.b64decode(content.data), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


@contextmanager
def answering(url: str, version: str = '2026-07-28') -> Iterator[None]:
    """Call `ask`, and be there as soon as the answer has begun; then go away without a word."""
    meta = {'progressToken': 1, f'{NAMESPACE}protocolVersion': version}
    meta[f'{NAMESPACE}clientCapabilities'] = {}
    parameters = {'name': 'ask', 'arguments': {'text': 'Hi'}, '_meta': meta}
    message = {'jsonrpc': '2.0', 'id': 1, 'method': 'tools/call', 'params': parameters}
    headers = {
        'Accept': 'application/json, text/event-stream',
        'MCP-Protocol-Version': version,
        'Mcp-Method': 'tools/call',
        'Mcp-Name': 'ask',
    }
    with (
        httpx2.Client(timeout=60) as client,
        client.stream('POST', f'{url}/mcp', json=message, headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        assert any('notifications/progress' in line for line in response.iter_lines())
        yield

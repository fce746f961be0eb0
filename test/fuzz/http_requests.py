"""HTTP requests: always an answer of the protocol, and a server that lives on and is right."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from fuzz.target import Target, mutated
from hypothesis import strategies as st
from nano import answer, draw_scene
from served import Served, data_url

__all__ = ['Requests']

QUESTION = 'Describe the image.'
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(
        ['user', 'text', 'camera:', 'data:image/png;base64,AAAA', 'image_url', 'tool']
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def _mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(right, right, _JSON)


_PARTS = st.one_of(
    st.fixed_dictionaries({'type': st.just('text'), 'text': _mostly(st.text(max_size=8))}),
    st.fixed_dictionaries(
        {
            'type': st.just('image_url'),
            'image_url': _mostly(st.fixed_dictionaries({'url': _mostly(st.just('camera:'))})),
        }
    ),
    _JSON,
)
_MESSAGES = st.fixed_dictionaries(
    {
        'role': _mostly(st.sampled_from(['user', 'assistant', 'system', 'developer', 'tool'])),
        'content': _mostly(st.text(st.characters(), max_size=12)) | st.lists(_PARTS, max_size=3),
    }
)
_CHATS = st.fixed_dictionaries(
    {'messages': _mostly(st.lists(_MESSAGES, min_size=1, max_size=3))},
    optional={
        'max_tokens': _mostly(st.just(2)),
        'stream': _mostly(st.booleans()),
        'stream_options': _mostly(st.just({'include_usage': True})),
        'temperature': _mostly(st.floats(0, 2)),
        'top_k': _JSON,
        'top_p': _JSON,
        'seed': _mostly(st.integers()),
        'stop': _mostly(st.text(min_size=1, max_size=3)),
        'n': _JSON,
        'tools': _JSON,
        'tool_choice': _JSON,
        'logprobs': _JSON,
        'response_format': _mostly(
            st.sampled_from(
                [
                    {'type': 'json_object'},
                    {'type': 'text'},
                    {'type': 'json_schema', 'json_schema': {'schema': {'enum': [1, 2]}}},
                    {'type': 'json_schema', 'json_schema': {'schema': {'type': 'nonsense'}}},
                ]
            )
        ),
        'reasoning_effort': _JSON,
        'chat_template_kwargs': _JSON,
    },
)
_CALLS = st.fixed_dictionaries(
    {
        'jsonrpc': _mostly(st.just('2.0')),
        'method': _mostly(
            st.sampled_from(
                ['tools/list', 'tools/call', 'initialize', 'ping', 'notifications/cancelled', 'x']
            )
        ),
    },
    optional={
        'id': _mostly(st.integers(0, 9)),
        'params': _mostly(
            st.fixed_dictionaries(
                {},
                optional={
                    'name': _mostly(st.sampled_from(['look', 'picture', 'ask'])),
                    'arguments': _mostly(st.just({'question': 'Hi'})),
                    'requestId': _JSON,
                    'protocolVersion': _mostly(st.just('2025-06-18')),
                    'capabilities': _mostly(st.just({})),
                    'clientInfo': _mostly(st.just({'name': 'x', 'version': '1'})),
                    '_meta': _JSON,
                },
            )
        ),
    },
)
_PATHS = st.sampled_from(
    [
        '/v1/chat/completions',
        '/mcp',
        '/v1/models',
        '/health',
        '/',
        '/frame',
        '/figures',
        '/metrics',
    ]
    + ['/mcp/', '//', '/%00', '/..%2f', '*', 'http://x/', '/v1/chat/completions?a=%ff', '/nothing']
)
_HEADERS = st.one_of(
    st.sampled_from(
        [b'Content-Type: application/json', b'Content-Type: text/plain', b'Expect: 100-continue']
        + [b'Accept: application/json, text/event-stream', b'Accept: */*', b'Connection: close']
        + [b'Transfer-Encoding: chunked', b'Transfer-Encoding: gzip', b'Content-Length: -1']
        + [
            b'Content-Length: 99999999999999999999999',
            b'Content-Length: 0',
            b'Host: evil',
            b'Host:',
        ]
        + [b'Upgrade: websocket', b'Upgrade: h2c', b'Origin: http://evil', b'X: ' + b'a' * 20_000]
        + [b'Authorization: Bearer \xff', b'MCP-Protocol-Version: 1', b'mcp-session-id: \xff\xfe']
        + [b'Content-Encoding: gzip', b'Range: bytes=0-1', b'If-None-Match: *', b': x', b'a b: c']
        + [
            b'Sec-Fetch-Site: cross-site',
            b'Content-Type: application/json; charset=utf-16',
            b'\0: \0',
        ]
    ),
    st.binary(max_size=12),
)


def _request(
    method: str, path: str, headers: list[bytes], body: bytes, length: int | None
) -> bytes:
    """Write a request; `length`: what it claims beside the truth, None for no claim."""
    head = [f'{method} {path} HTTP/1.1'.encode(), b'Host: 127.0.0.1', *headers]
    if length is not None:
        head.append(b'Content-Length: %d' % max(0, len(body) + length))
    return b'\r\n'.join([*head, b'', body])


_JSON_HEADERS = [
    b'Content-Type: application/json',
    b'Accept: application/json, text/event-stream',
]


_LAST = b'Connection: close'


def _posted(path: str, content: Any, *headers: bytes) -> bytes:
    body = json.dumps(content).encode()
    return _request('POST', path, [*_JSON_HEADERS, *headers], body, 0)


_ODD_BODIES = st.sampled_from(
    [b'[' * 100_000, b'{"a":' * 70, b'"' + b'a' * 300_000 + b'"', b'1' * 10_000, b'\xff\xfe{\0}\0']
    + [b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'NaN', b'', b'null', b'\0']
    + [
        b'{"a": 1, "a": 2}',
        b'[[[]]',
        b'1e999',
        b'-',
        b'"\\u"',
        b'\xef\xbb\xbf{}',
        b'5\r\nhello\r\n0\r\n\r\n',
    ]
)
_WHOLE = st.one_of(
    st.builds(_posted, st.just('/v1/chat/completions'), _CHATS),
    st.builds(_posted, st.just('/mcp'), _CALLS | st.lists(_CALLS, max_size=3)),
    st.builds(_posted, _PATHS, _JSON),
    st.builds(
        _request,
        st.sampled_from(['GET', 'POST', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'get', 'X', '', 'PRI'])
        | st.text(st.characters(max_codepoint=127), max_size=5),
        _PATHS,
        st.lists(_HEADERS, max_size=4),
        _ODD_BODIES | _CHATS.map(lambda chat: json.dumps(chat).encode()),
        st.sampled_from([0, 0, 0, 5, -5, None]),
    ),
)
_MARKS = st.sampled_from(
    [b'\r\n', b'\r\n\r\n', b'\n', b'\r', b' ', b'\0', b':', b'HTTP/9.9', b'%']
)


class Requests(Target):
    """What a client sends over one connection, one request or several."""

    inputs = st.lists(st.one_of(_WHOLE, mutated(_WHOLE, _MARKS)), min_size=1, max_size=3)
    seconds = 120.0
    PAUSE = 20  # inputs between two questions that must be answered right

    def __enter__(self) -> Requests:
        self._served = Served().__enter__()
        self._n = 0
        self._scene, self._bgr = draw_scene(3)
        return self

    def __exit__(self, *_: object) -> None:
        status, errors = self._served.stop()
        assert status == 0, status
        assert not errors.strip(), errors[-3000:]

    def check(self, value: list[bytes]) -> None:
        got = self._exchange(b''.join(value), 0.15)
        self._check_answers(got)
        self._n += 1
        self._check_well(self._n % self.PAUSE == 1)

    def _exchange(self, sent: bytes, patience: float = 60.0) -> bytes:
        """Send, and return what comes until the server hangs up.

        Args:
            patience: seconds without a word after which we say that this was all.
        """
        with socket.create_connection(('127.0.0.1', self._served.port)) as client:
            got = b''
            try:
                client.settimeout(60)
                client.sendall(sent)
                client.settimeout(patience)
                while True:
                    try:
                        part = client.recv(1 << 16)
                    except TimeoutError:
                        assert patience < 60, 'the server does not answer'
                        patience = 60
                        client.settimeout(patience)
                        client.shutdown(socket.SHUT_WR)
                        continue
                    if not part:
                        break
                    got += part
            except ConnectionError:  # it has hung up on what cannot be a request
                pass
            return got

    def _check_answers(self, got: bytes) -> None:
        while got:
            assert got.startswith(b'HTTP/1.1 '), got[:200]
            head, found, rest = got.partition(b'\r\n\r\n')
            assert found, head[:200]
            lines = head.split(b'\r\n')
            status = int(lines[0].split()[1])
            headers = {
                name.strip().lower(): text.strip()
                for name, _, text in (line.partition(b':') for line in lines[1:])
            }
            if status == 100:
                got = rest
                continue
            if b'content-length' not in headers:  # a stream: to its end or to the next answer
                end = rest.find(b'\r\n0\r\n\r\n')
                assert status == 200 or not rest.strip(), got[:500]
                got = rest[end + 7 :] if end >= 0 else b''
                continue
            is_head = not rest or rest.startswith(b'HTTP/1.1 ')  # or cut: the client has gone
            size = 0 if is_head else int(headers[b'content-length'])
            body, got = rest[:size], rest[size:]
            self._check_body(status, headers, body, len(body) == size)

    def _check_body(
        self, status: int, headers: dict[bytes, bytes], body: bytes, is_whole: bool
    ) -> None:
        if status < 400 or not body:
            assert status in (200, 202, 307) or status >= 400, status
            return
        assert status != 500, body[:500]
        assert headers[b'content-type'].startswith(b'application/json'), (headers, body[:300])
        if is_whole:
            content = json.loads(body)
            message = content['error']['message']
            assert len(message.splitlines()) == 1, message
            assert message.isprintable(), message

    def _check_well(self, asks: bool) -> None:
        """Check that the server is well; now and then, that it answers right."""
        assert self._served.process.poll() is None, 'the server has ended'
        got = self._exchange(_request('GET', '/health', [_LAST], b'', None))
        assert got.startswith(b'HTTP/1.1 200 '), got[:200]
        if not asks:
            return
        parts = [
            {'type': 'image_url', 'image_url': {'url': data_url(self._bgr)}},
            {'type': 'text', 'text': QUESTION},
        ]
        chat = {'messages': [{'role': 'user', 'content': parts}], 'temperature': 0}
        for _ in range(100):
            got = self._exchange(_posted('/v1/chat/completions', chat, _LAST))
            if not got.startswith(b'HTTP/1.1 429 '):
                break
            time.sleep(0.1)  # questions whose clients have gone are about to end
        assert got.startswith(b'HTTP/1.1 200 '), got[:500]
        said = json.loads(got.partition(b'\r\n\r\n')[2])['choices'][0]['message']['content']
        assert said.strip() == answer(self._scene, QUESTION)

"""The server under attack: by hostile pages, requests, pictures and clients."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nano import draw_scene
from served import DIGITS, SAMPLE, TIMEOUT, Served, serving

pytest.importorskip('starlette', reason='needs requirements/web.txt')

from hobot_llamacpp_py.config import ChatConfig, SamplingConfig
from hobot_llamacpp_py.engine import json_schema
from hobot_llamacpp_py.errors import ServerError
from hobot_llamacpp_py.web import connection, guard, server
from hobot_llamacpp_py.web.server import Server

TOKEN = 'abcdefgh12345678'
CHAT = '/v1/chat/completions'


class Raw:
    """A client that sends whatever it likes."""

    def __init__(self, port: int, take: int = 0) -> None:
        self.socket = socket.socket()
        if take:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, take)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(('127.0.0.1', port))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Raw:
        self.socket.sendall(data)
        return self

    def head(self) -> bytes:
        """Return the head of an answer, or what came before the end."""
        got = b''
        while b'\r\n\r\n' not in got and (part := self._receive()):
            got += part
        return got

    def status(self) -> int:
        """Return the status of an answer; 0: there was none before the end."""
        got = self.head()
        return int(got[9:12]) if got.startswith(b'HTTP/1.1 ') else 0

    def rest(self) -> bytes:
        """Return all that comes up to the end."""
        got = b''
        while part := self._receive():
            got += part
        return got

    def discard(self) -> None:
        """Take what has come so far, and forget it."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.socket.recv(1 << 16, socket.MSG_DONTWAIT)

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(1 << 16)
        except ConnectionError:
            return b''


def request(
    target: str = '/v1/models', *lines: str, method: str = 'GET', body: bytes = b''
) -> bytes:
    """Return a request, with a Host of its own where `lines` have none."""
    given = list(lines)
    if not any(line.lower().startswith('host:') for line in given):
        given.insert(0, 'Host: 127.0.0.1')
    if body:
        given += ['Content-Type: application/json', f'Content-Length: {len(body)}']
    return '\r\n'.join([f'{method} {target} HTTP/1.1', *given, '', '']).encode('latin-1') + body


def chat(**fields: Any) -> bytes:
    """Return a question that is quickly answered."""
    messages = [{'role': 'user', 'content': 'Hi'}]
    return json.dumps({'messages': messages, 'max_tokens': 4, **fields}).encode()


def asking(body: bytes, *lines: str) -> bytes:
    """Return the request of a chat."""
    return request(CHAT, *lines, method='POST', body=body)


def port_of(url: str) -> int:
    return int(url.rpartition(':')[2])


@pytest.fixture(scope='module')
def port() -> Iterator[int]:
    """A server that everybody on this machine may use; no attack makes it fail in itself."""
    failures: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: failures.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    with serving(see=lambda: draw_scene(0)[1]) as url:
        yield port_of(url)
    logging.getLogger().removeHandler(handler)
    assert failures == []


@pytest.fixture
def is_well(port: int) -> Iterator[None]:
    """The server answers after the attack as before."""
    yield
    with Raw(port) as client:
        assert client.send(asking(chat())).status() == 200


# -- who asks ------------------------------------------------------------------------------------


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '192.0.2.1', '', 'robot.local'])
def test_no_token(host: str) -> None:
    """What other machines can reach is not even begun without a token."""
    with pytest.raises(ServerError, match='needs a token'):
        Server(None, host, 0)  # type: ignore[arg-type]


HOSTS = {
    '127.0.0.1': 200,
    '127.0.0.1:8080': 200,
    'LOCALHOST:1': 200,
    '[::1]:8080': 200,
    'evil.example': 403,
    '127.0.0.1.evil.example': 403,
    'evil.example:80': 403,
    'localhost.evil.example': 403,
    'evil.example@127.0.0.1': 403,
    '127.0.0.1@evil.example': 403,
    '127.0.0.1/evil': 403,
    '127.0.0.1:80:80': 403,
    '127.0.0.1,evil.example': 403,
    '192.168.1.10': 403,
    '0.0.0.0': 403,
    '[::]': 403,
    '::1': 403,
    '2130706433': 403,
    '127.1': 403,
    '[': 403,
    'xn--': 403,
    '\xb2': 403,
    '': 403,
}


@pytest.mark.parametrize('host', HOSTS)
def test_hosts(port: int, host: str) -> None:
    """A name that is not this machine's is refused: a page could have had it point here."""
    with Raw(port) as client:
        assert client.send(request('/v1/models', f'Host: {host}')).status() == HOSTS[host]


@pytest.mark.parametrize(
    'data',
    [
        request('/health', 'Host: 127.0.0.1', 'Host: evil.example'),
        request('/health', 'Host: evil.example', 'Host: 127.0.0.1'),
        request('/health', 'Host: 127.0.0.1', 'Host: 127.0.0.1'),
        b'GET /health HTTP/1.1\r\n\r\n',
        b'GET /health HTTP/1.0\r\n\r\n',
        request('http://evil.example/health', 'Host: evil.example'),
        request('http://evil.example/v1/models'),
        request('/health\x00'),
        request('/he alth'),
        b'GET /health\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + bytes(60),  # TLS
        b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
        b'\r\n' * 20000,
        b'\x00' * 20000,
    ],
)
def test_strange_requests(port: int, is_well: None, data: bytes) -> None:
    """A request that means two things, or nothing, is refused."""
    with Raw(port) as client:
        assert client.send(data).status() in (400, 403, 404)


ORIGINS = {
    'http://127.0.0.1:8080': 200,
    'https://127.0.0.1:8080': 200,  # behind a proxy that speaks TLS
    'null': 403,
    '': 403,
    'http://127.0.0.1': 403,
    'http://127.0.0.1:3000': 403,
    'http://localhost:8080': 403,
    'http://evil.example': 403,
    'http://evil.example:8080': 403,
    'http://127.0.0.1:8080.evil.example': 403,
    'http://evil.example@127.0.0.1:8080': 403,
    'file://127.0.0.1:8080': 403,
    'chrome-extension://127.0.0.1:8080': 403,
    '127.0.0.1:8080': 403,
}


@pytest.mark.parametrize('origin', ORIGINS)
def test_origins(port: int, origin: str) -> None:
    """A page of another origin is refused, on the same machine, too."""
    lines = ('Host: 127.0.0.1:8080', f'Origin: {origin}')
    for data in (request('/v1/models', *lines), asking(chat(), *lines)):
        with Raw(port) as client:
            assert client.send(data).status() == ORIGINS[origin]


@pytest.mark.parametrize(
    'site, destination, status',
    [
        ('none', 'document', 200),
        ('same-origin', 'image', 200),
        ('cross-site', 'document', 200),
        ('cross-site', 'image', 403),
        ('cross-site', 'iframe', 403),
        ('same-site', 'script', 403),
    ],
)
def test_what_a_page_embeds(port: int, site: str, destination: str, status: int) -> None:
    """A page of another origin may link here, but not show what is here."""
    lines = (f'Sec-Fetch-Site: {site}', f'Sec-Fetch-Dest: {destination}')
    with Raw(port) as client:
        assert client.send(request('/health', *lines)).status() == status


def test_preflight_and_forms(port: int) -> None:
    """No page is allowed more than its own origin, and none gets anywhere with a form."""
    with Raw(port) as client:
        lines = ('Origin: http://evil.example', 'Access-Control-Request-Method: POST')
        head = client.send(request(CHAT, *lines, method='OPTIONS')).head()
        assert head.startswith(b'HTTP/1.1 403') and b'access-control' not in head.lower()
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', ''):
        for path in (CHAT, '/mcp'):
            lines = (f'Content-Type: {kind}', 'Content-Length: 2')
            with Raw(port) as client:
                assert client.send(request(path, *lines, method='POST') + b'{}').status() == 415


@pytest.fixture(scope='module')
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for other machines, as a process of its own."""
    path = tmp_path_factory.mktemp('token') / 'token'
    path.write_text(TOKEN)
    path.chmod(0o600)
    arguments = ['--host', '0.0.0.0', '--token-file', str(path), '--picture', str(SAMPLE)]
    with Served('internvl', arguments) as process:
        yield process
    assert process.status == 0 and 'Traceback' not in process.errors


@pytest.mark.parametrize(
    'lines, status',
    [
        ((f'Authorization: Bearer {TOKEN}',), 200),
        ((f'authorization: bearer  {TOKEN} ',), 200),
        ((), 401),
        (('Authorization: Bearer',), 401),
        (('Authorization: Bearer ',), 401),
        ((f'Authorization: Basic {TOKEN}',), 401),
        ((f'Authorization: {TOKEN}',), 401),
        ((f'Authorization: Bearer {TOKEN}x',), 401),
        ((f'Authorization: Bearer {TOKEN[:-1]}',), 401),
        ((f'Authorization: Bearer {TOKEN.upper()}',), 401),
        ((f'Authorization: Bearer {TOKEN} {TOKEN}',), 401),
        (('Authorization: Bearer \xff\xfe\xb2',), 401),
        ((f'Cookie: token={TOKEN}', f'X-Api-Key: {TOKEN}'), 401),
    ],
)
def test_token(guarded: Served, lines: tuple[str, ...], status: int) -> None:
    """Only the token lets in, and nothing like it."""
    with Raw(guarded.port) as client:
        assert client.send(request('/v1/models', *lines)).status() == status


@pytest.mark.parametrize(
    'path', ['/v1/models', CHAT, '/mcp', '/nothing', '//', '/.', '/health/', '/health/../v1', '*']
)
def test_without_token(guarded: Served, path: str) -> None:
    """Without the token nothing can be told from what there is not; and its body is not read."""
    lines = ('Content-Type: application/json', 'Content-Length: 1000')
    for method in ('GET', 'POST', 'PUT', 'TRACE', 'BREW'):
        with Raw(guarded.port) as client:
            assert client.send(request(path, *lines, method=method)).status() == 401


# -- paths and methods ---------------------------------------------------------------------------

PATHS = [
    '/../../../../etc/passwd',
    '/..%2f..%2f..%2fetc/passwd',
    '/%2e%2e/%2e%2e/%2e%2e/etc/passwd',
    '/..\\..\\etc\\passwd',
    '/%252e%252e/etc/passwd',
    '/etc/passwd',
    '//etc/passwd',
    '/static/../../../etc/passwd',
    '/..;/etc/passwd',
    '/\xc0\xae\xc0\xae/etc/passwd',
    '/%c0%ae%c0%ae/etc/passwd',
    '/%00/etc/passwd',
    '/mcp/../../etc/passwd',
    'file:///etc/passwd',
    '/v1/models%00.html',
    '/docs',
    '/openapi.json',
    '/.git/config',
    '/token',
]


@pytest.mark.parametrize('path', PATHS)
def test_no_path_of_the_machine(port: int, path: str) -> None:
    """No file is served by any spelling of its path."""
    with Raw(port) as client:
        answer = client.send(request(path, 'Connection: close')).rest()
    assert answer[9:12] in (b'400', b'403', b'404') and b'root:' not in answer


@pytest.mark.parametrize('method', ['TRACE', 'PUT', 'DELETE', 'PATCH', 'CONNECT', 'BREW', 'POST'])
def test_methods(port: int, method: str) -> None:
    """A method that a path does not have is refused, and nothing is echoed."""
    for path in ('/v1/models', CHAT, '/health', '/mcp', 'evil.example:443'):
        if method == 'POST' and path in (CHAT, '/mcp'):
            continue
        data = request(path, 'X-Secret: echo-me', 'Connection: close', method=method)
        with Raw(port) as client:
            answer = client.send(data).rest()
        assert answer[9:12] in (b'404', b'405') and b'echo-me' not in answer


def test_websocket(port: int, is_well: None) -> None:
    """There are no websockets: the request is what it is without."""
    lines = ('Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13')
    with Raw(port) as client:
        data = request('/health', *lines, 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==')
        assert client.send(data).status() == 200
    with Raw(port) as client:
        data = request('/health', 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c')
        assert client.send(data).status() == 200


def test_floods_of_headers(port: int, is_well: None) -> None:
    """A head of more than 16 kB is refused before its end, by number or by size."""
    for line in (b'X-%d: 1\r\n', b'X-%d: ' + b'a' * 60000 + b'\r\n'):
        with Raw(port) as client:
            client.send(b'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n')
            try:
                for n in range(5000):
                    client.send(line % n)
            except ConnectionError:
                pass
            assert client.status() in (0, 400)  # 0: we spoke on after the end


def test_pipelining(port: int, is_well: None) -> None:
    """Requests sent at once are answered one after the other, each for itself."""
    with Raw(port) as client:
        many = request('/v1/models') * 50 + request('/v1/models', 'Host: evil.example')
        many += asking(chat()) + request('/nothing', 'Connection: close')
        answers = client.send(many).rest()
    statuses = [int(code) for code in re.findall(rb'HTTP/1.1 (\d+)', answers)]
    assert statuses == [200] * 50 + [403, 200, 404]


# -- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize('path', [CHAT, '/mcp'])
@pytest.mark.parametrize(
    'lines, body, status',
    [
        (('Content-Length: 20971521',), b'', 413),
        (('Content-Length: 99999999999999999999',), b'', 413),
        (('Content-Length: ' + '9' * 5000,), b'', 400),
        (('Content-Length: -1',), b'', 400),
        (('Content-Length: +5',), b'', 400),
        (('Content-Length: 0x10',), b'', 400),
        (('Content-Length: \xb2',), b'', 400),
        (('Content-Length: 2', 'Content-Length: 3'), b'{}', 400),
        (('Content-Length: 2', 'Transfer-Encoding: chunked'), b'0\r\n\r\n', 400),
        (('Transfer-Encoding: gzip, chunked',), b'0\r\n\r\n', 400),
        (('Transfer-Encoding: identity',), b'', 400),
        (('Transfer-Encoding: chunked',), b'zz\r\n', 400),
        (('Transfer-Encoding: chunked',), b'-1\r\n', 400),
        (('Transfer-Encoding: chunked',), b'f' * 30 + b'\r\n', 400),
        (('Content-Length: 0',), b'', 400),
        ((), b'', 400),
    ],
)
def test_lies_about_length(
    port: int, is_well: None, path: str, lines: tuple[str, ...], body: bytes, status: int
) -> None:
    """What is said of a body's length is believed only if it makes sense, and is not too much."""
    with Raw(port) as client:
        data = request(path, 'Content-Type: application/json', *lines, method='POST') + body
        assert client.send(data).status() == status


def memory(server: Served) -> int:
    """Return how many MB a server has ever had at once, at most."""
    status = Path(f'/proc/{server.process.pid}/status').read_text()
    return int(re.findall(r'VmHWM:\s+(\d+)', status)[0]) >> 10


@pytest.mark.parametrize('path', [CHAT, '/mcp'])
def test_a_body_without_end(guarded: Served, path: str) -> None:
    """A body in chunks that does not end is refused at 20 MB; no memory is given for the rest."""
    lines = ('Content-Type: application/json', 'Transfer-Encoding: chunked')
    token = f'Authorization: Bearer {TOKEN}'
    before = memory(guarded)
    chunk = b'100000\r\n' + b' ' * (1 << 20) + b'\r\n'
    with Raw(guarded.port) as client:
        client.send(request(path, token, *lines, method='POST'))
        for _ in range(200):
            client.send(chunk)
        assert client.status() == 413
    assert memory(guarded) - before < 100


HOSTILE: dict[str, tuple[bytes, int]] = {
    'deep': (b'[' * 100000, 413),
    'deep and closed': (b'[' * 100000 + b']' * 100000, 413),
    'deep after a text': (b'{"messages": "\\"", "x": ' + b'[' * 100000, 413),
    'deep in UTF-16': (('"\u2222' + '[' * 100000).encode('utf-16-le'), 400),
    'a million keys': (b'{' + b','.join(b'"%d":1' % n for n in range(1000000)) + b'}', 413),
    'a million values': (b'[' + b'1,' * 1000000 + b'1]', 413),
    'escaped quotes': (b'\\"' * 5000000, 400),
    'a text without end': (b'"' + b'a' * 10000000, 400),
    'backslashes': (b'"' + b'\\' * 10000001, 400),
    'quotes': (b'"' * 10000000, 413),
    'digits': (chat()[:-1] + b', "seed": ' + b'9' * 5000 + b'}', 400),
    'many digits': (chat()[:-1] + b', "temperature": ' + b'9' * 4000 + b'}', 400),
    'a large integer': (chat()[:-1] + b', "max_tokens": ' + b'9' * 30 + b'}', 400),
    'a million digits': (b'9' * 1000000, 400),
    'infinite': (chat()[:-1] + b', "temperature": 1e999}', 400),
    'Infinity': (chat()[:-1] + b', "temperature": Infinity}', 400),
    'NaN': (chat()[:-1] + b', "top_p": NaN}', 400),
    'minus zero': (chat()[:-1] + b', "temperature": -0.0}', 200),
    'the same key twice': (chat()[:-1] + b', "max_tokens": 0}', 400),
    'invalid UTF-8': (chat().replace(b'Hi', b'\xff\xfe\xc0\x80'), 400),
    'UTF-16': (json.dumps({'messages': []}).encode('utf-16'), 400),
    'a byte order mark': (b'\xef\xbb\xbf' + chat(), 400),
    'gzip': (zlib.compress(chat()), 400),
    'nothing': (b' ', 400),
    'null': (b'null', 400),
    'a text': (b'"messages"', 400),
    'types': (b'{"messages": {"role": "user"}}', 400),
    'more types': (b'{"messages": [[1]], "stop": {"a": 1}}', 400),
    'a role of another type': (b'{"messages": [{"role": ["user"], "content": "a"}]}', 400),
    'a schema of another type': (chat(response_format={'type': ['json_schema']}), 400),
    'options of another type': (chat(stream_options=7), 200),
    'a flag of another type': (chat(stream=[1]), 400),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_json(port: int, is_well: None, name: str) -> None:
    """JSON that is too deep, too much or none is refused before it costs anything."""
    body, status = HOSTILE[name]
    with Raw(port) as client:
        assert client.send(asking(body)).status() == status


@pytest.mark.parametrize(
    'text',
    ['a\x00b', '\x00', '\ud800', 'a\udfff', '\uffff', '\x1b[2J', '<|im_end|>', '\u202e' * 99],
)
def test_hostile_text(port: int, is_well: None, text: str) -> None:
    """Any text is a question, or is refused; never is it an error of ours."""
    message = {'role': 'user', 'content': f'Hi {text}'}
    for extra in ({}, {'stream': True}, {'stop': text}, {'response_format': {'type': text}}):
        body = chat(messages=[{'role': 'system', 'content': text}, message], **extra)
        with Raw(port) as client:
            assert client.send(asking(body)).status() in (200, 400)


# -- pictures ------------------------------------------------------------------------------------


def png(width: int, height: int, *more: bytes) -> bytes:
    """Return the head of a PNG of some size; there is next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + crc

    size = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    rest = b''.join(more) or chunk(b'IDAT', zlib.compress(bytes(1000)))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', size) + rest + chunk(b'IEND', b'')


def jpeg(width: int, height: int) -> bytes:
    """Return a JPEG that says that it is of some size."""
    data = bytearray(cv2.imencode('.jpg', draw_scene(0)[1])[1].tobytes())
    at = data.index(b'\xff\xc0')
    data[at + 5 : at + 9] = struct.pack('>HH', height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    """Return the head of an animated WebP of some size."""
    size = (width - 1).to_bytes(3, 'little') + (height - 1).to_bytes(3, 'little')
    head = b'VP8X' + struct.pack('<I', 10) + b'\x02\0\0\0' + size
    anim = b'ANIM' + struct.pack('<I', 6) + bytes(6)
    frame = cv2.imencode('.webp', draw_scene(0)[1])[1].tobytes()[12:]
    inner = bytes(6) + (319).to_bytes(3, 'little') + (239).to_bytes(3, 'little') + bytes(4) + frame
    anmf = b'ANMF' + struct.pack('<I', len(inner)) + inner
    body = b'WEBP' + head + anim + anmf * 3
    return b'RIFF' + struct.pack('<I', len(body)) + body


def shown(*files: bytes, kind: str = 'png') -> bytes:
    """Return a conversation about pictures."""
    messages: list[dict[str, Any]] = []
    for data in files:
        url = f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
        if messages:
            messages.append({'role': 'assistant', 'content': 'Yes.'})
        parts = [{'type': 'image_url', 'image_url': {'url': url}}, {'type': 'text', 'text': 'Hi'}]
        messages.append({'role': 'user', 'content': parts})
    return chat(messages=messages)


FLAT = cv2.imencode('.png', np.zeros((7000, 7000), np.uint8))[1].tobytes()
BOMBS: dict[str, tuple[bytes, int]] = {
    'png': (shown(png(60000, 60000)), 413),
    'png of no height': (shown(png(60000, 0)), 400),
    'png below the limit with nothing in it': (shown(png(7000, 7000)), 400),
    'a large png in a small one': (shown(png(10, 10, png(30000, 30000)[8:])), 413),
    'a small png in a large one': (shown(png(30000, 30000, png(10, 10)[8:])), 400),
    'a small png after a large one': (shown(png(30000, 30000) + png(10, 10)[8:]), 413),
    'jpeg': (shown(jpeg(65500, 65500)), 413),
    'webp': (shown(webp(16383, 16383)), 413),
    'several': (shown(FLAT, FLAT + b'1', FLAT + b'2'), 413),
    'gif': (shown(b'GIF89a' + struct.pack('<HH', 65535, 65535) + bytes(100)), 400),
    'tiff': (shown(b'II*\0' + bytes(1000)), 400),
    'svg': (shown(b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>'), 400),
    'nothing': (shown(b''), 400),
    'noise': (shown(bytes(range(256)) * 1000), 400),
}


@pytest.mark.parametrize('name', BOMBS)
def test_bombs(guarded: Served, name: str) -> None:
    """A picture that would be too large is refused by what its head says: it costs no memory."""
    body, status = BOMBS[name]
    before = memory(guarded)
    with Raw(guarded.port) as client:
        assert client.send(asking(body, f'Authorization: Bearer {TOKEN}')).status() == status
    assert memory(guarded) - before < 250


@pytest.mark.parametrize('kind', ['webp', 'png', 'jpeg'])
def test_pictures_of_many_frames(port: int, is_well: None, kind: str) -> None:
    """Of an animation the first frame is looked at; the name of a format is not believed."""
    with Raw(port) as client:
        assert client.send(asking(shown(webp(320, 240), kind=kind))).status() == 200


def test_no_address_is_fetched(port: int) -> None:
    """A picture by its address is refused, and nobody is asked for it."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        there = f'127.0.0.1:{listener.getsockname()[1]}'
        for url in (
            f'http://{there}/a.png',
            f'HTTP://{there}/a.png',
            f'//{there}/a.png',
            f' http://{there}/a.png',
            f'ftp://{there}/a.png',
            'file:///etc/passwd',
            '/etc/passwd',
            f'data:http://{there}/a.png',
            f'data:image/png;base64,http://{there}/a.png',
            f'data:image/svg+xml,<image href="http://{there}/a.png"/>',
            f'camera:http://{there}/',
        ):
            parts = [{'type': 'image_url', 'image_url': {'url': url}}]
            body = chat(messages=[{'role': 'user', 'content': parts}])
            with Raw(port) as client:
                assert client.send(asking(body)).status() == 400
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


# -- clients that are slow, silent or many -------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits of a fraction of a second."""
    monkeypatch.setattr(connection, 'PATIENCE', 0.4)
    monkeypatch.setattr(guard, 'BODY_TIMEOUT', 0.4)


def drip(client: Raw, data: bytes) -> None:
    """Send a byte at a time until the other side has had enough."""
    client.socket.settimeout(0.02)
    for n in range(len(data)):
        try:
            client.send(data[n : n + 1])
            if not client.socket.recv(1 << 16, socket.MSG_PEEK):
                return
        except (BlockingIOError, TimeoutError):
            continue
        except ConnectionError:
            return
        return
    raise AssertionError('nobody has had enough')


@pytest.mark.parametrize('start', [b'', request('/health')], ids=['first', 'second'])
def test_a_head_that_does_not_end(port: int, impatient: None, is_well: None, start: bytes) -> None:
    """A head of a byte now and then is waited for, but not for ever."""
    with Raw(port) as client:
        if start:
            assert client.send(start).status() == 200
            client.discard()
        drip(client, b'GET /health HTTP/1.1\r\nX: ' + b'a' * 1000)


def test_silence(port: int, impatient: None, is_well: None) -> None:
    """Who says nothing is hung up on, also in the middle of a word."""
    for said in (b'', b'GET /hea', request('/health')[:-2]):
        with Raw(port) as client:
            assert client.send(said).rest() == b''


@pytest.mark.parametrize('path', [CHAT, '/mcp'])
def test_a_body_that_does_not_come(port: int, impatient: None, is_well: None, path: str) -> None:
    """A body that does not come, or a byte now and then, is not waited for long."""
    lines = ('Content-Type: application/json', 'Content-Length: 1000')
    with Raw(port) as client:
        client.send(request(path, *lines, method='POST'))
        assert client.status() == 408
        client.rest()  # what is left of the answer, up to the end
    with Raw(port) as client:
        client.send(request(path, *lines, method='POST'))
        drip(client, b' ' * 999)
        assert client.status() == 408


def test_a_refused_body_that_goes_on(port: int, impatient: None, is_well: None) -> None:
    """Who goes on sending after the refusal is hung up on."""
    lines = ('Content-Type: application/json', 'Content-Length: 99999999')
    with Raw(port) as client:
        assert client.send(request(CHAT, *lines, method='POST')).status() == 413
        deadline = time.monotonic() + TIMEOUT
        with pytest.raises(ConnectionError):
            while time.monotonic() < deadline:
                client.send(b' ' * 1000)
                client.discard()


def test_many_that_say_nothing(port: int) -> None:
    """Those who just hold a connection give way to those who want something."""
    silent = [Raw(port) for _ in range(200)]
    begun = [Raw(port).send(request(CHAT, 'Content-Length: 9', method='POST')) for _ in range(100)]
    try:
        for _ in range(3):
            with Raw(port) as client:
                assert client.send(asking(chat())).status() == 200
    finally:
        for client in silent + begun:
            client.socket.close()


def test_many_that_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all have a request in hand, the next one is told that there is no room."""
    monkeypatch.setattr(connection, 'MOST_CONNECTIONS', 4)
    sampling = SamplingConfig(constraint=json_schema(DIGITS))
    config = ChatConfig(max_tokens=30000, sampling=sampling)
    with serving(config=config) as url:
        # Of this protocol, the head of an answer comes as soon as the request waits in line.
        call = {'name': 'ask', 'arguments': {'text': 'Hi'}}
        message = {'jsonrpc': '2.0', 'id': 1, 'method': 'tools/call', 'params': call}
        lines = ('Accept: application/json, text/event-stream', 'MCP-Protocol-Version: 2025-11-25')
        data = request('/mcp', *lines, method='POST', body=json.dumps(message).encode())
        busy = [Raw(port_of(url)).send(data) for _ in range(4)]
        assert [client.status() for client in busy] == [200] * 4
        with Raw(port_of(url)) as client:
            assert client.send(request('/v1/models')).status() == 503
        for other in busy:
            other.socket.close()
        for _ in range(100):
            with Raw(port_of(url)) as client:
                if client.send(request('/v1/models')).status() == 200:
                    break
        else:
            raise AssertionError('those who went away still count')


def test_who_does_not_take_its_answer(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of a client that takes nothing ends; the next one is answered."""
    monkeypatch.setattr(server, 'SEND_BUFFER', 1 << 14)
    sampling = SamplingConfig(constraint=json_schema(DIGITS))
    config = ChatConfig(max_tokens=30000, sampling=sampling)
    with serving(config=config) as url, Raw(port_of(url), take=1 << 16) as client:
        client.send(asking(chat(stream=True, max_tokens=30000)))
        client.socket.recv(1, socket.MSG_PEEK)  # it has begun
        with Raw(port_of(url)) as other:
            assert other.send(asking(chat())).status() == 200
        assert b'[DONE]' not in client.rest()


def test_who_asks_much_and_takes_nothing(port: int, impatient: None, is_well: None) -> None:
    """Who asks without end and takes no answer is not heard any more, and then dropped."""
    with Raw(port, take=4096) as client, pytest.raises(ConnectionError):
        for _ in range(100000):
            client.send(request('/v1/models') * 100)


def test_slow_but_steady(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes its answer slowly gets all of it, though that takes longer than one may pause."""
    monkeypatch.setattr(connection, 'PATIENCE', 1.5)
    started = time.monotonic()
    with Raw(port, take=1 << 16) as client:
        client.send(request('/') * 59 + request('/', 'Connection: close'))
        got = b''
        while part := client.socket.recv(8000):
            got += part
            time.sleep(0.015)
    assert time.monotonic() - started > 1.5
    lengths = re.findall(rb'content-length: (\d+)', got)
    assert len(lengths) == 60
    assert len(got) > sum(map(int, lengths)) > 1 << 20
    assert got.endswith(b'</html>\n')

"""A hub on this machine: what Hugging Face's answers to its library, from files of our own."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

__all__ = ['Hub']

COMMIT = '5e6f' * 10
BLOCK = 1 << 16


@dataclass
class Hub:
    """Serve files on a port of the loopback; use as a context manager.

    Attributes:
        files: content by 'owner/name/path'.
        announced: checksum and size that are announced instead of the true ones.
        breaks: bytes after which a transfer is broken off, by file; each happens once.
        token: what a request must bring to see anything, empty for nothing.
        gated: repositories that ask for consent.
        starts: where each transfer of a file began, in the order of the transfers.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    announced: dict[str, tuple[str, int]] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    token: str = ''
    gated: set[str] = field(default_factory=set)
    starts: dict[str, list[int]] = field(default_factory=dict)
    holding: threading.Event = field(default_factory=threading.Event)
    """Set when a transfer of `held` has sent what it may: it waits there until the end."""
    held: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self.released = threading.Event()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The value of HF_ENDPOINT."""
        return f'http://127.0.0.1:{self._server.server_port}'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    owner: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        hub = self.owner
        if self.path.startswith('/storage/'):
            self._send(self.path.removeprefix('/storage/'))
            return
        found = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', self.path)
        assert found, self.path
        repository, _, path = found.groups()
        name = f'{repository}/{path}'
        if hub.token and self.headers.get('Authorization') != f'Bearer {hub.token}':
            self._refuse(401, 'RepoNotFound')
        elif repository in hub.gated:
            self._refuse(403, 'GatedRepo')
        elif not any(known.startswith(repository + '/') for known in hub.files):
            self._refuse(404, 'RepoNotFound')
        elif name not in hub.files:
            self._refuse(404, 'EntryNotFound')
        else:
            content = hub.files[name]
            checksum, size = hub.announced.get(
                name, (hashlib.sha256(content).hexdigest(), len(content))
            )
            self.send_response(302)
            self.send_header('Location', f'{hub.url}/storage/{name}')
            self.send_header('X-Repo-Commit', COMMIT)
            self.send_header('X-Linked-Etag', f'"{checksum}"')
            self.send_header('X-Linked-Size', str(size))
            self.send_header('Content-Length', '0')
            self.end_headers()

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header('X-Error-Code', code)
        self.send_header('X-Error-Message', 'no')
        self.send_header('Content-Length', '0')
        self.end_headers()

    def _send(self, name: str) -> None:
        hub, content = self.owner, self.owner.files[name]
        wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
        start = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            end = f'{len(content) - 1}/{len(content)}'
            self.send_header('Content-Range', f'bytes {start}-{end}')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        if self.command == 'HEAD':
            return
        hub.starts.setdefault(name, []).append(start)
        broken, held = hub.breaks.pop(name, None), hub.held.pop(name, None)
        end = min(x for x in (broken, held, len(content)) if x is not None)
        try:
            for at in range(start, end, BLOCK):
                self.wfile.write(content[at : min(at + BLOCK, end)])
            if held is not None:
                hub.holding.set()
                hub.released.wait()
                if broken is None:
                    self.wfile.write(content[end:])
        except OSError:
            pass  # the other side has gone
        self.close_connection = True

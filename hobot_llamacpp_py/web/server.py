"""The server's thread: an address that is taken at once, and a stop that does not wait."""

from __future__ import annotations

import importlib.util
import logging
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hobot_llamacpp_py.errors import ServerError
from hobot_llamacpp_py.files import whole_text
from hobot_llamacpp_py.web.backend import Backend

if TYPE_CHECKING:
    from hobot_llamacpp_py.web.metrics import Metrics

__all__ = ['Server', 'bound', 'check_address', 'read_token']

log = logging.getLogger(__name__)

# By the name that is imported; requirements/web.txt has the versions.
PACKAGES = {
    'starlette': 'starlette==1.7.0',
    'uvicorn': 'uvicorn==0.54.0',
    'mcp': 'mcp==2.3.0',
    'prometheus_client': 'prometheus-client==0.26.0',
    'PIL': 'pillow==12.3.0',
}
WAITING = 512  # connections that the kernel holds until we come to them
SEND_BUFFER = 1 << 18  # bytes: what a client does not take is to show soon
LOOPBACK = ('127.0.0.1', '::1', 'localhost')


class Server:
    """An HTTP server in a thread of its own; the address is taken when it is made.

    Args:
        token: what clients must bring; may be empty on the loopback only.

    Raises:
        ServerError: packages are missing, the address cannot be had, or has no token.
    """

    def __init__(self, backend: Backend, host: str, port: int, token: str = '') -> None:
        check_address(host, token)
        self._socket = bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        """The port, also where 0 asked for any."""
        self._backend, self._host, self._token = backend, host, token
        from hobot_llamacpp_py.web.metrics import Metrics

        self.metrics: Metrics = Metrics(backend.figures)
        """What is counted; also of requests that come another way."""
        self._server: Any = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name='http', daemon=True)

    @property
    def url(self) -> str:
        """What to type into a browser; of all addresses the machine's name."""
        is_any = self._host in ('0.0.0.0', '::')
        host = socket.gethostname() if is_any else self._host
        return f'http://{f"[{host}]" if ":" in host else host}:{self.port}/'

    def start(self) -> None:
        """Begin to serve."""
        self._socket.listen(WAITING)  # who comes before the imports are done waits
        self._thread.start()

    def stop(self, timeout: float = 1.0) -> None:
        """Stop serving; running requests end."""
        self._stopped.set()
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._socket.close()

    def _run(self) -> None:
        try:
            import uvicorn

            from hobot_llamacpp_py.web import connection
            from hobot_llamacpp_py.web.app import make_app

            # That a client has gone is no news.
            logging.getLogger('asyncio').setLevel(logging.ERROR)
            logging.getLogger('asyncio').addFilter(_FullHouse())
            config = uvicorn.Config(
                make_app(self._backend, self.metrics, self._token, self._host),
                http=connection.Connection,
                loop='asyncio',
                ws='none',
                lifespan='on',
                log_config=None,
                log_level='critical',  # what goes wrong is logged by us, in one line
                access_log=False,
                server_header=False,
                limit_concurrency=connection.MOST_CONNECTIONS + 1,
                timeout_keep_alive=connection.KEEP_ALIVE,
                backlog=WAITING,
                timeout_graceful_shutdown=0,
                h11_max_incomplete_event_size=1 << 14,
            )
            self._server = uvicorn.Server(config)
            if not self._stopped.is_set():
                self._server.run(sockets=[self._socket])
        except Exception as error:
            log.error('the HTTP server has ended: %s: %s', type(error).__name__, error)
        finally:
            self._socket.close()  # else clients would wait for somebody to answer


class _FullHouse(logging.Filter):
    """Says now and then, in a line, what asyncio says for each client that finds no room."""

    _PERIOD = 60.0  # seconds
    _not_before = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Let through all else."""
        if 'accept() out of system resource' not in record.getMessage():
            return True
        if time.monotonic() >= self._not_before:
            self._not_before = time.monotonic() + self._PERIOD
            log.error('no HTTP client can come in: the process has no file descriptors left')
        return False


def check_address(host: str, token: str) -> None:
    """Check that a server may listen there, and can.

    Raises:
        ServerError: packages are missing, or others could ask it without a token.
    """
    missing = [
        package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ServerError(
            f'packages of the HTTP server are missing: pip3 install {" ".join(missing)}'
        )
    if host not in LOOPBACK and not token:
        raise ServerError(
            f'{host} is reached from other machines: the HTTP server needs a token there',
            setting='http_token',
        )


def read_token(path: str) -> str:
    """Return the token in a file.

    Raises:
        ServerError: there is none, or others can read it.
    """
    file = Path(path).expanduser()
    try:
        mode, token = file.stat().st_mode, (whole_text(file) or '').strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f'the token file {file} cannot be read: {error}') from None
    if len(token) < 16 or not token.isascii() or token.split() != [token]:
        raise ServerError(
            f'the token file {file} must hold one word of at least 16 ASCII characters, for'
            ' example of: openssl rand -hex 16'
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning('others can read the token file %s: chmod 600 %s', file, file)
    return token


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that has an address.

    Raises:
        ServerError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        taken.bind(address)
        return taken
    except OSError as error:
        raise ServerError(
            f'port {port} of {host} cannot be had for the HTTP server: {error.strerror or error}'
        ) from None

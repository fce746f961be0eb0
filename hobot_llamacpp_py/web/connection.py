"""One client's connection: nobody holds one without using it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from typing import cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hobot_llamacpp_py.web.http_error import HttpError

__all__ = ['MOST_CONNECTIONS', 'Connection']

MOST_CONNECTIONS = 64
KEEP_ALIVE = 10  # seconds between two requests of a connection
PATIENCE = 15.0  # seconds that the head of a request may take, or a client that takes nothing


class Connection(H11Protocol):
    """Uvicorn's, with limits that it lacks.

    A head has to come in time, byte by byte or not, and what is sent has to be taken. Where there
    are too many connections, one from which something is awaited gives way: the one that has been
    silent for longest.
    """

    _timer: asyncio.TimerHandle | None = None
    _unsent = 0
    _heard = 0.0

    @property
    def is_awaited(self) -> bool:
        """Tell whether it is the client's turn: to ask, or to send the rest of a body."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._heard = self.loop.time()
        self._be_patient()
        if len(self.connections) > MOST_CONNECTIONS:
            others = cast(Iterable[Connection], self.connections - {self})
            awaited = [other for other in others if other.is_awaited]
            if awaited:  # else this one's request is told that there is no room
                min(awaited, key=lambda other: other._heard).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        try:
            super().data_received(data)
        except Exception:  # what h11 cannot even refuse, after the answer for example
            self.drop()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in our own form."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the body was none: its answer has no place any more
            self.cycle.message_event.set()
        body = json.dumps(HttpError(400, msg).body()).encode()
        headers = [('Content-Type', 'application/json'), ('Content-Length', str(len(body)))]
        for event in (
            h11.Response(status_code=400, headers=[*headers, ('Connection', 'close')]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b'')
        self.transport.close()

    def on_response_complete(self) -> None:
        self._be_patient()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._be_patient()

    def drop(self) -> None:
        """End the connection now; what was not taken is lost, in the kernel as well."""
        self.connections.discard(self)
        taken = self.transport.get_extra_info('socket')
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.transport.abort()

    def _be_patient(self) -> None:
        self._forget_timer()
        self._unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        is_writing = self.flow.write_paused or self.transport.is_closing()
        if self.cycle is not None and not self.cycle.response_complete and not is_writing:
            return  # it is our turn
        if 0 < self.transport.get_write_buffer_size() < self._unsent:
            self._be_patient()  # slow, but it takes
        else:
            self.drop()

    def _forget_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

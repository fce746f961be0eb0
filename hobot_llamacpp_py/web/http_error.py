"""What a client is told that does not get what it asked for, as OpenAI's protocol words it."""

from __future__ import annotations

from typing import Any

from hobot_llamacpp_py.errors import printable

__all__ = ['HttpError']


class HttpError(Exception):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        param: the field of the request that it is about.
        code: for programs.
        retry_after: seconds after which to try again, 0 for never.
    """

    def __init__(
        self, status: int, message: str, *, param: str = '', code: str = '', retry_after: int = 0
    ) -> None:
        super().__init__(printable(message))
        self.status, self.param, self.code = status, param, code
        self.retry_after = retry_after
        self.headers = {'Retry-After': str(retry_after)} if retry_after else {}
        if status == 401:
            self.headers['WWW-Authenticate'] = 'Bearer'

    def body(self) -> dict[str, Any]:
        """Return the JSON of the answer."""
        kind = 'invalid_request_error' if self.status < 500 else 'server_error'
        if self.status == 429:
            kind = 'rate_limit_error'
        error = {'message': str(self), 'type': kind, 'param': self.param or None}
        return {'error': {**error, 'code': self.code or None}}

"""The page, and what it asks for: the newest frame, and figures."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hobot_llamacpp_py.web.backend import Backend
from hobot_llamacpp_py.web.live import Live
from hobot_llamacpp_py.web.metrics import Metrics

__all__ = ['Page']

FILE = Path(__file__).with_name('page.html')
# No other page may show or read it, and no browser may guess what it is.
PRIVATE = {
    'X-Content-Type-Options': 'nosniff',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
}


class Page:
    """The endpoints of what a person looks at, and of what Prometheus collects."""

    def __init__(self, backend: Backend, metrics: Metrics) -> None:
        self._backend, self._metrics, self._live = backend, metrics, Live(backend)
        self._html = FILE.read_bytes()
        self._headers = {
            **PRIVATE,
            'Cache-Control': 'no-cache',
            'Content-Security-Policy': _policy(self._html.decode()),
        }

    async def page(self, request: Request) -> Response:
        """GET /."""
        return Response(self._html, 200, self._headers, 'text/html; charset=utf-8')

    async def frame(self, request: Request) -> Response:
        """GET /frame: a JPEG; 304 while it looks the same, 204 where there is nothing to see."""
        name, jpeg = await self._live.get()
        if not name:
            return Response(status_code=204, headers=PRIVATE)
        headers = {**PRIVATE, 'ETag': f'"{name}"', 'Cache-Control': 'no-cache'}
        if f'"{name}"' in request.headers.get('if-none-match', ''):
            return Response(status_code=304, headers=headers)
        return Response(jpeg, 200, headers, 'image/jpeg')

    async def figures(self, request: Request) -> Response:
        """GET /figures: what the page shows beside answers, as JSON."""
        figures = {**await run_in_threadpool(self._metrics.figures), **self._metrics.last}
        facts: dict[str, Any] = {
            'model': self._backend.model,
            'state': self._backend.state,
            'can_see': self._backend.can_see,
            **{key.lower().replace(' ', '_'): value for key, value in figures.items()},
        }
        return JSONResponse(facts, headers={**PRIVATE, 'Cache-Control': 'no-store'})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics, for Prometheus."""
        accept = request.headers.get('accept', '')
        text, content_type = await run_in_threadpool(self._metrics.text, accept)
        return Response(text, 200, {**PRIVATE, 'Content-Type': content_type})


def _policy(html: str) -> str:
    """Return a Content-Security-Policy that lets the page's own script and style through only."""

    def hashes(tag: str) -> str:
        (text,) = re.findall(f'<{tag}>(.*?)</{tag}>', html, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return '; '.join(
        (
            "default-src 'none'",
            f'script-src {hashes("script")}',
            f'style-src {hashes("style")}',
            "connect-src 'self'",
            'img-src blob: data:',
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )

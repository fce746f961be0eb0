"""The one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hobot_llamacpp_py.errors import one_line
from hobot_llamacpp_py.web.api import Api
from hobot_llamacpp_py.web.backend import Backend
from hobot_llamacpp_py.web.guard import Guard
from hobot_llamacpp_py.web.http_error import HttpError
from hobot_llamacpp_py.web.metrics import Metrics
from hobot_llamacpp_py.web.page import Page

__all__ = ['make_app']


def make_app(backend: Backend, metrics: Metrics, token: str, host: str) -> Starlette:
    """Return the application.

    Args:
        token: what clients must bring, empty for nothing.
        host: the address that the server listens on.
    """
    api, page = Api(backend, metrics.observe), Page(backend, metrics)
    return Starlette(
        routes=[
            Route('/v1/chat/completions', api.chat_completions, methods=['POST']),
            Route('/v1/models', api.models),
            Route('/health', api.health),
            Route('/', page.page),
            Route('/frame', page.frame),
            Route('/figures', page.figures),
            Route('/metrics', page.metrics),
        ],
        middleware=[Middleware(Guard, token=token, host=host)],
        exception_handlers={HttpError: _refused, HTTPException: _not_found, Exception: _failed},
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return JSONResponse(error.body(), error.status, error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = HttpError(error.status_code, f'{request.method} {request.url.path}: {error.detail}')
    return JSONResponse(refusal.body(), refusal.status, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    refusal = HttpError(500, one_line(error))
    return JSONResponse(refusal.body(), refusal.status)

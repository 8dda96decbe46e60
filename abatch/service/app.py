"""The routes of the service behind their guard, as an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route

from abatch.errors import AbatchError
from abatch.log import log
from abatch.service import api
from abatch.service.guard import Guard, host_names
from abatch.service.page import routes as page
from abatch.service.probes import livez, metrics, readyz
from abatch.service.replies import Refusal, refusal_of, refused
from abatch.service.tokens import Tokens

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from abatch.service.state import State

__all__ = ["application"]


def application(state: State) -> Guard:
    """Return the application of a service.

    Args:
        state: the state that its routes share.

    """
    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Mount("/api/v1", routes=api.routes()),
        *page.routes(),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Refusal: _refused,
            AbatchError: _failed,
            HTTPException: _not_found,
            Exception: _broken,
        },
    )
    app.state.service = state
    serve = state.settings.serve
    return Guard(app, Tokens(state.folder), host_names(serve.listen.host, serve.hosts))


def _request_id(request: Request) -> str:
    request_id: str = request.scope["abatch.request_id"]
    return request_id


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return refused(refusal, _request_id(request))


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, AbatchError)
    return refused(refusal_of(error), _request_id(request))


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "has other methods" if error.status_code == 405 else "does not exist"
    answer = refused(Refusal(error.status_code, f"{request.url.path} {what}"), _request_id(request))
    answer.headers.update(error.headers or {})
    return answer


async def _broken(request: Request, error: Exception) -> Response:
    log.error("call_failed", path=request.url.path, error=type(error).__name__)
    return refused(Refusal(500, "this should not happen; the log has more"), _request_id(request))

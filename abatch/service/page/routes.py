"""The routes of the page. Everything that changes something is a form of the signed-in session.

| path | shows or does |
|---|---|
| `/` | the jobs, and the numbers above them |
| `/jobs/KEY` | one job |
| `POST /jobs/KEY/cancel`, `/retry`, `/close` | as the API |
| `/login`, `POST /logout` | begin and end a session |
| `/style.css`, `/icon.svg`, `/live.js` | how it looks, and the script that loads it again after an event |
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from abatch.errors import AbatchError, JobNotFound
from abatch.log import log
from abatch.open_job import OpenJob
from abatch.service.page import words
from abatch.service.page.detail import detail
from abatch.service.page.overview import overview
from abatch.service.page.session import csrf_of, form_of, sign_in, sign_out
from abatch.service.replies import Refusal
from abatch.service.state import state_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from abatch.service.tokens import Token

__all__ = ["routes"]

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
TEMPLATES: Final = Environment(
    loader=PackageLoader("abatch.service.page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals.update({name: getattr(words, name) for name in words.__all__})
STATIC: Final = files("abatch.service.page") / "static"
KINDS: Final = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


async def show_jobs(request: Request) -> Response:
    """`GET /`: the jobs."""
    _reader(request)
    origin = str(request.base_url).rstrip("/")
    return _page(request, "jobs.html", origin=origin, **await overview(state_of(request), request.query_params))


async def show_job(request: Request) -> Response:
    """`GET /jobs/KEY`: one job."""
    token, key = _reader(request), request.path_params["key"]
    try:
        context = await detail(state_of(request), key, request.query_params, token.rights)
    except JobNotFound:
        return _page(request, "missing.html", status=404, key=key)
    return _page(request, "job.html", **context)


async def change_job(request: Request) -> Response:
    """`POST /jobs/KEY/cancel`, `/retry`, `/close`: change a job, then show it, or the retry."""
    state, key, change = state_of(request), request.path_params["key"], request.path_params["change"]
    token: Token = request.scope["abatch.token"]
    await form_of(request)
    if "steer" not in token.rights:
        raise Refusal(403, f"the token {token.name!r} lacks the right 'steer'")
    job = state.manager.job(key)
    try:
        match change:
            case "cancel":
                await job.cancel()
            case "close" if isinstance(job, OpenJob):
                await job.close()
            case "retry":
                await state.view.refresh()
                if retry := await state.view.retry(key):
                    await state.manager.submit(retry.requests(), **retry.terms)
                    key = retry.key
            case _:
                raise Refusal(404, f"a job has no change {change!r}")
    except AbatchError as error:
        return _page(request, "refused.html", status=409, key=key, why=str(error))
    log.info("changed_over_http", token=token.name, call=f"{change}_job", job=key)
    return RedirectResponse(f"/jobs/{quote(key, safe='')}", 303)


async def log_in(request: Request) -> Response:
    """`GET /login?token=`, or `POST /login`: begin a session; without a token, the form for it."""
    if request.method == "POST":
        secret = (await form_of(request, signed=False)).get("token", "")
    else:
        secret = request.query_params.get("token", "")
    if secret and (response := await sign_in(request, secret)) is not None:
        return response
    return _page(request, "login.html", status=403 if secret else 200, wrong=bool(secret))


async def log_out(request: Request) -> Response:
    """`POST /logout`: end the session."""
    await form_of(request)
    return sign_out()


async def static(request: Request) -> Response:
    """`GET /style.css`, `/icon.svg`, `/live.js`."""
    name = request.url.path.removeprefix("/")
    return Response((STATIC / name).read_bytes(), media_type=KINDS[name], headers={"cache-control": "max-age=300"})


def routes() -> list[Route]:
    """Return the routes of the page."""
    return [
        Route("/", show_jobs, methods=["GET"]),
        Route("/login", log_in, methods=["GET", "POST"]),
        Route("/logout", log_out, methods=["POST"]),
        Route("/jobs/{key}", show_job, methods=["GET"]),
        Route("/jobs/{key}/{change}", change_job, methods=["POST"]),
        *(Route(f"/{name}", static, methods=["GET"]) for name in KINDS),
    ]


def _reader(request: Request) -> Token:
    token: Token = request.scope["abatch.token"]
    if "read" not in token.rights:
        raise Refusal(403, f"the token {token.name!r} lacks the right 'read'")
    return token


def _page(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:  # noqa: ANN401
    token: Token | None = request.scope.get("abatch.token")
    html = TEMPLATES.get_template(template).render(
        reader=None if token is None else token.name, csrf=csrf_of(request) if token is not None else "", **context
    )
    return HTMLResponse(html, status, headers={"content-security-policy": POLICY})

"""The guard before every route: the `Host` of the request, its token, its pace, and the headers of every answer.

| check | answer |
|---|---|
| `Host` is not one of the service's names, as in an attack by DNS rebinding | 421 |
| no token, or an unknown one, except for `/livez` and to sign in; a browser is sent to `/login` | 401 |
| a browser's session, for a change that is not a form of the page | 403 |
| a token file of the journal cannot be read | 503 |
| too many or too long headers | 431 |
| a body that pauses | 408 |
| a client that does not read its answer | the connection ends |
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse

from abatch.errors import ConfigError
from abatch.log import log
from abatch.service.http1 import HEAD_BYTES
from abatch.service.replies import Refusal, refused
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from abatch.service.tokens import Token, Tokens

__all__ = ["Guard", "host_names"]

OPEN: Final = frozenset({"/livez", "/login", "/style.css", "/icon.svg", "/live.js"})
"""Paths that need no token."""
COOKIE: Final = "abatch_session"
HEADERS_AT_MOST: Final = 100
PATIENCE: Final = 60.0
"""Seconds that a client may pause in its body, or leave an answer unread."""
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


def host_names(host: str, more: Collection[str] = ()) -> frozenset[str]:
    """Return the names by which a service that listens on this host may be called, without a port."""
    bracketed = f"[{host}]" if ":" in host else host
    return LOOPBACK | {bracketed.lower()} | {name.lower() for name in more}


class Guard:
    """An ASGI application that lets only permitted requests through to another one.

    The scope of a permitted request has `abatch.token`, `abatch.request_id`, and `abatch.session` if a browser's cookie
    brought the token.

    Args:
        app: the routes.
        tokens: the tokens of the journal.
        hosts: the names of the service.

    """

    def __init__(self, app: ASGIApp, tokens: Tokens, hosts: Collection[str]) -> None:
        self._app = app
        self._tokens = tokens
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and answer it or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope["abatch.request_id"] = f"req_{secrets.token_hex(12)}"
        is_heard = False

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["request-id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            with anyio.fail_after(PATIENCE):  # a client that reads nothing: the error ends its connection
                await send(message)

        async def hear() -> Message:
            nonlocal is_heard
            if is_heard:  # this waits until the client leaves
                return await receive()
            try:
                with anyio.fail_after(PATIENCE):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, f"nothing of the body came for {PATIENCE:.0f} seconds") from None
            is_heard = not message.get("more_body", False)
            return message

        try:
            await self._check(scope)
        except Refusal as refusal:
            is_page = scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
            if refusal.status == 401 and is_page:
                await RedirectResponse("/login", 303)(scope, receive, answer)
            else:
                await refused(refusal, request_id)(scope, receive, answer)
        else:
            await self._app(scope, hear, answer)

    async def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if (
            len(headers.raw) > HEADERS_AT_MOST
            or sum(len(name) + len(value) for name, value in headers.raw) > HEAD_BYTES
        ):
            raise Refusal(431, f"a request may have {HEADERS_AT_MOST} headers of {HEAD_BYTES:,} bytes together")
        name = headers.get("host", "").lower()
        if name.rpartition(":")[2].isdigit():
            name = name.rpartition(":")[0]
        if name not in self.hosts:
            raise Refusal(421, f"this service is not called {name!r}; add the name to hosts under [serve]")
        if scope["path"] in OPEN:
            return
        secret = _secret(headers)
        session = "" if secret else cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if session and scope["method"] not in ("GET", "HEAD") and scope["path"].startswith("/api/"):
            raise Refusal(403, "a browser's session changes nothing over the API; use `Authorization: Bearer TOKEN`")
        scope["abatch.session"] = session
        scope["abatch.token"] = await self._token(secret, session)

    async def _token(self, secret: str, session: str) -> Token:
        try:
            if secret:
                found = await threads.run(self._tokens.find, secret)
            else:
                found = await threads.run(self._tokens.find_session, session, time.time())
        except (ConfigError, OSError) as unusable:
            log.error("token_unusable", error=str(unusable))
            raise Refusal(503, "a token file cannot be read; the log of the service says which") from unusable
        if found is None:
            raise Refusal(
                401, "the token is missing or unknown; `abatch token` prints one, for `Authorization: Bearer TOKEN`"
            )
        return found


def _secret(headers: Headers) -> str:
    """Return the secret of the token that a program sends; empty if it sends none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")

"""Sign in and out: a browser keeps a session in a cookie, and every form carries a value that only its page knows."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from starlette.responses import RedirectResponse, Response

from abatch.service.guard import COOKIE
from abatch.service.replies import Refusal
from abatch.service.state import state_of
from abatch.service.tokens import SESSION, Tokens
from abatch.system import threads

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["csrf_of", "form_of", "sign_in", "sign_out"]

FORM: Final = 16 * 1024
"""Bytes of a form at most."""


def csrf_of(request: Request) -> str:
    """Return the value that the forms of this session carry, against requests that another site makes up."""
    session: str = request.scope["abatch.session"]
    return hmac.new(session.encode(), b"abatch form", hashlib.sha256).hexdigest()


async def form_of(request: Request, *, signed: bool = True) -> dict[str, str]:
    """Read a small form.

    Args:
        request: the request.
        signed: whether the form must carry the value of its session.

    Raises:
        Refusal: it is too large, or is not a form of this session.

    """
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > FORM:
            raise Refusal(413, f"a form may have {FORM:,} bytes")
    form = dict(parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True))
    if signed and not hmac.compare_digest(form.get("csrf", "").encode(), csrf_of(request).encode()):
        raise Refusal(403, "this form is not of your session; load the page again")
    return form


async def sign_in(request: Request, secret: str) -> Response | None:
    """Return the response that gives a browser its session; None if no token has this secret."""
    tokens = Tokens(state_of(request).folder)
    session = await threads.run(tokens.session, secret.strip(), time.time())
    if session is None:
        return None
    response = RedirectResponse("/", 303)
    serve = state_of(request).settings.serve
    secure = serve.tls_certificate is not None or serve.behind_proxy
    response.set_cookie(COOKIE, session, max_age=SESSION, httponly=True, samesite="strict", secure=secure)
    return response


def sign_out() -> Response:
    """Return the response that takes the session away."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response

"""Replies of the API as HTTP: headers, JSON, error envelopes, and the changes that the faults of a call make."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, timedelta
from email.utils import format_datetime
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from abatch.sandbox import faults as f
from abatch.sandbox.exchange import Cut, Lost, Reply, Reset, Slow
from abatch.sandbox.shapes import recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from abatch.sandbox.faults.values import Details
    from abatch.sandbox.settings import Settings
    from abatch.sandbox.visit import Visit

__all__ = ["STATUS_OF_KIND", "Replies"]

LOW_CREDIT = "Your credit balance is too low to access the Anthropic API. Add credits under Plans & Billing."
USAGE_LIMIT = "You have reached your specified {whose}API usage limits. Access returns when the next period begins."

KIND_OF_STATUS: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
PASSING_STATUSES = frozenset({408, 409, 429})
STATUS_OF_KIND: Mapping[str, int] = {kind: status for status, kind in KIND_OF_STATUS.items()} | {
    "invalid_request_error": 400,
    "timeout_error": 504,
}


class Replies:
    """Makes the replies of one machine."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._clock = clock
        self._began = clock()
        self._calls = count(1)

    def reply(
        self,
        status: int,
        body: bytes | Iterator[bytes],
        headers: Mapping[str, str] | None = None,
        *,
        kind: str | None = "application/json",
    ) -> Reply:
        """Make a reply with the headers that every reply has."""
        always = {
            "request-id": f"req_01sandbox{next(self._calls):012d}",
            "date": _date(self._clock()),
        }
        if kind is not None:
            always["content-type"] = kind
        if isinstance(body, bytes):
            always["content-length"] = str(len(body))
        return Reply(status=status, headers=always | dict(headers or {}), body=body)

    def json(self, status: int, answer: object, *, retry_after: float | None = None) -> Reply:
        """Make a reply whose body is this value as JSON."""
        headers = {} if retry_after is None else {"retry-after": str(math.ceil(retry_after))}
        return self.reply(status, msgspec.json.encode(answer), headers)

    def error(
        self,
        status: int,
        text: str,
        *,
        kind: str | None = None,
        retry_after: float | None = None,
        details: Details = msgspec.UNSET,
    ) -> Reply:
        """Make an error in the envelope of the API."""
        usual = KIND_OF_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        error: dict[str, object] = {"type": kind or usual, "message": text}
        if details is not msgspec.UNSET:
            error = {"details": details, **error}
        reply = self.json(status, {}, retry_after=retry_after)
        envelope: dict[str, object] = {"type": "error", "error": error}
        if self._settings.shape.error_request_id:
            envelope["request_id"] = reply.headers["request-id"]
        body = msgspec.json.encode(envelope)
        again = status >= 500 or status in PASSING_STATUSES
        headers = {"content-length": str(len(body)), "x-should-retry": "true" if again else "false"}
        return replace(reply, headers={**reply.headers, **headers}, body=body)

    def status(self, fault: f.Status) -> Reply:
        """Make the reply of a fault that names a status: from the API, or from a proxy."""
        if fault.envelope:
            return self.error(
                fault.status,
                fault.message,
                kind=fault.kind,
                retry_after=fault.retry_after,
                details=fault.details,
            )
        page = f"<html><title>{fault.status}</title><body>{fault.message}</body></html>\r\n".encode()
        reply = self.reply(fault.status, page, {"content-type": "text/html", "server": "proxy"})
        return replace(reply, headers={k: v for k, v in reply.headers.items() if k != "request-id"})

    def redirect(self, fault: f.Redirect) -> Reply:
        """Make the redirect of a fault."""
        return self.reply(fault.status, b"", {"location": fault.location})

    def lost(self) -> Reply:
        """Make the reply that is never sent, because the connection is reset."""
        return replace(self.reply(200, b""), transport=Lost())

    def instead(self, visit: Visit) -> Reply | None:
        """Return the reply of a fault that prevents the call, if there is one."""
        for fault in visit.faults:
            match fault:
                case f.ResetBeforeAccept():
                    return self.lost()
                case f.Status(accepted=False):
                    return self.status(fault)
                case f.PageError(status):
                    return self.error(status, "[sandbox] this page failed")
                case f.Redirect(accepted=False):
                    return self.redirect(fault)
                case f.SpendLimit():
                    details = {"error_code": "enforced_spend_limit_reached"}
                    return self.error(429, "[sandbox] the spend limit is reached", details=details)
                case f.OutOfCredit():
                    return self.error(400, LOW_CREDIT, details=fault.details)
                case f.UsageLimit():
                    whose = "workspace " if fault.workspace else ""
                    return self.error(400, USAGE_LIMIT.format(whose=whose), details=fault.details)
                case _:
                    pass
        return None

    def spoiled(self, reply: Reply, visit: Visit) -> Reply:
        """Return the reply of a call that was carried out, with the changes that its faults make."""
        for fault in visit.faults:
            match fault:
                case f.ResetAfterAccept():
                    reply = replace(self.lost(), delay=reply.delay)
                case f.Status(accepted=True) if reply.status < 300:
                    reply = self.recorded(self.status(fault), visit)
                case f.Redirect(accepted=True) if reply.status < 300:
                    reply = self.recorded(self.redirect(fault), visit)
                case f.Garbage() if reply.status < 300:
                    reply = self.reply(reply.status, b'{"id": "msgbatch_\x00<html>')
                case f.CutBody(at):
                    reply = replace(reply, body=_first_bytes(reply.body, at), transport=Cut())
                case f.ResetAt(byte):
                    reply = replace(reply, body=_first_bytes(reply.body, byte), transport=Reset())
                case f.Slow(bytes_per_second):
                    reply = replace(reply, transport=Slow(bytes_per_second))
                case f.Stall(seconds) | f.Hang(seconds):
                    reply = replace(reply, delay=seconds)
                case f.NoDate():
                    reply = replace(reply, headers={k: v for k, v in reply.headers.items() if k != "date"})
                case _:
                    pass
        return reply

    def recorded(self, reply: Reply, visit: Visit) -> Reply:
        """Return the reply with the shape of this era; a proxy's page stays as it is."""
        if "request-id" not in reply.headers:
            return reply
        accepts = visit.request.headers.get("accept-encoding", "") if self._settings.gzip else ""
        shape = self._settings.shape
        return recorded(reply, shape, accepts=accepts, workspace=visit.workspace, now=self._clock())

    def dated(self, reply: Reply, visit: Visit) -> Reply:
        """Return the reply with the `Date` of a wrong clock, if the visit meets such a fault."""
        now = self._clock()
        ran = (now - self._began).total_seconds()
        ahead = 0.0
        for fault in visit.faults:
            match fault:
                case f.Skew(seconds):
                    ahead += seconds
                case f.Drift(per_hour):
                    ahead += per_hour * ran / 3600
                case f.Jump(at, seconds) if ran >= at:
                    ahead += seconds
                case _:
                    pass
        if not ahead or "date" not in reply.headers:
            return reply
        return replace(reply, headers={**reply.headers, "date": _date(now + timedelta(seconds=ahead))})


def _date(at: datetime) -> str:
    """Format a time for the header `Date`, in whole seconds."""
    return format_datetime(at.astimezone(UTC), usegmt=True)


def _first_bytes(body: bytes | Iterator[bytes], at: int) -> bytes | Iterator[bytes]:
    return body[:at] if isinstance(body, bytes) else _first_of(body, at)


def _first_of(pieces: Iterator[bytes], at: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:at]
        at -= len(piece)
        if at <= 0:
            return

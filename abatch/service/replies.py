"""Replies of the service: JSON, and one form for every error, which is that of Anthropic's API."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.responses import Response

from abatch.errors import (
    AbatchError,
    ApiError,
    BackendError,
    BadRequest,
    InboxClosed,
    JobConflict,
    JobNotFound,
    JobStopped,
    JournalError,
    ManagerClosed,
    NoResult,
    RequestConflict,
    RequestNotFound,
)

__all__ = ["Refusal", "error_body", "json", "refusal_of", "refused"]

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "api_error",
    503: "overloaded_error",
}
"""The type of an error by its HTTP status: the words of the API where it has them."""


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(message)


def refusal_of(error: AbatchError) -> Refusal:
    """Return the answer that an error of abatch is to a client."""
    match error:
        case JobNotFound() | RequestNotFound():
            status = 404
        case JobConflict() | RequestConflict() | InboxClosed() | JobStopped() | NoResult():
            status = 409
        case BackendError():
            status = 503 if error.passes else 400
        case ManagerClosed() | ApiError() | JournalError():
            status = 503
        case _:
            status = 400
    text = (
        f"{error.total:,} problem(s) in the requests:\n{error.listed()}"
        if isinstance(error, BadRequest)
        else str(error)
    )
    return Refusal(status, text)


def error_body(status: int, message: str, request_id: str) -> bytes:
    """Return the JSON of an error."""
    error = {"type": TYPES.get(status, "api_error"), "message": message}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def refused(refusal: Refusal, request_id: str) -> Response:
    """Return the response of a refusal."""
    return Response(
        error_body(refusal.status, refusal.message, request_id), refusal.status, media_type="application/json"
    )


def json(content: Any, status: int = 200) -> Response:  # noqa: ANN401 - JSON
    """Return a JSON response."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")

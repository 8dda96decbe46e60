"""Shape answers like recorded answers of the API, era by era: headers, compression, the end of the results.

Other modules do what is the same in all eras: the order of a batch's fields, times in `+00:00` with microseconds, and
counters that do not change until the end.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from abatch.sandbox.exchange import Reply

__all__ = ["ERAS", "Era", "Shape", "recorded"]

Era = Literal["2024-10", "2025-01", "2026-06", "2026-08", "2026-09"]

ORGANIZATION: Final = "00000000-0000-4000-8000-5a4d5b0c0000"
UNCOMPRESSED: Final = frozenset({401, 529})
"""Statuses of answers that were recorded with a length and were never compressed."""
REQUESTS_PER_MINUTE: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of answers in an era."""

    results_type: str | None
    """The content type of results."""
    last_newline: bool
    """Whether the last result line ends with a newline."""
    archived_at: bool = True
    """Whether a batch has this field."""
    error_request_id: bool = True
    """Whether the envelope of an error repeats the request id."""
    organization: bool = True
    workspace: bool = False
    rate_limits: bool = False
    via: bool = False
    cookie: bool = False


ERAS: Final[Mapping[Era, Shape]] = {
    "2024-10": Shape(
        results_type="text/html",
        last_newline=False,
        archived_at=False,
        error_request_id=False,
        organization=False,
        via=True,
    ),
    "2025-01": Shape(
        results_type=None,
        last_newline=False,
        error_request_id=False,
        organization=False,
        via=True,
    ),
    "2026-06": Shape(results_type=None, last_newline=True, cookie=True),
    "2026-08": Shape(results_type="application/x-jsonl", last_newline=True, workspace=True),
    "2026-09": Shape(results_type="application/x-jsonl", last_newline=True, workspace=True, rate_limits=True),
}


def recorded(reply: Reply, shape: Shape, *, accepts: str, workspace: str | None, now: datetime) -> Reply:
    """Return the reply with the headers of its era; JSON is compressed and sent chunked if `accepts` has gzip."""
    headers = {**reply.headers, **_headers(shape, workspace, now)}
    body = reply.body
    if (
        isinstance(body, bytes)
        and "gzip" in accepts
        and headers.get("content-type") == "application/json"
        and reply.status not in UNCOMPRESSED
    ):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers["content-encoding"] = "gzip"
        headers.pop("content-length", None)
    return replace(reply, headers=headers, body=body)


def _headers(shape: Shape, workspace: str | None, now: datetime) -> Mapping[str, str]:
    headers = {"cf-cache-status": "DYNAMIC", "server": "cloudflare"}
    if shape.via:
        headers["via"] = "1.1 google"
    if shape.organization:
        headers["anthropic-organization-id"] = ORGANIZATION
        headers["vary"] = "Accept-Encoding"
    if shape.workspace and workspace is not None:
        headers["anthropic-workspace-id"] = f"wrkspc_01sandbox{blake2b(workspace.encode(), digest_size=8).hexdigest()}"
    if shape.rate_limits:
        reset = (now.astimezone(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        headers["anthropic-ratelimit-requests-limit"] = str(REQUESTS_PER_MINUTE)
        headers["anthropic-ratelimit-requests-remaining"] = str(REQUESTS_PER_MINUTE - 1)
        headers["anthropic-ratelimit-requests-reset"] = reset
    if shape.cookie:
        headers["set-cookie"] = "_cfuvid=sandbox; path=/; HttpOnly"
    return headers

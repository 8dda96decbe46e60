"""The values that cross the machine's border: a request, a reply, and how the transport is to deliver it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Cut", "Lost", "Reply", "Request", "Reset", "Slow", "Transport", "Whole"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; the names of headers in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Whole:
    """Send all of the reply."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Send nothing, reset the connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Send the body there is, then reset the connection."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Send the body there is, then close the connection without the proper end."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Send all of the reply at this speed."""

    bytes_per_second: float


Transport = Whole | Lost | Reset | Cut | Slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP reply, and how the transport is to deliver it."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Iterator[bytes] = b""
    """Bytes have a `content-length` in the headers; an iterator's pieces are sent chunked."""
    transport: Transport = Whole()
    delay: float = 0.0
    """Seconds to wait before the first byte."""

"""The values that go into and out of the machine: a request, a reply, and how the transport must deliver it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Cut", "Lost", "Reply", "Request", "Reset", "Slow", "Transport", "Whole"]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; the names of its headers are in lower case."""

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
    """Send nothing, and reset the connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Send the body as it is, then reset the connection."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Send the body as it is, then close the connection without the proper end."""


@dataclass(frozen=True, slots=True)
class Slow:
    """Send all of the reply at this speed."""

    bytes_per_second: float


Transport = Whole | Lost | Reset | Cut | Slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP reply, and how the transport must deliver it."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Iterator[bytes] = b""
    """Bytes need a `content-length` in the headers; the pieces of an iterator are sent chunked."""
    transport: Transport = Whole()
    delay: float = 0.0
    """Seconds to wait before the first byte."""

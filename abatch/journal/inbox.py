"""The inbox of an open job: requests that are durable before they are planned, numbered from 1 without a gap.

The number of a request in the inbox is its number among the rows of its job, so the rows of the last `Cut` are the
position at which planning resumes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import msgspec

__all__ = ["InboxRequest", "InboxState", "Waiting", "digest_of"]

DIGEST_BYTES = 16

_sorted = msgspec.json.Encoder(order="sorted").encode


class InboxRequest(NamedTuple):
    """A request to put into an inbox."""

    custom_id: bytes
    """The custom_id as a JSON string; an inbox holds each once."""
    params: bytes
    """The params as JSON."""
    betas: tuple[str, ...]
    digest: bytes
    """`digest_of` the params and betas: a request with the same custom_id and digest is the same request."""


class Waiting(NamedTuple):
    """A request of an inbox that is not released yet."""

    number: int
    at: float
    """When it was put, in seconds since the epoch, by the clock of the machine that put it."""
    custom_id: bytes
    params: bytes
    betas: tuple[str, ...]


class InboxState(NamedTuple):
    """The state of an inbox."""

    total: int
    """The number of requests that were ever put: the number of the last one."""
    released: int
    """The number of the last request that was released; those before it are released, too."""
    unreleased: int
    """The bytes of params that are not released yet."""
    closed: bool
    """Whether it takes no further requests."""


def digest_of(params: bytes, betas: tuple[str, ...]) -> bytes:
    """Return a digest that is the same for equal params, in whatever order their names stand."""
    digest = blake2b(_sorted(msgspec.json.decode(params)), digest_size=DIGEST_BYTES)
    digest.update("\n".join(("", *betas)).encode())
    return digest.digest()

"""Read a caller's iterable or async iterable once, as blocks of checked rows, without blocking the event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping
from contextlib import aclosing, nullcontext
from hashlib import blake2b
from itertools import chain
from time import perf_counter
from typing import Final, Literal, NamedTuple, cast

import msgspec
from anyio.lowlevel import checkpoint

from abatch.errors import ConfigError
from abatch.input.files import BLOCK
from abatch.input.request import Request, Row, from_line, from_object

__all__ = [
    "HEAD_ROWS",
    "IterableInput",
    "Numbered",
    "not_empty",
    "other_row",
    "read_row",
]

TURN: Final = 0.005
"""Seconds that an iterable may occupy the event loop if it never waits."""
HEAD_ROWS: Final = 8
"""First rows of an iterable with a digest each, so that other requests are detected at the first different row."""
HEAD_BYTES: Final = 4
"""Bytes of each of these digests; if two rows share one, the digest of all rows still differs."""


class Numbered(NamedTuple):
    """A row of an iterable with its position, counted from 1."""

    row: Row
    number: int


class IterableInput:
    """A caller's iterable or async iterable, read once as blocks of checked rows, with a digest of the noted rows."""

    def __init__(self, requests: object) -> None:
        self._requests = requests
        self._digest = blake2b(digest_size=16)
        self._number = 0
        self._head: list[str] = []
        self.unit: Literal["line", "request"] = "request"
        """What the errors of its rows count: it may give the lines of a file, as bytes."""

    def digest(self) -> str:
        """Return the digest of every row noted so far, in order: custom_id, params and betas."""
        return self._digest.copy().hexdigest()

    def head(self) -> str:
        """Return the short digests of the first rows, joined in order."""
        return "".join(self._head)

    async def blocks(self, *, most: int) -> AsyncGenerator[list[Numbered], None]:
        """Yield the rows in blocks of about a megabyte and of at most `most` rows.

        Raises:
            BadRequest: a row cannot be sent; the rows before it were yielded.
            ConfigError: `requests` is not an iterable.
            Exception: whatever the caller's iterable raises.

        """
        block: list[Numbered] = []
        weight = 0
        try:
            async with aclosing(self._items()) as items:
                turn = perf_counter() + TURN
                async for request in items:
                    if perf_counter() > turn:  # A generator of either kind may produce rows without ever waiting.
                        await checkpoint()
                        turn = perf_counter() + TURN
                    self._number += 1
                    if self._number == 1 and isinstance(request, bytes):
                        self.unit = "line"
                    row = read_row(request, self._number)
                    block.append(Numbered(row, self._number))
                    weight += len(row.params) + 64
                    if weight >= BLOCK or len(block) >= most:
                        yield block
                        block, weight = [], 0
        except Exception:  # The rows before a bad row, or before an error of the iterable, are valid.
            if block:
                yield block
            raise
        if block:
            yield block

    def note(self, row: Row) -> None:
        """Add a row to the digests."""
        _digest_row(self._digest, row)
        if len(self._head) < HEAD_ROWS:
            self._head.append(_short_digest(row))

    async def _items(self) -> AsyncGenerator[object, None]:
        requests = self._requests
        if isinstance(requests, AsyncIterable):
            coming = cast("AsyncGenerator[object, None]", requests)
            # A generator that is not exhausted is closed here, because the garbage collector may close it much later.
            async with aclosing(coming) if isinstance(requests, AsyncGenerator) else nullcontext():
                async for request in coming:
                    yield request
            return
        for request in _iterable(requests):
            yield request


def read_row(request: object, number: int) -> Row:
    """Check one request of an iterable.

    Raises:
        BadRequest: the request cannot be sent.

    """
    read = from_line if isinstance(request, bytes) else from_object
    return read(request, number)  # type: ignore[arg-type]  # Only from_line receives bytes.


def not_empty(requests: object) -> object:
    """Make sure that an iterable holds at least one request, and return the same requests.

    An async iterable is not examined, because it may wait for its first request.

    Raises:
        ConfigError: there is no request, or `requests` is not an iterable.
        Exception: whatever the caller's iterable raises.

    """
    if isinstance(requests, AsyncIterable):
        return cast("object", requests)
    coming = iter(_iterable(requests))
    for first in coming:
        return cast("object", requests) if isinstance(requests, Collection) else chain([first], coming)
    raise ConfigError("the iterable holds no request; nothing was begun")


def other_row(head: str, row: Row, number: int) -> str | None:
    """Describe how a row, counted from 1, differs from the row that the job began with.

    Returns None if it does not differ, or if no digest of that row was kept.
    """
    begin = 2 * HEAD_BYTES * (number - 1)
    kept = head[begin : begin + 2 * HEAD_BYTES]
    if not kept or kept == _short_digest(row):
        return None
    custom_id = msgspec.json.decode(row.custom_id, type=str)
    return f"other requests: its row {number} is not this one's (custom_id {custom_id[:80]!r})"


def _iterable(requests: object) -> Iterable[object]:
    if isinstance(requests, Mapping | Request) or not isinstance(requests, Iterable):
        kind = type(requests).__name__  # pyright: ignore[reportUnknownArgumentType]
        raise ConfigError(f"requests must be a path, an iterable or an async iterable, got {kind}")
    return cast("Iterable[object]", requests)


def _digest_row(into: blake2b, row: Row) -> None:
    for part in (row.custom_id, row.params, *(beta.encode() for beta in row.betas)):
        into.update(b"%d:" % len(part))
        into.update(part)
    into.update(b";")


def _short_digest(row: Row) -> str:
    digest = blake2b(digest_size=HEAD_BYTES)
    _digest_row(digest, row)
    return digest.hexdigest()

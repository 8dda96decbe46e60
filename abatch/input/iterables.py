"""Read a caller's iterable or async iterable once, as blocks of checked rows, without holding the event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping
from contextlib import aclosing, nullcontext
from hashlib import blake2b
from itertools import chain
from time import perf_counter
from typing import Final, NamedTuple, cast

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
"""Seconds that an iterable may hold the event loop, if it does not wait for anything."""
HEAD_ROWS: Final = 8
"""First rows of an iterable that are kept one by one, so that other requests are found out at the first difference."""
HEAD_BYTES: Final = 4
"""Of the digest of each; two rows that share it are told apart by the digest of all."""


class Numbered(NamedTuple):
    """A row of an iterable and its position in it, from 1."""

    row: Row
    number: int


class IterableInput:
    """A caller's iterable or async iterable, read once: blocks of checked rows, and a digest of all so far."""

    def __init__(self, requests: object) -> None:
        self._requests = requests
        self._digest = blake2b(digest_size=16)
        self._number = 0
        self._head: list[str] = []

    def digest(self) -> str:
        """Of every row given out so far, in order: custom_id, params and betas."""
        return self._digest.copy().hexdigest()

    def head(self) -> str:
        """A short digest of each of the first rows, one after the other."""
        return "".join(self._head)

    async def blocks(self, *, most: int) -> AsyncGenerator[list[Numbered], None]:
        """The rows, about a megabyte at a time, and no more than `most`.

        Raises:
            BadRequest: a row cannot be sent; those before it were given out.
            ConfigError: it is not an iterable.
            Exception: whatever the caller's iterable raises.

        """
        block: list[Numbered] = []
        weight = 0
        try:
            async with aclosing(self._items()) as items:
                turn = perf_counter() + TURN
                async for request in items:
                    if perf_counter() > turn:  # what is made without a wait, by a generator of either kind
                        await checkpoint()
                        turn = perf_counter() + TURN
                    self._number += 1
                    row = read_row(request, self._number)
                    block.append(Numbered(row, self._number))
                    weight += len(row.params) + 64
                    if weight >= BLOCK or len(block) >= most:
                        yield block
                        block, weight = [], 0
        except Exception:  # a bad row, or whatever the iterable raises: what came before it is good
            if block:
                yield block
            raise
        if block:
            yield block

    def note(self, row: Row) -> None:
        """Take a row into the digests."""
        _digest_row(self._digest, row)
        if len(self._head) < HEAD_ROWS:
            self._head.append(_short_digest(row))

    async def _items(self) -> AsyncGenerator[object, None]:
        requests = self._requests
        if isinstance(requests, AsyncIterable):
            coming = cast("AsyncGenerator[object, None]", requests)
            # a generator that is not read to its end is closed here, not by the garbage collector some day
            async with aclosing(coming) if isinstance(requests, AsyncGenerator) else nullcontext():
                async for request in coming:
                    yield request
            return
        for request in _iterable(requests):
            yield request


def read_row(request: object, number: int) -> Row:
    """Check one request of an iterable.

    Raises:
        BadRequest: it cannot be sent.

    """
    read = from_line if isinstance(request, bytes) else from_object
    return read(request, number)  # type: ignore[arg-type]  # bytes go to the one that takes bytes


def not_empty(requests: object) -> object:
    """The same requests, of which at least one is there. An async iterable is not looked at: it may wait for its first.

    Raises:
        ConfigError: there is none, or it is not an iterable.
        Exception: what the caller's iterable raises.

    """
    if isinstance(requests, AsyncIterable):
        return cast("object", requests)
    coming = iter(_iterable(requests))
    for first in coming:
        return cast("object", requests) if isinstance(requests, Collection) else chain([first], coming)
    raise ConfigError("the iterable holds no request; nothing was begun")


def other_row(head: str, row: Row, number: int) -> str | None:
    """How a row, counted from 1, differs from the one that a job began with; None if it does not, or is not kept."""
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

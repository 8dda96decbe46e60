"""Read the bytes of an ended batch's results, with a time-out of our own, and without their compression."""

from __future__ import annotations

import asyncio
import math
import zlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from abatch.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    import httpx2


__all__ = ["IDLE", "Members", "chunks_of"]

IDLE: Final = 120.0
"""Seconds without a byte after which a read is given up."""
GZIP: Final = zlib.MAX_WBITS | 16
MAGIC: Final = b"\x1f\x8b"
ZIPPED_STEP: Final = 2**14
UNZIPPED: Final = 2**18
"""Bytes that are decoded at once, at most."""


async def chunks_of(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the results as they come.

    Raises:
        ApiError: the stream broke, or brought nothing for two minutes.

    """
    loop = asyncio.get_running_loop()
    since = loop.time()
    timer: asyncio.TimerHandle

    def look() -> None:  # by a timer of its own: a timeout per chunk costs a twentieth of a drain
        nonlocal timer
        timer = loop.call_later(IDLE / 8, look)
        if loop.time() - since >= IDLE and not idle.expired():
            idle.reschedule(since)

    timer = loop.call_later(IDLE / 8, look)
    try:
        async with asyncio.timeout(None) as idle:  # some transports wait for ever behind bytes that are not HTTP
            async with aclosing(_decoded(answer)) as pieces:
                async for chunk in pieces:
                    since = math.inf
                    if idle.when() is not None:  # it came in the last moment
                        idle.reschedule(None)
                    yield chunk
                    since = loop.time()
    except Exception as broken:
        raise ApiError(f"results: the stream broke ({type(broken).__name__})") from broken
    finally:
        timer.cancel()


def _decoded(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body without its compression."""
    if answer.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip"):
        return _unzipped(answer)
    return answer.aiter_bytes()


async def _unzipped(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Every member of a body in gzip: a proxy may send each piece of what it passes on as one.

    Raises:
        ConnectionError: the body ends inside a member.

    """
    members = Members()
    async with aclosing(answer.aiter_raw()) as chunks:
        async for chunk in chunks:
            for piece in members.feed(chunk):
                yield piece
    if not members.whole:
        raise ConnectionError("it ends inside compressed data")


class Members:
    """A stream of gzip members, decoded piece by piece; no piece is larger than 256 KiB."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP)
        self._began = False
        """The member has got a byte."""
        self._begin: bytes = b""
        """What may be the beginning of another member, and is too short to tell."""
        self._over = False

    @property
    def whole(self) -> bool:
        """Whether it may end here."""
        return self._over or not self._began or self._member.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the stream.

        Raises:
            zlib.error: they are not what gzip makes.

        """
        for start in range(0, len(chunk), ZIPPED_STEP):  # short: each member that ends in one copies the rest of it
            yield from self._feed(chunk[start : start + ZIPPED_STEP])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        data = self._begin + data
        self._begin = b""
        while data and not self._over:
            if self._member.eof:
                if len(data) < len(MAGIC):
                    self._begin = data
                    return
                if not data.startswith(MAGIC):  # padding, or other bytes that do not belong to it
                    self._over = True
                    return
                self._member = zlib.decompressobj(GZIP)
            self._began = True
            while piece := self._member.decompress(data, UNZIPPED):
                yield piece
                if self._member.eof:
                    break
                data = self._member.unconsumed_tail
            data = self._member.unused_data

"""Read the bytes of an ended batch's results, decompressed, with a time-out that abatch itself controls."""

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
"""Seconds without a byte after which a read fails."""
GZIP: Final = zlib.MAX_WBITS | 16
MAGIC: Final = b"\x1f\x8b"
ZIPPED_STEP: Final = 2**14
UNZIPPED: Final = 2**18
"""The maximum number of bytes that are decoded at once."""


async def chunks_of(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the results as they arrive.

    Raises:
        ApiError: the stream broke, or no byte arrived for two minutes.

    """
    loop = asyncio.get_running_loop()
    since = loop.time()
    timer: asyncio.TimerHandle

    # A separate timer is used, because a timeout per chunk takes a twentieth of the time of a drain.
    def look() -> None:
        nonlocal timer
        timer = loop.call_later(IDLE / 8, look)
        if loop.time() - since >= IDLE and not idle.expired():
            idle.reschedule(since)

    timer = loop.call_later(IDLE / 8, look)
    try:
        # Some transports wait for ever after bytes that are not HTTP, so this timeout is needed.
        async with asyncio.timeout(None) as idle:
            async with aclosing(_decoded(answer)) as pieces:
                async for chunk in pieces:
                    since = math.inf
                    if idle.when() is not None:  # The chunk arrived just before the timeout.
                        idle.reschedule(None)
                    yield chunk
                    since = loop.time()
    except Exception as broken:
        raise ApiError(f"results: the stream broke ({type(broken).__name__})") from broken
    finally:
        timer.cancel()


def _decoded(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed body."""
    if answer.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip"):
        return _unzipped(answer)
    return answer.aiter_bytes()


async def _unzipped(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed members of a gzip body; a proxy may compress each piece that it forwards as one member.

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
        """Whether the member has received a byte."""
        self._begin: bytes = b""
        """Bytes that may begin another member, but are too few to recognize it."""
        self._over = False

    @property
    def whole(self) -> bool:
        """Whether the stream may end here."""
        return self._over or not self._began or self._member.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the stream.

        Raises:
            zlib.error: the bytes are not valid gzip data.

        """
        # The steps are short, because each member that ends inside a step copies the rest of the step.
        for start in range(0, len(chunk), ZIPPED_STEP):
            yield from self._feed(chunk[start : start + ZIPPED_STEP])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        data = self._begin + data
        self._begin = b""
        while data and not self._over:
            if self._member.eof:
                if len(data) < len(MAGIC):
                    self._begin = data
                    return
                if not data.startswith(MAGIC):  # This is padding, or other bytes after the compressed data.
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

"""Read the answer to a create while its body is still being sent.

A server may answer a create at its first bytes (413 for its size, 401 for its key) and close the connection. Its kernel
answers all further bytes with a reset, and after a failed write asyncio closes the socket with the answer unread. So a
connection for creates reads from the moment that its request begins. The answer is kept, and the gate sees it before
the tail is sent.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import httpcore2  # httpx2 is built on it, and requires it.

from abatch.engine.early_answer import EarlyAnswer, sending

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    import httpx2

__all__ = ["read_ahead"]

PIECE: Final = 2**16
_INTERIM: Final = re.compile(rb"(HTTP/1\.[01] 1\d\d[^\r\n]*\r\n([^\r\n]+\r\n)*\r\n)+")
"""Answers like `100 Continue`, after which the body is still expected."""


class _AnsweredEarly(EarlyAnswer, httpcore2.WriteError):
    """It is raised inside the body. The HTTP client takes it for a failed write, after which it reads the answer."""


def read_ahead(transport: httpx2.AsyncHTTPTransport) -> None:
    """Make the new connections of this transport read from the moment that a request begins."""
    pool = transport._pool  # pyright: ignore[reportPrivateUsage]
    pool._network_backend = _Backend()  # pyright: ignore[reportPrivateUsage]


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that begins to read when it is written to."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self._ahead: asyncio.Task[bytes] | None = None
        """The read that was begun by a write."""
        self._interim = b""
        """Interim answers that were read and not yet passed on."""

    def check_unanswered(self) -> None:
        """Raise EarlyAnswer if bytes of an answer, or the end of the connection, were read."""
        if self._has_answer():
            raise _AnsweredEarly

    def _has_answer(self) -> bool:
        """Return whether bytes of an answer, or the end of the connection, were read."""
        ahead = self._ahead
        if ahead is None or not ahead.done():
            return False
        if ahead.exception() is None and _INTERIM.fullmatch(ahead.result()):
            self._interim += ahead.result()
            self._ahead = asyncio.create_task(self._read_ahead())
            return False
        return True

    async def _read_ahead(self) -> bytes:
        try:
            return await self._inner.read(PIECE)
        except anyio.BusyResourceError as busy:  # TLS had to write for this read during a write of the body.
            raise httpcore2.ReadError(str(busy)) from busy

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        if self._ahead is None:
            self._ahead = asyncio.create_task(self._read_ahead())
        sending.set(self)
        await self._inner.write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._interim:
            interim, self._interim = self._interim, b""
            return interim
        if self._ahead is None:
            return await self._inner.read(max_bytes, timeout)
        done, _ = await asyncio.wait((self._ahead,), timeout=timeout)
        if not done:
            raise httpcore2.ReadTimeout
        ahead, self._ahead = self._ahead, None
        return ahead.result()

    async def aclose(self) -> None:
        ahead, self._ahead = self._ahead, None
        try:
            if ahead is not None:
                ahead.cancel()
                await asyncio.wait((ahead,))
                if not ahead.cancelled():
                    ahead.exception()  # Otherwise asyncio logs that nothing retrieved it.
        finally:
            await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as in httpcore
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.AsyncNetworkBackend):
    """Opens connections that read ahead."""

    def __init__(self) -> None:
        # Its stand-in without anyio has no methods, so its type is too narrow.
        self._inner = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Stream(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

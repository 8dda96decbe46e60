"""Connect the machine to the real SDK without a socket: an HTTP transport that answers in this process.

It is for tests that need speed, or a clock that they control:

    machine = Machine(clock=clock, rng=Random(1))
    client = AsyncAnthropic(api_key="k", base_url=URL, http_client=AsyncClient(transport=MachineTransport(machine)))

Bodies are passed on piece by piece, so an attempt that is given up half-way creates nothing, as over a socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import anyio
import httpx2

from abatch.sandbox.exchange import Cut, Lost, Reply, Request, Reset, Slow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from abatch.sandbox.api import Machine

__all__ = ["URL", "MachineTransport", "asked_by", "pieces_of"]

URL: Final = "http://127.0.0.1:1"
"""A base URL on which no server listens."""


class MachineTransport(httpx2.AsyncBaseTransport):
    """Answers every request with `machine`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Carry out one exchange, with the transport faults of the machine's reply."""
        visit = self._machine.open(asked_by(request))
        if visit.early is not None:
            return await self._deliver(visit.early)
        received = 0
        try:
            assert isinstance(request.stream, AsyncIterable)
            async for piece in request.stream:
                received += len(piece)
                visit.feed(piece)
        except BaseException:
            visit.abandon(received)
            raise
        return await self._deliver(visit.finish())

    async def _deliver(self, reply: Reply) -> httpx2.Response:
        await anyio.sleep(reply.delay)
        if isinstance(reply.transport, Lost):
            raise httpx2.ReadError("the connection was reset")
        headers = [(name, value) for name, value in reply.headers.items()]
        return httpx2.Response(reply.status, headers=headers, stream=_Body(reply))


class _Body(httpx2.AsyncByteStream):
    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __aiter__(self) -> AsyncIterator[bytes]:
        return pieces_of(self._reply)


def asked_by(request: httpx2.Request) -> Request:
    """Convert a client's request to the machine's form, without its body."""
    return Request(
        request.method,
        request.url.path,
        dict(parse_qsl(request.url.query.decode())),
        {name.lower(): value for name, value in request.headers.items()},
    )


async def pieces_of(reply: Reply) -> AsyncIterator[bytes]:
    """Yield the body, with the faults of its transport."""
    body, transport = reply.body, reply.transport
    for piece in [body] if isinstance(body, bytes) else body:
        yield piece
        if isinstance(transport, Slow):
            await anyio.sleep(len(piece) / transport.bytes_per_second)
    if isinstance(transport, Reset):
        raise httpx2.ReadError("the connection was reset")
    if isinstance(transport, Cut):
        raise httpx2.RemoteProtocolError("the connection was closed before the end")

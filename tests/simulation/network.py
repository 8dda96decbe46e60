"""The way between the simulated processes and the API machine, with time on it.

A request whose last byte was given to the network arrives, whatever then becomes of the one who sent it: a process
that dies or gives up after the tail leaves a create that is still on its way (bound A4). A body that stalls is
dropped by the server (bound A3). An answer that takes longer than the caller's patience is a time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import anthropic
import httpx2

from abatch.sandbox.exchange import Reply, Request
from abatch.sandbox.transport import URL, MachineTransport

if TYPE_CHECKING:
    from typing import Any

    from abatch.sandbox.api import Visit
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["Network", "Wire"]

STALLED_AFTER = 600.0
"""Bound A3: seconds after which a server drops a body that does not go on."""


class Network(MachineTransport):
    """The transport of one process's client."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.machine)
        self._world, self._process = world, process

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange."""
        if request.method != "POST" or request.url.path.endswith("/cancel"):
            return await self._exchange(request)
        self._process.uploading += 1
        if self._process.uploading > self._world.plan.config.uploads:
            self._world.violation(f"I5: {self._process.uploading} creates under way at once")
        try:
            return await self._exchange(request)
        finally:
            self._process.uploading -= 1

    async def _exchange(self, request: httpx2.Request) -> httpx2.Response:
        world, process = self._world, self._process
        what = f"{request.method} {request.url.raw_path.decode()}"
        await process.moment(f"before {what}")
        await asyncio.sleep(world.latency())
        asked = Request(
            request.method,
            request.url.path,
            dict(parse_qsl(request.url.query.decode())),
            {name.lower(): value for name, value in request.headers.items()},
        )
        visit = self._machine.open(asked)
        if visit.faults:
            world.met(visit)
        if visit.early is not None:
            reply = visit.early
        else:
            answered = await self._send(request, visit)
            reply = await self._answer(request, visit, answered)
        await process.moment(f"after {what}")
        process.note(f"{what} -> {reply.status} {type(reply.transport).__name__}")
        return await self._deliver(reply)

    async def _send(self, request: httpx2.Request, visit: Visit) -> asyncio.Future[Reply]:
        """Give the body to the network; with its last byte it is on its way, whatever becomes of the sender."""
        process, world = self._process, self._world
        length, received, last = int(request.headers.get("content-length", "0")), 0, world.now()
        answered = None if length else self._dispatch(visit)
        try:
            assert isinstance(request.stream, AsyncIterable)
            async for piece in request.stream:
                await process.moment(f"sending {len(piece)} bytes")  # the process may stand still with them in hand
                if world.now() - last > STALLED_AFTER:
                    raise httpx2.WriteError("the server dropped the stalled body")
                last = world.now()
                received += len(piece)
                visit.feed(piece)
                if received == length and answered is None:
                    answered = self._dispatch(visit)
        except BaseException:
            if answered is None:
                visit.abandon(received)
            raise
        if answered is None or received != length:
            visit.abandon(received)
            raise httpx2.LocalProtocolError("the body has another length than was announced")
        return answered

    def _dispatch(self, visit: Visit) -> asyncio.Future[Reply]:
        """The whole request is on its way; the answer will be."""
        world = self._world
        answered: asyncio.Future[Reply] = world.loop.create_future()

        def arrive() -> None:
            reply = visit.finish()
            world.later(reply.delay + world.latency(), lambda: answered.done() or answered.set_result(reply))

        world.later(world.transit(visit), arrive)
        return answered

    async def _answer(self, request: httpx2.Request, visit: Visit, answered: asyncio.Future[Reply]) -> Reply:
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                reply = replace(await answered, delay=0.0)
        except TimeoutError:
            raise httpx2.ReadTimeout("no answer in time") from None
        return reply


@cache
def _url(path: str) -> httpx2.URL:
    return httpx2.URL(f"{URL}{path}")


class Wire:
    """What `abatch.client` uses of the SDK, without the SDK's cost: one request, one answer, the SDK's errors."""

    credentials = None
    auth_token = None

    def __init__(self, transport: httpx2.AsyncBaseTransport, key: str) -> None:
        self._transport, self.api_key = transport, key
        self.base_url = _url("")

    async def get(self, path: str, *, stream: bool = False, options: Any, **_: Any) -> httpx2.Response:
        return await self._send("GET", path, None, options, stream=stream)

    async def post(self, path: str, *, content: AsyncIterator[bytes] | None = None, options: Any, **_: Any) -> Any:
        return await self._send("POST", path, content, options)

    async def _send(self, method: str, path: str, content: Any, options: Any, *, stream: bool = False) -> Any:
        assert options["max_retries"] == 0
        assert options["follow_redirects"] is False
        headers = {"x-api-key": self.api_key, **options["headers"]}
        timeout = options["timeout"].as_dict()
        request = httpx2.Request(method, _url(path), headers=headers, content=content, extensions={"timeout": timeout})
        try:
            answer = await self._transport.handle_async_request(request)
            answer.request = request
            if not stream or not answer.is_success:
                await answer.aread()
        except Exception as broken:  # the SDK does the same, whatever it was
            raise anthropic.APIConnectionError(request=request) from broken
        if not answer.is_success:
            raise anthropic.APIStatusError(f"{answer.status_code}", response=answer, body=None)
        return answer

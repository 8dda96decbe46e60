"""The way between the simulated processes and the API machine, with time on it.

A request whose last byte was given to the network arrives, whatever then becomes of the one who sent it: a process
that dies or gives up after the tail leaves a create that is still on its way (bound A4). A body that stalls is
dropped by the server (bound A3). An answer that takes longer than the caller's patience is a time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import anthropic
import anyio
import httpx2

from abatch.sandbox.exchange import Cut, Lost, Reply, Request, Reset, Slow, Whole
from abatch.sandbox.faults import (
    CutBody,
    DeepJson,
    Garbage,
    HugeLine,
    LineSeparator,
    LoneSurrogate,
    NoDate,
)
from abatch.sandbox.transport import URL, MachineTransport, asked_by, pieces_of
from tests.simulation.api import sent_by, shown_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from abatch.sandbox.api import Visit
    from abatch.sandbox.faults import AnyFault
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["Network", "Read", "Wire"]

STALLED_AFTER = 600.0
"""Bound A3: seconds after which a server drops a body that does not go on."""
UNREADABLE: Final = (Garbage, CutBody, NoDate)
MAKES_ODD: Final = (LineSeparator, LoneSurrogate, HugeLine, DeepJson)


@dataclass(slots=True)
class Read:
    """One time that a batch's results were asked for."""

    at: float
    complete: bool
    """It is a whole stream, whatever is in it."""
    faults: tuple[AnyFault, ...]
    by: Process
    to_its_end: bool = False
    """It was read to its end; a look at the first lines is not."""

    def noted(self, pieces: Iterator[bytes], odd: set[int]) -> Iterator[bytes]:
        """The same, watched; what stands behind the ids of its lines is noted if a fault makes texts odd."""
        if any(isinstance(fault, MAKES_ODD) for fault in self.faults):
            pieces = _tails_noted(pieces, odd)
        yield from pieces
        self.to_its_end = True


def _tails_noted(pieces: Iterator[bytes], odd: set[int]) -> Iterator[bytes]:
    line = b""
    for piece in pieces:
        *lines, line = (line + piece).split(b"\n")
        odd.update(map(_tail, lines))
        odd.add(_tail(line))  # should it be the last
        yield piece


def _tail(line: bytes) -> int:
    return hash(line[line.find(b'"result":') :].removesuffix(b"\r"))


class Network(MachineTransport):
    """The transport of one process's client."""

    def __init__(self, world: World, process: Process) -> None:
        super().__init__(world.machine)
        self._world, self._process = world, process

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One exchange of the SDK's."""
        assert isinstance(request.stream, AsyncIterable)
        patience = request.extensions["timeout"]["read"]
        return await self.deliver(await self.exchange(asked_by(request), request.stream, patience))

    async def deliver(self, reply: Reply) -> httpx2.Response:
        """The answer as the SDK takes it."""
        return await self._deliver(reply)

    async def exchange(self, asked: Request, body: AsyncIterable[bytes] | None, patience: float) -> Reply:
        """One request, one answer."""
        if asked.method != "POST" or asked.path.endswith("/cancel"):
            return await self._exchange(asked, body, patience)
        self._process.uploading += 1
        if self._process.uploading > self._world.plan.config.uploads:
            self._world.violation(f"I5: {self._process.uploading} creates under way at once")
        try:
            return await self._exchange(asked, body, patience)
        finally:
            self._process.uploading -= 1

    async def _exchange(self, asked: Request, body: AsyncIterable[bytes] | None, patience: float) -> Reply:
        world, process = self._world, self._process
        what = f"{asked.method} {asked.path}"
        if asked.query:
            what += "?" + "&".join(f"{name}={value}" for name, value in asked.query.items())
        await process.moment(f"before {what}")
        await asyncio.sleep(world.latency())
        visit = self._machine.open(asked)
        sent_by(visit, process)
        if visit.early is not None:
            reply = visit.early
            world.met(visit, reply)
        else:
            reply = await _answer(await self._send(asked, body, visit), patience)
        await process.moment(f"after {what}")
        process.note(f"{what} -> {reply.status} {type(reply.transport).__name__}")
        if _shows(visit, reply):
            world.witness.shows(process, shown_by(visit))
        if visit.action == "results":
            process.breaking[visit.batch_id] = isinstance(reply.transport, Cut | Reset)
            complete = reply.status == 200 and isinstance(reply.transport, Whole | Slow)
            read = Read(world.now(), complete, tuple(visit.faults), process)
            world.reads.setdefault(visit.batch_id, []).append(read)
            if isinstance(reply.body, bytes):
                read.to_its_end = True
            else:
                reply = replace(reply, body=read.noted(reply.body, world.odd))
        return reply

    async def _send(self, asked: Request, body: AsyncIterable[bytes] | None, visit: Visit) -> asyncio.Future[Reply]:
        """Give the body to the network; with its last byte it is on its way, whatever becomes of the sender."""
        process, world = self._process, self._world
        length, received, last = int(asked.headers.get("content-length", "0")), 0, world.now()
        answered = None if length else self._dispatch(visit)
        if body is None:
            assert answered is not None
            return answered
        try:
            async for piece in body:
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
            world.met(visit, reply)
            world.later(reply.delay + world.latency(), lambda: answered.done() or answered.set_result(reply))

        world.later(world.transit(visit), arrive)
        return answered


def _shows(visit: Visit, reply: Reply) -> bool:
    """Whether an answer shows batches to those who look for them: a whole page of a list, or one batch."""
    if reply.status != 200 or not isinstance(reply.transport, Whole | Slow):
        return False
    if any(isinstance(fault, UNREADABLE) for fault in visit.faults):
        return False
    return visit.action == "retrieve" or (visit.action == "list" and visit.request.query.get("limit") != "1")


async def _answer(answered: asyncio.Future[Reply], patience: float) -> Reply:
    late = httpx2.ReadTimeout("no answer in time")
    timer = answered.get_loop().call_later(patience, lambda: answered.done() or answered.set_exception(late))
    try:
        reply = await answered
    finally:
        timer.cancel()
    return replace(reply, delay=0.0) if reply.delay else reply


class Answer:
    """What `abatch.engine.client` reads of the SDK's answers."""

    request: Final = httpx2.Request("GET", URL)

    def __init__(self, reply: Reply) -> None:
        self.status_code, self.headers, self.content = reply.status, reply.headers, b""
        self.is_success = 200 <= reply.status < 300
        self._pieces = pieces_of(reply)

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aread(self) -> None:
        self.content = b"".join([piece async for piece in self._pieces])

    async def aclose(self) -> None:
        """Nothing is open."""


class Refusal(anthropic.APIStatusError):
    """An error of the API; what the SDK reads of the body is not looked at by anybody."""

    def __init__(self, answer: Any) -> None:
        Exception.__init__(self, f"{answer.status_code}")
        self.response = answer


class Wire:
    """What `abatch.engine.client` uses of the SDK, without its cost: one request, one answer, the SDK's errors."""

    credentials = None
    auth_token = None
    base_url: Final = httpx2.URL(URL)
    _nowhere: Final = httpx2.Request("GET", URL)

    def __init__(self, network: Network, key: str) -> None:
        self._network, self.api_key = network, key

    async def get(self, path: str, *, stream: bool = False, options: Any, **_: Any) -> Any:
        return await self._send("GET", path, None, options, stream=stream)

    async def post(self, path: str, *, content: AsyncIterator[bytes] | None = None, options: Any, **_: Any) -> Any:
        return await self._send("POST", path, content, options)

    async def _send(self, method: str, path: str, content: Any, options: Any, *, stream: bool = False) -> Any:
        assert options["max_retries"] == 0
        assert options["follow_redirects"] is False
        headers = {name.lower(): value for name, value in options["headers"].items()}
        asked = _request(method, path, {"x-api-key": self.api_key, **headers})
        try:
            answer = await self._receive(await self._network.exchange(asked, content, options["timeout"].read))
            if not stream or not answer.is_success:
                await answer.aread()
        except Exception as broken:  # the SDK does the same, whatever it was
            raise anthropic.APIConnectionError(request=self._nowhere) from broken
        if not answer.is_success:
            raise Refusal(answer)
        return answer

    async def _receive(self, reply: Reply) -> Any:
        if "content-encoding" in reply.headers:
            return await self._network.deliver(reply)
        await anyio.sleep(reply.delay)
        if isinstance(reply.transport, Lost):
            raise httpx2.ReadError("the connection was reset")
        return Answer(reply)


def _request(method: str, path: str, headers: Mapping[str, str]) -> Request:
    path, _, query = path.partition("?")
    return Request(method, path, dict(parse_qsl(query)), headers)

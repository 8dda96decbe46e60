"""Receivers of webhooks for tests: one over HTTP on loopback, and one in memory; and jobs to send messages about."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx2

from abatch import JournalView
from abatch.events import Event
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.outbox import Message
from abatch.protocol import facts
from abatch.service.webhooks_answers import WAITS, Answer, Delivered
from abatch.service.webhooks_settings import Endpoint, endpoint
from tests.unit.make import submitted

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"o" * 32).decode()
MESSAGE = Message(7, "evt_1_7", "job.finished", "nightly", b'{"type":"event","id":"evt_1_7","data":{"id":"nightly"}}')


@dataclass
class Received:
    """A request that came whole."""

    line: str
    headers: dict[str, str]
    body: bytes


Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


def status(code: int, *headers: str) -> Reply:
    """Reply with a status and an empty body."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} X", "content-length: 0", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()

    return reply


async def silence(writer: asyncio.StreamWriter) -> None:
    """Never reply."""
    await asyncio.Event().wait()


async def endless_body(writer: asyncio.StreamWriter) -> None:
    """Reply with 200 and a body without an end, until the connection is closed."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def endless_headers(writer: asyncio.StreamWriter) -> None:
    """Reply with headers without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: " + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def nothing(writer: asyncio.StreamWriter) -> None:
    """Close the connection without a reply."""


@dataclass
class Loopback:
    """A receiver on loopback; its replies are given in order, and the last one is repeated."""

    port: int = 0
    replies: list[Reply] = field(default_factory=lambda: [status(204)])
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)
    """The server names of TLS connections."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=t0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)}
            body = await reader.readexactly(int(headers["content-length"]))
            reply = self.replies[min(len(self.received), len(self.replies) - 1)]
            self.received.append(Received(line, headers, body))
            await reply(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sender closed the connection
        finally:
            writer.close()


@asynccontextmanager
async def listening(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Loopback]:
    """Listen on loopback for the duration of a block."""
    receiver = Loopback()
    if replies:
        receiver.replies = list(replies)
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: receiver.names.append(name)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(receiver.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def endpoint_at(
    url: str, *, secrets: Iterable[str] = (SECRET,), folder: Path, allow_private: bool = True, **more: object
) -> Endpoint:
    """Make an endpoint with a file of secrets."""
    file = folder / "webhook.secret"
    file.write_text("\n".join(secrets))
    file.chmod(0o600)
    table = {"url": url, "secret_file": file.name, "allow_private": allow_private, **more}
    return endpoint(table, place="webhooks[1]", folder=folder)


class Fake:
    """A receiver in memory whose answers a test gives."""

    def __init__(
        self,
        name: str = "fake",
        answer: Callable[[Message], Awaitable[Answer]] | None = None,
        *,
        waits: tuple[float, ...] = WAITS,
    ) -> None:
        self.name = name
        self.waits = waits
        self.answer = answer
        self.messages: list[Message] = []
        self.closed = False

    def wants(self, event: Event) -> bool:
        return event.kind == "job.finished"

    async def deliver(self, message: Message) -> Answer:
        self.messages.append(message)
        await anyio.lowlevel.checkpoint()
        return Delivered(note="200") if self.answer is None else await self.answer(message)

    async def aclose(self) -> None:
        self.closed = True

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


async def finish(log: SqliteLog, key: str) -> int:
    """Begin a job and finish it; return the number of the fact that finished it."""
    job = (await log.add_job(submitted(key=key, to="jsonl:out.jsonl"))).job
    await log.append(Entry(job, facts.Cut(rows=0, last=True), n=0))
    (finished,) = await log.append(Entry(job, facts.Finished(location="/results/out.jsonl"), n=1))
    return finished.seq


async def until(done: Callable[[], object]) -> None:
    """Wait until something is so; the test fails if that takes a minute."""
    with anyio.fail_after(60):
        while not done():
            await anyio.sleep(0.005)


async def states(view: JournalView) -> dict[str, tuple[str, int, str]]:
    """Return state, attempts and answer of every message, by the key of its job and its receiver."""
    return {
        f"{each.message.job} {each.receiver}": (each.state, each.attempts, each.answer)
        for each in await view.outbox.newest(most=1000)
    }


def as_request(received: Received) -> httpx2.Headers:
    """Return the headers as a web framework gives them."""
    return httpx2.Headers(received.headers)

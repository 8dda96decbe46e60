"""A create that is answered, or whose connection is closed, before its body is complete: the answer is not lost."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anthropic
import anyio
import httpx2
import pytest

from abatch.engine.client import Client
from abatch.engine.early_answer import check_unanswered
from abatch.protocol.facts import Headers
from abatch.protocol.reconcile import NoAnswer, Replied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


pytestmark = pytest.mark.anyio

TLS = Path(__file__).parent / "tls"
TOO_LARGE = b"HTTP/1.1 413 X\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CREATED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@asynccontextmanager
async def server(early: bytes, *, closes: bool = True, tls: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that sends this at the head of a request, and then closes, or reads the body and answers."""
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(early)
        await writer.drain()
        if not closes:
            bodies.append(await reader.readexactly(1002))
            writer.write(CREATED)
            await writer.drain()
        writer.close()

    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        port = listening.sockets[0].getsockname()[1]
        yield f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}", bodies
    finally:
        listening.close()


async def created(base_url: str, *, looks: bool) -> tuple[Replied | NoAnswer, bool]:
    """The answer to a create that pauses before its tail, and whether the tail was sent."""
    sdk = anthropic.AsyncAnthropic(base_url=base_url, api_key="key", max_retries=0, http_client=httpx2.AsyncClient())
    client, sent = Client(sdk, own=True), False

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b"x" * 500
        yield b"x" * 500
        await anyio.sleep(0.2)
        if looks:
            check_unanswered()
        sent = True
        yield b"]}"

    try:
        with anyio.fail_after(20):
            return await client.create(Headers(), 1002, body()), sent
    finally:
        await client.aclose()
        await sdk.close()


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "cert.pem"))
    return bool(request.param)


@pytest.mark.parametrize("looks", [True, False])
async def test_answer_before_a_reset_is_read_and_the_tail_is_not_sent_after_a_look(tls: bool, looks: bool) -> None:
    async with server(TOO_LARGE, tls=tls) as (url, _):
        answer, sent = await created(url, looks=looks)
    assert isinstance(answer, Replied)
    assert (answer.status, sent) == (413, not looks)


async def test_connection_that_is_closed_before_the_tail_is_seen(tls: bool) -> None:
    async with server(b"", tls=tls) as (url, _):
        answer, sent = await created(url, looks=True)
    assert isinstance(answer, NoAnswer)
    assert not sent


@pytest.mark.parametrize("interim", [b"", CONTINUE, CONTINUE * 2])
async def test_connection_without_a_final_answer_is_open(tls: bool, interim: bytes) -> None:
    """With TLS the server also sends session tickets, which are no answer."""
    async with server(interim, closes=False, tls=tls) as (url, bodies):
        answer, sent = await created(url, looks=True)
    assert isinstance(answer, Replied)
    assert (answer.status, sent) == (200, True)
    assert bodies == [b"x" * 1000 + b"]}"]


async def test_client_whose_connections_do_not_read_ahead_passes() -> None:
    check_unanswered()

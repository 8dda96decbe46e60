"""Results that break on the way, over both transports of the SDK: each break is an ApiError, and none is waited for."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import anthropic
import anyio
import httpx2
import pytest

from abatch import client
from abatch.client import Client
from abatch.errors import ApiError
from abatch.facts import Headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ZIPPED = gzip.compress(b"line\n" * 10_000)
BREAKS = {
    "cut inside a chunk": [CHUNKED + b"5\r\nline\n\r\n5\r\nli"],
    "cut behind a chunk": [CHUNKED + b"5\r\nline\n\r\n"],
    "a chunk without a size": [CHUNKED + b"5\r\nline\n\r\n", b"zz\r\n"],
    "a chunk without an end": [CHUNKED + b"5\r\nline\nXX5\r\n"],
    "fewer bytes than announced": [OK + b"Content-Length: 50\r\n\r\nline\n"],
    "not what gzip makes": [OK + b"Content-Encoding: gzip\r\nContent-Length: 50\r\n\r\n" + b"x" * 50],
    "not HTTP": [b"something else\r\n\r\n"],
    "nothing": [],
    "an error cut short": [b"HTTP/1.1 500 Oh\r\nContent-Length: 500\r\n\r\n{"],
    "an error without a size": [b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"zz\r\n"],
    "a redirect": [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"],
}


@asynccontextmanager
async def answering(pieces: list[bytes], *, hangs: bool = False, resets: bool = False) -> AsyncIterator[str]:
    """The address of a server that answers each request with these pieces."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        if hangs:
            await over.wait()
        if resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        over.set()
        server.close()
        await asyncio.sleep(0.02)


async def read(url: str, *, own: bool) -> bytes:
    sdk = anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0)
    reader = Client(sdk, own=own)
    try:
        async with reader.results(None, "msgbatch_1") as chunks:
            return b"".join([chunk async for chunk in chunks])
    finally:
        await reader.aclose()
        await sdk.close()


own = pytest.mark.parametrize("own", [True, False], ids=["own transport", "the caller's"])


@own
@pytest.mark.parametrize("pieces", BREAKS.values(), ids=BREAKS)
async def test_results_that_break_are_an_api_error(pieces, own, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.5)
    async with answering(pieces) as url:
        with anyio.fail_after(30), pytest.raises(ApiError):
            await read(url, own=own)


@own
@pytest.mark.parametrize("pieces", [[OK + b"Content-Length: 50\r\n\r\nline\n"], []], ids=["a line", "nothing"])
async def test_results_that_stop_coming_are_given_up(pieces, own, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.5)
    async with answering(pieces, hangs=True) as url:
        with anyio.fail_after(30), pytest.raises(ApiError, match="Timeout"):
            await read(url, own=own)


@own
async def test_results_whose_connection_is_reset_are_an_api_error(own):
    async with answering([OK + b"Content-Length: 50\r\n\r\nline\n"], resets=True) as url:
        with anyio.fail_after(30), pytest.raises(ApiError):
            await read(url, own=own)


@own
async def test_results_that_came_whole_are_read(own):
    plain = b"%x\r\n%b\r\n0\r\n\r\n" % (10, b"line\nline\n")
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED)
    async with answering([CHUNKED, plain]) as url:
        assert await read(url, own=own) == b"line\nline\n"
    async with answering([OK + head + ZIPPED]) as url:
        assert await read(url, own=own) == b"line\n" * 10_000


@own
async def test_reader_who_takes_long_over_a_chunk_is_not_taken_for_a_stream_that_stands_still(own, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.2)
    got = []
    sdk = anthropic.AsyncAnthropic(api_key="key", max_retries=0)
    async with answering([CHUNKED + b"5\r\nline\n\r\n", b"5\r\nline\n\r\n0\r\n\r\n"]) as url:
        reader = Client(sdk.with_options(base_url=url), own=own)
        async with reader.results(None, "msgbatch_1") as chunks:
            async for chunk in chunks:
                got.append(chunk)
                await asyncio.sleep(0.5)
        await reader.aclose()
    await sdk.close()
    assert b"".join(got) == b"line\nline\n"


@pytest.mark.parametrize(("proxy", "aiohttp"), [("socks5://127.0.0.1:1", False), ("http://127.0.0.1:1", True)])
async def test_results_are_read_as_all_else_is_where_aiohttp_does_not_speak_the_proxys_language(
    proxy, aiohttp, monkeypatch
):
    monkeypatch.setenv("ALL_PROXY", proxy)
    sdk = anthropic.AsyncAnthropic(api_key="key", max_retries=0, http_client=httpx2.AsyncClient(trust_env=False))
    monkeypatch.setattr(client.httpx2, "AsyncHTTPTransport", lambda **_: httpx2.MockTransport(lambda _: None))
    reader = Client(sdk, own=True)
    assert (reader._reading is not sdk) is aiohttp
    await reader.aclose()


DATE = "Sat, 21 Nov 2026 20:44:35 %s"
LIST = '{"data":[{"id":"b","processing_status":"ended","request_counts":{},"created_at":"2026-11-21T20:44:35%s"}],'


@pytest.mark.parametrize(
    ("date", "created_at", "why"),
    [("GMT", "Z", None), ("-0000", "Z", "no Date header"), ("GMT", "", "its created_at is '2026-11-21T20:44:35'")],
)
async def test_a_time_without_a_zone_is_none(date, created_at, why):
    def answer(_: httpx2.Request) -> httpx2.Response:
        body = LIST % created_at + '"has_more":false}'
        return httpx2.Response(200, headers={"date": DATE % date}, text=body)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with anthropic.AsyncAnthropic(api_key="key", http_client=http) as sdk:
        with nullcontext() if why is None else pytest.raises(ApiError, match=why):
            page = await Client(sdk, own=False).list(None)
            assert (page.date, page.batches[0].created_at) == (1_795_293_875, 1_795_293_875)


async def test_what_the_caller_did_wrong_is_not_taken_for_a_call_without_an_answer(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)

    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    async with anthropic.AsyncAnthropic(base_url="http://127.0.0.1:1") as sdk:
        calls = Client(sdk, own=False)
        with pytest.raises(TypeError, match="authentication"):
            await calls.list(None)
        with pytest.raises(TypeError, match="authentication"):
            await calls.create(Headers(), 2, body())

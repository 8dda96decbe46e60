"""Answers of every shape over both transports of the SDK: each break is an ApiError, and none is waited for."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import anthropic
import anyio
import httpx2
import pytest

from abatch.engine import client, proxies, stream, transport
from abatch.engine.client import Client
from abatch.errors import ApiError
from abatch.protocol.facts import Headers
from abatch.protocol.reads import refusal_of
from abatch.protocol.reconcile import CreatedUnnamed, Refused, Unknown, judge

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
async def answering(
    pieces: list[bytes], *, hangs: bool = False, resets: bool = False, asked: list[bytes] | None = None
) -> AsyncIterator[str]:
    """The address of a server that answers each request with these pieces."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(head)
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
    monkeypatch.setattr(stream, "IDLE", 0.5)
    async with answering(pieces) as url:
        with anyio.fail_after(30), pytest.raises(ApiError):
            await read(url, own=own)


@own
@pytest.mark.parametrize("pieces", [[OK + b"Content-Length: 50\r\n\r\nline\n"], []], ids=["a line", "nothing"])
async def test_results_that_stop_coming_are_given_up(pieces, own, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.5)
    monkeypatch.setattr(stream, "IDLE", 0.5)
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


MEMBERS = b"".join(gzip.compress(b"line %d\n" % number, mtime=0) for number in range(2_000))
LINES = b"".join(b"line %d\n" % number for number in range(2_000))


def chunked(body: bytes, size: int) -> list[bytes]:
    """The body in chunks of HTTP, as a proxy passes it on."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return [b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"]


@own
@pytest.mark.parametrize("size", [1, 7, 1000, 1_000_000])
async def test_results_in_several_gzip_members_are_read_to_the_last(own, size):
    head = OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = gzip.compress(b"first\n") + gzip.compress(b"") + gzip.compress(b"last\n") if size == 1 else MEMBERS
    async with answering([head, *chunked(body, size)]) as url:
        assert await read(url, own=own) == (b"first\nlast\n" if size == 1 else LINES)


@own
@pytest.mark.parametrize("behind", [bytes(512), b"\x1f", b"not gzip"], ids=["padding", "half a magic", "other bytes"])
async def test_bytes_behind_the_last_gzip_member_are_passed_over(own, behind):
    body = gzip.compress(b"line\n") + behind
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with answering([OK + head + body]) as url:
        assert await read(url, own=own) == b"line\n"


@own
async def test_results_that_end_inside_a_gzip_member_are_an_api_error(own):
    body = gzip.compress(b"line\n") + gzip.compress(b"line\n")[:-5]
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with answering([OK + head + body]) as url:
        with anyio.fail_after(30), pytest.raises(ApiError, match="the stream broke"):
            await read(url, own=own)


@own
async def test_results_are_asked_for_without_compression(own):
    asked: list[bytes] = []
    async with answering([OK + b"Content-Length: 5\r\n\r\nline\n"], asked=asked) as url:
        assert await read(url, own=own) == b"line\n"
    assert [line for line in asked[0].lower().split(b"\r\n") if line.startswith(b"accept-encoding")] == [
        b"accept-encoding: identity"
    ]


def test_a_gzip_bomb_comes_in_pieces_of_bounded_size():
    bomb = gzip.compress(bytes(50_000_000)) * 2
    members, sizes = stream.Members(), []
    for start in range(0, len(bomb), 65_536):
        sizes += [len(piece) for piece in members.feed(bomb[start : start + 65_536])]
    assert (sum(sizes), max(sizes), members.whole) == (100_000_000, stream.UNZIPPED, True)


@own
async def test_reader_who_takes_long_over_a_chunk_is_not_taken_for_a_stream_that_stands_still(own, monkeypatch):
    monkeypatch.setattr(client, "IDLE", 0.2)
    monkeypatch.setattr(stream, "IDLE", 0.2)
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


@pytest.mark.parametrize(
    ("proxy", "aiohttp"),
    [("socks5://127.0.0.1:1", False), ("https://127.0.0.1:1", False), ("http://127.0.0.1:1", True)],
)
async def test_results_are_read_as_all_else_is_where_aiohttp_does_not_speak_the_proxys_language(
    proxy, aiohttp, monkeypatch
):
    monkeypatch.setenv("ALL_PROXY", proxy)
    sdk = anthropic.AsyncAnthropic(api_key="key", max_retries=0, http_client=httpx2.AsyncClient(trust_env=False))
    monkeypatch.setattr(proxies, "speaks_socks", lambda: True)
    monkeypatch.setattr(client.httpx2, "AsyncHTTPTransport", lambda **_: httpx2.MockTransport(lambda _: None))
    monkeypatch.setattr(transport, "read_ahead", lambda _: None)
    reader = Client(sdk, own=True)
    assert (reader._reading is not reader._sdk) is aiohttp
    await reader.aclose()


DATE = "Sat, 21 Nov 2026 20:44:35 %s"
COUNTS = '"request_counts":{"succeeded":1}'
LIST = '{"data":[{"id":"b","processing_status":"ended",' + COUNTS + ',"created_at":"2026-11-21T20:44:35%s"}],'


@pytest.mark.parametrize(
    ("date", "created_at", "why"),
    [
        ("GMT", "Z", None),
        ("-0000", "Z", "Date header of the answer is 'Sat, 21 Nov 2026 20:44:35 -0000', which is no date"),
    ],
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


ODD = {
    "null counts": (COUNTS, '"request_counts":null', "the batch has no request_counts"),
    "no counts": (COUNTS + ",", "", "the batch has no request_counts"),
    "a null count": (COUNTS, '"request_counts":{"processing":null}', "got `null` - at `$.request_counts.processing`"),
    "counts of nothing": (COUNTS, '"request_counts":{}', "its request_counts come to 0"),
    "counts that are a list": (COUNTS, '"request_counts":[]', "`$.request_counts`"),
    "no status": ('"processing_status":"ended",', "", "`processing_status`"),
}
NO_TIME = {
    "no zone": ('35Z"', '35"', "the created_at of a batch is '2026-11-21T20:44:35'"),
    "no time": (',"created_at":"2026-11-21T20:44:35Z"', "", "`created_at`"),
    "a null time": ('"2026-11-21T20:44:35Z"', "null", "`$.created_at`"),
}


@pytest.mark.parametrize(("field", "odd", "why"), [*ODD.values(), *NO_TIME.values()], ids=[*ODD, *NO_TIME])
async def test_an_odd_entry_of_a_list_does_not_hide_the_others_and_names_its_field_and_batch(field, odd, why):
    one = (LIST % "Z").removeprefix('{"data":[').removesuffix("],")
    text = f'{{"data":[{one},{one.replace(field, odd)},{one}],"has_more":true}}'
    async with answered(200, text) as calls:
        page = await calls.list(None)
    assert [batch.total for batch in page.batches] == [1, 1]
    (entry,) = page.odd
    assert (entry.batch_id, entry.created_at) == ("b", None if (field, odd, why) in NO_TIME.values() else 1_795_293_875)
    assert why in entry.why
    assert str(entry).startswith("the list shows batch b in a form that cannot be read (")
    assert (page.last_id, page.ids, page.newest) == ("b", {"b"}, 1_795_293_875)


@pytest.mark.parametrize("entry", ["null", "[]", '"b"', "7", "{}", '{"id":"b/.."}', '{"id":null}'])
async def test_an_entry_of_a_list_without_a_usable_id_is_told_as_such(entry):
    async with answered(200, f'{{"data":[{entry}],"has_more":false}}') as calls:
        page = await calls.list(None)
    (odd,) = page.odd
    assert (page.batches, page.ids, page.newest, page.oldest, page.last_id) == ((), set(), 0.0, None, None)
    assert "an entry without a usable id" in str(odd)
    assert odd.why


async def test_a_batch_that_is_asked_for_by_its_id_can_do_without_counts():
    one = json.loads(LIST % "Z" + '"has_more":false}')["data"][0]
    async with answered(200, json.dumps({**one, "request_counts": None})) as calls:
        batch = await calls.retrieve(None, "b")
        verdict = judge(await calls.create(Headers(), 2, pieces()))
    assert (batch.ended, batch.total, batch.counts) == (True, 0, (0, 0, 0, 0))
    assert verdict == CreatedUnnamed(rule="A5", status=200)


@pytest.mark.parametrize("status", [302, 307])
async def test_redirect_names_the_host_and_no_more(status):
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"location": "https://user:pw@elsewhere.example/path?token=secret"})

    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with anthropic.AsyncAnthropic(api_key="key", http_client=http) as sdk:
        with pytest.raises(ApiError) as failed:
            await Client(sdk, own=False).list(None)
        assert failed.value.message == "redirected to elsewhere.example"
        created = await Client(sdk, own=False).create(Headers(), 2, body())
        assert ("to elsewhere.example" in str(judge(created))) is (status == 307)
        assert "secret" not in str(judge(created))


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


def envelope(details: str) -> str:
    return '{"type":"error","error":{"type":"invalid_request_error","message":"no","details":' + details + "}}"


@asynccontextmanager
async def answered(status: int, text: str, **headers: str) -> AsyncIterator[Client]:
    """A client whose every call is answered so."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"date": DATE % "GMT", **headers}, text=text)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with anthropic.AsyncAnthropic(api_key="a-key-of-no-usual-form", http_client=http, max_retries=0) as sdk:
        yield Client(sdk, own=False)


async def pieces() -> AsyncIterator[bytes]:
    yield b"{}"


@pytest.mark.parametrize("details", ['"a text"', '["a","list"]', "null", "7", "true", '{"error_code":7}', "{}"])
async def test_details_of_any_kind_hide_no_envelope(details):
    async with answered(400, envelope(details)) as calls:
        verdict = judge(await calls.create(Headers(), 2, pieces()))
        assert isinstance(verdict, Refused)
        with pytest.raises(ApiError) as caught:
            await calls.list(None)
        assert (caught.value.kind, caught.value.error_code) == ("invalid_request_error", None)


@pytest.mark.parametrize("kind", ["", "api_error", "overloaded_error", "timeout_error"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429])
async def test_a9_an_error_of_a_server_under_a_4xx_is_no_refusal_of_the_api(status, kind):
    """A gateway that puts its own trouble into the API's envelope may have passed the create on."""
    text = envelope('{"error_code":"enforced_spend_limit_reached"}').replace("invalid_request_error", kind)
    async with answered(status, text, **{"retry-after": "1"}) as calls:
        verdict = judge(await calls.create(Headers(), 2, pieces()))
    assert verdict == Unknown(rule="A9", why=f"answered {status}")


ODD_IDS = {
    "empty": "",
    "a slash": "msgbatch_1/cancel",
    "two dots": "..",
    "a query": "msgbatch_1?x=1",
    "a newline": "msgbatch_1\n",
    "an escape": "\x1b[31mmsgbatch_1",
    "NUL": "msgbatch_\0",
    "a blank": "msgbatch 1",
    "far too long": "m" * 100_000,
    "a surrogate": "msgbatch_\ud800",
    "none": None,
    "a number": 7,
    "a list": ["msgbatch_1"],
}
odd_id = pytest.mark.parametrize("batch_id", ODD_IDS.values(), ids=ODD_IDS)


@odd_id
async def test_a5_a_2xx_with_an_id_that_no_path_can_hold_is_created_but_unnamed(batch_id):
    one = json.loads(LIST % "Z" + '"has_more":false}')["data"][0]
    async with answered(200, json.dumps({**one, "id": "msgbatch_1"})) as calls:
        assert (await calls.create(Headers(), 2, pieces())).batch.batch_id == "msgbatch_1"
    async with answered(200, json.dumps({**one, "id": batch_id})) as calls:
        verdict = judge(await calls.create(Headers(), 2, pieces()))
    assert verdict == CreatedUnnamed(rule="A5", status=200)


@odd_id
async def test_an_id_that_no_path_can_hold_makes_a_batch_a_failure_that_can_be_told(batch_id):
    one = json.loads(LIST % "Z" + '"has_more":false}')["data"][0]
    async with answered(200, json.dumps({**one, "id": batch_id})) as calls:
        with pytest.raises(ApiError) as caught:
            await calls.retrieve(None, "b")
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


async def test_the_code_of_an_error_is_read_from_its_details():
    async with answered(400, envelope('{"error_code":"organization_on_hold"}')) as calls:
        assert (await calls.create(Headers(), 2, pieces())).error_code == "organization_on_hold"
        with pytest.raises(ApiError) as caught:
            await calls.list(None)
        assert caught.value.error_code == "organization_on_hold"


UNUSABLE = {
    "a web page": "<html>welcome</html>",
    "no data": '{"has_more":false}',
    "another API's list": '{"object":"list","data":[],"has_more":false}'.replace("has_more", "more"),
}


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_list_that_cannot_be_read_is_an_answer_that_may_be_permanent(text):
    async with answered(200, text) as calls:
        with pytest.raises(ApiError) as caught:
            await calls.list(None)
    refusal = refusal_of(caught.value)
    assert refusal is not None
    assert "base URL" in refusal.remedy


@pytest.mark.parametrize(
    "said", ["sk-ant-api03-CANARY_1-2", "Bearer CANARY-opaque-1", "sk-ant-\\u0043ANARY", "a-key-of-no-usual-form"]
)
async def test_a_key_that_an_error_repeats_is_redacted_where_it_is_translated(said):
    text = envelope('{"echo":["' + said + '"]}').replace('"no"', f'"not {said} please"')
    async with answered(413, text, **{"request-id": "req sk-ant-CANARY"}) as calls:
        replied = await calls.create(Headers(), 2, pieces())
        with pytest.raises(ApiError) as caught:
            await calls.list(None)
    for told in (replied, str(caught.value), json.loads(replied.envelope)):
        assert "CANARY" not in repr(told)
        assert "no-usual-form" not in repr(told)
    assert replied.message == "not [redacted] please"


@pytest.mark.parametrize("said", ["Invalid bearer token", "This call requires Bearer authentication.", "Not found."])
async def test_ordinary_words_of_an_error_stay(said):
    async with answered(403, envelope("null").replace('"no"', f'"{said}"')) as calls:
        with pytest.raises(ApiError, match=said):
            await calls.list(None)

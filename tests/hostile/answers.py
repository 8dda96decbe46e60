"""What must hold of the API's answers, and those of whatever stands before it, whatever their bytes."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable
from functools import cache, partial
from typing import Any, TypeVar

import anthropic
import anyio
import httpx2

from abatch.engine.answers import LONGEST_WAIT
from abatch.engine.client import Client
from abatch.errors import ApiError
from abatch.protocol import facts
from abatch.protocol.facts import Accepted, Ended, Headers
from abatch.protocol.reconcile import BatchSeen, Created, Later, NoAnswer, OddEntry, Refused, Replied, counts_of, judge
from tests.hostile.properties import deeper

__all__ = ["Answer", "answer_is_understood_or_an_error"]

T = TypeVar("T")
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""A status, headers and a body."""


def answer_is_understood_or_an_error(answer: Answer) -> None:
    """Every call gives what the answer says, or ApiError; a create gives a verdict, a definite one only where it is."""
    client, transport = _client()
    transport.answer = answer
    anyio.run(partial(_ask, client, _said(answer[2])))


async def _ask(client: Client, said: Any) -> None:
    _judged(await client.create(Headers(), 2, _body()), said)
    page = await _told(client.list(None))
    if page is not None:
        assert math.isfinite(page.date)
        assert len(page.entries) == len(said["data"])
        for entry, each in zip(page.entries, said["data"], strict=True):
            named = each.get("id") if isinstance(each, dict) else None
            assert entry.batch_id == named or (isinstance(entry, OddEntry) and entry.batch_id is None)
            assert isinstance(entry, OddEntry) or entry.total > 0
    batch = await _told(client.retrieve(None, "msgbatch_1"))
    if batch is not None:
        assert batch.batch_id == said["id"]
    for each in (*(page.batches if page else ()), *([batch] if batch else ())):
        _can_be_recorded(each)
        await _told(client.retrieve(None, each.batch_id))
        await _told(client.cancel(None, each.batch_id))
        await _told(_read(client, each.batch_id))


async def _told(call: Awaitable[T]) -> T | None:
    """What a call gives; None for an ApiError."""
    try:
        return await call
    except ApiError as failure:
        _is_tellable(failure)
        return None


def _is_tellable(failure: ApiError) -> None:
    assert str(failure)
    assert failure.retry_after is None or 0 <= failure.retry_after <= LONGEST_WAIT


def _judged(replied: Replied | NoAnswer, said: Any) -> None:
    verdict = judge(replied)
    match verdict:
        case Created(batch=batch):
            assert batch.batch_id == said["id"]
            _can_be_recorded(batch)
        case Refused() | Later() if isinstance(replied, Replied) and replied.status not in {307, 308}:
            assert said["type"] == "error"
            assert isinstance(said["error"]["type"], str)
    if isinstance(verdict, Later):
        assert verdict.wait is None or 0 <= verdict.wait <= LONGEST_WAIT


def _can_be_recorded(batch: BatchSeen) -> None:
    assert math.isfinite(batch.created_at)
    for fact in (Accepted(batch_id=batch.batch_id, created_at=batch.created_at), Ended(counts=counts_of(batch))):
        assert facts.decode(facts.encode(fact)) == fact


async def _read(client: Client, batch_id: str) -> None:
    async with client.results(None, batch_id) as chunks:
        async for _ in chunks:
            pass


async def _body() -> AsyncIterator[bytes]:
    yield b"{}"


def _said(body: bytes) -> Any:
    """The body as JSON, if it is; what nobody asks for in it may be odd."""
    try:
        with deeper():
            return json.loads(body.decode("utf-8", "replace"), parse_int=str, strict=False)
    except (ValueError, RecursionError):
        return None


class _Answering(httpx2.AsyncBaseTransport):
    """Gives one answer to everything."""

    answer: Answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        status, headers, body = self.answer
        return httpx2.Response(status, headers=headers, stream=_Stream(body))


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


@cache
def _client() -> tuple[Client, _Answering]:
    transport = _Answering()
    http = httpx2.AsyncClient(transport=transport)
    sdk = anthropic.AsyncAnthropic(api_key="canary-key", base_url="https://api", http_client=http)
    return Client(sdk, own=False), transport

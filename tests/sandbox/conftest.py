"""A machine on a clock that the test moves, and what tests say to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from abatch.sandbox.api import Machine, Settings
from abatch.sandbox.exchange import Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from abatch.sandbox.store import Fact

BATCHES = "/v1/messages/batches"


def params(n: int, **more: Any) -> bytes:
    """Params that differ from those of every other n."""
    message = {"role": "user", "content": f"question {n}"}
    return json.dumps({"model": "claude-x", "max_tokens": 8, "messages": [message], **more}).encode()


def create_body(*requests: bytes) -> bytes:
    """The body of a create; the custom_ids are row-0, row-1 and so on."""
    items = [b'{"custom_id":"row-%d","params":%b}' % item for item in enumerate(requests)]
    return b'{"requests":[' + b",".join(items) + b"]}"


class Desk:
    """Puts calls to a machine and reads its replies."""

    def __init__(self, *, record: Callable[[Fact], None] = lambda _: None, seed: int = 7, **settings: Any) -> None:
        self.now = datetime(2026, 11, 2, 12, 0, 0, 250_000, tzinfo=UTC)
        self.machine = Machine(clock=lambda: self.now, rng=Random(seed), settings=Settings(**settings), record=record)
        self.headers = {"authorization": "Bearer key", "host": "localhost:8790"}

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def reply(self, method: str, path: str, body: bytes = b"", **query: object) -> Reply:
        request = Request(method, path, {k: str(v) for k, v in query.items()}, self.headers, body)
        return self.machine.handle(request)

    def call(self, method: str, path: str, body: bytes = b"", **query: object) -> tuple[int, Any]:
        reply = self.reply(method, path, body, **query)
        return reply.status, json.loads(whole(reply))

    def create(self, *requests: bytes) -> Any:
        status, batch = self.call("POST", BATCHES, create_body(*requests))
        assert status == 200, batch
        return batch

    def batch(self, batch_id: str) -> Any:
        status, batch = self.call("GET", f"{BATCHES}/{batch_id}")
        assert status == 200, batch
        return batch

    def ids(self, **query: object) -> list[str]:
        status, page = self.call("GET", BATCHES, **query)
        assert status == 200, page
        return [batch["id"] for batch in page["data"]]

    def results(self, batch_id: str) -> Reply:
        return self.reply("GET", f"{BATCHES}/{batch_id}/results")

    def lines(self, batch_id: str) -> list[bytes]:
        return whole(self.results(batch_id)).removesuffix(b"\n").split(b"\n")


def whole(reply: Reply) -> bytes:
    """All of a reply's body."""
    return reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def new_desk() -> type[Desk]:
    return Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def new_params() -> Callable[..., bytes]:
    return params


@pytest.fixture
def new_body() -> Callable[..., bytes]:
    return create_body

"""Tokens that the SDK renews, with the real SDK over HTTP: a revoked one is replaced, and no create is repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import anyio
import pytest
from anthropic.lib.credentials import AccessToken

from abatch import BatchManager, JobStopped
from abatch.sandbox import Sandbox
from tests.e2e.jobs import assert_each_answered, assert_paid_once, config, requests, write
from tests.e2e.test_operator import until

pytestmark = pytest.mark.anyio


class Tokens:
    """What gives tokens, and the server's view of which are good."""

    def __init__(self) -> None:
        self.good = {"token-number-0": "one"}
        self.given = 0
        self.renewable = True

    def revoke(self) -> None:
        self.good.clear()

    async def __call__(self, *, force_refresh: bool = False) -> AccessToken:
        if self.renewable:
            self.given += 1
            self.good[f"token-number-{self.given}"] = "one"
        return AccessToken(token=f"token-number-{self.given}")


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@asynccontextmanager
async def manager_of(api: Sandbox, tokens: Tokens, **more: Any) -> AsyncIterator[BatchManager]:
    async with (
        anthropic.AsyncAnthropic(base_url=api.url, credentials=tokens, max_retries=0) as sdk,
        BatchManager(client=sdk, config=config(**more)) as running,
    ):
        yield running


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, environment: None) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")


async def test_revoked_token_is_renewed_by_the_reads(tokens: Tokens) -> None:
    with Sandbox(seed=7, keys=tokens.good, latency=3600) as api:
        rows = requests(8)
        async with manager_of(api, tokens) as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
            tokens.revoke()
            api.advance(3601)
            with anyio.fail_after(60):
                assert (await job.wait()).succeeded == 8
        assert tokens.given == 2
        assert_each_answered("results.jsonl", rows)
        assert_paid_once(api, rows)


async def test_create_renews_a_revoked_token_before_its_first_byte(tokens: Tokens) -> None:
    with Sandbox(seed=7, keys=tokens.good) as api:
        rows, more = requests(8), [{**row, "custom_id": f"b{n}"} for n, row in enumerate(requests(16)[8:])]
        async with manager_of(api, tokens, requests_per_batch=100) as running:
            job = await running.submit(write(rows, "a.jsonl"), to="a-results.jsonl", key="a")
            assert (await job.wait()).succeeded == 8
            tokens.revoke()  # while nothing is polled
            job = await running.submit(write(more, "b.jsonl"), to="b-results.jsonl", key="b")
            with anyio.fail_after(60):
                assert (await job.wait()).succeeded == 8
        assert tokens.given == 2
        assert (api.account.batches, api.account.aborted) == (2, 0)
        assert_paid_once(api, rows + more)


async def test_token_that_cannot_be_renewed_stops_the_job_before_a_byte_is_uploaded(tokens: Tokens) -> None:
    with Sandbox(seed=7, keys=tokens.good) as api:
        async with manager_of(api, tokens) as running:
            await running.check_api()
            tokens.revoke()
            tokens.renewable = False
            job = await running.submit(write(requests(8)), to="results.jsonl", key="job")
            with anyio.fail_after(60), pytest.raises(JobStopped, match="answered 401"):
                await job.wait()
        assert (api.account.batches, api.account.aborted) == (0, 0)
        assert not [path for path in Path().rglob("*") if path.is_file() and b"token-number" in path.read_bytes()]

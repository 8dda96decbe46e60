"""A batch that does not move for hours is reported, and by policy its rows go in another one: each is paid for once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from abatch import Job, Summary
from abatch.journal.folder import JournalFolder
from abatch.journal.status import read as read_status
from abatch.protocol.facts import CancelledAsParked
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import ResetAfterAccept, Status
from tests.e2e.jobs import assert_each_answered, lines, manager, raw_params, recorded, requests, sdk, write
from tests.e2e.test_operator import until

pytestmark = pytest.mark.anyio

HOUR = 3600.0
LATENCY = 20 * HOUR
GIVES_UP: dict[str, Any] = {"parked": "cancel-and-retry"}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """An API whose batches take twenty hours; its clock is put forward."""
    with Sandbox(seed=3, latency=LATENCY) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        yield api


async def until_given_up(job: Job) -> None:
    """Wait until it is on record that a batch is cancelled as parked."""
    await until(job, lambda: any(getattr(shard.state, "parked", False) for shard in job._job.shards.values()))


def flies(job: Job) -> bool:
    """Whether one batch runs."""
    return job.progress().batches_in_flight == 1


@asynccontextmanager
async def parked(
    api: Sandbox, rows: list[dict[str, Any]], to: str = "results.jsonl", tries: int = 3, **more: Any
) -> AsyncIterator[Job]:
    """A job of one batch that has not moved for thirteen hours."""
    async with manager(requests_per_batch=100, **more) as running:
        job = await running.submit(write(rows), to=to, key="job", tries=tries)
        await until(job, lambda: flies(job))
        api.advance(13 * HOUR)
        yield job


async def retried(api: Sandbox, job: Job) -> Summary:
    """Wait until the rows of the parked batch run in another one, and give what the job came to."""
    await until(job, lambda: len(api.account.created) == 2 and flies(job))
    api.advance(21 * HOUR)
    return await job.wait()


async def test_parked_batch_is_reported_once_and_left_alone(slow: Sandbox) -> None:
    rows = requests(8)
    with structlog.testing.capture_logs() as events:
        async with parked(slow, rows) as job:
            (batch_id,) = slow.account.created
            await until(
                job,
                lambda: (seen := read_status(JournalFolder(Path(".abatch")))) is not None and batch_id in seen.parked,
            )
            assert read_status(JournalFolder(Path(".abatch"))).parked == {batch_id: "has not moved for 13 h"}  # type: ignore[union-attr]
            slow.advance(8 * HOUR)
            summary = await job.wait()
    assert [(event["batch_id"], event["hours"]) for event in events if event["event"] == "batch_parked"] == [
        (batch_id, 13.0)
    ]
    assert slow.account.canceled == []
    assert (summary.succeeded, summary.retried, slow.account.violated) == (8, 0, 0)


async def test_parked_batch_is_cancelled_and_what_it_did_not_finish_is_tried_again(slow: Sandbox) -> None:
    rows = requests(30)
    async with parked(slow, rows, **GIVES_UP) as job:
        summary = await retried(slow, job)
    assert slow.account.violated == 0
    times = [slow.account.times(raw_params(row)) for row in rows]
    assert set(times) == {1, 2}  # what was finished is kept
    assert (summary.succeeded, summary.canceled, summary.retried) == (30, 0, times.count(2))
    assert slow.account.canceled == slow.account.created[:1]
    assert_each_answered("results.jsonl", rows)
    (fact,) = await recorded(CancelledAsParked)
    assert fact.why == "has not moved for 13 h"


async def test_row_that_somebody_else_canceled_is_never_tried_again(slow: Sandbox) -> None:
    """The policy is about batches that abatch cancelled itself."""
    rows = requests(8)
    async with manager(requests_per_batch=100, **GIVES_UP) as running:
        job = await running.submit(write(rows), to="results.jsonl", key="job")
        await until(job, lambda: flies(job))
        async with sdk(slow) as client:
            await client.messages.batches.cancel(slow.account.created[0])
        summary = await job.wait()
    assert (summary.canceled, summary.retried, slow.account.batches) == (8, 0, 1)
    assert await recorded(CancelledAsParked) == []


async def test_parked_batch_is_left_alone_where_its_rows_have_no_try_left(slow: Sandbox) -> None:
    rows = requests(8)
    with structlog.testing.capture_logs() as events:
        async with parked(slow, rows, tries=1, **GIVES_UP) as job:
            await until(job, lambda: any(event["event"] == "batch_parked" for event in events))
            slow.advance(8 * HOUR)
            summary = await job.wait()
    assert (summary.succeeded, slow.account.canceled) == (8, [])


async def test_cancel_of_the_job_after_a_parked_batch_was_cancelled_tries_nothing_again(slow: Sandbox) -> None:
    slow.faults.always("cancel", Status(500))
    rows = requests(8)
    async with parked(slow, rows, **GIVES_UP) as job:
        await until_given_up(job)
        await job.cancel()
        slow.faults.clear("cancel")
        summary = await job.wait()
    assert summary.retried == 0
    assert summary.succeeded + summary.canceled == 8
    assert (slow.account.batches, slow.account.violated) == (1, 0)


@pytest.mark.parametrize("heard", [True, False])
async def test_process_that_died_after_it_gave_up_a_parked_batch_goes_on_with_it(slow: Sandbox, heard: bool) -> None:
    """The decision is durable before the API is asked: rows that come back canceled are tried again in any case."""
    slow.faults.always("cancel", ResetAfterAccept() if heard else Status(500))
    rows = requests(8)
    async with parked(slow, rows, **GIVES_UP) as job:
        await until_given_up(job)
    slow.faults.clear("cancel")
    async with manager(requests_per_batch=100) as running:  # whatever the policy is now
        summary = await retried(slow, await running.submit(Path("input.jsonl"), to="results.jsonl", key="job"))
    assert (summary.succeeded, summary.canceled, slow.account.violated) == (8, 0, 0)
    assert len(await recorded(CancelledAsParked)) == 1
    assert_each_answered("results.jsonl", rows)


@pytest.mark.parametrize("keeps_ids", [True, False])
async def test_part_of_a_parked_batch_that_is_read_again_leaves_the_same_rows_to_its_retry_shard(
    slow: Sandbox, keeps_ids: bool
) -> None:
    rows = requests(30)
    async with parked(slow, rows, to="results/", **GIVES_UP) as job:
        before = await retried(slow, job)
    assert before.retried > 0
    min(Path("results").glob("part-*.jsonl")).unlink()
    if not keeps_ids:  # as in a journal of an abatch that kept none
        for path in Path(".abatch/ids").iterdir():
            path.unlink()
    async with manager() as running:
        assert await running.redrain("job") == [1]
        after = await running.job("job").wait()
    found = [line["custom_id"] for part in Path("results").glob("part-*.jsonl") for line in lines(part)]
    assert sorted(found) == sorted(row["custom_id"] for row in rows)
    assert (after.succeeded, after.retried, after.missing) == (30, before.retried, 0)
    assert (slow.account.batches, slow.account.violated) == (2, 0)

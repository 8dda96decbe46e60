"""A run that ended with an error: the state of its job, in this process and in others, and what ends it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BackendError, BadRequest, BatchManager, Job, JobStatus, JournalView, RunFailed
from abatch.cli.exit_codes import STUCK, exit_code_of
from abatch.sandbox import Sandbox
from tests.e2e.jobs import assert_each_answered, assert_paid_once, manager, requests

pytestmark = pytest.mark.anyio

PROMPT = "a prompt that no state repeats"


def broken(count: int) -> Iterator[dict[str, Any]]:
    yield from requests(count)
    raise ValueError(PROMPT)


async def seen_from_outside(key: str = "job") -> JobStatus:
    """The job as another process sees it, once the driver has reported the end of its run."""
    with anyio.fail_after(10):
        while True:
            async with JournalView() as view:
                job = view.job(key)
                if job.state not in ("planning", "running"):
                    return job
            await anyio.sleep(0.05)


async def failed(running: BatchManager, count: int) -> Job:
    job = await running.submit(broken(count), to="results.jsonl", key="job")
    with pytest.raises(ValueError, match=PROMPT):
        await job.wait()
    return job


@pytest.mark.parametrize("count", [1, 25], ids=["nothing is sent", "two batches are done"])
async def test_a_job_whose_iterable_failed_is_stopped_here_and_for_other_processes(api: Sandbox, count: int) -> None:
    async with manager() as running:
        job = await failed(running, count)
        assert (job.state, job.reason) == ("stopped", "its iterable raised ValueError")
        assert job.remedy == "Submit the job again with the whole iterable."
        status = await seen_from_outside()
        assert (status.state, status.reason, status.remedy) == (job.state, job.reason, job.remedy)
        assert exit_code_of([status], driven=True) == STUCK
        async with JournalView() as view:
            driver = (await view.status()).driver
            assert driver is not None
            assert driver.failed == {"job": RunFailed(reason=job.reason, remedy=job.remedy)}
        rows = requests(30)
        again = await running.submit(rows, to="results.jsonl", key="job")
        assert job.state != "stopped"
        await again.wait()
        assert (await seen_from_outside()).state == "done"
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


@pytest.mark.parametrize("count", [1, 25], ids=["nothing is sent", "two batches are done"])
async def test_a_failed_job_that_is_cancelled_ends_with_its_summary(api: Sandbox, count: int) -> None:
    async with manager() as running:
        job = await failed(running, count)
        await job.cancel()
        summary = await job.wait()
        assert (job.state, job.reason) == ("done", "cancelled")
        assert summary.requests == summary.succeeded == (19 if count == 25 else 0)  # those of the full shards


async def test_a_failed_job_that_another_process_cancels_is_done(api: Sandbox) -> None:
    async with manager() as running:
        job = await failed(running, 25)
        async with JournalView() as view:
            await view.cancel("job")
            with anyio.fail_after(10):
                async for status in view.follow("job"):
                    if status.done:
                        break
        assert job.state == "done"
        assert (await job.wait()).succeeded == 19


async def test_a_job_that_is_cancelled_between_its_error_and_the_end_of_its_run_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Sandbox(seed=1, latency=3600) as slow, anyio.fail_after(30):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        ended = anyio.Event()

        async def coming() -> AsyncIterator[dict[str, Any]]:
            for row in requests(12):
                yield row
            ended.set()
            raise ValueError(PROMPT)

        async with manager() as running:
            job = await running.submit(coming(), to="results.jsonl", key="job")
            await ended.wait()
            while job.progress().in_flight < 10 or job.progress().in_doubt:
                await job._job.change()
            assert job.state == "running"
            await job.cancel()
            assert (await job.wait()).requests == 10
            assert (job.state, job.reason) == ("done", "cancelled")


async def test_a_job_whose_storage_failed_for_good_is_stopped_for_the_reason(api: Sandbox) -> None:
    async with manager() as running:
        job = await running.submit(requests(12), to="parts/", key="job")
        Path("parts").rename("moved")
        Path("parts").write_text("a file in its place")
        with pytest.raises(BackendError) as raised:
            await job.wait()
        assert (job.state, job.reason) == ("stopped", raised.value.why)
        assert "Repair the destination" in job.remedy
        status = await seen_from_outside()
        assert (status.state, status.reason, status.remedy) == (job.state, job.reason, job.remedy)


async def test_a_job_whose_row_cannot_be_sent_is_stopped_at_that_row(api: Sandbox) -> None:
    rows = requests(3)
    del rows[1]["params"]["max_tokens"]
    async with manager() as running:
        job = await running.submit(iter(rows), to="results.jsonl", key="job")
        with pytest.raises(BadRequest):
            await job.wait()
        assert job.state == "stopped"
        assert "max_tokens is missing" in job.reason
        assert job.remedy == "Correct the request. Submit the job again with the whole iterable."

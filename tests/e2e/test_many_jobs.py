"""Jobs of which nothing is to be done cost nothing: who waits is woken by what happened, not by a clock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from abatch import Job, JobStopped
from abatch.protocol.pacing import LIMITS
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.e2e.jobs import assert_paid_once, manager, params, requests

pytestmark = pytest.mark.anyio


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """An API whose batches end in an hour."""
    with Sandbox(seed=7, latency=3_600.0) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox


def timers() -> int:
    """Timers of the event loop that will go off."""
    loop: Any = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)


def own_rows(job: int) -> list[dict[str, Any]]:
    return [{"custom_id": f"{row}", "params": params(1_000 * job + row)} for row in range(3)]


async def read_first(job: Job) -> None:
    await anext(aiter(job.results()))


async def test_jobs_that_wait_for_the_queue_set_no_timers(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "start", (100_000, 3))  # room for one batch of three
    async with manager(sealed_unsent=1) as running, anyio.create_task_group() as group:
        counted: list[int] = []
        for number in range(40):
            job = await running.submit(own_rows(number), to="memory:", key=f"job-{number}")
            while not job.progress().planned:
                await job._job.change()
            group.start_soon(job.wait)
            group.start_soon(read_first, job)
            if number in (9, 39):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                counted.append(timers())
        assert counted[1] <= counted[0] + 5  # one for each of thirty more jobs, at least, if a waiter looks at a clock
        group.cancel_scope.cancel()
    assert slow.account.violated == 0


async def test_jobs_that_waited_for_the_queue_all_get_their_turn(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "start", (100_000, 9))
    async with manager() as running:
        jobs = [await running.submit(own_rows(number), to="memory:", key=f"job-{number}") for number in range(8)]
        assert [(await job.wait()).succeeded for job in jobs] == [3] * 8
    assert_paid_once(api, [row for number in range(8) for row in own_rows(number)])


async def test_who_waits_hears_at_once_that_the_key_is_refused(slow: Sandbox) -> None:
    async with manager() as running:
        job = await running.submit(own_rows(1), to="memory:", key="job")
        while not job.progress().batches:
            await job._job.change()
        for _ in range(50):
            slow.faults.next("list", Status(401, "authentication_error", "no"))
        with pytest.raises(JobStopped, match="Check ANTHROPIC_API_KEY"):
            await job.wait()
    assert slow.account.violated == 0


async def test_leaving_wakes_the_jobs_that_wait(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "start", (100_000, 3))
    async with manager() as running:
        for number in range(5):
            job = await running.submit(own_rows(number), to=f"{number}.jsonl", key=f"job-{number}")
    assert not job.done


async def test_a_manager_keeps_no_run_of_a_finished_job_that_nobody_holds(api: Sandbox) -> None:
    async with manager() as running:
        for number in range(3):
            job = await running.submit(own_rows(number), to=f"{number}.jsonl", key=f"job-{number}")
            await job.wait()
        lines = [result.custom_id async for result in job.results()]
        assert sorted(lines) == ["0", "1", "2"]
        held = running.job("job-0")
        del job
        await anyio.lowlevel.checkpoint()
        gc.collect()
        assert (running._runs.kept(), list(running._runs._spare), dict(running._one_at_a_time._locks)) == ([], [1], {})
        assert running.job("job-0")._run is held._run
        for number in range(3):  # all of them can still be read, from the journal
            found = [result.custom_id async for result in running.job(f"job-{number}").results()]
            assert sorted(found) == ["0", "1", "2"]
            assert running.job(f"job-{number}").summary().succeeded == 3


async def test_results_that_are_followed_to_the_end_are_all_given_although_the_job_lets_its_shards_go(
    api: Sandbox,
) -> None:
    rows = requests(50)
    async with manager() as running:
        job = await running.submit(rows, to="results.jsonl", key="job")
        found = [result.custom_id async for result in job.results()]
    assert sorted(found) == sorted(row["custom_id"] for row in rows)
    assert_paid_once(api, rows)

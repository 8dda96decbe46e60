"""A job whose first results failed: the rest is not sent, across restarts, until somebody says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from abatch import BatchManager, JobStopped, Progress
from abatch.protocol.early import stands
from abatch.protocol.facts import Planned, Stopped
from abatch.sandbox import Sandbox
from tests.e2e.jobs import assert_paid_once, config, lines, manager, recorded, requests

pytestmark = pytest.mark.anyio
WRONG = {"metadata": {"user_id": "sandbox:errored:not_found_error"}}


def mixed(count: int, wrong: range) -> list[dict[str, Any]]:
    """Requests of which these fail."""
    rows = requests(count)
    for number in wrong:
        rows[number]["params"] |= WRONG
    return rows


async def slowly(running: BatchManager, rows: list[dict[str, Any]], first: int) -> AsyncIterator[dict[str, Any]]:
    """The first rows, and the others once the first result is there."""
    for row in rows[:first]:
        yield row
    async for _ in running.job("job").results():
        break
    for row in rows[first:]:
        yield row


async def stopped(rows: list[dict[str, Any]]) -> JobStopped:
    """How a job ends of which the first batch ended before the others were planned."""
    async with manager() as running:
        job = await running.submit(slowly(running, rows, 10), to="results.jsonl", key="job")
        with pytest.raises(JobStopped) as caught:
            await job.wait()
        assert not job.done
        return caught.value


async def test_a_job_whose_first_batch_fails_with_one_error_sends_no_more(api: Sandbox) -> None:
    rows = requests(120, **WRONG)
    stop = await stopped(rows)
    assert stop.failing
    assert "failed with not_found_error" in stop.reason
    assert "--failing go-on" in stop.remedy
    assert api.account.batches == 1
    assert api.account.violated == 0


async def test_the_same_call_again_does_not_send_the_next_batch(api: Sandbox) -> None:
    rows = requests(120, **WRONG)
    await stopped(rows)
    sent = api.account.requests
    for resume in ("given", "all"):
        async with BatchManager(config=config(), resume=resume) as running:  # type: ignore[arg-type]
            job = await running.submit(rows, to="results.jsonl", key="job")
            with pytest.raises(JobStopped, match="no request of it succeeded"):
                await job.wait()
            assert not job.done
    assert api.account.requests == sent
    assert api.account.violated == 0


async def test_go_on_sends_the_rest_and_no_row_twice(api: Sandbox) -> None:
    rows = mixed(60, range(10))
    await stopped(rows)
    async with manager(failing="go-on") as running:
        summary = await (await running.submit(rows, to="results.jsonl", key="job")).wait()
    assert (summary.succeeded, summary.errored) == (50, 10)
    assert len(lines("results.jsonl")) == 60
    assert_paid_once(api, rows)


async def test_a_stopped_job_can_be_cancelled_and_every_row_has_its_line(api: Sandbox) -> None:
    rows = requests(60, **WRONG)
    await stopped(rows)
    sent = api.account.requests
    async with manager() as running:
        job = running.job("job")
        await job.cancel()
        summary = await job.wait()
    assert summary.errored == sent
    assert summary.errored + summary.canceled == summary.requests
    assert api.account.requests == sent


async def test_batches_in_flight_are_drained_after_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = requests(200, **WRONG)
    with Sandbox(seed=7, latency=10_000.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)

        async def coming() -> AsyncIterator[dict[str, Any]]:
            for row in rows[:40]:
                yield row
            while (now := running.job("job").progress()).in_doubt or not 30 < now.in_flight == now.planned:
                await running.job("job")._job.change()
            api.advance(20_000)
            async for _ in running.job("job").results():
                break
            for row in rows[40:]:
                yield row

        async with manager() as running:
            job = await running.submit(coming(), to="results.jsonl", key="job")
            with pytest.raises(JobStopped) as caught:
                await job.wait()
            done = job.progress()
        assert caught.value.failing
        assert done.batches == api.account.batches
        assert done.sealed == done.submitted == api.account.requests < 60
        assert api.account.violated == 0


async def test_a_stop_is_lifted_by_the_same_call_if_a_batch_in_flight_succeeded_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = mixed(100, range(10))
    with Sandbox(seed=7, latency=10_000.0) as api, anyio.fail_after(60):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)

        async def coming() -> AsyncIterator[dict[str, Any]]:
            for row in rows[:10]:  # fill the first batch, and perhaps begin the next
                yield row
            await until(lambda now: now.batches_in_flight == 1)
            api.advance(5_000)
            for row in rows[10:40]:
                yield row
            await until(lambda now: now.in_flight == 40 and not now.in_doubt)
            api.advance(5_500)  # the first batch ends alone
            await anyio.sleep_forever()

        async def until(true: Callable[[Progress], bool]) -> None:
            while not true(running.job("job").progress()):
                await running.job("job")._job.change()

        async with manager() as running:
            job = await running.submit(coming(), to="results.jsonl", key="job")
            while job._job.stopped is None:
                await job._job.change()
            assert not job._job.has_succeeded
            api.advance(20_000)
            with pytest.raises(JobStopped, match="no request of it succeeded so far"):
                await job.wait()
            assert job._job.has_succeeded
        assert len(await recorded(Stopped)) == 1
        sent = api.account.requests
        async with BatchManager(config=config(), resume="all") as running:  # nobody hands it over: nothing is sent
            with pytest.raises(JobStopped):
                await running.job("job").wait()
        assert api.account.requests == sent
        async with manager() as running:
            job = await running.submit(rows, to="results.jsonl", key="job")
            await until(lambda now: now.submitted == 100 and not now.in_doubt)
            api.advance(20_000)
            summary = await job.wait()
        assert (summary.succeeded, summary.errored) == (90, 10)
        assert_paid_once(api, rows)


@pytest.mark.parametrize(
    ("pilot", "succeeded", "failed", "holds"),
    [
        (0, 0, 10, True),
        (0, 1, 10, False),
        (20, 0, 10, True),
        (20, 16, 4, False),
        (20, 15, 5, True),
        (100, 50, 10, False),
    ],
)
def test_a_stop_for_a_failed_batch_ends_with_a_success_and_that_of_a_failed_pilot_stays(
    pilot: int, succeeded: int, failed: int, holds: bool
) -> None:
    assert stands(pilot, succeeded=succeeded, failed=failed) is holds


async def test_a_job_without_unsent_requests_finishes_as_usual(api: Sandbox) -> None:
    rows = requests(5, **WRONG)
    async with manager() as running:
        summary = await (await running.submit(rows, to="results.jsonl", key="job")).wait()
    assert summary.errored == 5
    assert await recorded(Stopped) == []
    assert_paid_once(api, rows)


@pytest.mark.parametrize("wrong", [range(1, 10), range(10, 40)], ids=["in the first batch", "before the bad batch"])
async def test_one_success_is_enough_to_go_on(api: Sandbox, wrong: range) -> None:
    rows = mixed(60, wrong)
    async with manager() as running:
        job = await running.submit(slowly(running, rows, 10), to="results.jsonl", key="job")
        summary = await job.wait()
    assert (summary.errored, summary.succeeded) == (len(wrong), 60 - len(wrong))
    assert_paid_once(api, rows)


async def test_errors_of_two_kinds_do_not_stop_a_job(api: Sandbox) -> None:
    rows = requests(60, **WRONG)
    for row in rows[::2]:
        row["params"] |= {"metadata": {"user_id": "sandbox:errored:invalid_request_error"}}
    async with manager() as running:
        job = await running.submit(slowly(running, rows, 20), to="results.jsonl", key="job")
        assert (await job.wait()).errored == 60
    assert_paid_once(api, rows)


async def test_a_small_batch_with_a_header_of_its_own_stops_nothing(api: Sandbox) -> None:
    rows = requests(60, **WRONG)
    for row in rows[::2]:
        row["params"] |= {"metadata": {"user_id": "sandbox:errored:invalid_request_error"}}
    rows[0]["betas"] = ["odd-2026-01-01"]
    async with manager() as running:
        job = await running.submit(slowly(running, rows, 20), to="results.jsonl", key="job")
        assert (await job.wait()).errored == 60
    assert min(shard.rows for shard in await recorded(Planned)) == 1
    assert_paid_once(api, rows)

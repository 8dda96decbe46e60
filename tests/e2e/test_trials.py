"""A job whose first requests go alone: a limit holds the others back, a pilot decides about them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from abatch import BatchManager, ConfigError, JobStopped, JournalView, LimitReached
from abatch.protocol.facts import Cut, Planned, Stopped
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.e2e.jobs import (
    assert_each_answered,
    assert_paid_once,
    config,
    lines,
    manager,
    raw_params,
    recorded,
    requests,
    write,
)

pytestmark = pytest.mark.anyio


def failing(count: int, first: int, kind: str = "not_found_error") -> list[dict[str, Any]]:
    """Requests of which the first fail."""
    rows = requests(count)
    for row in rows[:first]:
        row["params"] |= {"metadata": {"user_id": f"sandbox:errored:{kind}"}}
    return rows


async def submit(rows: Any, *, resume: str = "given", settings: dict[str, Any] | None = None, **more: Any) -> Any:
    """Hand a job over in a manager of its own, and wait for its end."""
    async with BatchManager(config=config(**(settings or {})), resume=resume) as running:  # type: ignore[arg-type]
        job = await running.submit(rows, to="results.jsonl", key="job", **more)
        try:
            return await job.wait()
        except JobStopped as stop:
            assert not job.done
            return stop


def sent(api: Sandbox, rows: list[dict[str, Any]]) -> list[int]:
    return [api.account.times(raw_params(row)) for row in rows]


@pytest.mark.parametrize("source", [write, list], ids=["a file", "a list"])
@pytest.mark.parametrize("limit", [1, 7, 10, 25])
async def test_a_limit_sends_the_first_requests_and_the_rest_later_without_paying_twice(
    api: Sandbox, source: Any, limit: int
) -> None:
    rows = requests(40)
    given = source(rows)
    reached = await submit(given, limit=limit)
    assert isinstance(reached, LimitReached), reached
    assert sent(api, rows) == [1] * limit + [0] * (40 - limit)
    again = await submit(given, limit=limit)
    assert isinstance(again, LimitReached)
    assert sent(api, rows) == [1] * limit + [0] * (40 - limit)
    summary = await submit(given)
    assert summary.succeeded == 40
    assert_paid_once(api, rows)
    assert_each_answered("results.jsonl", rows)


async def test_a_limit_is_kept_by_managers_that_recover_every_job(api: Sandbox) -> None:
    rows = requests(40)
    path = write(rows)
    await submit(path, limit=10)
    async with BatchManager(config=config(), resume="all") as running:
        with pytest.raises(LimitReached):
            await running.job("job").wait()
        assert running.job("job").limit == 10
    assert api.account.requests == 10
    further = await submit(path, limit=25)
    assert isinstance(further, LimitReached)
    assert sent(api, rows) == [1] * 25 + [0] * 15
    assert api.account.violated == 0


@pytest.mark.parametrize("source", [write, list], ids=["a file", "a list"])
@pytest.mark.parametrize("limit", [40, 41])
async def test_a_limit_that_no_request_exceeds_changes_nothing(api: Sandbox, source: Any, limit: int) -> None:
    rows = requests(40)
    summary = await submit(source(rows), limit=limit)
    assert summary.succeeded == 40
    assert_paid_once(api, rows)


async def plan_without_sending(api: Sandbox, given: Any) -> int:
    """Let a run plan what it can, of which the API takes nothing; how many requests are planned."""
    api.faults.always("create", Status(429, "rate_limit_error", "slow", retry_after=600.0))
    async with manager(sealed_unsent=8) as running:  # forty requests make at most eight shards, which all may wait
        job = await running.submit(given, to="results.jsonl", key="job")
        while (now := job.progress()).planned < 40 or now.in_doubt:
            await job._job.change()
    api.faults.clear()
    assert api.account.requests == 0
    async with JournalView() as view:  # planning may have gone on while the manager ended
        return view.job("job").progress.planned


@pytest.mark.parametrize("count", [40, 200], ids=["all are planned", "more are to come"])
async def test_a_limit_below_what_is_planned_is_refused_and_nothing_is_sent(api: Sandbox, count: int) -> None:
    rows = requests(count)
    path = write(rows)
    planned = await plan_without_sending(api, path)
    for limit in (3, planned - 1):
        with pytest.raises(ConfigError, match=f"{planned} requests of job 'job' are planned already"):
            await submit(path, limit=limit)
    assert api.account.requests == 0
    reached = await submit(path, limit=planned)
    assert api.account.requests == planned
    assert isinstance(reached, LimitReached) == (planned < count)
    assert (await submit(path)).succeeded == count
    assert_paid_once(api, rows)


async def test_a_limit_may_be_lowered_to_what_is_planned_and_the_refused_one_leaves_no_trace(api: Sandbox) -> None:
    rows = requests(40)
    path = write(rows)
    await submit(path, limit=25)
    with pytest.raises(ConfigError, match="the limit must be at least 25, got 24"):
        await submit(path, limit=24)
    async with manager() as running:
        assert running.job("job").limit == 25
    assert isinstance(await submit(path, limit=25), LimitReached)
    assert sent(api, rows) == [1] * 25 + [0] * 15


async def test_a_stopped_job_takes_a_lower_limit_though_a_batch_of_it_is_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = requests(80)
    path = write(rows)
    with Sandbox(seed=7, latency=10_000.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        api.faults.next("create", times=1)  # as always
        api.faults.next("create", Status(400, "invalid_request_error", "no"))
        async with manager(uploads=1, sealed_unsent=1) as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            with anyio.fail_after(60):
                while job._job.stopped is None:
                    await job._job.change()
                assert job.progress().in_flight
                job = await running.submit(path, to="results.jsonl", key="job", limit=60)
            assert job.limit == 60


async def test_a_limit_cannot_be_lowered_while_the_job_plans_requests(api: Sandbox) -> None:
    rows, may_end = requests(40), anyio.Event()

    async def coming() -> Any:
        for row in rows[:5]:
            yield row
        await may_end.wait()
        for row in rows[5:]:
            yield row

    async with manager() as running:
        job = await running.submit(coming(), to="results.jsonl", key="job", limit=20)
        with pytest.raises(ConfigError, match="cannot be lowered to 7 now"):
            await running.submit(coming(), to="results.jsonl", key="job", limit=7)
        may_end.set()
        with pytest.raises(LimitReached):
            await job.wait()
    assert sent(api, rows) == [1] * 20 + [0] * 20


async def test_a_limited_job_can_be_cancelled(api: Sandbox) -> None:
    rows = requests(40)
    await submit(write(rows), limit=10)
    async with manager() as running:
        job = running.job("job")
        await job.cancel()
        summary = await job.wait()
    assert (summary.succeeded, summary.requests) == (10, 10)
    assert api.account.requests == 10


@pytest.mark.parametrize("source", [write, list], ids=["a file", "a list"])
@pytest.mark.parametrize("pilot", [3, 10, 17])
async def test_a_pilot_goes_alone_and_the_rest_follows_by_itself(
    monkeypatch: pytest.MonkeyPatch, source: Any, pilot: int
) -> None:
    rows = requests(40)
    with Sandbox(seed=7, latency=10_000.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        async with manager() as running:
            job = await running.submit(source(rows), to="results.jsonl", key="job", pilot=pilot)
            while job.progress().in_doubt or job.progress().in_flight < pilot:
                await job._job.change()
            assert sent(api, rows) == [1] * pilot + [0] * (40 - pilot)
            api.advance(20_000)
            while job.progress().planned < 40 or job.progress().in_doubt or job.progress().submitted < 40:
                await job._job.change()
            api.advance(20_000)
            assert (await job.wait()).succeeded == 40
        assert_paid_once(api, rows)
        assert next(cut.rows for cut in await recorded(Cut) if cut.rows >= pilot) == pilot


@pytest.mark.parametrize("source", [write, list], ids=["a file", "a list"])
async def test_a_pilot_of_which_more_than_a_fifth_fails_stops_the_job_also_when_it_is_run_again(
    api: Sandbox, source: Any
) -> None:
    rows = failing(40, 3)
    given = source(rows)
    stop = await submit(given, pilot=10)
    assert isinstance(stop, JobStopped)
    assert stop.failing
    assert "3 of the 10 requests of its pilot failed (3 of not_found_error: " in stop.reason
    assert "--failing go-on" in stop.remedy
    for more in ({"pilot": 10}, {}, {"resume": "all"}):
        again = await submit(given, **more)
        assert isinstance(again, JobStopped), again
        assert again.failing
    assert sent(api, rows) == [1] * 10 + [0] * 30
    assert len(await recorded(Stopped)) == 1
    summary = await submit(given, settings={"failing": "go-on"}, pilot=10)
    assert (summary.succeeded, summary.errored) == (37, 3)
    assert len(lines("results.jsonl")) == 40
    assert_paid_once(api, rows)


async def test_a_pilot_of_which_a_fifth_fails_passes(api: Sandbox) -> None:
    rows = failing(40, 2)
    summary = await submit(write(rows), pilot=10)
    assert (summary.succeeded, summary.errored) == (38, 2)
    assert_paid_once(api, rows)


async def test_requests_of_a_pilot_that_are_tried_again_are_no_failures_yet(api: Sandbox) -> None:
    rows = requests(40)
    for row in rows[:8]:
        row["params"] |= {"metadata": {"user_id": "sandbox:errored-once:overloaded_error"}}
    summary = await submit(write(rows), pilot=10)
    assert summary.succeeded == 40
    assert summary.retried == 8
    assert api.account.violated == 0


async def test_a_pilot_of_the_whole_input_is_a_job_like_any_other(api: Sandbox) -> None:
    rows = failing(10, 10)
    summary = await submit(write(rows), pilot=10)
    assert summary.errored == 10
    assert_paid_once(api, rows)


async def test_a_pilot_with_headers_of_its_own_is_one_cut(api: Sandbox) -> None:
    rows = requests(40)
    for row in rows[::2]:
        row["betas"] = ["odd-2026-01-01"]
    summary = await submit(write(rows), pilot=10)
    assert summary.succeeded == 40
    first = [shard.rows for shard in await recorded(Planned)][:2]
    assert first == [5, 5]
    assert_paid_once(api, rows)


async def test_a_pilot_and_a_limit_go_together(api: Sandbox) -> None:
    rows = requests(40)
    path = write(rows)
    assert isinstance(await submit(path, pilot=5, limit=12), LimitReached)
    assert sent(api, rows) == [1] * 12 + [0] * 28
    assert (await submit(path, pilot=5)).succeeded == 40
    assert_paid_once(api, rows)

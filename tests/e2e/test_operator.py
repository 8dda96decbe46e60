"""What only an operator can decide, and what is done with their word; duplicates that a broken bound makes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from abatch import BatchManager, Job, JobStopped, StillInDoubt
from abatch.journal.folder import JournalFolder
from abatch.journal.status import read as read_status
from abatch.protocol.facts import ResolveWished
from abatch.protocol.lifecycle import Held, InDoubt
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import (
    CutInLine,
    LateAccept,
    OtherWorkspace,
    Replay,
    ResetAfterAccept,
    ResetBeforeAccept,
    Status,
)
from tests.e2e.jobs import assert_each_answered, assert_paid_once, config, manager, record_wish, requests, run, write

pytestmark = pytest.mark.anyio

PATIENT: dict[str, Any] = {"grace": timedelta(hours=1)}


async def until(job: Job, true: Any) -> None:
    """Wait until something is true of a job, or of the sandbox beside it; fails once that cannot come any more."""
    while not true():
        assert not job.done, "the job was done before"
        with anyio.move_on_after(0.05):
            await job._job.change()


async def wish(shard: int, batch_id: str | None) -> None:
    """Say it from outside, as `abatch resolve` does."""
    await record_wish(shard, lambda attempt: ResolveWished(shard=shard, attempt=attempt, batch_id=batch_id))


async def held(path: Any) -> None:
    with pytest.raises(StillInDoubt):
        await run(path, unresolved="hold")


async def test_not_created_sends_it_again(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(8)
    path = write(rows)
    async with manager(unresolved="hold") as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        with pytest.raises(StillInDoubt) as caught:
            await job.wait()
        await wish(caught.value.held[0][0], None)
        await until(job, lambda: job.done)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_word_given_while_nothing_runs_is_obeyed_at_the_next_run(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    path = write(requests(5))
    await held(path)
    await wish(1, None)
    _, summary = await run(path, unresolved="hold")
    assert summary.succeeded == 5


async def test_adopted_batch_is_drained_once_its_tag_proves_it(api: Sandbox) -> None:
    api.faults.next("create", ResetAfterAccept())
    rows = requests(5)
    path = write(rows)
    async with manager(poll_interval=timedelta(hours=1), poll_interval_max=timedelta(hours=1), **PATIENT) as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        await until(job, lambda: api.account.batches == 1)
    api.faults.clear("create")
    await wish(1, api.account.created[0])
    _, summary = await run(path)
    assert summary.succeeded == 5
    assert_paid_once(api, rows)


async def test_foreign_batch_that_was_adopted_is_found_out_by_its_tag(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    path = write(requests(5))
    await held(path)
    (foreign,) = api.add_foreign(5)
    await wish(1, foreign)
    with pytest.raises(StillInDoubt, match="does not hold this shard"):
        await run(path, unresolved="hold")
    await wish(1, None)
    _, summary = await run(path, unresolved="hold")
    assert summary.succeeded == 5


async def test_batch_of_another_size_is_not_adopted(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    path = write(requests(5))
    await held(path)
    (foreign,) = api.add_foreign(6)
    await wish(1, foreign)
    with pytest.raises(StillInDoubt):
        await run(path, unresolved="hold")


async def test_other_key_submits_nothing_while_batches_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, keys={"old": "one", "new": "two"}, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        path = write(requests(5))
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "new")
        async with manager() as running:
            other = await running.submit(requests(3), to="memory:", key="other")
            with pytest.raises(JobStopped, match="old key"):
                await other.wait()
        assert api.account.batches == 1


async def test_rotated_key_of_the_same_workspace_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, keys={"old": "one", "new": "one"}, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        path = write(requests(5))
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "new")
        api.advance(7200)
        async with manager() as running:
            other = await running.submit([{**r, "custom_id": "o"} for r in requests(9)[8:]], to="memory:", key="other")
            await until(other, lambda: other.progress().batches_in_flight == 1)
            api.advance(7200)
            assert (await other.wait()).succeeded == 1


async def test_result_list_in_another_workspace_concludes_nothing(api: Sandbox) -> None:
    api.faults.next("create", ResetAfterAccept())
    api.faults.next("list", OtherWorkspace())
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_cancel_while_in_doubt_settles_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, latency=1.5) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", ResetAfterAccept())
        rows = requests(5)
        async with manager(**PATIENT) as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().in_doubt == 1)
            await job.cancel()
            summary = await job.wait()
        assert summary.succeeded == 5
        assert_paid_once(api, rows)


async def test_waiting_is_told_to_those_who_look_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    with Sandbox(seed=3, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", ResetAfterAccept())
        async with manager(**PATIENT) as running:
            job = await running.submit(write(requests(5)), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().in_doubt == 1)
            while not ((seen := read_status(JournalFolder(Path(".abatch")))) and seen.waiting):
                await anyio.sleep(0.02)
        assert "may be it, and still runs" in seen.waiting[1]


async def test_duplicate_made_by_a_replaying_proxy_is_reported(api: Sandbox) -> None:
    """Bound A5 broken: the pair is one batch too many, and the lines stand once all the same."""
    api.faults.next("create", Replay())
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert summary.duplicates == 1
    assert_each_answered("results.jsonl", rows)
    assert api.account.violated == 8


async def test_leaving_while_an_answer_is_awaited_takes_it_along(monkeypatch: pytest.MonkeyPatch) -> None:
    from abatch.sandbox.faults import Stall

    with Sandbox(seed=3, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", Stall(seconds=0.7))
        async with BatchManager(config=config(**PATIENT)) as running:
            job = await running.submit(write(requests(5)), to="results.jsonl", key="job")
            await until(job, lambda: api.account.batches == 1)
        states = [shard.state for shard in job._job.shards.values()]
        assert not any(isinstance(state, InDoubt | Held) for state in states)
        assert api.account.batches == 1


async def test_withdrawn_attempt_that_shows_up_later_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds A1 and A2 broken on purpose: a batch appears after the grace; it is paid for, reported, and harmless."""
    with Sandbox(seed=3) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", LateAccept(seconds=6))
        rows = requests(8)
        path = write(rows)
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches >= 1)
            api.advance(10)
            api.faults.next("create", Status(500))
            other = [{**row, "custom_id": f"other {row['custom_id']}"} for row in requests(108)[100:]]
            second = await running.submit(other, to="memory:", key="second")
            await second.wait()
            await job.wait()
            assert job.summary().duplicates == 1
        assert_each_answered("results.jsonl", rows)


async def test_answer_on_its_way_is_not_taken_for_a_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    from abatch.sandbox.faults import Stall

    with Sandbox(seed=3, latency=(0.0, 1.5)) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", Stall(seconds=1.2))
        rows = requests(40)
        _, summary = await run(write(rows), **PATIENT)
        assert (summary.succeeded, summary.duplicates) == (40, 0)
        assert_paid_once(api, rows)


async def test_word_is_not_obeyed_again_for_a_later_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, latency=3600) as api:  # the second doubt lasts: its batch still runs
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", ResetBeforeAccept())
        rows = requests(5)
        path = write(rows)
        await held(path)
        api.faults.next("create", ResetAfterAccept())
        await wish(1, None)
        async with manager(unresolved="hold", **PATIENT) as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(job, lambda: api.account.batches == 1 and job.progress().in_doubt == 1)
        api.advance(7200)
        _, summary = await run(path, **PATIENT)
        assert summary.succeeded == 5
        assert_paid_once(api, rows)


async def test_unreadable_first_line_does_not_make_our_batch_foreign(api: Sandbox) -> None:
    api.faults.next("create", ResetAfterAccept())
    api.faults.next("results", Status(200, envelope=False))
    api.faults.next("results", CutInLine(lines=0, clean=True))
    rows = requests(5)
    _, summary = await run(write(rows))
    assert summary.succeeded == 5
    assert_paid_once(api, rows)


async def test_word_on_a_held_shard_is_obeyed_while_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", ResetBeforeAccept())
        rows = requests(20)
        async with manager(unresolved="hold") as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().held == 1 and job.progress().batches_in_flight >= 2)
            (number,) = [n for n, shard in job._job.shards.items() if isinstance(shard.state, Held)]
            await wish(number, None)
            await until(job, lambda: api.account.requests == 20 and not job.progress().in_doubt)
        assert_paid_once(api, rows)


async def test_held_shard_whose_batch_shows_up_goes_on_at_the_next_run(api: Sandbox) -> None:
    """At most once with no bound on time: what appears after the grace is found by its tag."""
    api.faults.next("create", LateAccept(seconds=60))
    rows = requests(5)
    path = write(rows)
    await held(path)
    api.advance(120)
    _, summary = await run(path, unresolved="hold")
    assert (summary.succeeded, summary.duplicates) == (5, 0)
    assert_paid_once(api, rows)


async def test_held_shard_whose_batch_shows_up_goes_on_while_another_job_runs(api: Sandbox) -> None:
    api.faults.next("create", LateAccept(seconds=60))
    rows = requests(5)
    async with manager(unresolved="hold") as running:
        job = await running.submit(write(rows), to="results.jsonl", key="job")
        with pytest.raises(StillInDoubt):
            await job.wait()
        api.advance(120)
        other = await running.submit(requests(30)[20:], to="memory:", key="other")
        await other.wait()
        await until(job, lambda: job.done)
    assert (job.summary().succeeded, job.summary().duplicates) == (5, 0)


async def test_stopped_job_can_be_cancelled(api: Sandbox) -> None:
    api.faults.always("create", Status(400, "invalid_request_error", "no"))
    async with manager() as running:
        job = await running.submit(write(requests(5)), to="results.jsonl", key="job")
        with pytest.raises(JobStopped):
            await job.wait()
        await job.cancel()
        await until(job, lambda: job.done)
        assert job.summary().canceled == 5


async def test_stopped_job_stays_stopped_until_it_is_handed_over_again(api: Sandbox) -> None:
    api.faults.next("create", Status(400, "invalid_request_error", "no"))
    path = write(requests(5))
    with pytest.raises(JobStopped):
        await run(path)
    async with manager() as running:
        with pytest.raises(JobStopped):
            await running.job("job").wait()
    assert api.account.batches == 0
    _, summary = await run(path)
    assert summary.succeeded == 5

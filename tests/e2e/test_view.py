"""A journal read and steered from Python, beside the process that drives it and without one."""

from __future__ import annotations

import os
from contextlib import aclosing
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import anyio
import pytest

import abatch
from abatch import ConfigError, Estimate, JobNotFound, JournalView, StillInDoubt
from abatch.events import JobFinished, JobSubmitted
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import ResetBeforeAccept
from tests.e2e.jobs import assert_each_answered, assert_paid_once, lines, manager, requests, run, write

pytestmark = pytest.mark.anyio


def failing(rows: list[dict[str, Any]], *numbers: int, kind: str = "invalid_request_error") -> list[dict[str, Any]]:
    for number in numbers:
        rows[number]["params"]["metadata"] = {"user_id": f"sandbox:errored:{kind}"}
    return rows


async def test_a_view_reads_beside_a_driver_and_its_cancel_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=1, latency=3600) as slow, anyio.fail_after(60):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        async with manager() as running:
            job = await running.submit(write(requests(20)), to="results.jsonl", key="job")
            while job.progress().in_flight < 20 or job.progress().in_doubt:
                await job._job.change()
            async with JournalView() as view:
                status = await view.status("job", shards=True)
                (seen,) = status.jobs
                assert (seen.state, seen.done, seen.progress.in_flight) == ("running", False, 20)
                assert seen.files == (Path("input.jsonl").absolute(),)
                assert seen.destination == f"jsonl:///{Path('results.jsonl').absolute()}"
                assert status.driver is not None
                assert status.driver.pid == os.getpid()
                assert seen.shards is not None
                assert {(each.state, each.attempt) for each in seen.shards} == {("processing", 1)}
                assert sum(each.rows for each in seen.shards) == 20
                assert len({each.batch_id for each in seen.shards}) == len(seen.shards)
                assert (await view.cancel("job")).state == "cancelling"
                states = [each.jobs[0].state async for each in view.follow()]
                assert states[0] == "cancelling"
                assert states[-1] == "done"
                assert view.summary("job") == (await job.wait())


async def test_what_a_view_says_is_a_value_of_one_moment(api: Sandbox) -> None:
    await run(write(requests(12)))
    folder = Path(".abatch").absolute()
    assert repr(JournalView()) == f"<JournalView of {folder}, not entered>"
    async with manager(), JournalView() as view:
        assert repr(view) == f"<JournalView of {folder}: 1 jobs, driven by process {os.getpid()}>"
    assert repr(view) == f"<JournalView of {folder}, left>"
    async with JournalView() as view:
        assert repr(view) == f"<JournalView of {folder}: 1 jobs, not driven>"
        (job,) = view.jobs()
        with pytest.raises(FrozenInstanceError):
            job.state = "running"  # type: ignore[misc] # that it cannot be set is what is tested
        assert "Submitted" not in repr(job)
        assert view.forecast("job").seconds == 0
        assert await view.failures("job") == ()
        with pytest.raises(JobNotFound, match=r"no job 'other'; it has: job"):
            view.job("other")


async def test_results_are_those_of_the_destination_of_every_kind(api: Sandbox) -> None:
    for to in ("results.jsonl", "parts/", "results.db"):
        await run(write(failing(requests(25), 3, 17)), to=to, key=to.strip("/"))
        async with JournalView() as view:
            found = [result.custom_id async for result in view.results(to.strip("/"))]
            failed = [result.custom_id async for result in view.results(to.strip("/"), failed=True)]
        assert sorted(found) == sorted(row["custom_id"] for row in requests(25))
        assert sorted(failed) == ["row 17/é", "row 3/é"]


async def test_a_retry_is_chosen_by_the_view_and_sent_by_a_manager(api: Sandbox) -> None:
    rows = failing(requests(20), 9)
    rows[4]["params"]["metadata"] = {"user_id": "sandbox:errored-once:api_error"}
    async with manager() as running:
        job = await running.submit(write(rows), to="results.jsonl", key="job", tries=1)
        assert (await job.wait()).errored == 2
        async with JournalView() as view:
            retry = await view.retry("job")
            assert (len(retry), retry.key, retry.left_out, retry.resumes) == (1, "job.retry-1", 1, False)
            again = await running.submit(retry.requests(), **retry.terms)
            await again.wait()
            await view.refresh()
            assert [each.key for each in view.family("job.retry-1")] == ["job", "job.retry-1"]
            assert view.job("job.retry-1").retry_of == "job"
            merged = [result async for result in view.results("job", retries=True)]
            assert [result.custom_id for result in merged if result.outcome != "succeeded"] == ["row 9/é"]
            assert await view.unanswered("job") == 0
            with pytest.raises(ConfigError, match="the same request would be cut again"):
                await view.retry("job", stop_reasons=["max_tokens"])
    assert [line["custom_id"] for line in lines("results.retry-1.jsonl")] == ["row 4/é"]


async def test_a_held_shard_is_resolved_from_a_view(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(8)
    path = write(rows)
    with pytest.raises(StillInDoubt):
        await run(path, unresolved="hold")
    async with JournalView() as view:
        (job,) = view.jobs()
        assert job.state == "held"
        assert "abatch resolve 1 --adopt BATCH_ID" in job.remedy
        with pytest.raises(ConfigError, match="give one of adopt, not_created, lost"):
            await view.resolve(1)
        with pytest.raises(ConfigError, match="shard must be the number of a shard, such as 1, got '10'"):
            await view.resolve("10", lost=True)  # type: ignore[arg-type] # it is refused
        word = await view.resolve(1, not_created=True)
        assert (word.job, word.shard, word.says, word.refused) == ("job", 1, "was not created", False)
        assert "Noted, and not done yet: it was not created" in view.job("job").remedy
    await run(path, unresolved="hold")
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_a_wire_id_is_traced_to_its_request(api: Sandbox) -> None:
    await run(write(requests(5)))
    async with JournalView() as view:
        (job,) = (await view.status(shards=True)).jobs
        assert job.shards is not None
        prefix = job.shards[0].wire_prefix
        origin = await view.identify(f"{prefix}0002")
        assert (origin.job, origin.shard, origin.row, origin.custom_id) == ("job", 1, 2, "row 2/é")
        with pytest.raises(ConfigError, match="its tag is another's"):
            await view.identify("a1-00000001-01-000000000000-0002")


async def test_events_of_a_journal_are_read_from_any_one_on(api: Sandbox) -> None:
    await run(write(requests(15)))
    async with JournalView() as view:
        events = [event async for event in view.events()]
        assert isinstance(events[0], JobSubmitted)
        assert isinstance(events[-1], JobFinished)
        assert [event.seq for event in events] == sorted({event.seq for event in events})
        assert [event async for event in view.events(since=events[3].seq)] == events[4:]
        await run(write(requests(3), "more.jsonl"), to="more-results.jsonl", key="more")
        first, *_, last = [event async for event in view.events(since=events[-1].seq)]
        assert (type(first), first.job, last.job) == (JobSubmitted, "more", "more")
        assert [event async for event in view.events(since=first.seq)][-1] == last


async def test_an_unfinished_job_is_moved_while_nobody_drives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=1, latency=3600) as slow, anyio.fail_after(60):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        async with manager() as running:
            job = await running.submit(write(requests(10)), to="results.jsonl", key="job")
            while not job.progress().batches_in_flight:
                await job._job.change()
            async with JournalView() as view:
                with pytest.raises(abatch.JournalLocked):
                    await view.move("job", to="other.jsonl")
        async with JournalView() as view:
            moved = await view.move("job", to="other.jsonl")
            assert (moved.copied, moved.to_read_again) == ((), ())
            assert view.job("job").short_destination == "other.jsonl"
            assert view.forecast("job").why == "no process drives this journal"


async def test_a_reader_that_stops_in_the_middle_leaves_nothing_open(api: Sandbox) -> None:
    await run(write(requests(30)), to="results.db")
    async with JournalView() as view, aclosing(view.lines("job")) as found:
        async for line in found:
            assert line.startswith(b'{"custom_id"')
            break


async def test_calls_without_an_event_loop_are_refused_in_one(api: Sandbox) -> None:
    for call in (
        abatch.status,
        lambda: abatch.results("job"),
        lambda: abatch.cancel("job"),
        lambda: abatch.resolve(1, lost=True),
        lambda: abatch.identify("a1-00000001-01-0000000000000-0002"),
        lambda: abatch.move("job", to="other.jsonl"),
        lambda: abatch.estimate("input.jsonl"),
    ):
        with pytest.raises(
            RuntimeError, match=r"use `(async with JournalView\(journal\) as view:` and `a|await Estimate\.)"
        ):
            call()


async def test_calls_without_an_event_loop_work_in_a_thread(api: Sandbox) -> None:
    rows = failing(requests(21), 5)
    path = write(rows)
    await run(path)

    def outside() -> None:
        status = abatch.status("job", shards=True)
        assert status.done
        assert sorted(each.custom_id for each in abatch.results("job")) == sorted(row["custom_id"] for row in rows)
        begun = abatch.results("job", failed=True)
        assert next(begun).custom_id == "row 5/é"
        begun.close()
        with pytest.raises(JobNotFound, match="no job 'nix'; it has: job"):
            abatch.results("nix")
        with pytest.raises(ConfigError, match="there is no journal"):
            abatch.results("job", journal="nowhere")
        with pytest.raises(ConfigError, match="there is nothing to cancel"):
            abatch.cancel("job")
        assert abatch.estimate(path).requests == 21

    await anyio.to_thread.run_sync(outside)
    assert (await Estimate.of(path)).batches == 1


async def test_an_estimate_names_what_cannot_be_sent_and_what_may_be_refused() -> None:
    rows = requests(3)
    rows[1]["params"]["temperature"] = "warm"
    made = await Estimate.of(write(rows[:1]))
    assert (made.requests, made.doubts, made.queue_limit) == (1, (), 200_000)
    low, high = made.cost
    assert low is not None
    assert high is not None
    assert 0 < low < high
    with pytest.raises(abatch.BadRequest, match="line 2"):
        await Estimate.of(write(rows))
    with pytest.raises(ConfigError, match="an estimate needs a file"):
        await Estimate.of(iter(rows))


async def test_results_that_were_dropped_half_read_are_closed_where_a_loop_runs(api: Sandbox) -> None:
    await run(write(requests(8)))
    begun = await anyio.to_thread.run_sync(lambda: _with_first(abatch.results("job")))
    del begun[:]  # the last reference: the iterator is closed here, in the thread of this loop
    await anyio.lowlevel.checkpoint()
    async with JournalView() as view:
        assert len([line async for line in view.lines("job")]) == 8


def _with_first(results: Any) -> list[Any]:
    return [next(results), results]


async def test_view_steers_a_job_that_was_submitted_after_it_was_entered(api: Sandbox) -> None:
    await run(write(requests(3)))
    async with JournalView() as view:
        await run(write(requests(4), "later.jsonl"), to="later-results.jsonl", key="later")
        assert await view.failures("later") == ()
        with pytest.raises(ConfigError, match="there is nothing to cancel"):
            await view.cancel("later")
        with pytest.raises(JobNotFound):
            await view.cancel("never")

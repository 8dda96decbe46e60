"""A batch that somebody deleted: its job ends with its rows missing, and nothing is sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from abatch import BatchManager, Job, StillInDoubt
from abatch.engine import client, drain, scope, shard_drain
from abatch.engine import in_flight as engine_in_flight
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.journal.states import shard_in_words
from abatch.protocol.clocks import Moment
from abatch.protocol.facts import Drained, Lost, LostWished, Reappeared, Vanished, WishRefused
from abatch.protocol.lifecycle import Done, Draining, Processing
from abatch.protocol.pacing import Backoff
from abatch.protocol.reconcile import BatchSeen
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import CutAtLine, OtherWorkspace, ResetAfterAccept, ResetBeforeAccept, Stall, Status
from tests.e2e.jobs import (
    assert_paid_once,
    lines,
    manager,
    raw_params,
    record_wish,
    recorded,
    requests,
    run,
    sdk,
    write,
)
from tests.e2e.test_operator import wish as resolve

pytestmark = pytest.mark.anyio

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def drains_missed() -> list[Moment]:
    """The looks in vain of drains."""
    return []


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, drains_missed: list[Moment]) -> Any:
    """A server whose clock this machine's follows, so that tests decide how much time passes."""

    def moment(date: float) -> Moment:
        return Moment(date=date, boot=date, boot_id="b", wall=date)

    def of_a_drain(date: float) -> Moment:
        drains_missed.append(moment(date))
        return drains_missed[-1]

    monkeypatch.setattr(scope, "moment", moment)
    monkeypatch.setattr(engine_in_flight, "moment", moment)
    monkeypatch.setattr(shard_drain, "moment", of_a_drain)
    with Sandbox(seed=7, latency=3600) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        yield sandbox


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not true():
            await anyio.sleep(0.01)


async def in_flight(api: Sandbox, rows: list[dict[str, Any]], **more: Any) -> Path:
    """A job all of whose batches run, and that nobody drives any more."""
    path = write(rows)
    async with manager(**more) as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        await until(lambda: job.progress().in_flight == len(rows) and not job.progress().in_doubt)
    return path


async def delete(api: Sandbox, *batch_ids: str) -> None:
    """As somebody does in the Console; only an ended batch can be."""
    api.advance(2 * HOUR)
    async with sdk(api) as client:
        for batch_id in batch_ids:
            await client.messages.batches.delete(batch_id)


async def deleted(api: Sandbox) -> tuple[list[dict[str, Any]], Path]:
    """A job of one batch, which somebody deleted, and that nobody drives any more."""
    rows = requests(8)
    path = await in_flight(api, rows)
    await delete(api, *api.account.created)
    return rows, path


@asynccontextmanager
async def deleted_and_key_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Sandbox, list[dict[str, Any]], Path]]:
    """A job whose only batch was deleted, and another key of its workspace in place of the one it was sent with."""
    with Sandbox(seed=3, keys={"old": "one", "new": "one"}, latency=3600) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        rows, path = await deleted(server)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "new")
        yield server, rows, path


@asynccontextmanager
async def resumed(path: Path) -> AsyncIterator[tuple[BatchManager, Job]]:
    """A run that goes on with the job."""
    async with manager() as running:
        yield running, await running.submit(path, to="results.jsonl", key="job")


async def call_lost(shard: int, *, any_key: bool = False) -> None:
    """Say it from outside, as `abatch resolve SHARD --lost` does."""
    await record_wish(shard, lambda attempt: LostWished(shard=shard, attempt=attempt, any_key=any_key))


def missed(running: BatchManager, since: float = 0.0) -> bool:
    """Whether the list was looked at since, and every batch that is watched was missed."""
    scope = running._context.scopes.of(None)
    watches = scope.in_flight._watches.values()
    return scope.date > since and bool(watches) and all(watch.absence._first is not None for watch in watches)


async def until_vanished(api: Sandbox, running: BatchManager, job: Job) -> None:
    """Let this process miss the job's batch for an hour."""
    await until(lambda: missed(running))
    api.advance(HOUR + 60)
    await until(lambda: vanished(job))


async def two_days_later(api: Any, running: BatchManager) -> None:
    """Nobody looked meanwhile, so the hour in which this process has to miss it begins anew."""
    api.advance(2 * DAY)
    await until(lambda: missed(running, since=api.now().timestamp() - HOUR))
    api.advance(HOUR + 60)


def vanished(job: Job) -> bool:
    return any(isinstance(s.state, Processing) and s.state.vanished is not None for s in job._job.shards.values())


async def test_deleted_batch_is_lost_after_two_days_and_its_job_ends_with_its_rows_missing(api: Sandbox) -> None:
    rows, path = await deleted(api)
    async with resumed(path) as (running, job):
        await until_vanished(api, running, job)
        await two_days_later(api, running)
        summary = await job.wait()
    assert (summary.succeeded, summary.missing, summary.ok) == (0, 8, False)
    assert lines("results.jsonl") == []
    assert {line["custom_id"] for line in lines("results.jsonl.missing.jsonl")} == {row["custom_id"] for row in rows}
    assert all("48 hours" in line["reason"] for line in lines("results.jsonl.missing.jsonl"))
    assert_paid_once(api, rows)


async def test_two_days_without_a_batch_survive_a_restart(api: Sandbox) -> None:
    rows, path = await deleted(api)
    async with resumed(path) as (running, job):
        await until_vanished(api, running, job)
    api.advance(2 * DAY)
    async with resumed(path) as (running, job):
        await until(lambda: missed(running))
        assert not job.done  # this process has missed it for less than an hour
        api.advance(HOUR + 60)
        summary = await job.wait()
    assert summary.missing == 8
    assert_paid_once(api, rows)


async def test_other_batches_of_the_job_are_drained_and_their_rows_stand(api: Sandbox) -> None:
    rows = requests(25)
    path = await in_flight(api, rows)
    gone = api.account.created[0]
    await delete(api, gone)
    async with resumed(path) as (running, job):
        await until(lambda: job.progress().batches_in_flight == 1)
        api.advance(HOUR + 60)
        await until(lambda: vanished(job))
        await two_days_later(api, running)
        summary = await job.wait()
    missing = summary.missing
    assert 0 < missing < 25
    assert (summary.succeeded, len(lines("results.jsonl"))) == (25 - missing, 25 - missing)
    assert_paid_once(api, rows)


async def test_batch_that_is_hidden_for_an_hour_and_seen_again_is_not_lost(api: Sandbox) -> None:
    rows = requests(8)
    path = await in_flight(api, rows)
    api.faults.always("list", OtherWorkspace())
    api.faults.always("retrieve", Status(404))
    async with resumed(path) as (running, job):
        await until_vanished(api, running, job)
        api.faults.clear()
        await until(lambda: job.done or not vanished(job))
        api.advance(3 * DAY)
        summary = await job.wait()
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert len(await recorded(Vanished)) == 1
    assert_paid_once(api, rows)


async def test_wrong_key_loses_nothing(monkeypatch: pytest.MonkeyPatch, api: Sandbox) -> None:
    with Sandbox(seed=3, keys={"old": "one", "new": "two"}, latency=3600) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        rows = requests(8)
        path = await in_flight(server, rows)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "new")
        async with resumed(path) as (running, job):
            await until_vanished(server, running, job)
            await two_days_later(server, running)
            await until(lambda: running._context.scopes.of(None).key._confirm_after != 0.0)
            assert not job.done
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        _, summary = await run(path)
        assert (summary.succeeded, summary.missing) == (8, 0)
        assert len(await recorded(Reappeared)) <= 1
        assert_paid_once(server, rows)


async def test_operator_s_word_ends_a_deleted_batch_at_once(api: Sandbox) -> None:
    rows, path = await deleted(api)
    async with resumed(path) as (running, job):
        await until(lambda: missed(running))
        await call_lost(1)
        summary = await job.wait()
    assert summary.missing == 8
    assert_paid_once(api, rows)


async def test_operator_s_word_is_tried_again_while_the_api_cannot_be_asked_who_sees_the_batch(
    monkeypatch: pytest.MonkeyPatch, api: Sandbox
) -> None:
    async with deleted_and_key_gone(monkeypatch) as (server, rows, path):
        await call_lost(1)
        server.faults.next("retrieve", Status(404))
        server.faults.always("retrieve", Status(500))
        with structlog.testing.capture_logs() as events:
            async with resumed(path) as (_, job):
                await until(lambda: any(event["event"] == "resolve_waits" for event in events))
                server.faults.clear()
                await until(lambda: any("use that key" in event.get("why", "") for event in events))
                assert not job.done
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        _, summary = await run(path)
        assert summary.missing == 8
        assert_paid_once(server, rows)


async def test_operator_s_word_on_a_batch_that_the_api_shows_loses_nothing(api: Sandbox) -> None:
    rows = requests(8)
    path = await in_flight(api, rows)
    await call_lost(1)
    async with resumed(path) as (_, job):
        await until(lambda: not job._job.wishes)
        api.advance(2 * HOUR)
        summary = await job.wait()
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_paid_once(api, rows)


async def test_operator_s_word_that_was_refused_is_told_once_and_not_asked_again_after_a_restart(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = requests(8)
    path = await in_flight(api, rows)
    await call_lost(1)
    asked, retrieve = list[str](), client.Client.retrieve

    async def noted(self: client.Client, workspace_id: str | None, batch_id: str) -> BatchSeen:
        asked.append(batch_id)
        return await retrieve(self, workspace_id, batch_id)

    monkeypatch.setattr(client.Client, "retrieve", noted)
    with structlog.testing.capture_logs() as events:
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(lambda: not job._job.wishes)
        assert asked == api.account.created
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            assert job._job.wishes == {}
            await until(
                lambda: any(watch.seen for watch in running._context.scopes.of(None).in_flight._watches.values())
            )
            api.advance(2 * HOUR)
            summary = await job.wait()
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert [event["why"] for event in events if event["event"] == "resolve_refused"] == ["the API shows the batch"]
    assert len(await recorded(WishRefused)) == 1
    assert asked == api.account.created
    assert_paid_once(api, rows)


async def test_operator_s_word_counts_on_a_404_for_a_key_that_would_see_the_batch_and_on_nothing_else(
    monkeypatch: pytest.MonkeyPatch, api: Sandbox
) -> None:
    def told(events: Any, why: str) -> bool:
        return any(each["event"] == "resolve_waits" and why in each["why"] for each in events)

    with Sandbox(seed=3, keys={"old": "one", "new": "two"}, latency=3600) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        rows = requests(8)
        path = await in_flight(server, rows)
        await call_lost(1)
        for key, why in (("old", "500"), ("old", "403"), ("new", "use that key")):
            monkeypatch.setenv("ANTHROPIC_API_KEY", key)
            if key == "old":
                server.faults.always("retrieve", Status(int(why)))
            with structlog.testing.capture_logs() as events:
                async with manager() as running:
                    job = await running.submit(path, to="results.jsonl", key="job")
                    await until(lambda: told(events, why))  # noqa: B023
                    assert (job.done, len(job._job.wishes)) == (False, 1)
            server.faults.clear()
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        server.advance(2 * HOUR)
        _, summary = await run(path)
        assert (summary.succeeded, summary.missing) == (8, 0)
        assert_paid_once(server, rows)


@pytest.mark.parametrize("by", ["an operator", "two days"])
async def test_batch_that_an_operator_named_and_that_is_gone_before_a_line_proved_it_is_lost_and_bound_to_nothing(
    api: Sandbox, by: str
) -> None:
    api.faults.next("create", ResetBeforeAccept())
    path = write(requests(5))
    with pytest.raises(StillInDoubt):
        await run(path, unresolved="hold")
    (named,) = api.add_foreign(5)
    await resolve(1, named)
    async with manager(unresolved="hold") as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        await until(lambda: any(isinstance(shard.state, Processing) for shard in job._job.shards.values()))
        (shard,) = job._job.shards.values()
        api.delete(named)
        await until(lambda: missed(running))
        if by == "an operator":
            await call_lost(1)
        else:
            api.advance(HOUR + 60)
            await until(lambda: vanished(job))
            await two_days_later(api, running)
        summary = await job.wait()
        assert isinstance(shard.state, Done)
        assert (shard.state.batch_id, shard.state.proven) == (named, False)
        assert running._context.scopes.of(None).known.bound == set()
    assert (summary.succeeded, summary.missing) == (0, 5)
    async with manager(unresolved="hold") as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        assert (await job.wait()).missing == 5
        assert running._context.scopes.of(None).known.bound == set()
    assert (api.account.batches, api.account.violated) == (0, 0)


async def test_batch_that_lists_show_is_not_lost_though_its_results_and_its_id_are_a_404_for_days(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, drains_missed: list[Moment]
) -> None:
    monkeypatch.setattr(drain, "Backoff", lambda **_: Backoff(first=0.05, most=0.1))
    rows = requests(8)
    path = await in_flight(api, rows)
    api.faults.always("results", Status(404))
    api.faults.always("retrieve", Status(404))
    for later in (2 * HOUR, 2 * DAY):
        api.advance(later)
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            for _ in range(2):
                before = len(drains_missed)
                await until(lambda: len(drains_missed) > before + 1)  # noqa: B023
                api.advance(HOUR + 60)
            assert not job.done
    api.faults.clear()
    _, summary = await run(path)
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert await recorded(Vanished) == []
    assert_paid_once(api, rows)


async def test_operator_s_word_ends_a_drain_that_waits_and_keeps_what_it_has_read(api: Sandbox) -> None:
    rows = requests(8)
    path = await in_flight(api, rows)
    api.faults.always("results", CutAtLine(lines=3))
    async with resumed(path) as (_, job):
        api.advance(2 * HOUR)
        await until(lambda: any(isinstance(shard.state, Draining) for shard in job._job.shards.values()))
        await call_lost(1)
        summary = await job.wait()
    assert (summary.succeeded, summary.missing) == (3, 5)
    assert len(lines("results.jsonl")) == 3
    assert_paid_once(api, rows)


async def test_deleted_batch_that_is_being_drained_is_lost_after_two_days(
    api: Sandbox, drains_missed: list[Moment]
) -> None:
    rows = requests(8)
    path = await in_flight(api, rows)
    drains_missed.clear()  # the gate of the create asked for the time, too
    api.faults.always("results", Status(500))
    async with resumed(path) as (_, job):
        api.advance(2 * HOUR)
        await until(lambda: any(isinstance(shard.state, Draining) for shard in job._job.shards.values()))
        await delete(api, *api.account.created)
        api.faults.clear()
        await until(lambda: bool(drains_missed))
        api.advance(HOUR + 60)
        await until(lambda: "vanished" in {shard_in_words(shard)[:8] for shard in job._job.shards.values()})
    api.advance(2 * DAY)
    drains_missed.clear()
    async with resumed(path) as (_, job):
        await until(lambda: bool(drains_missed))
        api.advance(HOUR + 60)
        summary = await job.wait()
    assert (summary.missing, len(await recorded(Vanished))) == (8, 1)
    assert_paid_once(api, rows)


@pytest.mark.parametrize("fault", [ResetBeforeAccept(), ResetAfterAccept()])
async def test_held_shard_that_is_called_lost_is_never_sent_again(api: Sandbox, fault: Any) -> None:
    api.faults.next("create", fault)
    if isinstance(fault, ResetAfterAccept):
        api.faults.always("list", OtherWorkspace())
    rows = requests(5)
    path = write(rows)
    with pytest.raises(StillInDoubt):
        await run(path, unresolved="hold")
    await call_lost(1)
    _, summary = await run(path, unresolved="hold")
    (drained,) = await recorded(Drained)
    assert drained.missing == 5
    assert (summary.missing, summary.batches) == (5, 0)
    assert [api.account.times(raw_params(row)) for row in rows] == [int(isinstance(fault, ResetAfterAccept))] * 5
    assert api.account.violated == 0


async def test_operator_s_word_for_any_key_ends_a_deleted_batch_whose_key_is_gone(
    monkeypatch: pytest.MonkeyPatch, api: Sandbox
) -> None:
    async with deleted_and_key_gone(monkeypatch) as (server, rows, path):
        await call_lost(1, any_key=True)
        _, summary = await run(path)
        assert summary.missing == 8
        assert_paid_once(server, rows)


@pytest.mark.parametrize("looked", [True, False])
async def test_operator_s_word_on_a_doubt_whose_batch_the_list_shows_loses_nothing(api: Sandbox, looked: bool) -> None:
    """Also where no list was asked before the word: its rows would be called missing, and be paid for again."""
    api.faults.next("create", ResetAfterAccept())
    rows = requests(8)
    path = write(rows)
    async with manager() as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        await until(lambda: job.progress().in_doubt == 1)
        if looked:
            await until(lambda: bool(running._context.scopes.of(None).doubts.candidates()))
    await call_lost(1)
    with structlog.testing.capture_logs() as events:
        async with resumed(path) as (_, job):
            await until(lambda: not job._job.wishes)
            api.advance(2 * HOUR)
            summary = await job.wait()
    (refused,) = (event for event in events if event["event"] == "resolve_refused")
    assert refused["batch_id"] == api.account.created[0]
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert await recorded(Lost) == []
    assert_paid_once(api, rows)


async def test_operator_s_word_on_a_doubt_whose_batch_was_deleted_is_obeyed_for_the_right_key_only(
    monkeypatch: pytest.MonkeyPatch, api: Sandbox
) -> None:
    with Sandbox(seed=3, keys={"old": "one", "new": "two"}, latency=3600) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        server.faults.next("create", ResetAfterAccept())
        rows = requests(8)
        path = write(rows)
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(lambda: bool(running._context.scopes.of(None).doubts.candidates()))
        await call_lost(1)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "new")
        with structlog.testing.capture_logs() as events:
            async with resumed(path) as (_, job):
                await until(lambda: any(event["event"] == "resolve_waits" for event in events))
                assert not job.done
        await delete(server, *server.account.created)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        _, summary = await run(path)
        assert (summary.succeeded, summary.missing) == (0, 8)
        assert_paid_once(server, rows)


async def test_answer_that_comes_once_another_process_gave_the_attempt_up_is_left_alone(api: Sandbox) -> None:
    """Without the lock of one machine, two processes may drive a journal."""
    api.faults.next("create", Stall(seconds=1.0))
    rows = requests(5)
    async with manager() as running:
        job = await running.submit(write(rows), to="results.jsonl", key="job")
        await until(lambda: job.progress().in_doubt == 1)
        journal = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)
        other = await Ledger.load(journal, journal.folder)
        shard = other.shard(1)
        assert shard is not None
        await other.record(*other.next(shard, Lost(why="an operator says so")))
        await journal.aclose()
        await running._context.ledger.refresh()
        summary = await job.wait()
    assert (summary.missing, summary.batches) == (5, 0)
    assert_paid_once(api, rows)


async def test_cancelled_job_with_a_deleted_batch_ends(api: Sandbox) -> None:
    _, path = await deleted(api)
    async with resumed(path) as (running, job):
        await job.cancel()
        await until(lambda: missed(running))
        await call_lost(1)
        summary = await job.wait()
    assert (summary.missing, summary.canceled) == (8, 0)


async def test_part_of_a_lost_shard_that_a_run_sealed_before_it_died_is_taken(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(BaseException):
        pass

    rows, path = await deleted(api)
    await call_lost(1)
    record = Ledger.record

    async def dying(self: Ledger, *entries: Entry) -> None:
        if any(isinstance(entry.fact, Drained) for entry in entries):
            raise Dead
        await record(self, *entries)

    with monkeypatch.context() as dies:
        dies.setattr(Ledger, "record", dying)
        with pytest.raises(BaseException) as died:
            await run(path)
        assert isinstance(died.value, Dead | BaseExceptionGroup)
    _, summary = await run(path)
    assert (summary.missing, summary.succeeded) == (8, 0)
    assert len(lines("results.jsonl.missing.jsonl")) == 8
    assert_paid_once(api, rows)


async def test_batch_of_a_doubt_that_was_called_lost_is_told_when_it_is_seen_and_is_no_duplicate(
    api: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    api.faults.next("create", ResetAfterAccept())
    api.faults.always("list", OtherWorkspace())
    rows = requests(5)
    path = write(rows)
    with pytest.raises(StillInDoubt):
        await run(path, unresolved="hold")
    await call_lost(1)
    await run(path, unresolved="hold")
    api.faults.clear()
    api.advance(2 * HOUR)
    async with manager() as running:
        other = await running.submit(requests(30)[20:], to="memory:", key="other")
        await until(lambda: "lost_batch_seen" in caplog.text)
        api.advance(2 * HOUR)
        await other.wait()
        assert running.job("job").summary().duplicates == 0
    assert caplog.text.count("lost_batch_seen") == 1
    assert api.account.violated == 0


async def test_lost_batch_that_is_seen_again_is_told_and_can_be_redrained(
    api: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    rows = requests(8)
    path = write(rows)
    async with manager() as running:
        job = await running.submit(path, to="results/", key="job")
        await until(lambda: job.progress().batches_in_flight == 1)
    api.faults.always("list", OtherWorkspace())
    api.faults.always("retrieve", Status(404))
    await call_lost(1)
    _, summary = await run(path, to="results/")
    assert summary.missing == 8
    api.faults.clear()
    api.advance(2 * HOUR)
    for part in [*Path("results").glob("part-*.jsonl"), Path("results/_missing.jsonl")]:
        part.unlink()
    async with manager() as running:
        other = await running.submit(requests(30)[20:], to="memory:", key="other")
        await until(lambda: "lost_batch_seen" in caplog.text)
        assert await running.redrain("job") == [1]
        assert (await running.job("job").wait()).succeeded == 8
        api.advance(2 * HOUR)
        await other.wait()
    assert_paid_once(api, rows)

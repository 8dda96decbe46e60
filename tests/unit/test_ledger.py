"""What the facts come to: live application, replay and the view of a second process are the same."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from abatch import JobConflict, JournalCorrupt, Progress, Usage
from abatch.errors import IllegalTransition, Overtaken
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.journal.survey import Surveys, bound_batches
from abatch.prices import load
from abatch.protocol import facts
from abatch.protocol.facts import Counts, SealedRecord, Spend
from abatch.protocol.lifecycle import Dead, Done, Held, InDoubt, Processing, Ready
from tests.unit.make import NOON, committing, drained, planned, submitted

pytestmark = pytest.mark.anyio

ACCEPTED = facts.Accepted(batch_id="msgbatch_1", created_at=NOON)
ENDED = facts.Ended(counts=Counts(succeeded=10))


def view(ledger: Ledger) -> object:
    """All that a ledger says, to compare two of them."""
    return {
        number: (
            job.submitted,
            job.started_at,
            job.changed_at,
            job.cut,
            {n: (s.planned, s.state, s.length, s.since) for n, s in job.shards.items()},
            job.sealed_order,
            job.wishes,
            (job.cancel_wished, job.stopped, job.finished, job.duplicates, job.parts),
            (job.has_succeeded, job.largest),
            job.progress(),
            job.summary(load()),
        )
        for number, job in ledger.jobs.items()
    }


async def reloaded(ledger: Ledger) -> Ledger:
    return await Ledger.load(ledger.facts, ledger.folder)


@pytest.fixture
async def other(journal):
    """The ledger of another process."""
    opened = await SqliteLog.open(journal.folder, drive=False)
    yield await Ledger.load(opened, opened.folder)
    await opened.aclose()


def cut(job, rows: int, **more) -> Entry:
    """The next cut of a job, so many rows further."""
    return Entry(job.job, facts.Cut(rows=job.cut.rows + rows, **more), n=job.cuts)


async def plan(ledger, job, *, part=0, rows=10, **more):
    """A new shard of a job, recorded with its cut."""
    number = ledger.number_shard()
    shard = Entry(job.job, planned(part=part, rows=rows, **more), number, 0)
    await ledger.record(shard, cut(job, rows))
    return job.shards[number]


async def plan_retry(ledger, parent, *, rows):
    number = ledger.number_shard()
    fact = planned(rows=rows, parent=parent.shard, trial=2)
    await ledger.record(Entry(parent.job, fact, number, 0))
    return ledger.shard(number)


async def go(ledger, shard, *steps):
    for fact in steps:
        await ledger.record(*ledger.next(shard, fact))


async def whole_life(ledger):
    """Two jobs with shards in every state."""
    job = await ledger.start_job(submitted("one", source=facts.IterableSource()))
    shards = [await plan(ledger, job, part=part) for part in range(8)]
    await ledger.record(cut(job, 0, digest="d", last=True))
    done, processing, doubt, held, split, abandoned, withdrawn, _ready = shards
    await go(
        ledger,
        done,
        committing(),
        ACCEPTED,
        ENDED,
        drained(
            counts=Counts(succeeded=7, errored=1),
            retried=2,
            spend=(Spend(model="claude-haiku-4-5", usage=Usage(input_tokens=1_000_000)),),
            stops={"end_turn": 6, "max_tokens": 1},
        ),
    )
    await ledger.record(Entry(job.job, facts.DuplicateSeen(shard=done.shard, attempt=1, batch_id="msgbatch_9")))
    await go(ledger, processing, committing(), facts.Found(batch_id="msgbatch_2", created_at=NOON, by="operator"))
    await go(ledger, doubt, committing())
    await go(ledger, held, committing(), facts.Held(reason="r"))
    await go(ledger, split, facts.Split(into=(20, 21)))
    await go(
        ledger,
        abandoned,
        facts.Abandoned(why="canceled", counts=Counts(canceled=10), sealed=SealedRecord(part=5, lines=10)),
    )
    await go(ledger, withdrawn, committing(), facts.Withdrawn(why="429"))
    second = await ledger.start_job(submitted("two"))
    await ledger.record(
        Entry(second.job, facts.Stopped(reason="r", remedy="m")),
        Entry(second.job, facts.CancelWished()),
        Entry(job.job, facts.ResolveWished(shard=held.shard, attempt=1, batch_id="msgbatch_5")),
        Entry(second.job, facts.Finished(location="here")),
    )
    return job, second


# ---- replay ---------------------------------------------------------------------------------------------------


async def test_replay_comes_to_the_same_as_living_through_it(ledger):
    await whole_life(ledger)
    assert view(await reloaded(ledger)) == view(ledger)


async def test_at_every_moment_a_replay_comes_to_the_same(ledger):
    job = await ledger.start_job(submitted())
    shard = await plan(ledger, job)
    for fact in (committing(), facts.Withdrawn(why="x"), committing(2), ACCEPTED, ENDED, drained()):
        assert view(await reloaded(ledger)) == view(ledger)
        await go(ledger, shard, fact)
    assert view(await reloaded(ledger)) == view(ledger)


async def test_another_process_sees_the_same_after_a_refresh(ledger, other):
    await whole_life(ledger)
    assert await other.refresh()
    assert view(other) == view(ledger)


async def test_numbers_of_shards_and_parts_go_on_after_a_reload(ledger):
    job = await ledger.start_job(submitted())
    await plan(ledger, job, part=job.take_part())
    await plan(ledger, job, part=job.take_part() + 3)
    again = await reloaded(ledger)
    assert again.number_shard() == 3
    assert again.jobs[job.job].take_part() == 5


async def test_a_journal_whose_facts_do_not_follow_from_each_other_is_corrupt(journal):
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 1, 0), Entry(job, ENDED, 1, 1))
    with pytest.raises(JournalCorrupt):
        await Ledger.load(journal, journal.folder)


@pytest.mark.parametrize(
    "entry",
    [Entry(7, facts.CancelWished()), Entry(1, submitted("again")), Entry(1, ENDED), Entry(1, ENDED, 9, 0)],
    ids=["of no job", "a second first fact", "of a shard, without one", "of a shard that was never planned"],
)
async def test_a_journal_with_a_fact_that_has_no_place_is_corrupt(journal, entry):
    await journal.add_job(submitted())
    await journal.append(entry)
    with pytest.raises(JournalCorrupt):
        await Ledger.load(journal, journal.folder)


# ---- record ---------------------------------------------------------------------------------------------------


async def test_an_illegal_fact_is_not_appended_and_nothing_that_came_with_it(ledger):
    job = await ledger.start_job(submitted())
    shard = await plan(ledger, job)
    before = view(ledger)
    with pytest.raises(IllegalTransition):
        await ledger.record(Entry(job.job, facts.Resumed()), *ledger.next(shard, committing(), drained()))
    assert view(ledger) == before == view(await reloaded(ledger))


async def test_several_facts_of_one_shard_are_recorded_together(ledger):
    job = await ledger.start_job(submitted())
    shard = await plan(ledger, job)
    await ledger.record(*ledger.next(shard, committing(), ACCEPTED))
    assert isinstance(shard.state, Processing)
    assert shard.length == 3
    assert view(await reloaded(ledger)) == view(ledger)


async def test_a_drain_and_its_retry_shard_are_one_step(ledger):
    job = await ledger.start_job(submitted())
    parent = await plan(ledger, job)
    await go(ledger, parent, committing(), ACCEPTED, ENDED)
    retry = Entry(job.job, planned(part=1, rows=2, parent=parent.shard, trial=2), ledger.number_shard(), 0)
    end = drained(counts=Counts(succeeded=8), retried=2)
    await ledger.record(*ledger.next(parent, end), retry)
    assert isinstance(parent.state, Done)
    assert job.shards[retry.shard].state == Ready()
    assert job.sealed_order == [parent.shard]


@pytest.mark.parametrize("rows", [0, 9, 11, -10])
async def test_a_cut_plans_just_the_rows_between_the_last_position_and_its_own(ledger, rows):
    job = await ledger.start_job(submitted())
    await plan(ledger, job)
    before = view(ledger)
    shard = Entry(job.job, planned(part=1, rows=10), ledger.number_shard(), 0)
    with pytest.raises(IllegalTransition):
        await ledger.record(shard, cut(job, rows))
    assert view(ledger) == before == view(await reloaded(ledger))


async def test_nothing_is_cut_after_the_last_cut(ledger):
    job = await ledger.start_job(submitted())
    await ledger.record(cut(job, 0, last=True))
    with pytest.raises(IllegalTransition):
        await ledger.record(cut(job, 0))


async def test_of_two_planners_of_one_job_the_second_is_overtaken_and_plans_nothing(ledger, other):
    job = await ledger.start_job(submitted())
    await other.refresh()
    theirs = other.jobs[job.job]
    await plan(ledger, job)
    shard = Entry(theirs.job, planned(), 77, 0)
    with pytest.raises(Overtaken):
        await other.record(shard, cut(theirs, 10))
    assert list(theirs.shards) == list(job.shards)
    assert view(other) == view(ledger)


async def test_a_job_is_found_by_its_key_and_a_shard_by_its_number(ledger):
    job, second = await whole_life(ledger)
    assert (ledger.job("one"), ledger.job("two"), ledger.job("three")) == (job, second, None)
    assert (ledger.shard(3), ledger.shard(99)) == (job.shards[3], None)


async def test_a_key_that_another_process_took_is_a_conflict(ledger, other):
    await other.start_job(submitted("k"))
    with pytest.raises(JobConflict):
        await ledger.start_job(submitted("k"))


async def test_a_change_wakes_those_who_wait_for_it(ledger):
    job = await ledger.start_job(submitted())
    woken = anyio.Event()

    async def watch() -> None:
        await job.change()
        woken.set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            await ledger.record(Entry(job.job, facts.CancelWished()))
            await woken.wait()


# ---- others ---------------------------------------------------------------------------------------------------


async def test_a_wish_of_another_process_is_seen_by_the_driver(ledger, other):
    job = await ledger.start_job(submitted())
    await other.refresh()
    await other.record(Entry(job.job, facts.CancelWished()), Entry(job.job, facts.ResolveWished(shard=1, attempt=1)))
    assert not job.cancel_wished
    assert await ledger.refresh()
    assert job.cancel_wished
    assert job.wishes == {1: facts.ResolveWished(shard=1, attempt=1)}


async def test_a_wish_is_applied_after_an_own_fact_that_was_durable_before_it(journal, ledger, other, monkeypatch):
    """The fact of this process answers every earlier wish, so it must not drop one that came later."""
    job = await ledger.start_job(submitted())
    await ledger.record(Entry(job.job, planned(), 1, 0))
    await ledger.record(*ledger.next(job.shards[1], committing()))
    durable, go_on, append = anyio.Event(), anyio.Event(), journal.append

    async def append_slowly(*entries: Entry) -> object:
        recorded = await append(*entries)
        durable.set()
        await go_on.wait()
        return recorded

    wish = facts.LostWished(shard=1, attempt=1)
    async with anyio.create_task_group() as group:
        with monkeypatch.context() as slow:
            slow.setattr(journal, "append", append_slowly)
            group.start_soon(ledger.record, *ledger.next(job.shards[1], ACCEPTED, ENDED))
            await durable.wait()
        await other.refresh()
        await other.record(Entry(job.job, wish))
        with anyio.move_on_after(0.2):
            await ledger.refresh()
        go_on.set()
    await ledger.refresh()
    assert job.wishes == {1: wish}
    assert view(ledger) == view(await Ledger.load(journal, journal.folder))


async def test_a_refresh_without_news_says_so(ledger, other):
    job = await ledger.start_job(submitted())
    await plan(ledger, job)
    assert not await ledger.refresh()
    assert await other.refresh()
    assert not await other.refresh()


async def test_a_job_that_another_process_adds_is_seen(ledger, other):
    added = await other.start_job(submitted("theirs"))
    await ledger.refresh()
    assert ledger.jobs[added.job].key == "theirs"


async def test_a_wish_from_elsewhere_wakes_those_who_wait(ledger, other):
    job = await ledger.start_job(submitted())
    await other.refresh()
    await other.record(Entry(job.job, facts.CancelWished()))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.change)
            await anyio.lowlevel.checkpoint()
            await ledger.refresh()


async def test_the_loser_of_a_race_sees_what_the_winner_did(ledger, other):
    job = await ledger.start_job(submitted())
    shard = await plan(ledger, job)
    await other.refresh()
    await go(ledger, shard, committing())
    theirs = other.shard(shard.shard)
    with pytest.raises(Overtaken):
        await other.record(*other.next(theirs, facts.Split(into=(8, 9))))
    assert isinstance(theirs.state, InDoubt)
    assert view(other) == view(ledger)
    await go(other, theirs, facts.Withdrawn(why="x"))
    await ledger.refresh()
    assert view(other) == view(ledger)


async def test_what_was_decided_before_a_refresh_is_overtaken_by_what_it_brought(ledger, other):
    """A ruling on attempt 1 must not withdraw attempt 2."""
    job = await ledger.start_job(submitted())
    shard = await plan(ledger, job)
    await go(ledger, shard, committing())
    await other.refresh()
    theirs = other.shard(shard.shard)
    decided_at = theirs.length
    await go(ledger, shard, facts.Withdrawn(why="a"), committing(2))
    await other.refresh()
    with pytest.raises(Overtaken):
        await other.record(*other.next(theirs, facts.Withdrawn(why="b"), at=decided_at))
    assert theirs.state.attempt == 2
    assert view(other) == view(ledger)


async def test_own_facts_are_not_applied_twice_however_they_mix_with_those_of_others(ledger, other):
    job = await ledger.start_job(submitted())
    await other.refresh()
    theirs = other.jobs[job.job]
    for part in range(5):
        mine = await plan(ledger, job, part=part)
        await other.refresh()
        await other.record(Entry(theirs.job, facts.ResolveWished(shard=mine.shard, attempt=1)))
        await go(ledger, mine, committing(), facts.Withdrawn(why="a"))
        await other.refresh()
        await other.record(Entry(theirs.job, facts.DuplicateSeen(shard=mine.shard, attempt=1, batch_id=f"b{part}")))
        await ledger.refresh()
        await go(ledger, mine, committing(2))
        await ledger.refresh()
    await other.refresh()
    assert len(job.duplicates) == 5
    assert [shard.length for shard in job.shards.values()] == [4] * 5
    last = await reloaded(ledger)
    assert shards_of(ledger) == shards_of(other) == shards_of(last)


def shards_of(ledger: Ledger) -> object:
    return {n: (s.state, s.length) for job in ledger.jobs.values() for n, s in job.shards.items()}


# ---- what it says ---------------------------------------------------------------------------------------------


async def test_progress_counts_every_state(ledger):
    job, _ = await whole_life(ledger)
    assert job.progress() == Progress(
        planned=80,
        submitted=40,
        in_flight=30,
        sealed=18,
        failed=11,
        batches=2,
        batches_in_flight=1,
        in_doubt=1,
        held=1,
        retried=2,
        total=80,
    )


async def test_a_retry_shard_is_not_counted_as_submitted_again(ledger):
    job = await ledger.start_job(submitted())
    parent = await plan(ledger, job, rows=10)
    await go(ledger, parent, committing(), ACCEPTED)
    await go(ledger, await plan_retry(ledger, parent, rows=3), committing(), ACCEPTED)
    assert job.progress().submitted == 10
    assert job.progress().in_flight == 13


async def test_the_total_of_a_file_is_known_before_it_is_planned(ledger):
    source = facts.FileSource(path="p", size=1, mtime_ns=1, sha256="s", rows=123)
    job = await ledger.start_job(submitted("file", source=source))
    other_job = await ledger.start_job(submitted("iterable"))
    assert (job.progress().total, other_job.progress().total) == (123, None)


async def test_whether_a_request_succeeded_and_the_largest_shard_are_known_without_a_look_at_all_shards(ledger, other):
    job = await ledger.start_job(submitted())
    failed = facts.Drained(counts=Counts(errored=10), sealed=SealedRecord(part=0, lines=10))
    seen: list[tuple[bool, int]] = []
    for rows, end in ((10, failed), (30, failed), (20, drained())):
        shard = await plan(ledger, job, rows=rows)
        await go(ledger, shard, committing(), ACCEPTED, ENDED, end)
        await other.refresh()
        theirs, replayed = other.jobs[job.job], (await reloaded(ledger)).jobs[job.job]
        told = {(each.has_succeeded, each.largest) for each in (job, theirs, replayed)}
        assert len(told) == 1
        seen += told
    assert seen == [(False, 10), (False, 30), (True, 30)]
    await go(ledger, shard, facts.Reopened(why="gone"))
    assert job.has_succeeded  # that its results are read again takes nothing back


async def test_a_limit_is_reached_where_it_holds_requests_back(ledger):
    source = facts.FileSource(path="p", size=1, mtime_ns=1, sha256="s", rows=20)
    job = await ledger.start_job(submitted(source=source, limit=10))
    assert not job.limit_reached
    await plan(ledger, job, rows=10)
    assert job.limit_reached
    assert job.progress().wanted == 10
    await ledger.record(Entry(job.job, facts.Limited(rows=20)))
    assert not job.limit_reached
    assert job.progress().wanted == 20
    await plan(ledger, job, part=1, rows=10)
    assert not job.limit_reached  # all are planned: it holds nothing back
    await ledger.record(Entry(job.job, facts.Limited(rows=None)))
    assert not job.limit_reached


async def test_a_summary_adds_up_outcomes_tokens_and_money(ledger):
    job, _ = await whole_life(ledger)
    summary = job.summary(load())
    assert (summary.succeeded, summary.errored, summary.canceled, summary.retried) == (7, 1, 10, 2)
    assert (summary.requests, summary.batches, summary.duplicates, summary.location) == (80, 2, 1, "memory:")
    assert summary.usage == Usage(input_tokens=1_000_000)
    assert (summary.synchronous_cost, summary.cost) == (1.0, 0.5)
    assert not summary.ok


async def test_a_finished_job_tells_where_its_results_are(ledger):
    _, second = await whole_life(ledger)
    assert second.summary(load()).location == "here"


async def test_a_job_that_was_moved_has_its_results_and_its_next_cut_elsewhere(ledger, other):
    job = await ledger.start_job(submitted(to="jsonl:///results/"))
    shard = await plan(ledger, job)
    await go(ledger, shard, committing(), ACCEPTED, ENDED, drained())
    copy = SealedRecord(part=shard.sealed.part, lines=10, detail={"elsewhere": 1})
    await ledger.record(Entry(job.job, facts.Moved(to="memory:new", sealed={shard.shard: copy}), n=job.cuts))
    assert (job.to, job.destinations) == ("memory:new", ["jsonl:///results/", "memory:new"])
    assert shard.sealed == copy
    assert shard.state.drained.counts == Counts(succeeded=10)
    await plan(ledger, job, part=1)  # at a position of its own
    assert view(await reloaded(ledger)) == view(ledger)
    with pytest.raises(Overtaken):  # planned meanwhile: what was copied may not be all
        await ledger.record(Entry(job.job, facts.Moved(to="memory:else"), n=job.cuts - 1))


async def test_rows_that_are_missing_count_as_sealed_and_failed(ledger):
    job = await ledger.start_job(submitted())
    shard = await plan(ledger, job)
    await go(ledger, shard, committing(), ACCEPTED, ENDED, drained(counts=Counts(succeeded=6), missing=4, gone="x"))
    progress, summary = job.progress(), job.summary(load())
    assert (progress.sealed, progress.failed, summary.missing, summary.succeeded) == (10, 4, 4, 6)


async def test_a_stop_ends_when_the_job_is_handed_over_again(ledger):
    job = await ledger.start_job(submitted())
    stop = facts.Stopped(reason="r", remedy="m")
    await ledger.record(Entry(job.job, stop))
    assert job.stopped == stop
    await ledger.record(Entry(job.job, facts.Resumed()))
    assert job.stopped is None


async def test_a_shard_tells_its_batch_its_seal_and_whether_it_is_open(ledger):
    job, _ = await whole_life(ledger)
    done, processing, doubt, held, split, abandoned, withdrawn, ready = job.shards.values()
    assert [shard.open for shard in job.shards.values()] == [False, True, True, True, False, False, True, True]
    assert (done.batch_id, processing.batch_id, doubt.batch_id, held.batch_id) == (
        "msgbatch_1",
        "msgbatch_2",
        None,
        None,
    )
    assert done.sealed == SealedRecord(part=0, lines=10)
    assert abandoned.sealed == SealedRecord(part=5, lines=10)
    assert (split.sealed, withdrawn.sealed, ready.batch_id) == (None, None, None)
    assert isinstance(split.state, Dead)
    assert isinstance(held.state, Held)


async def test_a_batch_that_an_operator_named_is_not_bound_before_it_is_proven(ledger):
    job, _ = await whole_life(ledger)
    assert [batch_id for _, batch_id, _ in bound_batches(job)] == ["msgbatch_1"]


async def test_a_job_is_found_by_its_key_and_a_shard_by_its_number_without_a_look_at_the_others(ledger, other):
    for key in ("one", "two"):
        job = await ledger.start_job(submitted(key))
        await plan(ledger, job, part=0)
        await go(ledger, await plan(ledger, job, part=1), facts.Split(into=(8, 9)))
    await other.refresh()
    for each in (ledger, other, await reloaded(ledger)):
        numbers = [number for job in each.jobs.values() for number in job.shards]
        jobs, each.jobs = each.jobs, {}
        assert [each.shard(number).shard for number in numbers] == numbers == [1, 2, 3, 4]
        assert [each.job(key).key for key in ("one", "two")] == ["one", "two"]
        each.jobs = jobs
        assert [list(job.open_shards) for job in each.jobs.values()] == [[1], [3]]


async def test_how_long_the_last_batches_took_is_known_live_and_after_a_replay(ledger):
    job = await ledger.start_job(submitted())
    now = job.started_at
    for hours in (0, 1, 2, -1, 30):  # the last two: a clock that is wrong, and a process that looked a day later
        shard = await plan(ledger, job)
        accepted = facts.Accepted(batch_id=f"msgbatch_{hours}", created_at=now - hours * 3600)
        await go(ledger, shard, committing(), accepted, ENDED)
    shard = await plan(ledger, job)
    accepted = facts.Accepted(batch_id="msgbatch_p", created_at=now - 20 * 3600)
    await go(ledger, shard, committing(), accepted, facts.CancelledAsParked(why="w"), ENDED)
    again = await reloaded(ledger)
    assert [round(seconds / 3600) for seconds in ledger.durations] == [0, 1, 2]
    assert again.durations == ledger.durations


async def finish(ledger, key="one"):
    """A finished job with shards of every end: drained, with missing rows, split, abandoned."""
    job = await ledger.start_job(submitted(key))
    for part, missing in enumerate((0, 4)):
        shard = await plan(ledger, job, part=part)
        end = drained(
            counts=Counts(succeeded=10 - missing),
            sealed=SealedRecord(part=part, lines=10 - missing, detail={"bytes": 1}),
            missing=missing,
            spend=(Spend(model="claude-haiku-4-5", usage=Usage(input_tokens=1_000)),),
        )
        accepted = facts.Accepted(batch_id=f"msgbatch_{key}_{part}", created_at=NOON)
        await go(ledger, shard, committing(), accepted, ENDED, end)
    await go(ledger, await plan(ledger, job, part=2), facts.Split(into=(20, 21)))
    sealed = SealedRecord(part=3, lines=10)
    canceled = facts.Abandoned(why="canceled", counts=Counts(canceled=10), sealed=sealed)
    await go(ledger, await plan(ledger, job, part=3), canceled)
    await ledger.record(cut(job, 0, last=True))
    before = job.progress(), job.summary(load()), dict(job.shards), list(job.sealed_order)
    await ledger.record(Entry(job.job, facts.Finished(location="here")))
    return job, before


async def test_a_finished_job_keeps_what_it_came_to_and_not_its_shards(ledger, other):
    job, (progress, summary, shards, order) = await finish(ledger)
    await other.refresh()
    for each in (ledger, other, await reloaded(ledger)):
        done = each.jobs[job.job]
        assert (done.progress(), done.missing, done.missing_shards, done.sealed_count) == (progress, 4, [2], 3)
        assert done.summary(load()) == replace(summary, location="here", seconds=done.changed_at - done.started_at)
        assert (dict(done.shards), dict(done.open_shards), list(done.sealed_order)) == ({}, {}, [])
        assert (list(each.unfinished), each.shard(1)) == ([], None)
        full = await each.in_full(done)
        assert (full.shards, full.sealed_order) == (shards, order)
        assert (await each.find_shard(2), await each.find_shard(99)) == (shards[2], None)


async def test_a_finished_job_is_read_in_full_whatever_was_recorded_beside_and_after_it(ledger):
    jobs = [await finish(ledger, key) for key in ("one", "two")]
    for job, _ in jobs:
        await ledger.record(Entry(job.job, facts.DuplicateSeen(shard=1, attempt=1, batch_id="msgbatch_9")))
    for job, (_, _, shards, _) in jobs:
        full = await ledger.in_full(job)
        assert (full.shards, full.duplicates) == (shards, {"msgbatch_9"})
        assert full.summary(load()) == job.summary(load())


async def test_every_shard_of_a_finished_job_is_surveyed_before_it_is_let_go(ledger):
    await finish(ledger)
    job = await ledger.start_job(submitted("open"))
    await go(ledger, await plan(ledger, job), committing(), facts.Accepted(batch_id="msgbatch_3", created_at=NOON))
    surveys = Surveys()
    again = await Ledger.load(ledger.facts, ledger.folder, finished=surveys.add)
    surveys.add_all(again.unfinished.values())
    (found,) = surveys.of.values()
    assert found.known.bound == {"msgbatch_one_0", "msgbatch_one_1", "msgbatch_3"}
    assert found.known.live == {"msgbatch_3": NOON}
    assert found.commits.any_between(10, NOON, NOON)


async def test_jobs_of_which_others_wish_something_are_named_once(ledger, other):
    jobs = [await ledger.start_job(submitted(key)) for key in ("one", "two", "three")]
    await other.refresh()
    await other.record(Entry(jobs[1].job, facts.CancelWished()))
    await other.record(Entry(jobs[2].job, facts.Stopped(reason="r", remedy="m")))
    await ledger.refresh()
    assert [job.key for job in ledger.take_wished()] == ["two"]
    assert ledger.take_wished() == []
    wish = facts.ResolveWished(shard=1, attempt=1)
    for _ in range(2):  # the same word again is a word
        await other.record(Entry(jobs[0].job, wish))
        await ledger.refresh()
        assert [job.key for job in ledger.take_wished()] == ["one"]


async def test_stop_reasons_and_kinds_of_usage_stay_few_in_a_finished_job(ledger):
    job = await ledger.start_job(submitted(source=facts.IterableSource()))
    for part in range(6):
        spend = tuple(Spend(model=f"m{part}-{n}", usage=Usage(input_tokens=1)) for n in range(20))
        stops = {f"s{part}-{n}": 1 for n in range(10)}
        shard = await plan(ledger, job, part=part)
        await go(ledger, shard, committing(), ACCEPTED, ENDED, drained(spend=spend, stops=stops))
    await ledger.record(cut(job, 0, last=True), Entry(job.job, facts.Finished(location="here")))
    assert job.let_go
    summary = job.summary(load())
    assert summary.usage.input_tokens == 120
    assert sum(summary.stop_reasons.values()) == 60
    assert len(summary.stop_reasons) < 20
    assert (summary.cost, len(summary.unpriced)) == (None, 4)
    assert view(await reloaded(ledger)) == view(ledger)

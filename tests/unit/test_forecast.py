"""When a job will be done: from past batches alone, and nothing is said where they say nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from abatch.cli.exit_codes import FAILED, OK, RUNNING, STUCK, exit_code_of
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.records import JobRecord
from abatch.journal.states import state_of_job
from abatch.protocol import facts
from abatch.protocol.facts import Counts, FileSource
from abatch.protocol.forecast import LATE, NO_HISTORY, NOTHING_SENT, OPEN_INPUT, OPERATOR, STOPPED, UNREAD, forecast
from abatch.snapshot import job_status
from tests.unit.make import NOON, committing, drained, planned, submitted

pytestmark = pytest.mark.anyio

HOURLY = [3_000.0, 3_600.0, 7_200.0]
FILE = FileSource(path="in.jsonl", size=1, mtime_ns=1, sha256="s", rows=40)


async def job_of(
    ledger: Ledger, *lives: list[Any], source: facts.Source = FILE, last: bool = True, key: str = "job"
) -> JobRecord:
    """A job with a shard of ten rows for each of these lives."""
    job = await ledger.start_job(submitted(key, source=source))
    for part, life in enumerate(lives):
        number = ledger.number_shard()
        cut = facts.Cut(rows=job.cut.rows + 10, last=last and part == len(lives) - 1)
        await ledger.record(Entry(job.job, planned(part=part), number, 0), Entry(job.job, cut, n=job.cuts))
        for fact in life:
            await ledger.record(*ledger.next(job.shards[number], fact))
    return job


def flying(batch: int, since: float = NOON) -> list[Any]:
    return [
        msgspec.structs.replace(committing(), date=since),
        facts.Accepted(batch_id=f"msgbatch_{batch}", created_at=since),
    ]


def done(batch: int, since: float = NOON, **counts: int) -> list[Any]:
    summed = Counts(**(counts or {"succeeded": 10}))
    return [*flying(batch, since), facts.Ended(counts=summed), drained(counts=summed)]


def left(job: JobRecord, at: float, durations: list[float] = HOURLY) -> float | str:
    made = forecast(job, job.progress(), durations, at)
    return made.why if made.seconds is None else made.seconds


def exit_code(ledger: Ledger, *jobs: JobRecord, driven: bool) -> int:
    return exit_code_of([job_status(ledger, job) for job in jobs], driven=driven)


async def test_batches_in_flight_take_what_past_batches_took(ledger):
    job = await job_of(ledger, flying(1), flying(2, NOON + 600))
    assert left(job, NOON + 600) == 3_600.0  # the later one: the median of the three
    assert left(job, NOON + 4_200) == 7_200.0 - 3_600.0  # it took as long as the median; one past batch took longer
    assert left(job, NOON + 8_000) == LATE


async def test_a_create_whose_answer_is_lost_counts_from_its_commit_point(ledger):
    job = await job_of(ledger, [committing()])
    assert left(job, NOON + 600) == 3_000.0


async def test_without_past_batches_no_end_is_made_up(ledger):
    job = await job_of(ledger, flying(1))
    assert left(job, NOON + 60, []) == NO_HISTORY
    assert left(job, NOON + 60, [100.0]) == 40.0


async def test_what_is_not_sent_goes_at_the_pace_of_what_was_sent(ledger):
    job = await job_of(ledger, done(1), done(2, NOON + 1_000), [], [])
    assert left(job, NOON + 2_000) == 20 / (20 / 2_000) + 3_600.0
    # after two days without a process the pause counts as the usual length of a batch
    assert left(job, NOON + 2 * 86_400) == 20 / (20 / 4_600) + 3_600.0


async def test_requests_that_a_limit_holds_back_are_not_waited_for(ledger):
    many = msgspec.structs.replace(FILE, rows=1_000_000)
    job = await job_of(ledger, flying(1), flying(2), source=many, last=False)
    assert left(job, NOON + 600) > 10_000_000
    await ledger.record(Entry(job.job, facts.Limited(rows=20)))
    assert left(job, NOON + 600) == 3_000.0
    await ledger.record(Entry(job.job, facts.Limited(rows=30)))
    assert left(job, NOON + 600) == 10 / (20 / 600) + 3_600.0
    piped = await job_of(ledger, flying(3), source=facts.IterableSource(), last=False, key="piped")
    await ledger.record(Entry(piped.job, facts.Limited(rows=10)))
    assert left(piped, NOON + 600) == 3_000.0


async def test_nothing_is_said_of_what_is_not_known(ledger):
    unsent = await job_of(ledger, [], [])
    assert left(unsent, NOON) == NOTHING_SENT
    await ledger.record(Entry(unsent.job, facts.Stopped(reason="r", remedy="m")))
    assert left(unsent, NOON) == STOPPED


async def test_an_input_that_is_read_on_and_a_held_shard_have_no_end(ledger):
    open_ended = await job_of(ledger, flying(1), source=facts.IterableSource(), last=False)
    assert left(open_ended, NOON) == OPEN_INPUT
    (shard,) = open_ended.shards.values()
    held = await ledger.start_job(submitted("held", source=FILE))
    number = ledger.number_shard()
    cut = Entry(held.job, facts.Cut(rows=10, last=True), n=held.cuts)
    await ledger.record(Entry(held.job, planned(), number, 0), cut)
    for fact in (committing(), facts.Held(reason="r")):
        await ledger.record(*ledger.next(held.shards[number], fact))
    assert left(held, NOON) == OPERATOR
    assert shard.open
    assert exit_code(ledger, open_ended, driven=True) == RUNNING
    assert exit_code(ledger, held, open_ended, driven=True) == STUCK  # an operator is wanted, whoever drives


async def test_a_job_with_batches_in_flight_is_not_called_planning(ledger):
    job = await job_of(ledger, [], source=facts.IterableSource(), last=False)
    assert state_of_job(job).state == "planning"
    (shard,) = job.shards.values()
    for fact in flying(1):
        await ledger.record(*ledger.next(shard, fact))
    assert state_of_job(job).state == "running"
    for fact in done(1)[2:]:
        await ledger.record(*ledger.next(shard, fact))
    assert state_of_job(job).state == "running"


async def test_of_several_jobs_the_one_that_wants_most_attention_counts(ledger):
    good = await job_of(ledger, done(1))
    await ledger.record(Entry(good.job, facts.Finished(location="out.jsonl"), n=good.cuts))
    assert exit_code_of([], driven=False) == OK
    assert exit_code(ledger, good, driven=False) == OK
    bad = await ledger.start_job(submitted("bad", source=FILE))
    number = ledger.number_shard()
    cut = Entry(bad.job, facts.Cut(rows=10, last=True), n=bad.cuts)
    await ledger.record(Entry(bad.job, planned(), number, 0), cut)
    assert exit_code(ledger, good, bad, driven=False) == STUCK
    for fact in done(2, succeeded=9, errored=1):
        await ledger.record(*ledger.next(bad.shards[number], fact))
    assert exit_code(ledger, good, bad, driven=True) == RUNNING
    await ledger.record(Entry(bad.job, facts.Finished(location="bad.jsonl"), n=bad.cuts))
    assert exit_code(ledger, good, bad, driven=False) == FAILED


async def test_a_finished_job_has_no_time_left_and_a_retry_is_sent_at_once(ledger):
    finished = await job_of(ledger, done(1))
    await ledger.record(Entry(finished.job, facts.Finished(location="out.jsonl"), n=finished.cuts))
    assert left(finished, NOON) == 0.0
    retried = await ledger.start_job(submitted("retried", source=msgspec.structs.replace(FILE, rows=10)))
    number = ledger.number_shard()
    cut = Entry(retried.job, facts.Cut(rows=10, last=True), n=retried.cuts)
    await ledger.record(Entry(retried.job, planned(trial=2), number, 0), cut)
    assert left(retried, NOON + 60) == NOTHING_SENT


async def test_no_end_is_expected_while_results_cannot_be_read(ledger: Ledger) -> None:
    job = await job_of(ledger, flying(1), flying(2))
    first, *_ = job.open_shards
    assert forecast(job, job.progress(), HOURLY, NOON, unread=[first]).why == UNREAD
    assert forecast(job, job.progress(), HOURLY, NOON, unread=[first + 10]).seconds == 3_600.0

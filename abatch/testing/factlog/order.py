"""Tests of what a replay visits, and in which order."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

import anyio

from abatch.errors import IllegalTransition, JournalCorrupt
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, Cut, Resumed, Stopped
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import (
    STRANGE,
    committing,
    ignore,
    in_order,
    planned,
    raised,
    replayed,
    submitted,
)

if TYPE_CHECKING:
    from abatch.journal.log import FactLog, Recorded

__all__ = ["OrderContract"]

HOUR = 3600.0
"""The difference that the clocks of a server and of this machine may have, and a change of time may make."""


class OrderContract(Hooks):
    """The promises about the order of facts, and about what a replay visits."""

    async def test_facts_are_replayed_as_they_were_recorded_and_in_their_order(self) -> None:
        async with self.opened() as (log,):
            first = await log.add_job(submitted("k"))
            appended = [
                first,
                *await log.append(Entry(first.job, planned(), 1, 0), Entry(first.job, Cut(rows=10), n=0)),
            ]
            appended += await log.append(Entry(first.job, committing(), 1, 1))
            assert await replayed(log) == appended
            assert [each.fact for each in appended] == [submitted("k"), planned(), Cut(rows=10), committing()]
            assert [(each.job, each.shard) for each in appended] == [(first.job, shard) for shard in (None, 1, None, 1)]
            assert in_order(appended)

    async def test_facts_survive_the_connection(self) -> None:
        async with self.opened() as (log,):
            appended = [await log.add_job(submitted("k"))]
            appended += await log.append(Entry(appended[0].job, planned(), 1, 0))
        async with self.opened() as (log,):
            assert await replayed(log) == appended
            appended += await log.append(Entry(appended[0].job, committing(), 1, 1))
            assert await replayed(log) == appended
            assert in_order(appended)

    async def test_a_text_in_a_fact_is_kept_whatever_is_in_it(self) -> None:
        async with self.opened() as (log,):
            first = await log.add_job(submitted("k"))
            appended = [Stopped(reason=text, remedy=text[::-1]) for text in STRANGE]
            await log.append(*(Entry(first.job, fact) for fact in appended))
            assert [each.fact for each in await replayed(log, since=first.seq)] == appended

    async def test_a_fact_has_the_time_of_its_append(self) -> None:
        async with self.opened() as (log,):
            first = await log.add_job(submitted("k"))
            (second,) = await log.append(Entry(first.job, CancelWished()))
            for recorded in (first, second, *await replayed(log)):
                assert abs(recorded.at - time.time()) < HOUR, "`at` is not in seconds since the epoch"

    async def test_facts_of_several_jobs_are_replayed_in_the_order_in_which_they_were_appended(self) -> None:
        async with self.opened(2) as (log, other):
            appended = [await log.add_job(submitted(key)) for key in "abc"]
            jobs = [each.job for each in appended]
            for n, job in enumerate([*reversed(jobs), *jobs]):
                appended += await log.append(Entry(job, planned(), len(jobs) * 2 - n, 0), Entry(job, CancelWished()))
            appended += await log.append(Entry(jobs[2], CancelWished()), Entry(jobs[0], CancelWished()))
            for one in (log, other):
                assert await replayed(one) == appended
            assert in_order(appended)

    async def test_a_replay_begins_behind_a_fact_and_ends_with_one(self) -> None:
        async with self.opened() as (log,):
            appended = [await log.add_job(submitted("k"))]
            for n in range(4):
                appended += await log.append(Entry(appended[0].job, planned(part=n), n + 1, 0))
            assert await replayed(log, since=appended[1].seq) == appended[2:]
            assert await replayed(log, since=appended[0].seq, until=appended[2].seq) == appended[1:3]
            assert await log.replay(ignore, since=appended[1].seq) == appended[-1].seq
            assert await log.replay(ignore, since=appended[1].seq, until=appended[2].seq) == appended[2].seq
            assert await log.replay(ignore, since=appended[-1].seq) == appended[-1].seq

    async def test_a_replay_can_keep_to_one_job(self) -> None:
        async with self.opened() as (log,):
            first, second = [await log.add_job(submitted(key)) for key in "ab"]
            mine = await log.append(Entry(first.job, planned(), 1, 0), Entry(first.job, CancelWished()))
            await log.append(Entry(second.job, planned(), 2, 0))
            assert await replayed(log, job=first.job) == [first, *mine]

    async def test_a_replay_keeps_to_all_its_conditions_and_returns_the_last_fact_that_it_visited(self) -> None:
        async with self.opened(2) as logs:
            jobs: list[int] = []
            written: dict[FactLog, list[Recorded]] = {log: [] for log in logs}
            for log, key in zip(logs, "ab", strict=True):
                written[log].append(await log.add_job(submitted(key)))
                jobs.append(written[log][0].job)
            for shard, (n, job, log) in enumerate(itertools.product(range(2), jobs, logs)):
                written[log] += await log.append(Entry(job, planned(part=n), shard, 0), Entry(job, CancelWished()))
            everything = sorted(itertools.chain(*written.values()), key=lambda recorded: recorded.seq)
            assert await replayed(logs[0]) == everything
            seqs = [recorded.seq for recorded in everything]
            for log, since, until, others_only, only in itertools.product(
                logs, (0, *seqs[::5], seqs[-1]), (None, *seqs[::4], seqs[-1] + 1000), (False, True), (None, *jobs)
            ):
                wanted = [
                    recorded
                    for recorded in everything
                    if recorded.seq > since
                    and (until is None or recorded.seq <= until)
                    and not (others_only and recorded in written[log])
                    and only in {None, recorded.job}
                ]
                seen: list[Recorded] = []
                last = await log.replay(seen.append, since=since, until=until, others_only=others_only, job=only)
                conditions = f"{since=}, {until=}, {others_only=}, job={only}"
                assert seen == wanted, conditions
                assert last == (wanted[-1].seq if wanted else since), conditions

    async def test_a_fact_that_does_not_follow_is_corruption_and_the_log_goes_on(self) -> None:
        def refuse(recorded: Recorded) -> None:
            raise IllegalTransition(None, recorded.fact)

        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            assert await raised(JournalCorrupt, log.replay(refuse))
            await log.append(Entry(job, planned(), 1, 0))
            assert len(await replayed(log)) == 2

    async def test_an_assertion_that_fails_in_a_visit_is_corruption(self) -> None:
        def refuse(_: Recorded) -> None:
            raise AssertionError

        async with self.opened() as (log,):
            await log.add_job(submitted("k"))
            assert await raised(JournalCorrupt, log.replay(refuse))
            assert len(await replayed(log)) == 1

    async def test_any_other_exception_of_a_visit_ends_the_replay_and_is_raised_as_it_is(self) -> None:
        seen: list[Recorded] = []

        def fail(recorded: Recorded) -> None:
            seen.append(recorded)
            raise LookupError

        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0))
            assert await raised(LookupError, log.replay(fail))
            assert len(seen) == 1
            await log.append(Entry(job, committing(), 1, 1))
            assert len(await replayed(log)) == 3

    async def test_a_visit_runs_in_a_worker_thread(self) -> None:
        async with self.opened() as (log,):
            await log.add_job(submitted("k"))
            visited_in: list[int] = []
            await log.replay(lambda _: visited_in.append(threading.get_ident()))
            assert visited_in != [threading.get_ident()]

    async def test_a_fact_that_cannot_be_read_is_corruption(self) -> None:
        async with self.opened() as (log,):
            first = await log.add_job(submitted("k"))
            appended = [first, *await log.append(Entry(first.job, planned(), 1, 0))]
            appended += await log.append(Entry(first.job, committing(), 1, 1))
        await self.damage(appended[1].seq)
        seen: list[Recorded] = []

        async def read() -> None:
            async with self.opened() as (log,):
                await log.replay(seen.append)

        assert await raised(JournalCorrupt, read())
        assert seen in (appended[:1], [])

    async def test_many_facts_are_replayed_in_order_and_none_is_missing(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            for first in range(0, self.facts, 1000):
                wanted = range(first, min(first + 1000, self.facts))
                await log.append(*(Entry(job, planned(part=n), n + 1, 0) for n in wanted))
            for one in (log, reader):
                seen = 0
                before = 0

                def visit(recorded: Recorded) -> None:
                    nonlocal seen, before
                    assert recorded.seq > before
                    assert recorded.fact == (planned(part=seen - 1) if seen else submitted("k"))
                    assert recorded.shard == (seen or None)
                    before = recorded.seq
                    seen += 1

                assert await one.replay(visit) == before
                assert seen == self.facts + 1
            assert await reader.job_of(self.facts) == job

    async def test_what_two_append_at_once_is_all_there_in_the_order_of_each(self) -> None:
        async with self.opened(2) as logs:
            job = (await logs[0].add_job(submitted("k"))).job
            appended: dict[int, list[Recorded]] = {}

            async def write(log: FactLog, shard: int) -> None:
                appended[shard] = [
                    each for n in range(50) for each in await log.append(Entry(job, committing(n), shard, n))
                ]

            async with anyio.create_task_group() as writing:
                for shard, log in enumerate(logs, start=1):
                    writing.start_soon(write, log, shard)
            for log in logs:
                seen = await replayed(log)
                assert in_order(seen)
                assert {shard: [each for each in seen if each.shard == shard] for shard in appended} == appended

    async def test_a_connection_can_leave_out_what_it_appended_itself(self) -> None:
        async with self.opened(2) as (log, other):
            first = await log.add_job(submitted("k"))
            theirs = await other.append(Entry(first.job, CancelWished()))
            mine = await log.append(Entry(first.job, Resumed()))
            assert await replayed(log, others_only=True) == theirs
            assert await replayed(other, others_only=True) == [first, *mine]

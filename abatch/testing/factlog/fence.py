"""Tests of the fence: a position, or the key of a job, is taken once."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from abatch.errors import JobConflict, Overtaken
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, Cut, Finished, Moved, Withdrawn
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import (
    STRANGE,
    committing,
    in_order,
    planned,
    raised,
    replayed,
    submitted,
)

if TYPE_CHECKING:
    from abatch.journal.log import FactLog, Recorded
    from abatch.protocol.facts import JobFact

__all__ = ["FenceContract"]


class FenceContract(Hooks):
    """The promises about positions and keys."""

    async def test_a_key_is_taken_once(self) -> None:
        async with self.opened(2) as (log, other):
            first = await log.add_job(submitted("k"))
            for one in (log, other):
                assert await raised(JobConflict, one.add_job(submitted("k")))
            second = await other.add_job(submitted("l"))
            assert await replayed(log) == [first, second]
            assert first.job != second.job

    async def test_keys_are_compared_exactly(self) -> None:
        async with self.opened() as (log,):
            long = "k" * 1000
            keys = ["k", "K", " k", "k ", "\u00e9", "e\u0301", "1", "01", "1.0", f"{long}a", f"{long}b", *STRANGE]
            jobs = [(await log.add_job(submitted(key))).job for key in keys]
            assert len(set(jobs)) == len(keys)
            for key in keys:
                assert await raised(JobConflict, log.add_job(submitted(key))), repr(key[:20])

    async def test_keys_numbers_and_positions_are_taken_after_a_reopening_too(self) -> None:
        async with self.opened() as (log,):
            first, second = [(await log.add_job(submitted(key))).job for key in "ab"]
            await log.append(Entry(first, planned(), 7, 0), Entry(first, committing(), 7, 1))
            await log.append(Entry(second, Cut(rows=10), n=0))
            before = await replayed(log)
        async with self.opened(2) as (log, reader):
            for one in (log, reader):
                assert [await one.job_of(shard) for shard in (7, 8)] == [first, None]
                assert await raised(JobConflict, one.add_job(submitted("a")))
                assert await raised(Overtaken, one.append(Entry(first, planned(), 7, 0)))
                assert await raised(Overtaken, one.append(Entry(first, Withdrawn(why="w"), 7, 1)))
                assert await raised(Overtaken, one.append(Entry(second, Cut(rows=10), n=0)))
            assert await replayed(log) == before
            third = await log.add_job(submitted("c"))
            assert third.job not in (first, second)
            assert third.seq > before[-1].seq

    async def test_a_shard_is_known_by_its_first_fact(self) -> None:
        async with self.opened(2) as (log, other):
            jobs = [(await log.add_job(submitted(key))).job for key in "ab"]
            await log.append(Entry(jobs[0], planned(), 7, 0), Entry(jobs[1], planned(), 8, 0))
            await log.append(Entry(jobs[0], committing(), 7, 1))
            assert [await other.job_of(shard) for shard in (7, 8, 9)] == [*jobs, None]

    async def test_a_position_of_a_shard_is_taken_once_by_whichever_connection(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0), Entry(job, committing(), 1, 1))
            before = await replayed(log)
            for one in (log, other):
                assert await raised(Overtaken, one.append(Entry(job, Withdrawn(why="w"), 1, 1)))
            assert await replayed(other) == before

    async def test_a_position_among_the_cuts_of_a_job_is_taken_once(self) -> None:
        async with self.opened(2) as (log, other):
            first, second = [(await log.add_job(submitted(key))).job for key in "ab"]
            await log.append(Entry(first, Cut(rows=10), n=0))
            assert await raised(Overtaken, other.append(Entry(first, Cut(rows=20), n=0)))
            await other.append(Entry(second, Cut(rows=5), n=0), Entry(first, Cut(rows=20), n=1))
            assert [each.fact for each in await replayed(log, job=first)][1:] == [Cut(rows=10), Cut(rows=20)]

    async def test_a_position_of_a_job_is_taken_by_any_kind_of_fact(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            kinds: list[JobFact] = [Cut(rows=10), Finished(location="there"), Moved(to="memory:there")]
            for n, fact in enumerate(kinds):
                await log.append(Entry(job, fact, n=n))
                for later in kinds:
                    for one in (log, other):
                        assert await raised(Overtaken, one.append(Entry(job, later, n=n)))
            assert [each.fact for each in await replayed(other)][1:] == kinds

    async def test_a_position_of_a_shard_is_taken_for_all_jobs(self) -> None:
        async with self.opened(2) as (log, other):
            first, second = [(await log.add_job(submitted(key))).job for key in "ab"]
            await log.append(Entry(first, planned(), 1, 0))
            for one in (log, other):
                assert await raised(Overtaken, one.append(Entry(second, planned(), 1, 0)))
                assert await one.job_of(1) == first

    async def test_a_position_may_be_taken_before_those_in_front_of_it(self) -> None:
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            entries = [Entry(job, planned(), 1, 0), Entry(job, committing(), 1, 5), Entry(job, Cut(rows=10), n=3)]
            entries += [Entry(job, Withdrawn(why="w"), 1, 4), Entry(job, Cut(rows=5), n=0)]
            for entry in entries:
                await log.append(entry)
                assert await raised(Overtaken, log.append(entry))
            assert [each.fact for each in await replayed(log)][1:] == [entry.fact for entry in entries]

    async def test_an_append_without_entries_appends_nothing(self) -> None:
        async with self.opened() as (log,):
            first = await log.add_job(submitted("k"))
            assert list(await log.append()) == []
            assert await replayed(log) == [first]

    async def test_a_fact_without_a_position_is_never_refused(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            for one in (log, other, log):
                await one.append(Entry(job, CancelWished()))
            assert len(await replayed(log)) == 4

    async def test_facts_are_appended_all_or_none(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 2, 0))
            before = await replayed(log)
            entries = Entry(job, planned(), 1, 0), Entry(job, Cut(rows=20), n=0), Entry(job, planned(), 2, 0)
            assert await raised(Overtaken, other.append(*entries))
            assert await raised(Overtaken, log.append(Entry(job, planned(), 3, 0), Entry(job, planned(), 3, 0)))
            assert await replayed(log) == before
            await other.append(*entries[:2])  # none of their positions was taken
            assert len(await replayed(log)) == len(before) + 2

    async def test_after_being_overtaken_both_go_on(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0))
            assert await raised(Overtaken, other.append(Entry(job, planned(), 1, 0)))
            await other.append(Entry(job, committing(), 1, 1))
            await log.append(Entry(job, Withdrawn(why="w"), 1, 2))
            assert len(await replayed(log)) == 4

    # ---- two writers --------------------------------------------------------------------------------------

    async def test_calls_at_the_same_time_on_one_connection_each_take_effect(self) -> None:
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            appended: list[Recorded] = []
            overtaken: list[int] = []

            async def take(n: int) -> None:
                try:
                    appended.extend(await log.append(Entry(job, committing(n), 1, n), Entry(job, CancelWished())))
                except Overtaken:
                    overtaken.append(n)
                seen = await replayed(log)
                assert in_order(seen)
                assert len(seen) % 2 == 1, "half of an append is visible"

            async with anyio.create_task_group() as taking:
                for n in range(40):
                    taking.start_soon(take, n // 2)
            assert sorted(overtaken) == list(range(20))
            assert (await replayed(log))[1:] == sorted(appended, key=lambda recorded: recorded.seq)

    async def test_of_two_that_race_for_a_position_one_wins(self) -> None:
        async with self.opened(2) as logs:
            job = (await logs[0].add_job(submitted("k"))).job
            for n in range(50):
                won: list[Recorded] = []

                async def race(log: FactLog, part: int, n: int = n, won: list[Recorded] = won) -> None:
                    with suppress(Overtaken):
                        won += await log.append(Entry(job, planned(part=part), 1, n), Entry(job, CancelWished()))

                async with anyio.create_task_group() as racing:
                    for part, log in enumerate(logs):
                        racing.start_soon(race, log, part)
                assert len(won) == 2
                assert (await replayed(logs[n % 2]))[-2:] == won

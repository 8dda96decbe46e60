"""Tests of cancelled calls and of writes that fail."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from abatch.errors import JobConflict, JournalError
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, Cut
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import committing, ignore, planned, raised, replayed, submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from abatch.journal.log import FactLog

__all__ = ["FailuresContract"]

MOMENT = 0.5
"""The seconds that a reader gets next to a write that is held. A log that lets it wait costs a test this time."""


class FailuresContract(Hooks):
    """The promises about calls that are cancelled, and about writes that fail."""

    async def test_a_cancellation_in_the_middle_of_an_append_waits_until_it_is_done(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            entries = Entry(job, planned(), 1, 0), Entry(job, planned(part=1), 2, 0)
            async with self.held(log) as arrived:
                appending = asyncio.ensure_future(log.append(*entries))
                await self.arrival(arrived, appending)
                for _ in range(3):  # again while it waits
                    appending.cancel()
                    await asyncio.sleep(0)
                assert not appending.done()
            await self.ended(appending, "a cancelled append hangs")
            assert appending.cancelled()
            assert [each.fact for each in await replayed(reader)][1:] == [planned(), planned(part=1)]
            await log.append(Entry(job, committing(), 1, 1))
            assert len(await replayed(reader)) == 4

    async def test_a_cancellation_does_not_hide_a_failed_sync(self) -> None:
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            self.fail_next_sync(log)
            async with self.held(log) as arrived:
                appending = asyncio.ensure_future(log.append(Entry(job, planned(), 1, 0)))
                await self.arrival(arrived, appending)
                appending.cancel()
                await asyncio.sleep(0)
            await self.ended(appending, "a cancelled append hangs")
            assert appending.cancelled() or isinstance(appending.exception(), JournalError)
            assert await raised(JournalError, log.append(Entry(job, CancelWished())))

    async def test_a_cancellation_in_the_middle_of_any_write_waits_until_it_is_done(self) -> None:
        async with self.opened(2) as (log, reader):
            writes: list[Coroutine[Any, Any, object]] = [log.add_job(submitted("k")), log.bind("https://first")]
            for write in writes:
                async with self.held(log) as arrived:
                    writing = asyncio.ensure_future(write)
                    await self.arrival(arrived, writing)
                    writing.cancel()
                    await asyncio.sleep(0)
                    assert not writing.done()
                await self.ended(writing, "a cancelled write hangs")
                assert writing.cancelled()
            assert [each.fact for each in await replayed(reader)] == [submitted("k")]
            assert await reader.base_url() == "https://first"

    async def test_a_fact_that_was_visible_stays_visible(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            self.fail_next_sync(log)
            async with self.held(log) as arrived:
                appending = asyncio.ensure_future(log.append(Entry(job, planned(), 1, 0), Entry(job, CancelWished())))
                await self.arrival(arrived, appending)
                reading = asyncio.ensure_future(replayed(reader))
                await asyncio.wait([reading], timeout=MOMENT)  # a log may let readers wait for a write
            await self.ended(appending, "an append that fails hangs")
            await self.ended(reading, "a replay next to an append that fails hangs")
            assert isinstance(appending.exception(), JournalError)
            early, late = reading.result(), await replayed(reader)
            assert late[: len(early)] == early, "a fact was visible before it was durable"
            assert len(early) in (1, 3)

    async def test_after_a_failed_sync_the_connection_takes_nothing_more(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            self.fail_next_sync(log)
            entries = Entry(job, planned(), 1, 0), Entry(job, Cut(rows=10), n=0)
            assert await raised(JournalError, log.append(*entries))
            later: list[Awaitable[object]] = [
                log.append(Entry(job, CancelWished())),
                log.add_job(submitted("l")),
                log.bind("https://first"),
                log.base_url(),
                log.replay(ignore),
                log.job_of(1),
                log.version(),
            ]
            for call in later:
                assert await raised(JournalError, call)
            for _ in range(30):  # it does not recover
                assert await raised(JournalError, log.append(Entry(job, CancelWished())))
            await log.aclose()
            seen = [each.fact for each in await replayed(reader)][1:]
            assert seen in ([], [planned(), Cut(rows=10)])
        async with self.opened() as (again,):
            assert [each.fact for each in await replayed(again)][1:] == seen
            await again.append(Entry(job, committing(), 1, 1) if seen else entries[0])
            assert len(await replayed(again)) == len(seen) + 2

    async def test_any_write_that_fails_breaks_the_connection(self) -> None:
        writes: list[Callable[[FactLog], Awaitable[object]]] = [
            lambda log: log.add_job(submitted("l")),
            lambda log: log.bind("https://first"),
        ]
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
        for write in writes:
            async with self.opened() as (log,):
                self.fail_next_sync(log)
                assert await raised(JournalError, write(log))
                assert await raised(JournalError, log.append(Entry(job, CancelWished())))
                assert await raised(JournalError, log.replay(ignore))
        async with self.opened() as (log,):
            seen = [each.fact for each in await replayed(log)]
            assert seen in ([submitted("k")], [submitted("k"), submitted("l")])
            assert await raised(JobConflict, log.add_job(submitted("l"))) == (len(seen) == 2)

    async def test_facts_are_durable_all_or_none_whichever_sync_fails(self) -> None:
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
        shard = 0
        for skip in range(6):
            wanted: dict[int, set[int]] = {}
            async with self.opened() as (log,):
                self.fail_next_sync(log, skip=skip)
                for _ in range(skip + 1):
                    shard += 1
                    wanted[shard] = {3}
                    entries = [Entry(job, committing(n), shard, n) for n in range(3)]
                    if await raised(JournalError, log.append(*entries)):
                        wanted[shard] = {0, 3}
                        break
                else:
                    raise AssertionError("an append was reported as durable without a sync")
            async with self.opened() as (log,):
                seen = Counter(each.shard for each in await replayed(log))
                for number, lengths in wanted.items():
                    assert seen[number] in lengths, f"{seen[number]} of 3 facts of one append are durable"

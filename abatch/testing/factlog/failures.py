"""Tests of cancelled calls and of writes that fail."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from abatch.errors import JournalError
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, Cut
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import committing, ignore, planned, raised, replayed, submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["FailuresContract"]


class FailuresContract(Hooks):
    """The promises about calls that are cancelled, and about writes that fail."""

    async def test_a_cancellation_in_the_middle_of_an_append_waits_until_it_is_done(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            entries = Entry(job, planned(), 1, 0), Entry(job, planned(part=1), 2, 0)
            async with self.held(log) as arrived:
                appending = asyncio.ensure_future(log.append(*entries))
                await arrived()
                for _ in range(3):  # again while it waits
                    appending.cancel()
                    await asyncio.sleep(0)
                assert not appending.done()
            with suppress(asyncio.CancelledError):
                await appending
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
                await arrived()
                appending.cancel()
                await asyncio.sleep(0)
            with suppress(asyncio.CancelledError, JournalError):
                await appending
            assert await raised(JournalError, log.append(Entry(job, CancelWished())))

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
            await log.aclose()
            seen = [each.fact for each in await replayed(reader)][1:]
            assert seen in ([], [planned(), Cut(rows=10)])
        async with self.opened() as (again,):
            assert [each.fact for each in await replayed(again)][1:] == seen
            await again.append(Entry(job, committing(), 1, 1) if seen else entries[0])
            assert len(await replayed(again)) == len(seen) + 2

"""Tests of several connections: the driver, its readers, and what they all know of the journal."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import anyio

from abatch.errors import ConfigError, JournalLocked
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, ResolveWished, Resumed
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import committing, planned, raised, replayed, submitted

if TYPE_CHECKING:
    from abatch.journal.log import Recorded

__all__ = ["ConnectionsContract"]


class ConnectionsContract(Hooks):
    """The promises about connections next to each other."""

    async def test_the_version_changes_when_others_append_and_only_then(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            before = await log.version()
            await log.append(Entry(job, Resumed()))
            assert await log.version() == before
            await other.append(Entry(job, CancelWished()))
            assert await log.version() != before

    async def test_a_reader_sees_what_the_driver_appends_and_the_driver_its_wishes(self) -> None:
        async with self.opened(2) as (log, reader):
            first = await log.add_job(submitted("k"))
            assert await replayed(reader) == [first]
            version = await reader.version()
            (second,) = await log.append(Entry(first.job, planned(), 1, 0))
            assert await reader.version() != version
            assert await replayed(reader, since=first.seq) == [second]
            wished = await reader.append(Entry(first.job, ResolveWished(shard=1, attempt=1)))
            assert await replayed(log, since=second.seq, others_only=True) == wished

    async def test_a_reader_that_is_slow_does_not_hold_the_driver_up(self) -> None:
        began, go_on = threading.Event(), threading.Event()
        seen: list[Recorded] = []

        def visit(recorded: Recorded) -> None:
            seen.append(recorded)
            began.set()
            go_on.wait()

        async with self.opened(2) as (log, reader):
            appended = [await log.add_job(submitted("k"))]
            reading = asyncio.ensure_future(reader.replay(visit))
            try:
                await anyio.to_thread.run_sync(began.wait)
                appended += await log.append(Entry(appended[0].job, planned(), 1, 0))
            finally:
                go_on.set()
                last = await reading
            assert seen == appended[: len(seen)]
            assert seen[-1].seq == last
            assert await replayed(reader, since=last) == appended[len(seen) :]

    async def test_one_connection_drives_at_a_time_and_readers_do_not(self) -> None:
        async with self.opened(2) as (log, reader):
            assert (log.drives, reader.drives) == (True, False)
            assert await raised(JournalLocked, self.open(drive=True))
            await log.aclose()
            another = await self.open(drive=True)
            assert another.drives
            await another.aclose()

    async def test_a_closed_connection_may_be_closed_again(self) -> None:
        log = await self.open(drive=True)
        await log.aclose()
        await log.aclose()

    async def test_all_connections_have_one_lineage(self) -> None:
        async with self.opened(2) as (log, reader):
            lineage = log.lineage
            assert reader.lineage.name == lineage.name
            assert reader.lineage.prefix(7, 1) == lineage.prefix(7, 1)
        async with self.opened() as (again,):
            assert again.lineage.prefix(7, 1) == lineage.prefix(7, 1)

    async def test_the_journal_belongs_to_one_api_once_something_may_have_been_sent(self) -> None:
        async with self.opened(2) as (log, reader):
            assert await log.base_url() is None
            for url in ("https://first", "https://second"):
                await log.bind(url)
                assert await reader.base_url() == url
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0))
            await log.bind("https://third")
            await log.append(Entry(job, committing(), 1, 1))
            assert await raised(ConfigError, log.bind("https://fourth"))
            await log.bind("https://third")
        async with self.opened() as (again,):
            assert await raised(ConfigError, again.bind("https://fourth"))
            assert await again.base_url() == "https://third"

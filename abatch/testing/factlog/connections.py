"""Tests of several connections: the driver, its readers, and what they all know of the journal."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from abatch.errors import ConfigError, JournalError, JournalLocked
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, ResolveWished, Resumed
from abatch.system import threads
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import committing, ignore, planned, raised, replayed, submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from abatch.journal.log import FactLog, Recorded

__all__ = ["ConnectionsContract"]


class ConnectionsContract(Hooks):
    """The promises about connections next to each other."""

    async def test_the_version_changes_when_others_append_and_only_then(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            before = await log.version()
            await log.append(Entry(job, Resumed()))
            assert await log.version() == before
            await log.add_job(submitted("l"))
            assert await log.version() == before
            await other.append(Entry(job, CancelWished()))
            assert await log.version() != before

    async def test_the_version_never_returns_to_an_earlier_value(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await other.add_job(submitted("k"))).job
            seen = {await log.version()}
            for number, appends in enumerate((1, 2, 3, 4, 8), start=2):
                for _ in range(appends):
                    await other.append(Entry(job, CancelWished()))
                seen.add(await log.version())
                assert len(seen) == number, f"{appends} appends by another connection look like none"

    async def test_the_version_changes_when_others_add_a_job(self) -> None:
        async with self.opened(2) as (log, other):
            before = await log.version()
            await other.add_job(submitted("k"))
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
        began, go_on, this_thread = threading.Event(), threading.Event(), threading.get_ident()
        seen: list[Recorded] = []

        def visit(recorded: Recorded) -> None:
            seen.append(recorded)
            began.set()
            if threading.get_ident() != this_thread:
                go_on.wait()

        async with self.opened(2) as (log, reader):
            appended = [await log.add_job(submitted("k"))]
            reading = asyncio.ensure_future(reader.replay(visit))
            try:
                await self.arrival(lambda: anyio.to_thread.run_sync(began.wait), reading)
                appending = asyncio.ensure_future(log.append(Entry(appended[0].job, planned(), 1, 0)))
                await self.ended(appending, "a replay in another connection holds up an append")
                appended += appending.result()
            finally:
                began.set()
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
            assert not log.drives
            another = await self.open(drive=True)
            assert another.drives
            assert not log.drives
            await another.aclose()

    async def test_a_process_that_dies_frees_the_right_to_drive(self) -> None:
        await threads.run(self._open_and_die)
        async with self.opened() as (log,):
            assert log.drives

    def _open_and_die(self) -> None:
        """Open the log in a process that kills itself while it drives."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks with idle threads: the child is short-lived
            child = multiprocessing.get_context("fork").Process(target=anyio.run, args=(self._die,), daemon=True)
            child.start()
        child.join(self.patience)
        assert child.exitcode == -signal.SIGKILL, "a forked process cannot open the log"

    async def _die(self) -> None:
        await self.open(drive=True)
        os.kill(os.getpid(), signal.SIGKILL)

    async def test_only_a_connection_that_drives_makes_the_log(self) -> None:
        opened: FactLog | None = None
        with suppress(Exception):  # the kind of error is not promised
            opened = await self.open(drive=False)
        if opened is not None:
            await opened.aclose()
        assert opened is None, "a log that does not exist was opened without the right to drive"
        async with self.opened() as (log,):
            assert await replayed(log) == []

    async def test_a_closed_connection_may_be_closed_again(self) -> None:
        log = await self.open(drive=True)
        await log.aclose()
        await log.aclose()

    async def test_a_closed_connection_takes_no_call(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            await log.aclose()
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
            assert len(await replayed(reader)) == 1
            assert await reader.base_url() is None

    async def test_all_connections_have_one_lineage(self) -> None:
        async with self.opened(2) as (log, reader):
            lineage = log.lineage
            assert reader.lineage.name == lineage.name
            assert reader.lineage.prefix(7, 1) == lineage.prefix(7, 1)
        async with self.opened() as (again,):
            assert again.lineage.prefix(7, 1) == lineage.prefix(7, 1)

    async def test_another_journal_has_another_lineage(self) -> None:
        async with self.opened() as (log,):
            other = await self.open_other()
            try:
                assert other.lineage.name != log.lineage.name
                assert other.lineage.prefix(7, 1) != log.lineage.prefix(7, 1)
            finally:
                await other.aclose()

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
            for one in (log, reader):
                assert await raised(ConfigError, one.bind("https://fourth"))
                await one.bind("https://third")
        async with self.opened() as (again,):
            assert await raised(ConfigError, again.bind("https://fourth"))
            assert await again.base_url() == "https://third"

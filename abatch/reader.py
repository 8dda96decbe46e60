"""JournalReader: read the jobs of a journal, its events and its results, whether a process drives it or not."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Self

import anyio

from abatch.engine import family
from abatch.engine.reading import read_results
from abatch.input.answered import retries_of, root_of
from abatch.input.origin import origin_of
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.making import make_if_missing
from abatch.journal.sqlite import SqliteLog
from abatch.journal.status import driver_status
from abatch.listing import list_jobs
from abatch.outbox import Outbox
from abatch.prices import load as load_prices
from abatch.protocol import wire
from abatch.protocol.facts import Committing
from abatch.protocol.forecast import NOT_DRIVEN, Forecast, forecast
from abatch.result import Result
from abatch.snapshot import JobStatus, JournalStatus, ShardStatus, job_status, shard_status
from abatch.streams import events_since
from abatch.system import threads
from abatch.system.paths import folder_of

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from types import TracebackType

    from abatch.events import Event
    from abatch.input.origin import RequestOrigin
    from abatch.journal.log import FactLog, Recorded
    from abatch.journal.records import JobRecord
    from abatch.journal.status import DriverStatus
    from abatch.listing import JobList, JobOrder
    from abatch.result import Failure, Summary

__all__ = ["JournalReader"]

LOOK_EVERY: Final = 0.5
"""Seconds between two checks for facts of another process; such facts do not wake a reader."""


class JournalReader:
    """The part of `JournalView` that reads.

    Args:
        journal: the folder of the journal; it must exist.
        prices: your own price file.
        create: whether to make the journal if it does not exist.

    Raises:
        ConfigError: on entering: there is no journal.
        JournalCorrupt: on entering: this version cannot read the journal.

    """

    def __init__(
        self, journal: str | os.PathLike[str] = ".abatch", *, prices: str | None = None, create: bool = False
    ) -> None:
        self._folder = JournalFolder(folder_of(journal))
        self._create = create
        self._prices = load_prices(prices)
        self._facts: FactLog | None = None
        self._loaded: Ledger | None = None
        self._driver: DriverStatus | None = None

    def __repr__(self) -> str:
        """Show the folder, the number of jobs, and whether a process drives the journal."""
        if self._loaded is None:
            return f"<{type(self).__name__} of {self.folder}, {'not entered' if self._facts is None else 'left'}>"
        driven = "not driven" if self._driver is None else f"driven by process {self._driver.pid}"
        return f"<{type(self).__name__} of {self.folder}: {len(self._loaded.jobs):,} jobs, {driven}>"

    async def __aenter__(self) -> Self:
        if self._facts is not None:
            raise RuntimeError("a JournalView is entered once")
        if self._create:
            await make_if_missing(self._folder)
        self._facts = await SqliteLog.open(self._folder, drive=False)
        try:
            self._loaded = await Ledger.load(self._facts, self._folder)
            self._driver = await threads.run(driver_status, self._folder)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._facts.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded = None
        with anyio.CancelScope(shield=True):
            if self._facts is not None:
                await self._facts.aclose()

    @property
    def folder(self) -> Path:
        """The absolute path of the journal's folder."""
        return self._folder.path

    # ---- read -------------------------------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """The number of the last event that was read; `events(since=view.seq)` yields those that came after it."""
        return self._ledger.others_seq

    def jobs(self) -> list[JobStatus]:
        """Every job of the journal, in the order in which they were submitted, without its shards."""
        return [job_status(self._ledger, job, driver=self._driver) for job in self._ledger.jobs.values()]

    @property
    def driver(self) -> DriverStatus | None:
        """The status of the process that drives the journal, as it was read last; None if no process drives it."""
        return self._driver

    @property
    def job_count(self) -> int:
        """The number of all jobs."""
        return len(self._ledger.jobs)

    def unfinished(self) -> list[JobStatus]:
        """The jobs that are not done, in the order in which they were submitted, without their shards."""
        jobs = [job for job in self._ledger.jobs.values() if job.finished is None]
        return [job_status(self._ledger, job, driver=self._driver) for job in jobs]

    def list_jobs(
        self,
        *,
        state: str | None = None,
        text: str = "",
        order: JobOrder = "submitted",
        after: str | None = None,
        limit: int = 100,
    ) -> JobList:
        """Some jobs, the newest first: those in this state whose key contains the text, after this key.

        Raises:
            ConfigError: `after` is the key of no job of the list.

        """
        return list_jobs(self._ledger, self._driver, state=state, text=text, order=order, after=after, limit=limit)

    def job(self, key: str) -> JobStatus:
        """The job with this key, without its shards.

        Raises:
            JobNotFound: no job has this key.

        """
        return job_status(self._ledger, self._ledger.named(key), driver=self._driver)

    def open_shards(self, key: str | None = None) -> list[ShardStatus]:
        """The shards with something left to do, of one job or of all, in the order in which they were planned.

        Raises:
            JobNotFound: no job has this key.

        """
        jobs = self._ledger.jobs.values() if key is None else [self._ledger.named(key)]
        return [shard_status(self._ledger, job, each, {}) for job in jobs for each in job.open_shards.values()]

    def family(self, key: str) -> list[JobStatus]:
        """The job with this key, or the one that it retries, followed by all its retries in order.

        Raises:
            JobNotFound: no job has this key.

        """
        return [job_status(self._ledger, job, driver=self._driver) for job in self._family(key)]

    def summary(self, key: str) -> Summary:
        """The summary of a job so far; final once it is done.

        Raises:
            JobNotFound: no job has this key.

        """
        return self._ledger.named(key).summary(self._prices)

    def forecast(self, key: str) -> Forecast:
        """Estimate how long a job may still take; unknown while no process drives the journal.

        Raises:
            JobNotFound: no job has this key.

        """
        job = self._ledger.named(key)
        if job.finished is None and self._driver is None:
            return Forecast(why=NOT_DRIVEN)
        unread = () if self._driver is None else self._driver.unread
        return forecast(job, job.progress(), self._ledger.durations, time.time(), unread=unread)

    async def failures(self, key: str) -> tuple[Failure, ...]:
        """Why requests of a job did not succeed so far: up to twenty groups and a rest; the largest first.

        Raises:
            JobNotFound: no job has this key.
            JournalCorrupt: a fact cannot be read.

        """
        return await self._ledger.failures(await self._found(key))

    async def refresh(self) -> bool:
        """Read the facts that other processes appended; return whether there were any.

        Raises:
            JournalCorrupt: a fact cannot be read.

        """
        self._driver = await threads.run(driver_status, self._folder)
        return await self._ledger.refresh()

    async def status(self, key: str | None = None, *, shards: bool = False) -> JournalStatus:
        """The states of the jobs now, and the status of the process that drives the journal.

        Args:
            key: only this job.
            shards: whether every shard is included; that reads the whole journal.

        Raises:
            JobNotFound: there is no job of this key.
            JournalCorrupt: a fact cannot be read.

        """
        ledger = self._ledger
        await self.refresh()  # reads the driver's status first: if there is no driver, the facts read now are final
        attempts = await self._last_attempts() if shards else None
        jobs = list(ledger.jobs.values()) if key is None else [self._ledger.named(key)]
        if shards:
            jobs = [await ledger.in_full(job) for job in jobs]
        return JournalStatus(
            folder=self.folder,
            jobs=tuple(job_status(ledger, job, driver=self._driver, attempts=attempts) for job in jobs),
            driver=self._driver,
            at=time.time(),
        )

    async def follow(self, key: str | None = None, *, shards: bool = False) -> AsyncGenerator[JournalStatus]:
        """Yield `status` now, and after every change, until all jobs are done or no process drives the journal.

        Args:
            key: only this job.
            shards: as for `status`.

        Raises:
            JobNotFound: there is no job of this key.
            JournalCorrupt: a fact cannot be read.

        """
        last = await self.status(key, shards=shards)
        yield last
        while last.driver is not None and not last.done:
            while not await self.refresh() and self._driver == last.driver:  # noqa: ASYNC110
                await anyio.sleep(LOOK_EVERY)  # facts of another process wake no task of this one
            last = await self.status(key, shards=shards)
            yield last

    async def events(self, since: int = 0) -> AsyncGenerator[Event]:
        """Yield every event of the journal after this number, up to now, in the form of `BatchManager.events`.

        Raises:
            JournalCorrupt: a fact cannot be read.

        """
        async with aclosing(events_since(self._ledger, self.refresh, since)) as events:
            async for event in events:
                yield event

    @property
    def outbox(self) -> Outbox:
        """The messages about events that receivers get, or got; any number of these may be used."""
        return Outbox(self._ledger.facts, self.events, self.refresh)

    # ---- results ----------------------------------------------------------------------------------------------

    def lines(self, key: str, *, retries: bool = False, failed: bool = False) -> AsyncGenerator[bytes]:
        """Yield every sealed result line of a job, as the API wrote it, with the caller's custom_id.

        If the job is finished meanwhile, its lines move; they are then read from their new place. Close the
        generator (`contextlib.aclosing`) if you do not read it to the end.

        Args:
            key: the job.
            retries: also read its retries, and yield one line per request, of the last job that counts for it.
            failed: only lines of requests that did not succeed.

        Raises:
            JobNotFound: raised at once: no job has this key.
            BackendError: the destination is not what it was, or was an object of the application that ran the job.

        """
        if not retries:
            lines = read_results(self._ledger, self._ledger.named(key))
        else:
            job, *others = self._family(key)
            lines = family.merged(self._ledger, job, others)
        return _failed(lines) if failed else lines

    async def results(self, key: str, *, retries: bool = False, failed: bool = False) -> AsyncGenerator[Result]:
        """Yield every sealed result of a job: `lines` as `Result`, with the same arguments and errors."""
        async with aclosing(self.lines(key, retries=retries, failed=failed)) as lines:
            async for raw in lines:
                yield Result(raw)

    async def unanswered(self, key: str) -> int:
        """Count the requests that have no line in the job or in one of its retries.

        Raises:
            JobNotFound: there is no such job.
            BackendError: results of a retry cannot be read.

        """
        await self._found(key)
        job, *others = self._family(key)
        return await family.unanswered(self._ledger, job, others)

    async def identify(self, wire_id: str) -> RequestOrigin:
        """Find the request of a custom_id on the wire, as the Console shows it.

        Raises:
            ConfigError: the id is not one of abatch, or belongs to another journal.

        """
        return await origin_of(self._ledger, wire_id)

    # ---- internals --------------------------------------------------------------------------------------------

    @property
    def _ledger(self) -> Ledger:
        if self._loaded is None:
            raise RuntimeError("use a JournalView inside `async with JournalView(...) as view:`")
        return self._loaded

    async def _found(self, key: str) -> JobRecord:
        """The job with this key; the journal is read again if the view does not know it yet."""
        if self._ledger.job(key) is None:
            await self.refresh()
        return self._ledger.named(key)

    def _family(self, key: str) -> list[JobRecord]:
        job = root_of(self._ledger, self._ledger.named(key))
        return [job, *retries_of(self._ledger, job)]

    async def _last_attempts(self) -> dict[int, int]:
        """Find the last attempt of every shard; the state of a done shard does not contain it."""
        attempts: dict[int, int] = {}

        def visit(recorded: Recorded) -> None:
            if isinstance(recorded.fact, Committing) and recorded.shard is not None:
                attempts[recorded.shard] = recorded.fact.attempt

        await self._ledger.facts.replay(visit)
        return attempts


async def _failed(lines: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the lines of requests that did not succeed."""
    async with aclosing(lines):
        async for raw in lines:
            seen = wire.read_line(raw)
            if seen is None or seen.outcome != "succeeded":
                yield raw

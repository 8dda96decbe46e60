"""JournalView: read a journal while another process drives it, and record requests to that process."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, Self

import anyio

from abatch.backend import normalize
from abatch.config import Config
from abatch.engine import family
from abatch.engine.move_undriven import move_undriven
from abatch.engine.queueing import enqueue, key_of
from abatch.engine.reading import read_results
from abatch.engine.retry import RetryKind, choose
from abatch.errors import ConfigError
from abatch.input.answered import retries_of, root_of
from abatch.input.origin import origin_of
from abatch.input.repeats import same_requests
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.making import make_if_missing
from abatch.journal.sqlite import SqliteLog
from abatch.journal.status import driver_status
from abatch.journal.wishes import wish_cancel, wish_lost, wish_resolved
from abatch.open_job import Inbox
from abatch.outbox import Outbox
from abatch.prices import load as load_prices
from abatch.protocol import wire
from abatch.protocol.facts import Committing, OpenSource
from abatch.protocol.forecast import NOT_DRIVEN, Forecast, forecast
from abatch.result import Result
from abatch.snapshot import JobStatus, JournalStatus, Resolution, ShardStatus, job_status, resolution_of, shard_status
from abatch.streams import events_since
from abatch.system import threads
from abatch.system.paths import absolute_url, folder_of

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Collection, Sequence
    from pathlib import Path
    from types import TracebackType

    from abatch.engine.move_undriven import Relocation
    from abatch.engine.retry import Retry
    from abatch.events import Event
    from abatch.input.check import Preview
    from abatch.input.origin import RequestOrigin
    from abatch.input.request import RequestSource
    from abatch.journal.log import FactLog, Recorded
    from abatch.journal.records import JobRecord
    from abatch.journal.status import DriverStatus
    from abatch.result import Failure, Summary

__all__ = ["JournalView", "RetryKind"]

LOOK_EVERY: Final = 0.5
"""Seconds between two checks for facts of another process; such facts do not wake a reader."""


class JournalView:
    """Read and steer the jobs of a journal without driving them, whether another process drives them or not.

        async with JournalView(".abatch") as view:
            for job in view.jobs():
                print(job.key, job.state, job.progress.sealed)

    It needs no API key, takes no lock and imports no SDK. It shows the journal at the time when it was entered, or
    of the last `refresh`, `status` or own change. `cancel` and `resolve` record a request: a process that drives the
    journal acts on it within a second, otherwise the next one does. `submit` records a job for it.

    Args:
        journal: the folder of the journal; it must exist.
        prices: your own price file.
        create: whether to make the journal if it does not exist, for `submit`.

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
        self._inboxes: dict[str, Inbox] = {}

    def __repr__(self) -> str:
        """Show the folder, the number of jobs, and whether a process drives the journal."""
        if self._loaded is None:
            return f"<JournalView of {self.folder}, {'not entered' if self._facts is None else 'left'}>"
        driven = "not driven" if self._driver is None else f"driven by process {self._driver.pid}"
        return f"<JournalView of {self.folder}: {len(self._loaded.jobs):,} jobs, {driven}>"

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
            for inbox in self._inboxes.values():
                await inbox.aclose()
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

    # ---- submit -----------------------------------------------------------------------------------------------

    async def submit(
        self,
        requests: RequestSource,
        *,
        to: str | os.PathLike[str],
        key: str | None = None,
        betas: Sequence[str] = (),
        user_profile_id: str | None = None,
        workspace_id: str | None = None,
        tries: int = 3,
        limit: int | None = None,
        pilot: int = 0,
        preview: Preview | None = None,
        skip_answered: str | None = None,
        config: Config | None = None,
    ) -> JobStatus:
        """Submit a job, or submit it again, to the process that drives the journal; without one, to the next.

        The input is checked here, as `BatchManager.submit` checks it; the other arguments and errors are the same. When
        this returns, the job is durable, and this process is no longer needed. The requests of an iterable are read
        to the end, and kept in a file of the journal until 29 days later.

        The driver begins the job within a second if its `DriverStatus.takes_jobs` is True. It stops the job, with the
        reason, if the key or base URL in its environment differs from the one here (if there is one here), or if
        `config` has another `grace` or `unresolved`.

        Args:
            requests: as for `BatchManager.submit`.
            to: the destination's URL or path.
            key: the job's name; for a path it may be left out.
            betas: values of `anthropic-beta` for every request.
            user_profile_id: `anthropic-user-profile-id` for every request.
            workspace_id: `anthropic-workspace-id` for every call.
            tries: how often a request is sent at most.
            limit: send only this many requests, the first ones.
            pilot: send this many requests, the first ones, alone.
            preview: sees the requests that are about to be sent, and may raise before anything is recorded.
            skip_answered: the key of a finished job, whose answered requests are not sent.
            config: settings of this job: how batches are cut, `params`, `refusals`, `parked`, `failing` and
                `storage_patience`. What is left at its default is the driver's choice.

        Raises:
            BadRequest: the requests cannot be sent; nothing was recorded.
            ConfigError: an argument cannot work, or there is no request.
            JobConflict: the key names a job with other content or another destination; nothing was changed.
            BackendError: the destination is another job's, or exists and is not ours.

        """
        await self.refresh()
        job = await enqueue(
            self._ledger,
            requests,
            config=config or Config(),
            driven=self._driver is not None,
            to=to,
            key=key,
            betas=betas,
            user_profile_id=user_profile_id,
            workspace_id=workspace_id,
            tries=tries,
            limit=limit,
            pilot=pilot,
            preview=preview,
            skip_answered=skip_answered,
        )
        await self.refresh()
        return self.job(job.key)

    def key_of(
        self, requests: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, to: str | os.PathLike[str]
    ) -> str:
        """Return the key that `submit` gives to files and a destination if it is called without one."""
        return key_of(self._ledger, requests, to)

    async def same_requests(
        self,
        requests: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        betas: Sequence[str] = (),
        skip_answered: str | None = None,
    ) -> list[JobStatus]:
        """The jobs of this journal that hold requests of these files: see `BatchManager.same_requests`.

        Raises:
            ConfigError: a file cannot be read, or `skip_answered` cannot work.

        """
        await self.refresh()
        jobs = await same_requests(self._ledger, requests, betas=betas, skip_answered=skip_answered)
        return [job_status(self._ledger, job, driver=self._driver) for job in jobs]

    # ---- open jobs --------------------------------------------------------------------------------------------

    async def open_job(self, key: str, *, config: Config | None = None) -> Inbox:
        """The inbox of an open job, to put requests and to wait for single results: see `Inbox`.

        Args:
            key: the open job, which a manager has begun.
            config: the limits of a request and of the inbox; those of the process that drives the journal.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is not an open job.

        """
        job = await self._found(key)
        if not isinstance(job.submitted.source, OpenSource):
            raise ConfigError(f"job {key!r} is not an open job; `BatchManager.open_job` begins one")
        url = absolute_url(job.folder, job.to) if job.to else None
        inbox = self._inboxes[key] = self._inboxes.get(key) or Inbox(self._ledger, job, config or Config(), url=url)
        return inbox

    # ---- steer ------------------------------------------------------------------------------------------------

    async def cancel(self, key: str) -> JobStatus:
        """Request that a job is cancelled, as `Job.cancel` does; durable at once.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is done.

        """
        job = await self._found(key)
        await wish_cancel(self._ledger, job)
        return self.job(key)

    async def resolve(
        self,
        shard: int,
        *,
        adopt: str | None = None,
        not_created: bool = False,
        lost: bool = False,
        any_key: bool = False,
    ) -> Resolution:
        """Record a decision about a shard that is in doubt or held, or whose batch is gone; durable at once.

        The process that drives the journal checks the decision with the API, and refuses one that the API contradicts.
        But if you use `not_created` for a batch that exists, its requests are paid for twice.

        Args:
            shard: the shard's number.
            adopt: the id of the shard's batch.
            not_created: no batch was created; the shard is sent again.
            lost: its results are given up: its requests are listed as missing, and nothing is sent again.
            any_key: with `lost`: also if the API key is not known to see the batch.

        Raises:
            ConfigError: there is no such shard, its state does not allow this, or the arguments do not go together.

        """
        if [adopt is not None, not_created, lost].count(True) != 1:
            raise ConfigError("give one of adopt, not_created, lost")
        if any_key and not lost:
            raise ConfigError("any_key goes with lost only")
        if lost:
            return resolution_of(*await wish_lost(self._ledger, shard, any_key=any_key))
        return resolution_of(*await wish_resolved(self._ledger, shard, adopt))

    async def retry(
        self,
        key: str,
        *,
        kinds: Collection[RetryKind] = (),
        final: bool = False,
        stop_reasons: Collection[str] = (),
        max_tokens: int | None = None,
        to: str | None = None,
    ) -> Retry:
        """Choose the requests of a finished job to send again, as a separate job; nothing is sent.

        Requests that an earlier retry has answered are left out. `BatchManager.submit` sends the others: see `Retry`.

        Args:
            key: the finished job.
            kinds: which requests; all that did not succeed, if neither this nor `stop_reasons` is given.
            final: with `failed`: also requests that cannot succeed unchanged, such as bad requests.
            stop_reasons: answers that stopped for one of these reasons.
            max_tokens: only for the stop reason `max_tokens`: how long the answers may be now.
            to: the destination; next to the original's results if it is not given.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is not finished, its files changed, or the arguments cannot be combined.
            BackendError: its results cannot be read.

        """
        return await choose(
            self._ledger,
            await self._found(key),
            kinds=kinds,
            final=final,
            stop_reasons=stop_reasons,
            max_tokens=max_tokens,
            to=to,
        )

    async def move(self, key: str, *, to: str | os.PathLike[str]) -> Relocation:
        """Move an unfinished job to another destination, as `BatchManager.move` does, while no process drives it.

        Sealed parts are copied, nothing is sent, and the old destination keeps its copy. The API key is needed only
        if a part cannot be read at the old destination.

        Args:
            key: the job.
            to: the destination's URL or path.

        Raises:
            JournalLocked: a process drives the journal.
            JobNotFound: there is no such job.
            ConfigError: the job is done, or the new destination cannot work.
            BackendError, JobStopped, ApiError: as `BatchManager.move`.

        """
        url = normalize(str(to))
        await self._found(key)
        facts = await SqliteLog.open(self._folder, drive=True)  # no other process may drive the journal during the move
        try:
            moved = await move_undriven(facts, self._folder, key, url)
        finally:
            with anyio.CancelScope(shield=True):
                await facts.aclose()
        await self.refresh()
        return moved

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

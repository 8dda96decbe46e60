"""Run one job in a manager: plan its input, drive its shards, finish its destination.

A run ends when this process can do nothing more: the job is finished or stopped, or it waits for an operator or for its
requests. The run can be started again when one of these conditions changes.

    Running   `begin` was called: one round follows another, until no further round is requested
    Over      no run has begun in this process, or the last one ended; `begin` starts another

A round drives and plans at the same time. It ends when nothing is left to do for now, or when the run is paused.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import anyio

from abatch.engine.context import JobContext, backend_unknown
from abatch.engine.destination import Destination
from abatch.engine.drain import Drainer
from abatch.engine.driver import Driver
from abatch.engine.inbox import JobInbox
from abatch.engine.lookup import ResultLookup
from abatch.engine.obstacles import obstacle_of
from abatch.engine.outage import Outage
from abatch.engine.planning import JobInput, JobPlanning
from abatch.engine.run_failed import run_failed
from abatch.errors import (
    BackendError,
    JobStopped,
    JournalError,
    LimitReached,
    ManagerClosed,
    Overtaken,
    StillInDoubt,
)
from abatch.input.located import lines_of
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.facts import Finished, OpenSource, Resumed, Stopped
from abatch.protocol.lifecycle import Held
from abatch.protocol.terms import OTHER_TERMS, obeyed, refusal
from abatch.system.groups import first_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from abatch.backend import JobRef
    from abatch.config import Config
    from abatch.engine.context import ManagerContext
    from abatch.engine.scope import Scope
    from abatch.input.located import Named
    from abatch.journal.records import JobRecord
    from abatch.journal.status import Obstacle, ResultsUnread, RunFailed

__all__ = ["JobRun"]


@dataclass(slots=True, eq=False)
class _Round:
    """One round; every task that it starts ends with it."""

    group: TaskGroup
    context: JobContext
    """The context of the drivers."""
    planning: JobPlanning
    driven: set[int]
    """Shards that have a driver."""


@dataclass(slots=True, eq=False)
class _Running:
    """The run has begun and is not over."""

    resumes: bool
    """Whether the job was submitted since it stopped, so that it resumes."""
    again: bool = True
    """Whether another round follows."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """The scope of the present round and of its preparation; a pause cancels it."""
    round: _Round | None = None
    """The present round; None between two rounds, and while the next one is prepared."""
    error: Exception | None = None
    """The error that ends the run early: of the storage, the caller's iterable, or a bad row."""

    def live_round(self) -> _Round | None:
        """Return the round if tasks can be started in it: in a cancelled group a new task may never run."""
        now = self.round
        if now is None or self.scope.cancel_called or now.group.cancel_scope.cancel_called:
            return None
        return now


@dataclass(frozen=True, slots=True)
class _Over:
    """No run has begun, or the last one ended."""

    error: Exception | None = None
    cut_off: bool = False
    """Whether the manager ended it."""


_State: TypeAlias = _Running | _Over


class _Pause:
    """A pause of a run."""

    def __init__(self) -> None:
        self.still = anyio.Event()
        """Set when the run has come to a halt."""
        self.over = anyio.Event()


class JobRun:
    """The run of one job.

    Args:
        manager: the context that all jobs share.
        job: the record of the job.
        url: the destination to connect to; None if the backend is an object of the caller's, maybe not known yet.

    """

    def __init__(self, manager: ManagerContext, job: JobRecord, *, url: str | None) -> None:
        self.job = job
        self.destination = Destination(manager.ledger, job, url)
        self.input = JobInput()
        self.inbox = JobInbox(manager.ledger, job, manager.config)
        self.lookup = ResultLookup(manager.ledger, job, self.destination)
        self.may_submit = False
        """Whether this process may plan and send requests of the job; drivers and planners read it here."""
        self._manager = manager
        self.outage = Outage(job.key, self._config)
        self.unread: dict[int, ResultsUnread] = {}
        """Per shard whose results could not be read completely: why, for the status."""
        self.finishing = anyio.Lock()
        """Held while the destination is finished, because its parts change meanwhile."""
        self._stopping = anyio.Lock()
        """Held while a stop is lifted or its lines are added, so that a lifted stop is not recorded again."""
        self._pause: _Pause | None = None
        self._state: _State = _Over()

    # ---- state ------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether no run of the job is in progress."""
        return not isinstance(self._state, _Running)

    @property
    def error(self) -> Exception | None:
        """The error that ended the run early, or is about to end it."""
        return self._state.error

    @property
    def failed(self) -> RunFailed | None:
        """Why the run is over and its job is not finished, if an error ended it."""
        if self.job.finished is not None or not isinstance(self._state, _Over) or self._state.error is None:
            return None
        return run_failed(self.job, self._state.error)

    @property
    def obstacle(self) -> Obstacle | None:
        """Why the job gets no further at the moment although it goes on; None if it does."""
        scope = self._manager.scopes.opened.get(self.job.submitted.headers.workspace_id)
        return None if scope is None else obstacle_of(self.job, scope)

    @property
    def submits(self) -> bool:
        """Whether the run is in progress, and plans and sends requests."""
        return self.may_submit and not self.is_over

    @property
    def spare(self) -> bool:
        """Whether this object can be made again: its job is finished, and its backend can be connected by URL."""
        return self.job.finished is not None and self.is_over and self.destination.url is not None

    @property
    def left(self) -> bool:
        """Whether the manager is being left or was left, so nothing waits for this job any more."""
        cut_off = isinstance(self._state, _Over) and self._state.cut_off
        return cut_off or self._manager.shutdown.wished

    @property
    def _config(self) -> Config:
        """The settings for this job."""
        return obeyed(self._manager.config, self.job.terms)

    @property
    def _live_round(self) -> _Round | None:
        return self._state.live_round() if isinstance(self._state, _Running) else None

    # ---- the run ----------------------------------------------------------------------------------------------

    def begin(self, *, may_submit: bool, resumes: bool = False) -> None:
        """Prepare a call of `run`; a job that stopped resumes only after it is submitted again."""
        self.may_submit = may_submit
        self._state = _Running(resumes=resumes)

    async def run(self) -> None:
        """Do everything that can be done now; `begin` must be called first.

        Raises:
            JournalError: the journal failed, so no job can continue.

        """
        running = self._state
        assert isinstance(running, _Running)
        cut_off = False
        async with self.destination.in_use():
            try:
                while running.again:
                    await self._hold()
                    running.again = False
                    running.error = None
                    with anyio.CancelScope() as running.scope:
                        await self._go_round(running)
            except anyio.get_cancelled_exc_class():  # A pause cancels only the round, so here the manager ends the run.
                cut_off = True
                raise
            except JournalError as failure:
                self._fail(failure)
                raise
            except Exception as failure:  # noqa: BLE001 - whatever a backend or the caller's iterable raises is the job's
                self._fail(failure)
            finally:
                self.outage = Outage(self.job.key, self._config)  # The next run has the full patience again.
                self.input.iterables.clear()  # Those that were not read are dropped, and their callers get the error.
                self._state = _Over(running.error, cut_off)
                if self._pause is not None:
                    self._pause.still.set()
                self.job.wake()

    async def _hold(self) -> None:
        """Wait while the run is paused."""
        while (pause := self._pause) is not None:
            pause.still.set()
            await pause.over.wait()

    @asynccontextmanager
    async def paused(self) -> AsyncGenerator[None, None]:
        """Pause the run during the block; a run that was in progress continues afterwards.

        Attempts past their commit point get their answer first. An iterable that is being read is dropped, and its
        caller has to submit it again.
        """
        pause = self._pause = _Pause()
        try:
            if isinstance(self._state, _Running):
                self._go_again()  # Another round follows the one that is cut off, even if the pause is given up.
                self._state.scope.cancel()
                await pause.still.wait()
            yield
        finally:
            self._pause = None
            pause.over.set()

    def _fail(self, failure: Exception) -> None:
        if isinstance(self._state, _Running) and self._state.error is None:
            self._state.error = failure
            log.error("job_failed", job=self.job.key, error=type(failure).__name__)

    def _go_again(self) -> None:
        if isinstance(self._state, _Running):
            self._state.again = True

    async def join(self) -> None:
        """Continue with an iterable that was submitted while the run was in progress."""
        self.may_submit = True
        running = self._state
        assert isinstance(running, _Running)
        running.resumes = True
        running.again = True  # If the present round ends meanwhile, another one follows.
        now = running.live_round()
        if now is None or self.job.finished is not None:
            return
        if now.context.drainer is None:
            now.context.drainer = await self._make_drainer(now.context.ref, now.context.scope)
        await self._resume(running, now.context.scope)
        await self._refuse_terms()
        if running.live_round() is now:
            self._drive_open_shards()
            now.planning.start(now.group)
            running.again = False
            running.error = None

    def look(self) -> None:
        """Examine the open shards again, for example because an operator has recorded a wish."""
        if self.error is not None and self.job.cancel_wished:
            self._go_again()  # The error ends this round; another one finishes the cancelled job.
        if self._live_round is not None:
            self._drive_open_shards()
        else:  # Between two rounds, or at the end of one, another round is needed.
            self._go_again()

    async def _resume(self, running: _Running, scope: Scope) -> None:
        """Resume a job that stopped, once per submission."""
        if not running.resumes:
            return
        scope.availability.start_over()
        stopped = self.job.stopped
        if stopped is not None and (not stopped.failing or self._config.failing == "go-on" or self.job.has_recovered):
            async with self._stopping:
                await self._manager.ledger.record(Entry(self.job.job, Resumed()))
        running.resumes = False  # A later round of this run must not lift a stop that was recorded since.

    async def _refuse_terms(self) -> None:
        """Stop a job that this process cannot send as the process that submitted it asked for."""
        manager, terms = self._manager, self.job.terms
        if terms is None or not self.may_submit or self.job.stopped is not None:
            return
        why = refusal(terms, manager.scopes.terms)
        if why:
            await manager.ledger.record(Entry(self.job.job, Stopped(reason=why, remedy=OTHER_TERMS)))
            log.error("job_stopped", job=self.job.key, reason=why)

    async def _go_round(self, running: _Running) -> None:
        context = await self._make_context()
        if self.job.finished is None:
            await self._resume(running, context.scope)
            await self._refuse_terms()
        driven = set[int]()
        planning = JobPlanning(context, self.input, driven=driven, cut_made=self._drive_open_shards, fail=self._fail)
        try:
            async with anyio.create_task_group() as group:
                running.round = _Round(group, context, planning, driven)
                self._drive_open_shards()
                planning.start(group)
        except BaseExceptionGroup as several:
            raise first_of(several) from several
        finally:
            running.round = None
        if running.error is None and self._is_complete():
            # The duplicates that it reports belong to the summary of the job.
            await context.scope.audit.first_looks()
            # Another process may have planned more.
            if await self._manager.ledger.refresh() or not self._is_complete():
                running.again = True
            else:
                await self._finish(self.job.cuts)

    async def _make_context(self) -> JobContext:
        scope = self._manager.scopes.of(self.job.submitted.headers.workspace_id)
        ref = self.destination.ref()
        return JobContext(
            manager=self._manager,
            job=self.job,
            ref=ref,
            scope=scope,
            drainer=await self._make_drainer(ref, scope) if self.job.finished is None else None,
            outage=self.outage,
            unread=self.unread,
            may_submit=self._may_submit,
            spawn=self._spawn,
            look_up=self._look_up,
        )

    def _may_submit(self) -> bool:
        return self.may_submit

    async def _make_drainer(self, ref: JobRef, scope: Scope) -> Drainer | None:
        """Make what drains the job's batches; None if this process does not have the job's backend."""
        manager, job = self._manager, self.job
        backend = await self.outage.survive(self.destination.backend)
        if backend is None:
            return None
        return Drainer(
            manager.client,
            manager.ledger.folder,
            manager.ledger.lineage,
            ref,
            backend,
            tries=job.submitted.tries,
            prices=manager.prices,
            may_retry=lambda: not job.cancel_wished,
            server_now=lambda: scope.date,
            one_block=manager.one_block,
        )

    def _drive_open_shards(self) -> None:
        for number in list(self.job.open_shards):
            self._spawn(number)

    def _spawn(self, number: int) -> None:
        now = self._live_round
        if now is not None and number not in now.driven:
            now.driven.add(number)
            now.group.start_soon(self._drive, now, number)

    async def _drive(self, now: _Round, number: int) -> None:
        try:
            if (shard := self.job.shards.get(number)) is not None:  # None: another process has just finished the job.
                await Driver(now.context, shard).run()
        except JobStopped as stop:
            if self.job.stopped is None:  # There is no Stopped fact: the backend object is missing in this process.
                self._fail(stop)
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - a backend may raise anything; it ends this job, no other
            self._fail(failure)
            now.group.cancel_scope.cancel()
        finally:
            now.driven.discard(number)
            self.job.wake()

    def _look_up(self, message: Named, stop: Stopped) -> None:
        if (now := self._live_round) is not None and message.requests:
            now.group.start_soon(self._add_lines, message, stop)

    async def _add_lines(self, message: Named, stop: Stopped) -> None:
        """Add to a stop the input lines of the requests that the API named, if the stop is still in force by then."""
        try:
            lines = await lines_of(self.job, {custom_id for _, custom_id in message.requests})
            async with self._stopping:
                if lines and self.job.stopped == stop:
                    told = Stopped(reason=message.told(lines), remedy=stop.remedy)
                    await self._manager.ledger.record(Entry(self.job.job, told))
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever the file raises is the job's; the stop is on record
            self._fail(failure)

    # ---- the end of the job -----------------------------------------------------------------------------------

    def _is_complete(self) -> bool:
        job = self.job
        # Every request of an open job gets a line, so that all are planned even if it is cancelled.
        planned = job.cut.last or (job.cancel_wished and not isinstance(job.submitted.source, OpenSource))
        return job.finished is None and planned and not job.open_shards

    async def _finish(self, cuts: int) -> None:
        async with self.finishing:
            if self._is_complete():
                await self._finish_now(cuts)
            elif self.job.finished is None:  # A part was found missing meanwhile.
                self._go_again()

    async def _finish_now(self, cuts: int) -> None:
        job, destination = self.job, self.destination
        backend = await self.outage.survive(destination.backend)
        if backend is None:
            return
        sealed = await destination.sealed()
        location = await self.outage.survive(lambda: backend.finish(destination.ref(), sealed))
        try:  # The position is that of the next cut, so that finishing and planning more fence each other.
            await self._manager.ledger.record(Entry(job.job, Finished(location=location), n=cuts))
        except Overtaken:
            self._go_again()
            return
        try:
            # The end is recorded, so the destination may now drop the proof that it belongs to the job.
            await destination.assemble(backend, sealed)
        except BackendError as failure:  # The results are complete, and the next reader repeats this step.
            log.warning("backend_not_tidied", job=job.key, why=failure.why)
        log.info("job_finished", job=job.key, location=location)

    async def what_is_wrong(self) -> BackendError | None:
        """Return why the destination cannot be finished or has changed; None if it is intact or the job incomplete."""
        if self.job.finished is None:
            if not self._is_complete():
                return None
            try:
                await self._finish_now(self.job.cuts)
            except BackendError as failure:
                return failure
        return await self.destination.check()

    def verdict(self) -> Exception | None:
        """Return why a run that is over did not finish the job; None if it did."""
        job = self.job
        if self.error is not None:
            return self.error
        if job.finished is not None:
            return None
        if job.stopped is not None:
            return JobStopped(job.key, job.stopped.reason, job.stopped.remedy, failing=job.stopped.failing)
        if self.left:
            return ManagerClosed(job.key)
        if job.cut.last and self.destination.is_unknown:
            return backend_unknown(job.key)
        held = [(s.shard, s.state.reason) for s in job.open_shards.values() if isinstance(s.state, Held)]
        if held:
            return StillInDoubt(job.key, held)
        if job.limit is not None and job.limit_reached and not job.open_shards:
            return LimitReached(job.key, job.limit)
        return JobStopped(
            job.key,
            "not all of its requests were submitted in this run",
            "Submit the job again to continue.",
        )

"""Run one job in a manager: plan its input, drive its shards, finish its destination.

A run ends when nothing is left that this process can do: the job is finished, or stopped, or waits for an operator
or for its requests. It can be started again, when one of these changes.

    Idle      nothing of the job has begun in this process
    Running   `begin` was called: one round after the other, until a round leaves nothing to look at again
    Over      the last run ended; `begin` starts another

A round drives and plans at the same time. It ends when nothing is left to do for now, or when the run is paused.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import anyio

from abatch.engine.context import JobContext, backend_unknown
from abatch.engine.destination import Destination
from abatch.engine.drain import Collector
from abatch.engine.driver import Driver
from abatch.engine.outage import Outage
from abatch.engine.planning import HandedOver, JobPlanning
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
from abatch.protocol.early import stands
from abatch.protocol.facts import Finished, Resumed, Stopped
from abatch.protocol.lifecycle import Held
from abatch.system.groups import first_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anyio.abc import TaskGroup

    from abatch.engine.context import ManagerContext
    from abatch.input.located import Named
    from abatch.journal.records import JobRecord

__all__ = ["JobRun"]


@dataclass(slots=True, eq=False)
class _Round:
    """One round: what is started in it ends with it."""

    scope: anyio.CancelScope
    context: JobContext | None
    """What the drivers share; None until it is made, and where the job is finished."""
    group: TaskGroup | None = None
    planning: JobPlanning | None = None
    driven: set[int] = field(default_factory=set[int])
    """Shards that have a driver."""

    def live_group(self) -> TaskGroup | None:
        """Where tasks can be started: one that is started in a cancelled group may never run at all."""
        return None if self.group is None or self.group.cancel_scope.cancel_called else self.group


@dataclass(frozen=True, slots=True)
class _Idle:
    """Nothing of the job has begun in this process."""


@dataclass(slots=True, eq=False)
class _Running:
    """The run has begun, and is not over."""

    handed_over: bool
    """Whether the job was handed over since it stopped, so that it goes on."""
    again: bool = True
    """Whether another round follows."""
    round: _Round | None = None
    """The present round; None between two."""
    error: Exception | None = None
    """Why the run ends early: the storage, the caller's iterable, a bad row."""
    ended: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True, slots=True)
class _Over:
    """The last run ended."""

    error: Exception | None
    cut_off: bool
    """Whether the manager ended it."""


_State: TypeAlias = _Idle | _Running | _Over


class _Pause:
    """A run that is held still."""

    def __init__(self) -> None:
        self.still = anyio.Event()
        """Nothing of the run goes on."""
        self.over = anyio.Event()


class JobRun:
    """One job, run.

    Args:
        manager: what it shares with the other jobs.
        job: its record.
        url: the destination to connect to; None where the caller gave the backend itself, or has not yet.

    """

    def __init__(self, manager: ManagerContext, job: JobRecord, *, url: str | None) -> None:
        self.job = job
        self.destination = Destination(manager.ledger, job, url)
        self.input_paths: tuple[Path, ...] = ()
        self.may_submit = False
        self.outage = Outage(job.key, manager.config)
        self.finishing = anyio.Lock()
        """Held while the destination is finished: parts come and go in it meanwhile."""
        self._manager = manager
        self._handed: deque[HandedOver] = deque()
        self._stopping = anyio.Lock()
        """Held while a stop is lifted, or gets its lines: one that was lifted does not come back."""
        self._pause: _Pause | None = None
        self._state: _State = _Idle()

    # ---- where it stands --------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing of the job goes on."""
        return not isinstance(self._state, _Running)

    async def ended(self) -> None:
        """Wait until nothing of the job goes on."""
        if isinstance(self._state, _Running):
            await self._state.ended.wait()

    @property
    def error(self) -> Exception | None:
        """Why the run ended early, or is about to."""
        match self._state:
            case _Running(error=error) | _Over(error=error):
                return error
            case _Idle():
                return None

    @property
    def submits(self) -> bool:
        """Whether it is under way, and plans and sends requests."""
        return self.may_submit and not self.is_over

    @property
    def spare(self) -> bool:
        """Whether all that it holds can be had again: its job is finished, and its backend found by URL."""
        return self.job.finished is not None and self.is_over and self.destination.url is not None

    @property
    def left(self) -> bool:
        """Whether the manager is being left, or was: nobody waits for this job any more."""
        cut_off = isinstance(self._state, _Over) and self._state.cut_off
        return cut_off or self._manager.shutdown.wished

    @property
    def _round(self) -> _Round | None:
        return self._state.round if isinstance(self._state, _Running) else None

    # ---- the run ----------------------------------------------------------------------------------------------

    def hand_over(self, requests: object) -> HandedOver:
        """Take a caller's iterable; this run reads it in its turn, or the one that begins at once."""
        handed = HandedOver(requests)
        self._handed.append(handed)
        return handed

    def begin(self, *, may_submit: bool, handed_over: bool = False) -> None:
        """Say that `run` comes next; a job that stopped goes on only once it is handed over again."""
        self.may_submit = may_submit
        self.destination.is_written = True
        self._state = _Running(handed_over=handed_over)

    async def run(self) -> None:
        """Do everything that can be done now; after `begin`.

        Raises:
            JournalError: nothing can go on.

        """
        running = self._state
        assert isinstance(running, _Running)
        cut_off = False
        try:
            while running.again:
                await self._hold()
                running.again = False
                running.error = None
                with anyio.CancelScope() as scope:
                    running.round = _Round(scope, None)
                    await self._go_round(running, running.round)
                running.round = None
                running.again = running.again or self._pause is not None
        except anyio.get_cancelled_exc_class():  # a pause cancels the round alone, and does not come here
            cut_off = True
            raise
        except JournalError as failure:
            self._fail(failure)
            raise
        except Exception as failure:  # noqa: BLE001 - whatever a backend or the caller's iterable raises is the job's
            self._fail(failure)
        finally:
            self.outage = Outage(self.job.key, self._manager.config)  # a run that begins again has all of its patience
            self._handed.clear()  # what was not read came to nothing, and its caller hears why
            self._state = _Over(running.error, cut_off)
            self.destination.is_written = False
            running.ended.set()
            if self._pause is not None:
                self._pause.still.set()
            self.job.wake()
            await self.destination.close_if_idle()

    async def _hold(self) -> None:
        """Stay here while the run is paused."""
        while (pause := self._pause) is not None:
            pause.still.set()
            await pause.over.wait()

    @asynccontextmanager
    async def paused(self) -> AsyncGenerator[None, None]:
        """Hold the run still for the length of the block; one that was under way goes on after it.

        Attempts past their commit point get their answer first. An iterable that is being read is given up: its
        caller hands it over again.
        """
        pause = self._pause = _Pause()
        try:
            if not self.is_over:
                if self._round is not None:
                    self._round.scope.cancel()
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
        """Go on with what was handed over while the run was under way."""
        self.may_submit = True
        running = self._state
        assert isinstance(running, _Running)
        running.handed_over = True
        running.again = True  # should it end meanwhile, it goes round once more
        now = running.round
        if now is None or now.context is None:
            return
        now.context.may_submit = True  # also where the round has just begun: it may read what was handed over
        if now.live_group() is None:
            return
        if now.context.collector is None:
            await self._equip(now.context)
        await self._resume(running, now.context)
        if (group := now.live_group()) is not None and now.planning is not None:
            self._drive_open_shards()
            now.planning.start(group)
            running.again = False
            running.error = None

    def look(self) -> None:
        """Look at the open shards again: somebody wished something."""
        if self._round is not None and self._round.live_group() is not None:
            self._drive_open_shards()
        else:  # between two rounds, or at the end of one: another follows
            self._go_again()

    async def _resume(self, running: _Running, context: JobContext) -> None:
        """Go on with a job that stopped, once for each time it is handed over."""
        if not running.handed_over:
            return
        context.scope.availability.start_over()
        stopped = self.job.stopped
        if stopped is not None and (not stopped.failing or self._goes_on_after_failures()):
            async with self._stopping:
                await self._manager.ledger.record(Entry(self.job.job, Resumed()))
        running.handed_over = False  # a run that goes round once more does not take up what has stopped since

    def _goes_on_after_failures(self) -> bool:
        """Whether a stop for failed results is lifted: by the config, or by what batches in flight brought since."""
        if self._manager.config.failing == "go-on":
            return True
        if not self.job.has_succeeded:
            return False
        done = self.job.progress()
        return not stands(self.job.submitted.pilot, succeeded=done.sealed - done.failed, failed=done.failed)

    async def _go_round(self, running: _Running, now: _Round) -> None:
        if self.job.finished is None:
            now.context = self._make_context()
            await self._equip(now.context)
            await self._resume(running, now.context)
        now.planning = JobPlanning(
            self._manager,
            self.job,
            now.context,
            handed=self._handed,
            input_paths=lambda: self.input_paths,
            is_driven=lambda: bool(now.driven),
            cut_made=self._drive_open_shards,
            fail=self._fail,
        )
        try:
            async with anyio.create_task_group() as group:
                now.group = group
                self._drive_open_shards()
                now.planning.start(group)
        except BaseExceptionGroup as several:
            raise first_of(several) from several
        finally:
            now.group = None
            now.planning = None  # the planner and the round refer to each other, and would outlive the run
        if running.error is None and self._is_complete():
            if now.context is not None:
                await now.context.scope.audit.first_looks()  # what it reports belongs to the job's summary
            if await self._manager.ledger.refresh() or not self._is_complete():  # another process may have planned more
                running.again = True
            else:
                await self._finish(self.job.cuts)

    def _make_context(self) -> JobContext:
        return JobContext(
            manager=self._manager,
            job=self.job,
            ref=self.destination.ref(),
            scope=self._manager.scopes.of(self.job.submitted.headers.workspace_id),
            collector=None,
            outage=self.outage,
            may_submit=self.may_submit,
            spawn=self._spawn,
            look_up=self._look_up,
        )

    async def _equip(self, context: JobContext) -> None:
        """Give the drivers the backend, if this process has it."""
        manager, job = self._manager, self.job
        scope = context.scope
        backend = await self.outage.survive(self.destination.backend)
        if backend is not None:
            context.collector = Collector(
                manager.client,
                manager.ledger.folder,
                manager.ledger.lineage,
                context.ref,
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
        now = self._round
        if now is not None and (group := now.live_group()) is not None and number not in now.driven:
            now.driven.add(number)
            group.start_soon(self._drive, now, number)

    async def _drive(self, now: _Round, number: int) -> None:
        assert now.context is not None
        try:
            if (shard := self.job.shards.get(number)) is not None:  # else another process has just finished the job
                await Driver(now.context, shard).run()
        except JobStopped as stop:
            if self.job.stopped is None:  # no Stopped fact: the backend object is missing in this process
                self._fail(stop)
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - a backend may raise anything; it ends this job, no other
            self._fail(failure)
            assert now.group is not None
            now.group.cancel_scope.cancel()
        finally:
            now.driven.discard(number)
            self.job.wake()

    def _look_up(self, message: Named, stop: Stopped) -> None:
        if self._round is not None and (group := self._round.live_group()) is not None and message.requests:
            group.start_soon(self._add_lines, message, stop)

    async def _add_lines(self, message: Named, stop: Stopped) -> None:
        """Add to a stop on which lines the requests stand that the API named, if it is still in force by then."""
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
        planned = job.cut.last or job.cancel_wished
        return job.finished is None and planned and not job.open_shards

    async def _finish(self, cuts: int) -> None:
        async with self.finishing:
            if self._is_complete():
                await self._finish_now(cuts)
            elif self.job.finished is None:  # a part was found to be gone meanwhile
                self._go_again()

    async def _finish_now(self, cuts: int) -> None:
        job, destination = self.job, self.destination
        backend = await self.outage.survive(destination.backend)
        if backend is None:
            return
        sealed = await destination.sealed()
        location = await self.outage.survive(lambda: backend.finish(destination.ref(), sealed))
        try:  # at the next cut's position: finishing and planning more fence each other
            await self._manager.ledger.record(Entry(job.job, Finished(location=location), n=cuts))
        except Overtaken:
            self._go_again()
            return
        try:
            await destination.assemble(backend, sealed)  # now that it is on record, what proved it ours may go
        except BackendError as failure:  # the results are complete; the next who reads them finishes this, too
            log.warning("backend_not_tidied", job=job.key, why=failure.why)
        log.info("job_finished", job=job.key, location=location)

    async def what_is_wrong(self) -> BackendError | None:
        """Why the destination of a job whose shards are all sealed cannot be finished, or is not what it was."""
        if self.job.finished is None:
            if not self._is_complete():
                return None
            try:
                await self._finish_now(self.job.cuts)
            except BackendError as failure:
                return failure
        return await self.destination.check()

    def verdict(self) -> Exception | None:
        """Why a run that is over did not finish the job; None if it did."""
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
            "not all of its requests were handed over in this run",
            "Hand the job over again to go on.",
        )

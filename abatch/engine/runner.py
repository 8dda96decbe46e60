"""Run one job in a manager: plan its input, drive its shards, finish its destination.

A run ends when nothing is left that this process can do: the job is finished, or stopped, or waits for an operator
or for its requests. It can be started again, when one of these changes.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio

from abatch import backend as backends
from abatch.engine.context import JobContext, backend_unknown
from abatch.engine.drain import Collector
from abatch.engine.driver import Driver
from abatch.engine.outage import Outage
from abatch.engine.sealing import sealed_of
from abatch.errors import (
    AbatchError,
    BackendError,
    JobConflict,
    JobStopped,
    JournalError,
    LimitReached,
    ManagerClosed,
    Overtaken,
    StillInDoubt,
)
from abatch.input.located import lines_of
from abatch.input.planner import Planner
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.early import judged, stands, stop_after_pilot
from abatch.protocol.facts import Finished, IterableSource, Resumed, Stopped
from abatch.protocol.lifecycle import Held, Ready
from abatch.system import threads
from abatch.system.paths import is_local

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.backend import Backend, JobRef, Sealed
    from abatch.engine.context import ManagerContext
    from abatch.input.located import Named
    from abatch.journal.records import JobRecord

__all__ = ["HandedOver", "JobRun"]


@dataclass(slots=True, eq=False)
class HandedOver:
    """A caller's iterable, handed over once; the first plans the job, later ones are compared with it."""

    requests: object
    error: Exception | None = None
    """What was wrong with it alone: the job goes on."""
    cut_short: Exception | None = None
    """What kept it from being planned to its end: told once the run is over."""


class _Pause:
    """A run that is held still."""

    def __init__(self) -> None:
        self.still = anyio.Event()
        """Nothing of the run goes on."""
        self.over = anyio.Event()


class JobRun:
    """One job, run.

    Args:
        shop: what it shares with the other jobs.
        job: its record.
        destination: the URL to connect to; None where the caller gave the backend itself, or has not yet.

    """

    def __init__(self, shop: ManagerContext, job: JobRecord, *, destination: str | None) -> None:
        self.job = job
        self.error: Exception | None = None
        """Why the run ended early: the storage, the caller's iterable, a bad row."""
        self._handed: deque[HandedOver] = deque()
        self.input_paths: tuple[Path, ...] = ()
        self.may_submit = False
        self.over = anyio.Event()
        self.over.set()
        self._shop = shop
        self._destination = destination
        self._backend: Backend | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._context: JobContext | None = None
        self._driven: set[int] = set()
        self.outage = Outage(job.key, shop.config)
        self._connecting = anyio.Lock()
        self._stopping = anyio.Lock()
        """Held while a stop is lifted, or gets its lines: one that was lifted does not come back."""
        self.finishing = anyio.Lock()
        """Held while the destination is finished: parts come and go in it meanwhile."""
        self._pause: _Pause | None = None
        self._round: anyio.CancelScope | None = None
        self._readers = 0
        self._assembled = False
        self._planning = self._plan_again = False
        self._again = self._handed_over = False
        self._cut_off = False
        """The manager ended the run."""

    # ---- the backend ------------------------------------------------------------------------------------------

    def ref(self) -> JobRef:
        """The job as backends know it."""
        ledger = self._shop.ledger
        return backends.JobRef(
            key=self.job.key,
            lineage=ledger.lineage.name,
            finished=self.job.finished is not None,
            missing=ledger.folder.missing_lists(self.job.missing_shards),
            listed=self.job.listed,
        )

    def use(self, backend: Backend) -> None:
        """Take the caller's own backend."""
        self._backend = backend

    async def backend(self) -> Backend | None:
        """The job's backend, connected; None if only the caller has it.

        Raises:
            BackendError: the destination cannot be used.

        """
        async with self._connecting:
            if self._backend is None and self._destination is not None:
                self._backend = await backends.connect(self._destination, self.ref())
            return self._backend

    async def _known_backend(self) -> Backend:
        backend = await self.backend()
        if backend is None:
            why = "its backend is an object of the application: hand the job over again with it"
            raise BackendError(self.job.key, why)
        return backend

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Backend, None]:
        """The backend, ready to read sealed shards.

        Raises:
            BackendError: the destination is not what it was, or only the caller has its backend.

        """
        self._readers += 1
        try:
            backend = await self._known_backend()
            if self.job.finished is not None and not self._assembled:
                await backend.finish(self.ref(), await self._sealed())
                self._assembled = True
            yield backend
        finally:
            self._readers -= 1
            await self._close_if_done()

    async def what_is_wrong(self) -> BackendError | None:
        """Why the destination of a job whose shards are all sealed cannot be finished, or is not what it was."""
        if self.job.finished is None:
            if not self._is_complete():
                return None
            try:
                await self._finish_now(self.job.cuts)
            except BackendError as failure:
                return failure
        self._assembled = False
        try:
            async with self.reading():
                return None
        except BackendError as failure:
            return failure

    @asynccontextmanager
    async def rewriting(self) -> AsyncGenerator[Backend, None]:
        """The backend, with the destination claimed as for a job that is not finished.

        Raises:
            BackendError: the destination is not free, or is being read, or only the caller has the backend.

        """
        if self.job.finished is not None and self._destination is not None:
            async with self._connecting:
                if self._readers:
                    raise BackendError(self.job.key, "its results are being read; try again once that is over")
                await self._close(self._backend)
                self._backend = None  # or a failure to connect leaves a closed one
                self._backend = await backends.connect(
                    self._destination, replace(self.ref(), finished=False, reopened=True)
                )
        self._readers += 1
        try:
            backend = await self._known_backend()
            yield backend
        finally:
            self._readers -= 1
            await self._close_if_done()

    async def _sealed(self) -> list[Sealed]:
        """What is sealed, in the order of parts."""
        full = await self._shop.ledger.in_full(self.job)
        records = [shard.sealed for shard in full.shards.values()]
        return [sealed_of(each) for each in sorted(filter(None, records), key=lambda each: each.part)]

    async def sealed_since(self, given: int) -> list[Sealed]:
        """What can be read, in the order of sealing, after the first `given`; a shard drained once more ends it."""
        if given >= self.job.sealed_count:
            return []
        full = await self._shop.ledger.in_full(self.job)
        found: list[Sealed] = []
        for number in full.sealed_order[given:]:
            if (record := full.shards[number].sealed) is None:
                break
            found.append(sealed_of(record))
        return found

    @property
    def spare(self) -> bool:
        """Whether all that it holds can be had again: its job is finished, and its backend found by URL."""
        return self.job.finished is not None and self.over.is_set() and self._destination is not None

    async def aclose(self) -> None:
        """Close the backend; what is sealed does not depend on it."""
        await self._close(self._backend)

    @property
    def connected(self) -> Backend | None:
        """The backend, if there is one at the moment."""
        return self._backend

    async def move_to(self, destination: str) -> None:
        """Use another destination from now on; while the run is paused."""
        closing, self._backend, self._context, self._assembled = self._backend, None, None, False
        self._destination = destination
        await self._close(closing)

    async def _close(self, backend: Backend | None) -> None:
        if backend is not None:
            try:
                await backend.aclose()
            except Exception as failure:  # noqa: BLE001 - a backend may raise anything; the others are closed, too
                log.warning("backend_not_closed", job=self.job.key, error=type(failure).__name__)

    async def tidy(self) -> None:
        """Do what a run that died just after the end of the job left undone on this machine."""
        if not is_local(self.job.to) or not await threads.run(Path(self.job.location).exists):
            return
        try:
            async with self.reading():
                pass
        except BackendError as failure:  # moved away, or not available: nothing of the job depends on it
            log.info("backend_not_tidied", job=self.job.key, why=failure.why)

    async def _close_if_done(self) -> None:
        """A finished job keeps nothing open; whoever reads its results connects again."""
        if self.job.finished is not None and self.over.is_set() and not self._readers and self._destination is not None:
            closing, self._backend, self._context, self._assembled = self._backend, None, None, False
            with anyio.CancelScope(shield=True):  # detached first: a concurrent reader opens its own connection
                await self._close(closing)

    # ---- the run ----------------------------------------------------------------------------------------------

    def hand_over(self, requests: object) -> HandedOver:
        """Take a caller's iterable; this run reads it in its turn, or the one that begins at once."""
        handed = HandedOver(requests)
        self._handed.append(handed)
        return handed

    def begin(self, *, may_submit: bool, handed_over: bool = False) -> None:
        """Say that `run` comes next; a job that stopped goes on only once it is handed over again."""
        self._handed_over = handed_over
        self.may_submit = may_submit
        self._again = True
        self.error = None
        self.over = anyio.Event()

    async def run(self) -> None:
        """Do everything that can be done now; after `begin`.

        Raises:
            JournalError: nothing can go on.

        """
        try:
            while self._again:
                await self._hold()
                self._again = False
                self.error = None
                with anyio.CancelScope() as self._round:
                    await self._run()
                self._again = self._again or self._pause is not None
        except anyio.get_cancelled_exc_class():  # a pause cancels the round alone, and does not come here
            self._cut_off = True
            raise
        except JournalError as failure:
            self._fail(failure)
            raise
        except Exception as failure:  # noqa: BLE001 - whatever a backend or the caller's iterable raises is the job's
            self._fail(failure)
        finally:
            self.outage = Outage(self.job.key, self._shop.config)  # a run that begins again has all of its patience
            self._handed.clear()  # what was not read came to nothing, and its caller hears why
            self.over.set()
            if self._pause is not None:
                self._pause.still.set()
            self.job.wake()
            await self._close_if_done()

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
            if not self.over.is_set():
                if self._round is not None:
                    self._round.cancel()
                await pause.still.wait()
            yield
        finally:
            self._pause = None
            pause.over.set()

    def _fail(self, failure: Exception) -> None:
        if self.error is None:
            self.error = failure
            log.error("job_failed", job=self.job.key, error=type(failure).__name__)

    @property
    def submits(self) -> bool:
        """Whether it is under way, and plans and sends requests."""
        return self.may_submit and not self.over.is_set()

    async def join(self) -> None:
        """Go on with what was handed over while the run was under way."""
        self.may_submit = self._handed_over = True
        self._again = True  # should it end meanwhile, it goes round once more
        if self._context is not None:  # also where the round has just begun: it may read what was handed over
            self._context.may_submit = True
        if self._live_group() is None or self._context is None:
            return
        if self._context.collector is None:
            await self._equip(self._context)
        await self._resume()
        if (group := self._live_group()) is not None:
            self._drive_open_shards()
            self._start_planning(group)
            self._again = False
            self.error = None

    def _live_group(self) -> anyio.abc.TaskGroup | None:
        """Where tasks can be started: one that is started in a cancelled group may never hear of it."""
        return None if self._group is None or self._group.cancel_scope.cancel_called else self._group

    def look(self) -> None:
        """Look at the open shards again: somebody wished something."""
        if self._live_group() is not None:
            self._drive_open_shards()
        else:  # the run is at its end, or at its beginning: it goes round once more
            self._again = True

    def _start_planning(self, group: anyio.abc.TaskGroup) -> None:
        """Start the planner, or have the one that runs go round again: two at once would plan the same rows twice."""
        self._plan_again = True
        if not self._planning:
            self._planning = True
            group.start_soon(self._plan)

    async def _resume(self) -> None:
        """Go on with a job that stopped, once for each time it is handed over."""
        if not self._handed_over:
            return
        if self._context is not None:
            self._context.scope.start_over()
        stopped = self.job.stopped
        if stopped is not None and (not stopped.failing or self._goes_on_after_failures()):
            async with self._stopping:
                await self._shop.ledger.record(Entry(self.job.job, Resumed()))
        self._handed_over = False  # a run that goes round once more does not take up what has stopped since

    def _goes_on_after_failures(self) -> bool:
        """Whether a stop for failed results is lifted: by the config, or by what batches in flight brought since."""
        if self._shop.config.failing == "go-on":
            return True
        if not self.job.has_succeeded:
            return False
        done = self.job.progress()
        return not stands(self.job.submitted.pilot, succeeded=done.sealed - done.failed, failed=done.failed)

    async def _run(self) -> None:
        if self.job.finished is None:
            await self._open_context()
            await self._resume()
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                self._drive_open_shards()
                self._start_planning(group)
        except BaseExceptionGroup as several:
            raise _first(several) from several
        finally:
            self._group = None
            self._planning = False
        if self.error is None and self._is_complete():
            if self._context is not None:
                await self._context.scope.audited()  # what it reports belongs to the job's summary
            if await self._shop.ledger.refresh() or not self._is_complete():  # another process may have planned more
                self._again = True
            else:
                await self._finish(self.job.cuts)

    async def _open_context(self) -> None:
        shop, job = self._shop, self.job
        workspace_id = job.submitted.headers.workspace_id
        self._context = JobContext(
            manager=shop,
            job=job,
            ref=self.ref(),
            scope=shop.scopes.of(workspace_id),
            collector=None,
            outage=self.outage,
            may_submit=self.may_submit,
            spawn=self._spawn,
            look_up=self._look_up,
        )
        await self._equip(self._context)

    async def _equip(self, context: JobContext) -> None:
        """Give the drivers the backend, if this process has it."""
        shop, job = self._shop, self.job
        backend = await self.outage.survive(self.backend)
        if backend is not None:
            context.collector = Collector(
                shop.client,
                shop.ledger.folder,
                shop.ledger.lineage,
                context.ref,
                backend,
                tries=job.submitted.tries,
                prices=shop.prices,
                may_retry=lambda: not job.cancel_wished,
                server_now=lambda: context.scope.date,
                one_block=shop.one_block,
            )

    def _spawn(self, number: int) -> None:
        group = self._live_group()
        if group is not None and number not in self._driven:
            self._driven.add(number)
            group.start_soon(self._drive, number)

    def _look_up(self, message: Named, stop: Stopped) -> None:
        group = self._live_group()
        if group is not None and message.requests:
            group.start_soon(self._add_lines, message, stop)

    async def _add_lines(self, message: Named, stop: Stopped) -> None:
        """Add to a stop on which lines the requests stand that the API named, if it is still in force by then."""
        try:
            lines = await lines_of(self.job, {custom_id for _, custom_id in message.requests})
            async with self._stopping:
                if lines and self.job.stopped == stop:
                    told = Stopped(reason=message.told(lines), remedy=stop.remedy)
                    await self._shop.ledger.record(Entry(self.job.job, told))
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever the file raises is the job's; the stop is on record
            self._fail(failure)

    async def _drive(self, number: int) -> None:
        assert self._context is not None
        try:
            if (shard := self.job.shards.get(number)) is not None:  # else another process has just finished the job
                await Driver(self._context, shard).run()
        except JobStopped as stop:
            if self.job.stopped is None:  # no Stopped fact: the backend object is missing in this process
                self._fail(stop)
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - a backend may raise anything; it ends this job, no other
            self._fail(failure)
            assert self._group is not None
            self._group.cancel_scope.cancel()
        finally:
            self._driven.discard(number)
            self.job.wake()

    async def _plan(self) -> None:
        shop, job = self._shop, self.job
        source, room, cut_made = job.submitted.source, self._room_for_shards, self._drive_open_shards
        try:
            while self._plan_again:
                self._plan_again = False
                planner = Planner(shop.ledger, job, shop.config, room=room, cut_made=cut_made)
                if not isinstance(source, IterableSource) and self.input_paths and not job.cancel_wished:
                    await planner.run_file(source, *self.input_paths)
                while self._handed:
                    await self._plan_or_compare(planner, self._handed.popleft())
        except JobStopped as stop:
            if job.stopped is None:
                await shop.ledger.record(Entry(job.job, Stopped(reason=stop.reason, remedy=stop.remedy)))
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - the caller's iterable may raise anything; what is sealed goes on
            self._fail(failure)
        finally:
            self._planning = False

    async def _plan_or_compare(self, planner: Planner, handed: HandedOver) -> None:
        """Read one iterable, as long as the job wants requests: it may be long in coming."""
        try:
            if self._context is None:
                await planner.run_iterable(handed.requests)
            else:
                await self._context.while_wanted(planner.run_iterable(handed.requests))
        except (JobStopped, JournalError):
            raise
        except Exception as failure:
            if not isinstance(failure, JobConflict) and not self.job.cut.last:
                handed.cut_short = failure
                raise
            handed.error = failure
            self.job.wake()

    async def _room_for_shards(self) -> bool:
        """Wait until few enough sealed shards wait to be sent; False if planning is not wanted (any more)."""
        job, context = self.job, self._context
        while context is not None and context.wants_more:
            if await self._pilot_holds():
                if not self._driven:  # what is left of the pilot waits for an operator
                    return False
                await job.change()
                continue
            waiting = sum(isinstance(shard.state, Ready) for shard in job.open_shards.values())
            if waiting < self._shop.config.sealed_unsent:
                return True
            await job.change()
        return False

    async def _pilot_holds(self) -> bool:
        """Whether requests after the pilot have to wait; ends the submitting if too many of the pilot failed.

        Only the pilot is planned by now, so that what the job came to is what the pilot came to. A request that is
        planned after it puts on record that the pilot has passed.
        """
        job, pilot = self.job, self.job.submitted.pilot
        source = job.submitted.source
        is_all = not isinstance(source, IterableSource) and source.rows <= pilot
        if not pilot or job.cut.rows != pilot or job.cut.last or is_all:
            return False
        done = job.progress()
        match judged(pilot, succeeded=done.sealed - done.failed, failed=done.failed):
            case "waits":
                return True
            case "failed" if self._shop.config.failing == "stop":
                stop = stop_after_pilot(job.key, pilot, done.failed, job.failures())
                await self._shop.ledger.record(Entry(job.job, stop))
                log.error("job_stopped", job=job.key, reason=stop.reason)
                return True
            case _:
                return False

    def _drive_open_shards(self) -> None:
        for number in list(self.job.open_shards):
            self._spawn(number)

    def _is_complete(self) -> bool:
        job = self.job
        planned = job.cut.last or job.cancel_wished
        return job.finished is None and planned and not job.open_shards

    async def _finish(self, cuts: int) -> None:
        async with self.finishing:
            if self._is_complete():
                await self._finish_now(cuts)
            else:  # a part was found to be gone meanwhile
                self._again = self.job.finished is None

    async def _finish_now(self, cuts: int) -> None:
        job, backend = self.job, await self.outage.survive(self.backend)
        if backend is None:
            return
        sealed = await self._sealed()
        location = await self.outage.survive(lambda: backend.finish(self.ref(), sealed))
        try:  # at the next cut's position: finishing and planning more fence each other
            await self._shop.ledger.record(Entry(job.job, Finished(location=location), n=cuts))
        except Overtaken:
            self._again = True
            return
        try:
            await backend.finish(self.ref(), sealed)  # now that it is on record, what proved it ours may go
            self._assembled = True
        except BackendError as failure:  # the results are complete; the next who reads them finishes this, too
            log.warning("backend_not_tidied", job=job.key, why=failure.why)
        log.info("job_finished", job=job.key, location=location)

    # ---- what it came to --------------------------------------------------------------------------------------

    @property
    def left(self) -> bool:
        """Whether the manager is being left, or was: nobody waits for this job any more."""
        return self._cut_off or self._shop.shutdown.wished

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
        if job.cut.last and self._backend is None and self._destination is None:
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


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error out of a group: the journal's before others."""
    leaves: list[BaseException] = []

    def walk(group: BaseExceptionGroup[BaseException]) -> None:
        for each in group.exceptions:
            if isinstance(each, BaseExceptionGroup):
                walk(cast("BaseExceptionGroup[BaseException]", each))
            else:
                leaves.append(each)

    walk(several)
    for kind in (JournalError, AbatchError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]

"""Plan the requests of one job during one round of its run, as fast as shards are sent and the pilot allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from abatch.errors import JobConflict, JobStopped, JournalError
from abatch.input.planner import Planner
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.early import judged, stop_after_pilot
from abatch.protocol.facts import IterableSource, Stopped
from abatch.protocol.lifecycle import Ready

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from abatch.engine.context import JobContext, ManagerContext
    from abatch.journal.records import JobRecord

__all__ = ["JobPlanning", "SubmittedIterable"]


@dataclass(slots=True, eq=False)
class SubmittedIterable:
    """An iterable that was submitted; the job is planned from the first one, and later ones are compared with it."""

    requests: object
    error: Exception | None = None
    """An error of this iterable alone, after which the job continues."""
    cut_short: Exception | None = None
    """The error that ended its planning early; it is raised once the run is over."""


class JobPlanning:
    """The planner of one round; at most one planner runs, because two would plan the same rows twice.

    Args:
        manager: the context that all jobs share.
        job: the job.
        context: the context of the job's drivers; None if the job is finished, so iterables are only compared.
        iterables: the iterables that were submitted; they are taken from the left.
        input_paths: returns the present paths of the input files.
        is_driven: returns whether any shard of the job has a driver.
        cut_made: called after each cut, so that new shards are driven.
        fail: called with the error that ended the planning early.

    """

    def __init__(
        self,
        manager: ManagerContext,
        job: JobRecord,
        context: JobContext | None,
        *,
        iterables: deque[SubmittedIterable],
        input_paths: Callable[[], tuple[Path, ...]],
        is_driven: Callable[[], bool],
        cut_made: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._manager = manager
        self._job = job
        self._context = context
        self._iterables = iterables
        self._input_paths = input_paths
        self._is_driven = is_driven
        self._cut_made = cut_made
        self._fail = fail
        self._runs = False
        self._again = False
        """Whether the running planner makes another pass."""

    def start(self, group: TaskGroup) -> None:
        """Start the planner, or let the running one make another pass."""
        self._again = True
        if not self._runs:
            self._runs = True
            group.start_soon(self._plan)

    async def _plan(self) -> None:
        ledger, job = self._manager.ledger, self._job
        source = job.submitted.source
        try:
            while self._again:
                self._again = False
                planner = Planner(
                    ledger, job, self._manager.config, room=self._room_for_shards, cut_made=self._cut_made
                )
                paths = self._input_paths()
                if not isinstance(source, IterableSource) and paths and not job.cancel_wished:
                    await planner.run_file(source, *paths)
                while self._iterables:
                    await self._plan_or_compare(planner, self._iterables.popleft())
        except JobStopped as stop:
            if job.stopped is None:
                await ledger.record(Entry(job.job, Stopped(reason=stop.reason, remedy=stop.remedy)))
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - the caller's iterable may raise anything; what is sealed goes on
            self._fail(failure)
        finally:
            self._runs = False

    async def _plan_or_compare(self, planner: Planner, iterable: SubmittedIterable) -> None:
        """Read one iterable as long as the job wants requests; its next request may take long to arrive."""
        try:
            if self._context is None:
                await planner.run_iterable(iterable.requests)
            else:
                await self._context.while_wanted(planner.run_iterable(iterable.requests))
        except (JobStopped, JournalError):
            raise
        except Exception as failure:
            if not isinstance(failure, JobConflict) and not self._job.cut.last:
                iterable.cut_short = failure
                raise
            iterable.error = failure
            self._job.wake()

    async def _room_for_shards(self) -> bool:
        """Wait until few enough sealed shards wait to be sent; return False if planning is not wanted, or no longer."""
        job, context = self._job, self._context
        while context is not None and context.wants_more:
            if await self._pilot_holds():
                if not self._is_driven():  # The rest of the pilot waits for an operator.
                    return False
                await job.change()
                continue
            waiting = sum(isinstance(shard.state, Ready) for shard in job.open_shards.values())
            if waiting < self._manager.config.sealed_unsent:
                return True
            await job.change()
        return False

    async def _pilot_holds(self) -> bool:
        """Return whether requests after the pilot have to wait; stop submitting if too many of the pilot failed.

        Only the pilot is planned so far, so the job's results are those of the pilot. A request that is planned after
        the pilot records that the pilot has passed.
        """
        job, pilot = self._job, self._job.submitted.pilot
        source = job.submitted.source
        is_all = not isinstance(source, IterableSource) and source.rows <= pilot
        if not pilot or job.cut.rows != pilot or job.cut.last or is_all:
            return False
        done = job.progress()
        match judged(pilot, succeeded=done.sealed - done.failed, failed=done.failed):
            case "waits":
                return True
            case "failed" if self._manager.config.failing == "stop":
                stop = stop_after_pilot(job.key, pilot, done.failed, job.failures())
                await self._manager.ledger.record(Entry(job.job, stop))
                log.error("job_stopped", job=job.key, reason=stop.reason)
                return True
            case _:
                return False

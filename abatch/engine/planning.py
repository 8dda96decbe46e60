"""Plan the requests of one job during one round of its run, as fast as shards are sent and the pilot allows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abatch.errors import JobConflict, JobStopped, JournalError
from abatch.input.planner import Planner
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.early import judged, stop_after_pilot
from abatch.protocol.facts import IterableSource, OpenSource, Stopped
from abatch.protocol.lifecycle import Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from anyio.abc import TaskGroup

    from abatch.engine.context import JobContext

__all__ = ["JobInput", "JobPlanning", "SubmittedIterable"]


@dataclass(slots=True, eq=False)
class SubmittedIterable:
    """An iterable that was submitted; the job is planned from the first one, and later ones are compared with it."""

    requests: object
    error: Exception | None = None
    """An error of this iterable alone, after which the job continues."""
    cut_short: Exception | None = None
    """The error that ended its planning early; it is raised once the run is over."""


@dataclass(slots=True, eq=False)
class JobInput:
    """The input of one job, as far as this process has it."""

    paths: tuple[Path, ...] = ()
    """The present paths of the input files."""
    iterables: deque[SubmittedIterable] = field(default_factory=deque["SubmittedIterable"])
    """The submitted iterables that are not read yet, in their order."""

    def add(self, requests: object) -> SubmittedIterable:
        """Queue an iterable; the run in progress reads it in its turn, or the run that begins now."""
        iterable = SubmittedIterable(requests)
        self.iterables.append(iterable)
        return iterable


class JobPlanning:
    """The planner of one round; at most one planner runs, because two would plan the same rows twice.

    Args:
        context: the context of the job's drivers.
        input_: the files and iterables of the job; iterables are taken from the left.
        driven: the shards of the job that have a driver; the set changes during the round.
        cut_made: called after each cut, so that new shards are driven.
        fail: called with the error that ended the planning early.

    """

    def __init__(
        self,
        context: JobContext,
        input_: JobInput,
        *,
        driven: Collection[int],
        cut_made: Callable[[], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._context = context
        self._manager = context.manager
        self._job = context.job
        self._input = input_
        self._driven = driven
        self._cut_made = cut_made
        self._fail = fail
        self._only_compares = context.job.finished is not None
        """Whether the job was finished when the round began, so that iterables are only compared with it."""
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
                    ledger, job, self._context.config, room=self._room_for_shards, cut_made=self._cut_made
                )
                paths = self._input.paths
                match source:
                    case OpenSource():
                        await self._plan_inbox(planner, source)
                    case IterableSource():
                        pass
                    case _ if paths and not job.cancel_wished:
                        await planner.run_file(source, *paths)
                    case _:
                        pass
                while self._input.iterables:
                    await self._plan_or_compare(planner, self._input.iterables.popleft())
        except JobStopped as stop:
            if job.stopped is None:
                await ledger.record(Entry(job.job, Stopped(reason=stop.reason, remedy=stop.remedy)))
        except JournalError:
            raise
        except Exception as failure:  # noqa: BLE001 - the caller's iterable may raise anything; what is sealed goes on
            self._fail(failure)
        finally:
            self._runs = False

    async def _plan_inbox(self, planner: Planner, source: OpenSource) -> None:
        """Plan an open job while it wants requests; plan the rest if it is cancelled, so that each gets its line."""
        job = self._job
        if not job.cancel_wished:
            await self._context.while_wanted(planner.run_inbox(source))
        if job.cancel_wished:
            await planner.run_inbox(source)

    async def _plan_or_compare(self, planner: Planner, iterable: SubmittedIterable) -> None:
        """Read one iterable as long as the job wants requests; its next request may take long to arrive."""
        try:
            if self._only_compares:
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
        while context.wants_more and not self._only_compares:
            if await self._pilot_holds():
                if not self._driven:  # The rest of the pilot waits for an operator.
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
        is_all = not isinstance(source, IterableSource | OpenSource) and source.rows <= pilot
        if not pilot or job.cut.rows != pilot or job.cut.last or is_all:
            return False
        done = job.progress()
        match judged(pilot, succeeded=done.sealed - done.failed, failed=done.failed):
            case "waits":
                return True
            case "failed" if self._context.config.failing == "stop":
                stop = stop_after_pilot(job.key, pilot, done.failed, job.failures())
                await self._manager.ledger.record(Entry(job.job, stop))
                log.error("job_stopped", job=job.key, reason=stop.reason)
                return True
            case _:
                return False

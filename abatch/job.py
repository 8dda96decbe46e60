"""The handle of a job: its progress, its results as they are sealed, its summary."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from abatch.errors import JobFailed, JobStopped, ManagerClosed
from abatch.input.answered import left_out_of
from abatch.journal.log import Entry
from abatch.journal.states import state_of_job
from abatch.protocol.facts import CancelWished, files_of
from abatch.protocol.forecast import forecast
from abatch.result import Result
from abatch.system.paths import absolute_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from abatch.engine.planning import SubmittedIterable
    from abatch.engine.runner import JobRun
    from abatch.engine.scope import Scope
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.journal.states import State, StateOfJob
    from abatch.journal.sums import Progress
    from abatch.prices import PriceList
    from abatch.protocol.forecast import Forecast
    from abatch.result import Failure, LeftOut, Summary

__all__ = ["Job"]


class Job:
    """One job of a manager; made by `submit` and `manager.job`."""

    def __init__(
        self,
        ledger: Ledger,
        run: JobRun,
        scope: Scope,
        prices: PriceList,
        *,
        look: Callable[[JobRecord], None],
        iterable: SubmittedIterable | None = None,
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._scope = scope
        self._prices = prices
        self._look = look
        self._iterable = iterable

    def __repr__(self) -> str:
        """Show the state of the job in a few numbers."""
        now = self.progress()
        # The iterable of a cancelled job may not have been read to its end, and the rest is not wanted any more.
        unknown = "" if self.done else " of an unknown number of"
        of = unknown if now.wanted is None else f" of {now.wanted:,}"
        failed = f", {now.failed:,} failed" if now.failed else ""
        return f"<Job {self.key!r} {self.state}: {now.sealed:,}{of} requests done{failed}>"

    @property
    def key(self) -> str:
        """The job's key."""
        return self._job.key

    @property
    def destination(self) -> str:
        """The URL of the job's destination, which `BatchManager.move` changes; empty for a backend object."""
        return absolute_url(self._job.folder, self._job.to) if self._job.to else ""

    @property
    def destinations(self) -> tuple[str, ...]:
        """Every destination that the job has had, in order; `submit` finds the job by each of them."""
        return tuple(absolute_url(self._job.folder, to) if to else "" for to in self._job.destinations)

    @property
    def left_out(self) -> LeftOut | None:
        """The requests that `skip_answered` left out of the job's files; None if it was not given."""
        return left_out_of(self._job.submitted.source)

    @property
    def input_bytes(self) -> int:
        """The size of the files that the job's requests come from; 0 for an iterable."""
        return sum(file.size for file in files_of(self._job.submitted.source))

    @property
    def done(self) -> bool:
        """Whether the job is finished: every planned request has its line in a complete destination."""
        return self._job.finished is not None

    @property
    def is_submitted(self) -> bool:
        """Whether this manager plans and sends the job's requests."""
        return self._run.submits

    @property
    def state(self) -> State:
        """The state of the job, in the words of `abatch status`.

        `planning`, `running`, `in doubt`, `held`, `stopped`, `cancelling` or `done`.
        """
        return self._state_now().state

    @property
    def reason(self) -> str:
        """Why the job is in this state; empty if there is no reason to report."""
        return self._state_now().reason

    @property
    def remedy(self) -> str:
        """What to do about it; empty if there is nothing to do."""
        return self._state_now().remedy

    @property
    def eta(self) -> datetime | None:
        """When the job will be done, in UTC; None if it is done or this is unknown: `forecast().why` is the reason."""
        seconds = self.forecast().seconds
        return None if seconds is None or self.done else datetime.now(UTC) + timedelta(seconds=seconds)

    @property
    def limit(self) -> int | None:
        """The most requests of the job that are sent, the first ones; None for all."""
        return self._job.limit

    @property
    def _job(self) -> JobRecord:
        return self._run.job

    def _state_now(self) -> StateOfJob:
        return state_of_job(self._job, self._run.failed, self._run.unread, self._run.obstacle)

    def progress(self) -> Progress:
        """The progress of the job, now."""
        return self._job.progress()

    def summary(self) -> Summary:
        """The summary of the job so far; final once it is done."""
        return self._job.summary(self._prices)

    def forecast(self, progress: Progress | None = None) -> Forecast:
        """Estimate how long the job may still take, from the duration of the last batches of this journal.

        Args:
            progress: the value that `progress()` just returned, if the caller has it, so that it is not made twice.

        """
        return forecast(
            self._job, progress or self.progress(), self._ledger.durations, time.time(), unread=self._run.unread
        )

    async def failures(self) -> tuple[Failure, ...]:
        """Why requests did not succeed so far: up to twenty groups by type and message, and a rest; the largest first.

        The journal keeps the groups, so this needs neither the destination nor the API. The groups do not contain
        results that were collected by an abatch without them.

        Raises:
            JournalCorrupt: a fact cannot be read.

        """
        return await self._ledger.failures(self._job)

    async def cancel(self) -> None:
        """Ask to cancel: durable at once, also across a restart.

        Nothing more is planned or sent. Doubts are settled first; batches proven ours are cancelled, results that they
        still return are kept, and every other planned request gets a `canceled` line. Then the job is done.
        """
        if not self._job.cancel_wished and not self.done:
            await self._ledger.record(Entry(self._job.job, CancelWished()))
            self._look(self._job)

    async def settled(self) -> None:
        """Wait until all results of sent requests are stored, or the run is over: see `submit(changed_input=True)`.

        With `resume="given"` no more requests of a job are sent until it is submitted again.

        Raises:
            ManagerClosed: the manager is left meanwhile; raised at once.

        """
        while self._job.unsettled and not self._run.is_over:
            self._raise_if_left()
            await self._job.change()

    async def wait(self, *, check: bool = False) -> Summary:
        """Wait until the job is done.

        Args:
            check: raise if not every request succeeded.

        Raises:
            JobFailed: only with `check`.
            LimitReached: the requests that its limit allows are done, and its other requests are held back.
            JobStopped: the job cannot continue until you act; raised after everything else is finished, or as soon as
                several polls of its batches in a row were refused.
            ManagerClosed: the manager is left meanwhile; raised at once.
            StillInDoubt: the remaining shards wait for an operator.
            BackendError: its storage failed.
            Exception: the caller's iterable raised it; raised after the shards that were full by then are done.

        """
        while not self._run.is_over:
            self._raise_if_refused()
            self._raise_if_left()
            await self._job.change()  # its facts, the end of its run and trouble of its scope wake it
        self._raise_if_unfinished()
        summary = self.summary()
        if check and not summary.ok:
            raise JobFailed(summary)
        return summary

    async def check_results(self) -> None:
        """Make sure that every part of a finished job's results is in its place with its size; none is read.

        Raises:
            BackendError: a part is not; `BatchManager.redrain` reads missing parts again.

        """
        if self.done and (wrong := await self._run.what_is_wrong()) is not None:
            raise wrong

    async def results(self) -> AsyncIterator[Result]:
        """Yield every result, shard by shard in the order they were sealed; follow a running job until it is finished.

        After a restart it begins again with the first result. About a mebibyte is held in memory at a time (4 MiB of
        S3), or a few longer lines.

        It raises the errors of `wait` after the last available result, and ManagerClosed at once.
        """
        given = 0
        while True:
            if given < self._job.sealed_count:
                self._raise_if_left()
                try:
                    if sealed := await self._run.destination.sealed_since(given):
                        # this reconnects a finished job, and checks all of its parts
                        async with self._run.destination.reading() as backend:
                            while sealed:
                                for each in sealed:
                                    given += 1
                                    async for raw in backend.read(each):
                                        yield Result(raw)
                                        self._raise_if_left()
                                sealed = await self._run.destination.sealed_since(given)
                except Exception:
                    self._raise_if_left()  # its backend or journal was closed meanwhile
                    raise
            if self._run.is_over:
                if await self._run.destination.sealed_since(given):
                    continue
                self._raise_if_unfinished()
                return
            self._raise_if_refused()
            self._raise_if_left()
            await self._job.change()

    def _raise_if_unfinished(self) -> None:
        """Raise the reason why a run that is over did not finish the job."""
        self._raise_if_refused()
        # A cancelled job needs no more of an iterable that failed.
        why = None if self._iterable is None or self._job.cancel_wished else self._iterable.cut_short
        if (why := why or self._run.verdict()) is not None:
            raise why

    def _raise_if_left(self) -> None:
        if self._run.left:
            raise ManagerClosed(self.key)

    def _raise_if_refused(self) -> None:
        if self._iterable is not None and self._iterable.error is not None:
            raise self._iterable.error
        if (refusal := self._scope.availability.polls.refusal) is not None:
            raise JobStopped(self.key, refusal.reason, refusal.remedy)

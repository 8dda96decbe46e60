"""Jobs that another process drives, seen through a journal, with the calls of `Job` that commands use."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

import anyio

from abatch import Forecast, Progress
from abatch.errors import JobStopped, LimitReached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from abatch import DriverStatus, Failure, JobStatus, JournalView, Summary
    from abatch.result import LeftOut

__all__ = ["WatchedJob", "WatchedJobs", "WatchedTogether", "waits_for"]

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the journal."""
COUNTS: Final = tuple(each.name for each in fields(Progress) if each.name not in ("total", "limit"))
"""The fields of a progress that are numbers of requests, batches or shards."""


class WatchedJob:
    """One job, as it was seen last; only while its view is entered.

    Args:
        view: the journal, which is entered.
        status: the job, as the view shows it.

    """

    def __init__(self, view: JournalView, status: JobStatus) -> None:
        self._view = view
        self.status = status
        self.driver: DriverStatus | None = None

    @property
    def key(self) -> str:
        """The job's key."""
        return self.status.key

    @property
    def done(self) -> bool:
        """Whether the job is finished."""
        return self.status.done

    @property
    def destination(self) -> str:
        """The URL of the job's destination."""
        return self.status.destination

    @property
    def left_out(self) -> LeftOut | None:
        """The requests that `--skip-answered` left out."""
        return self.status.left_out

    @property
    def input_bytes(self) -> int:
        """The size of its files."""
        return self.status.input_bytes

    def progress(self) -> Progress:
        """Return the progress that was seen last."""
        return self.status.progress

    def summary(self) -> Summary:
        """Return its summary by now."""
        return self._view.summary(self.key)

    def forecast(self, progress: Progress | None = None) -> Forecast:
        """Estimate how long the job may still take; while it waits for another process, the reason is given instead."""
        del progress  # that of the view is as new
        if self.driver is not None and not self.status.taken:
            return Forecast(why=waits_for(self.driver))
        return self._view.forecast(self.key)

    async def failures(self) -> tuple[Failure, ...]:
        """Return why requests did not succeed."""
        return await self._view.failures(self.key)

    async def look(self) -> None:
        """Look at the journal once."""
        await self._view.refresh()
        self.note()

    def note(self) -> None:
        """Take over what the view read last."""
        self.status = self._view.job(self.key)
        self.driver = self._view.driver

    def has_ended(self) -> bool:
        """Return whether the job is done; False while a process goes on with it.

        Raises:
            JobStopped: no process drives the journal; or the job cannot continue until an operator acts, and nothing
                of it is in flight.
            LimitReached: the requests that its limit allows are done.

        """
        if self.done:
            return True
        if self.driver is None:
            raise JobStopped(self.key, "no process drives this journal", "Start one; the job then continues.")
        if self.status.taken:
            self._raise_if_still(self.driver)
        return False

    async def wait(self) -> Summary:
        """Wait until the job is done, as `Job.wait` does.

        Raises:
            as `has_ended`.

        """
        await self.look()
        while not self.has_ended():
            await anyio.sleep(LOOK_EVERY)
            await self.look()
        return self.summary()

    def _raise_if_still(self, driver: DriverStatus) -> None:
        """Raise if nothing more happens to the job by itself."""
        now, progress = self.status, self.status.progress
        is_held_back = progress.total is None or (now.limit is not None and now.limit < progress.total)
        if now.limit is not None and not now.limit_open and is_held_back and progress.sealed >= now.limit:
            raise LimitReached(now.key, now.limit)
        moves = bool(progress.in_flight or progress.in_doubt)
        if now.state in ("stopped", "held") and (now.key in driver.failed or not moves):
            raise JobStopped(now.key, now.reason, now.remedy, failing=now.failing)


class WatchedTogether:
    """Several jobs of one journal that are followed as one.

    Args:
        view: the journal, which is entered.
        jobs: the jobs.
        ended: called once for each job that has ended, with the error that `WatchedJob.has_ended` raised, if any.

    """

    def __init__(
        self, view: JournalView, jobs: Sequence[WatchedJob], *, ended: Callable[[WatchedJob, JobStopped | None], None]
    ) -> None:
        self._view = view
        self._jobs = tuple(jobs)
        self._left = list(jobs)
        self._ended = ended

    def progress(self) -> Progress:
        """Return the sums over the jobs; all requests that their limits allow are the total."""
        each = [job.progress() for job in self._jobs]
        wanted = [progress.wanted for progress in each]
        return Progress(
            **{name: sum(getattr(progress, name) for progress in each) for name in COUNTS},
            total=None if None in wanted else sum(filter(None, wanted)),
        )

    def forecast(self, progress: Progress | None = None) -> Forecast:
        """Return the longest forecast of a job that has not ended, or one that gives a reason."""
        del progress
        forecasts = [job.forecast() for job in self._left] or [Forecast(seconds=0.0)]
        return max(forecasts, key=lambda each: float("inf") if each.seconds is None else each.seconds)

    async def wait(self) -> None:
        """Wait until each job is done, has reached its limit, or cannot continue."""
        while True:
            await self._view.refresh()
            for job in tuple(self._left):
                job.note()
                if self._is_over(job):
                    self._left.remove(job)
            if not self._left:
                return
            await anyio.sleep(LOOK_EVERY)

    def _is_over(self, job: WatchedJob) -> bool:
        try:
            if not job.has_ended():
                return False
        except JobStopped as why:  # also LimitReached
            self._ended(job, why)
        else:
            self._ended(job, None)
        return True


class WatchedJobs:
    """The jobs of a journal that another process drives, with the calls of `BatchManager` that commands use."""

    def __init__(self, view: JournalView) -> None:
        self._view = view

    def jobs(self) -> list[WatchedJob]:
        """Return every job of the journal."""
        return [WatchedJob(self._view, status) for status in self._view.jobs()]

    def job(self, key: str) -> WatchedJob:
        """Return the job with this key."""
        return WatchedJob(self._view, self._view.job(key))

    async def same_requests(
        self, requests: Sequence[Path], *, betas: Sequence[str] = (), skip_answered: str | None = None
    ) -> list[WatchedJob]:
        """Return the jobs that hold requests of these files, as `BatchManager.same_requests` does."""
        found = await self._view.same_requests(requests, betas=betas, skip_answered=skip_answered)
        return [WatchedJob(self._view, status) for status in found]


def waits_for(driver: DriverStatus) -> str:
    """Return why a job that was submitted is not taken."""
    if driver.takes_jobs:
        return f"process {driver.pid} has not taken the job yet"
    return f"process {driver.pid} takes no jobs of others; this one begins after it"

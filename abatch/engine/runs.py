"""Keep the runs of the jobs of one manager, and start them in its task group."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio

from abatch.engine.runner import JobRun
from abatch.errors import ManagerClosed
from abatch.system.paths import absolute_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from abatch.engine.context import ManagerContext
    from abatch.journal.records import JobRecord

__all__ = ["JobRuns"]


class JobRuns:
    """The run of each job; the run of a finished job is kept only as long as a handle of the job exists."""

    def __init__(self, context: ManagerContext) -> None:
        self._context = context
        self._group: TaskGroup | None = None
        """The group that holds the runs; None while no task can be started in it."""
        self._runs: dict[int, JobRun] = {}
        self._spare: WeakValueDictionary[int, JobRun] = WeakValueDictionary()
        """The runs of finished jobs."""

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[TaskGroup, None]:
        """Hold a task group open during the block, for the runs and for the other tasks of the manager."""
        try:
            async with anyio.create_task_group() as self._group:
                yield self._group
        finally:
            self._group = None

    def kept(self) -> list[JobRun]:
        """Return the runs of the jobs that are not finished, or whose run is in progress."""
        return list(self._runs.values())

    def of(self, job: JobRecord) -> JobRun:
        """Return the run of a job, and make it if it does not exist."""
        run = self._runs.get(job.job) or self._spare.get(job.job)
        if run is None:
            run = JobRun(self._context, job, url=absolute_url(job.folder, job.to) if job.to else None)
            run.input.paths = job.input_paths
            self._keep(run)
        return run

    def start(self, run: JobRun, *, may_submit: bool, resumes: bool = False) -> None:
        """Start a run that is over.

        Raises:
            ManagerClosed: the manager was left; a run that began now would never end, and a pause would wait for it.

        """
        if self._group is None:
            raise ManagerClosed(run.job.key)
        run.begin(may_submit=may_submit, resumes=resumes)
        self._keep(run)
        self._group.start_soon(self._run_to_its_end, run)

    async def go_on(self, run: JobRun) -> None:
        """Let a run plan and send, because its job was submitted."""
        self._context.scopes.of(run.job.submitted.headers.workspace_id).availability.start_over()
        if run.is_over:
            self.start(run, may_submit=True, resumes=True)
        else:
            await run.join()

    async def take(self, job: JobRecord) -> None:
        """Plan and send a job that another process submitted, or submitted again."""
        if job.finished is None:
            run = self.of(job)
            run.input.paths = job.input_paths
            await self.go_on(run)

    def look(self, job: JobRecord) -> None:
        """Make the run of a job examine its open shards."""
        run = self.of(job)
        if run.is_over:
            self.start(run, may_submit=run.may_submit)
        else:
            run.look()

    async def aclose(self) -> None:
        """Close every destination, after the task group was left."""
        for run in [*self._runs.values(), *self._spare.values()]:
            await run.destination.aclose()

    async def _run_to_its_end(self, run: JobRun) -> None:
        try:
            await run.run()
        finally:
            self._keep(run)

    def _keep(self, run: JobRun) -> None:
        number = run.job.job
        if run.spare:
            self._runs.pop(number, None)
            self._spare[number] = run
        else:
            self._runs[number] = run

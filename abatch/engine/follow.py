"""Follow other processes: heed their wishes, take the jobs that they submit, and report how this process stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.driver_status import StatusReport, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from abatch.engine.runs import JobRuns
    from abatch.engine.scopes import Scopes
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["follow_others"]

EVERY: Final = 0.5
"""Seconds between two looks at the facts of other processes."""


async def follow_others(
    ledger: Ledger, scopes: Scopes, runs: JobRuns, *, take: Callable[[JobRecord], Coroutine[Any, Any, None]] | None
) -> None:
    """Act on the facts that other processes appended, and report the status of this one, until cancelled.

    Args:
        ledger: the journal's jobs.
        scopes: the scopes of this process.
        runs: the runs of this process.
        take: sends a job that another process submitted; None if this process leaves such jobs to others.

    """
    report = StatusReport(ledger.folder)
    seen = ledger.others_seq
    async with anyio.create_task_group() as group:
        while True:
            await anyio.sleep(EVERY)
            await report.post(status_of(scopes, runs.kept(), takes_jobs=take is not None, seq=seen))
            await ledger.refresh()
            seen = ledger.others_seq  # Reported with the next status, when the jobs below have begun.
            for job in ledger.take_wished():
                if job.finished is None:
                    _heed(job, scopes, runs)
            for job in ledger.take_submitted():
                if take is not None:
                    group.start_soon(take, job)  # It may wait for a pause of the job, which must not delay the others.


def _heed(job: JobRecord, scopes: Scopes, runs: JobRuns) -> None:
    """Wake the drivers of the shards that an operator decided about, and make the run of the job examine them."""
    scope = scopes.of(job.submitted.headers.workspace_id)
    for number in job.wishes:
        scope.interrupt(number)
    runs.look(job)

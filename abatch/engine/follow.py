"""Follow other processes: heed the wishes that they record, and report to them how this process stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.driver_status import StatusReport, status_of

if TYPE_CHECKING:
    from abatch.engine.runs import JobRuns
    from abatch.engine.scopes import Scopes
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["follow_others"]

EVERY: Final = 0.5
"""Seconds between two looks at the facts of other processes."""


async def follow_others(ledger: Ledger, scopes: Scopes, runs: JobRuns) -> None:
    """Read the wishes that other processes appended, and report the status of this one, until cancelled."""
    report = StatusReport(ledger.folder)
    while True:
        await anyio.sleep(EVERY)
        await report.post(status_of(scopes, runs.kept()))
        await ledger.refresh()
        for job in ledger.take_wished():
            if job.finished is None:
                _heed(job, scopes, runs)


def _heed(job: JobRecord, scopes: Scopes, runs: JobRuns) -> None:
    """Wake the drivers of the shards that an operator decided about, and make the run of the job examine them."""
    scope = scopes.of(job.submitted.headers.workspace_id)
    for number in job.wishes:
        scope.interrupt(number)
    runs.look(job)

"""Choose jobs for a list: by state and text, in an order, a part at a time. Only jobs that are shown get a status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from abatch.errors import ConfigError
from abatch.snapshot import job_status

if TYPE_CHECKING:
    from abatch.journal.ledger import Ledger
    from abatch.journal.status import DriverStatus
    from abatch.snapshot import JobStatus

__all__ = ["JobList", "JobOrder", "list_jobs"]

JobOrder: TypeAlias = Literal["submitted", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobList:
    """A part of the jobs of a journal."""

    jobs: tuple[JobStatus, ...]
    has_more: bool
    """Whether more jobs follow the last one."""


def list_jobs(
    ledger: Ledger,
    driver: DriverStatus | None,
    *,
    state: str | None,
    text: str,
    order: JobOrder,
    after: str | None,
    limit: int,
) -> JobList:
    """Return jobs, the last submitted or changed first; see `JournalView.list_jobs`."""
    records = reversed(ledger.jobs.values())
    chosen = [
        job for job in records if text in job.key and (state is None or (job.finished is not None) == (state == "done"))
    ]
    if order == "changed":
        chosen.sort(key=lambda job: job.changed_at, reverse=True)
    if after is not None:
        place = next((number for number, job in enumerate(chosen) if job.key == after), None)
        if place is None:
            raise ConfigError(f"no job {after!r} to continue after")
        chosen = chosen[place + 1 :]
    found: list[JobStatus] = []
    for job in chosen:
        status = job_status(ledger, job, driver=driver)
        if state is not None and status.state != state:
            continue
        if len(found) == limit:
            return JobList(jobs=tuple(found), has_more=True)
        found.append(status)
    return JobList(jobs=tuple(found), has_more=False)

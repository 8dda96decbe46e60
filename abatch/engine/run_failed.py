"""Describe the error that ended the run of a job, as the reason and remedy of a job that is stopped. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from abatch.errors import AbatchError, BackendError, BadRequest, JobStopped
from abatch.journal.status import RunFailed
from abatch.protocol.facts import IterableSource

if TYPE_CHECKING:
    from abatch.journal.records import JobRecord

__all__ = ["run_failed"]

SUBMIT: Final = "Submit the job again."
SUBMIT_ALL: Final = "Submit the job again with the whole iterable."


def run_failed(job: JobRecord, error: Exception) -> RunFailed:
    """Describe the error that ended the run of this job."""
    is_iterable = isinstance(job.submitted.source, IterableSource)
    submit = SUBMIT_ALL if is_iterable and not job.cut.last else SUBMIT
    match error:
        case JobStopped(reason=reason, remedy=remedy):
            return RunFailed(reason=reason, remedy=remedy)
        case BackendError(why=why):
            return RunFailed(reason=why, remedy=f"Repair the destination. {submit} Or move it to another destination.")
        case BadRequest():
            return RunFailed(reason=f"{error.describe()}", remedy=f"Correct the request. {submit}")
        case AbatchError():
            return RunFailed(reason=str(error), remedy=submit)
        case _:  # Its text is not repeated, because it may hold a prompt.
            name = type(error).__name__
            reason = f"its iterable raised {name}" if submit == SUBMIT_ALL else f"its run ended with {name}"
            return RunFailed(reason=reason, remedy=submit)

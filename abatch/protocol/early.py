"""Decide from the first results of a job whether the rest of its requests is sent. Pure.

A pilot holds the rest back until at least four fifths of its requests have succeeded, and stops the job once more than
a fifth have failed. Without a pilot, a job stops submitting when none of its requests has succeeded and a whole batch
failed with one error, because the other requests would fail with the same error. Requests that are tried again do not
count as failed yet. A batch that is small compared with the others of its job, such as that of a single request with a
beta that no other request has, does not decide.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal

from abatch.errors import cancel_and_skip
from abatch.protocol.facts import Stopped
from abatch.protocol.failures import OTHERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abatch.protocol.facts import Drained
    from abatch.result import Failure

__all__ = ["Pilot", "judged", "one_failure", "stands", "stop_after_pilot", "stop_for"]

Pilot = Literal["waits", "passed", "failed"]
SHOWN: Final = 3
"""The number of kinds of failures that a reason names."""
MOST_FAILED: Final = Fraction(1, 5)
"""The share of a pilot's requests that may fail."""

CORRECT: Final = "If the requests are wrong, correct them and submit them under another key, to another destination."
GO_ON: Final = (
    "To send the remaining requests anyway, run the same command with --failing go-on "
    '(in Python: Config(failing="go-on")).'
)


def judged(pilot: int, *, succeeded: int, failed: int) -> Pilot:
    """Decide whether the rest of a job may be sent, from the results of its pilot so far."""
    most = MOST_FAILED * pilot
    if failed > most:
        return "failed"
    return "passed" if pilot - succeeded <= most else "waits"


def stands(pilot: int, *, succeeded: int, failed: int) -> bool:
    """Decide whether a stop for failed results still holds, now that more batches of the job may have ended.

    A stop for a batch that failed as a whole ends once a request has succeeded. A pilot that failed stays failed.
    """
    return not succeeded or (pilot > 0 and judged(pilot, succeeded=succeeded, failed=failed) == "failed")


def stop_after_pilot(key: str, pilot: int, failed: int, failures: Sequence[Failure]) -> Stopped:
    """Make the fact that stops the job with this key, because too many requests of its pilot failed."""
    kinds = "; ".join(
        f"{each.count:,} of {each.type}" + (f": {each.message}" if each.message else "") for each in failures[:SHOWN]
    )
    more = f"; and {len(failures) - SHOWN:,} other kinds" if len(failures) > SHOWN else ""
    return Stopped(
        reason=f"{failed:,} of the {pilot:,} requests of its pilot failed ({kinds}{more})",
        # the requests that succeeded are paid for, so another job has to skip them
        remedy=f"The rest was not sent. If the requests are wrong: {cancel_and_skip(key)} {GO_ON}",
        failing=True,
    )


def one_failure(drained: Drained, rows: int, largest: int) -> Failure | None:
    """Return the one error with which every request of a batch failed; None if there is no such error.

    Args:
        drained: the results of the batch.
        rows: the number of its requests.
        largest: the number of requests in the largest batch of its job.

    """
    if len(drained.failures) != 1 or drained.counts.errored != rows or 2 * rows < largest:
        return None
    (failure,) = drained.failures
    return failure if failure.count == rows and failure.type != OTHERS else None


def stop_for(failure: Failure, batch_id: str | None) -> Stopped:
    """Make the fact that stops a job, because a whole batch of it failed with this error."""
    count = "the only request" if failure.count == 1 else f"each of the {failure.count:,} requests"
    error = f"{failure.type}: {failure.message}" if failure.message else failure.type
    return Stopped(
        reason=f"no request of it succeeded so far, and {count} of batch {batch_id} failed with {error}",
        remedy=f"The rest was not sent. {CORRECT} {GO_ON}",
        failing=True,
    )

"""Estimate when a job will be done, from the durations of the journal's last batches. Pure: the caller passes the time.

A batch in flight is expected to take the median of those past batches that took longer than it has taken so far. The
unsent requests are expected to go at the pace of the sent ones, and their last batch to take the median of all batches.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from abatch.protocol.lifecycle import InDoubt, Processing, Ready

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.journal.sums import Progress

__all__ = ["LATE", "NOTHING_SENT", "NOT_DRIVEN", "NO_HISTORY", "Forecast", "forecast"]

NOT_DRIVEN: Final = "no process drives this journal"
NO_HISTORY: Final = "no history yet"
LATE: Final = "a batch takes unusually long"
NOTHING_SENT: Final = "nothing is sent yet"
OPEN_INPUT: Final = "the input is still read"
OPERATOR: Final = "a shard needs an operator"
STOPPED: Final = "the job is stopped"
UNREAD: Final = "results cannot be read at the moment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How long a job may still take."""

    seconds: float | None = None
    """None if no estimate is possible."""
    why: str = ""
    """Why no estimate is possible."""


def forecast(
    job: JobRecord, progress: Progress, durations: Collection[float], now: float, *, unread: Collection[int] = ()
) -> Forecast:
    """Estimate how long a job may still take.

    Args:
        job: the job, with its shards.
        progress: the progress of the job.
        durations: the seconds that the journal's last batches took, of this job and of others.
        now: the time by this machine's clock, in seconds since the epoch.
        unread: shards of any job whose results could not be read at the last attempt.

    """
    if job.finished is not None:
        return Forecast(seconds=0.0)
    if job.stopped is not None:
        return Forecast(why=STOPPED)
    if progress.held:
        return Forecast(why=OPERATOR)
    if not job.open_shards.keys().isdisjoint(unread):
        return Forecast(why=UNREAD)
    wanted = progress.wanted
    if wanted is None:
        return Forecast(why=OPEN_INPUT)
    if not durations:
        return Forecast(why=NO_HISTORY)
    taken = sorted(durations)
    usual = median(taken)
    left = 0.0
    for shard in job.open_shards.values():
        since = _began(shard, now)
        if since is None:
            continue
        age = now - since
        longer = bisect_right(taken, age)
        if longer == len(taken):
            return Forecast(why=LATE)
        left = max(left, _middle(taken, longer) - age)
    if (unsent := wanted - progress.submitted) > 0 and not job.cancel_wished:
        pace = _pace(job, progress, usual, now)
        if pace is None:
            return Forecast(why=NOTHING_SENT)
        left = max(left, unsent / pace + usual)
    return Forecast(seconds=left)


def _middle(taken: Sequence[float], begin: int) -> float:
    """Return the median of a sorted list, counted from this index."""
    last = len(taken) - 1
    return (taken[(begin + last) // 2] + taken[(begin + last + 1) // 2]) / 2


def _began(shard: ShardRecord, now: float) -> float | None:
    """Return when the batch of a shard began; None if the job does not wait for it."""
    match shard.state:
        case Processing(created_at=created_at):
            return created_at
        case InDoubt():
            return shard.committed_at
        case Ready() if shard.planned.trial > 1:  # the rows of a retry are sent next
            return now
        case _:
            return None


def _pace(job: JobRecord, progress: Progress, usual: float, now: float) -> float | None:
    """Return the requests sent per second; None if none was sent.

    A pause between two batches counts at most as the usual length of a batch, because in a longer pause no process
    drove the job.
    """
    commits = sorted(shard.committed_at for shard in job.shards.values() if shard.committed_at is not None)
    if not commits or not progress.submitted:
        return None
    spent = sum(min(after - before, usual) for before, after in pairwise([*commits, max(now, commits[-1])]))
    return progress.submitted / max(spent, 1.0)

"""Estimate when a job will be done, from how long the journal's last batches took. Pure; the time of now is passed in.

A batch in flight is expected to take the median of those past batches that took longer than it has taken already. What
is not sent yet goes at the pace of what was sent, and its last batch takes the median of all.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How long a job may still take."""

    seconds: float | None = None
    """None where nothing can be said."""
    why: str = ""
    """Why nothing can be said."""


def forecast(job: JobRecord, progress: Progress, durations: Collection[float], now: float) -> Forecast:
    """How long a job may still take at `now`, in seconds since the epoch.

    Args:
        job: the job, with its shards.
        progress: how far it is.
        durations: seconds that the last batches of the journal took, of this job and of others.
        now: the time, by the clock of this machine.

    """
    if job.finished is not None:
        return Forecast(seconds=0.0)
    if job.stopped is not None:
        return Forecast(why=STOPPED)
    if progress.held:
        return Forecast(why=OPERATOR)
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
    """The median of a sorted list, from this index on."""
    last = len(taken) - 1
    return (taken[(begin + last) // 2] + taken[(begin + last + 1) // 2]) / 2


def _began(shard: ShardRecord, now: float) -> float | None:
    """When the batch of a shard began; None if it does not have to be waited for."""
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
    """Requests sent per second; None if nothing is.

    A pause between two batches counts as the usual length of a batch at most: what is longer is a time in which no
    process drove the job.
    """
    commits = sorted(shard.committed_at for shard in job.shards.values() if shard.committed_at is not None)
    if not commits or not progress.submitted:
        return None
    spent = sum(min(after - before, usual) for before, after in pairwise([*commits, max(now, commits[-1])]))
    return progress.submitted / max(spent, 1.0)

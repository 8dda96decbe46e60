"""Define the events of a journal: one frozen value for each fact, for programs outside of abatch.

A fact is the stored form of what happened; an event is its public form. `BatchManager.events` yields the events of a
running manager, `JournalView.events` those of a journal, beginning at any fact.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, assert_never

from abatch.protocol import facts
from abatch.protocol.facts import Counts, Spend
from abatch.system.paths import absolute_url

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.journal.log import Recorded


__all__ = [
    "AnswerUnreadable",
    "BatchAccepted",
    "BatchEnded",
    "BatchLost",
    "BatchParked",
    "BatchReappeared",
    "BatchVanished",
    "CancelRequested",
    "CandidatesChanged",
    "Counts",
    "DuplicateSeen",
    "Event",
    "EventsMissed",
    "InputChanged",
    "JobClosed",
    "JobEvent",
    "JobFinished",
    "JobLimited",
    "JobMoved",
    "JobResumed",
    "JobStopped",
    "JobSubmitted",
    "OnEvent",
    "RequestsPlanned",
    "ResolutionRefused",
    "ResolutionRequested",
    "ShardAbandoned",
    "ShardCommitted",
    "ShardEvent",
    "ShardHeld",
    "ShardPlanned",
    "ShardRejected",
    "ShardReopened",
    "ShardSealed",
    "ShardSplit",
    "ShardUnplanned",
    "ShardWithdrawn",
    "Spend",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """The fields that every event has."""

    kind: ClassVar[str]
    """The name of the event in JSON, for instance `job.finished`."""
    seq: int
    """The number of the fact in the journal, which is unique there."""
    at: float
    """When the fact was recorded, in seconds since the epoch, by the clock of the process that recorded it."""
    job: str
    """The key of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEvent(JobEvent):
    """The fields that every event of a shard has; a shard is a part of a job that becomes one batch."""

    shard: int
    """The number of the shard, unique in the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted(JobEvent):
    """A job was submitted for the first time."""

    kind: ClassVar[str] = "job.submitted"
    destination: str
    """The URL of its destination; empty for a backend object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimited(JobEvent):
    """The limit of the job changed."""

    kind: ClassVar[str] = "job.limited"
    requests: int | None
    """The most requests of the job that are sent; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsPlanned(JobEvent):
    """The requests of the job up to here are sealed on disk, and can be sent."""

    kind: ClassVar[str] = "job.planned"
    requests: int
    """The number of requests that are planned so far."""
    complete: bool
    """Whether its input was read to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChanged(JobEvent):
    """The job continues with a changed input."""

    kind: ClassVar[str] = "job.input_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClosed(JobEvent):
    """The open job takes no further requests."""

    kind: ClassVar[str] = "job.closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(JobEvent):
    """The cancellation of the job was requested."""

    kind: ClassVar[str] = "job.cancel_requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStopped(JobEvent):
    """The job cannot continue until an operator acts."""

    kind: ClassVar[str] = "job.stopped"
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResumed(JobEvent):
    """A stopped job continues."""

    kind: ClassVar[str] = "job.resumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMoved(JobEvent):
    """The job has another destination."""

    kind: ClassVar[str] = "job.moved"
    destination: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished(JobEvent):
    """Every planned request of the job has its line in a complete destination."""

    kind: ClassVar[str] = "job.finished"
    location: str
    """Where the results are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionRequested(JobEvent):
    """An operator resolved a shard; the resolution is not applied yet."""

    kind: ClassVar[str] = "job.resolution_requested"
    shard: int
    batch_id: str | None
    """The batch that the shard became; None if no batch was created, and for `lost`."""
    lost: bool
    """Whether the results of the shard are given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionRefused(JobEvent):
    """The resolution of an operator contradicts the API, and is not applied."""

    kind: ClassVar[str] = "job.resolution_refused"
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateSeen(JobEvent):
    """The API shows a second batch of a shard: its requests are paid for twice."""

    kind: ClassVar[str] = "job.duplicate_seen"
    shard: int
    attempt: int
    batch_id: str
    """The batch whose results are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlanned(ShardEvent):
    """A shard is sealed on disk."""

    kind: ClassVar[str] = "shard.planned"
    requests: int
    trial: int
    """1 for a first try; more for requests that failed and are retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCommitted(ShardEvent):
    """An attempt to create the batch passed its commit point: from here on the batch may exist."""

    kind: ClassVar[str] = "shard.committed"
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatesChanged(ShardEvent):
    """While the shard's answer is not known, batches that may be the shard's were shown or excluded."""

    kind: ClassVar[str] = "shard.candidates_changed"
    shown: tuple[str, ...]
    excluded: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerUnreadable(ShardEvent):
    """The API accepted the batch, but its answer cannot be read: the id of the batch is not known."""

    kind: ClassVar[str] = "shard.answer_unreadable"
    status: int
    """The HTTP status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHeld(ShardEvent):
    """Only an operator can determine whether the shard became a batch."""

    kind: ClassVar[str] = "shard.held"
    reason: str
    rule: str
    """The row of table B that decided; empty if the results of its batch were not ours, and in older journals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWithdrawn(ShardEvent):
    """No batch was created: the shard will be sent again."""

    kind: ClassVar[str] = "shard.withdrawn"
    why: str
    rule: str
    """The row of table A or B that decided, for instance `A6`; empty in older journals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRejected(ShardEvent):
    """The API refused the only request of the shard as too large."""

    kind: ClassVar[str] = "shard.rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSplit(ShardEvent):
    """The shard was too large for the API, and its requests are now in two other shards."""

    kind: ClassVar[str] = "shard.split"
    into: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUnplanned(ShardEvent):
    """The input changed before the shard was sent: its requests are planned again."""

    kind: ClassVar[str] = "shard.unplanned"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardAbandoned(ShardEvent):
    """The shard will never be sent; its requests have their fallback lines."""

    kind: ClassVar[str] = "shard.abandoned"
    why: str
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAccepted(ShardEvent):
    """The batch of the shard is known."""

    kind: ClassVar[str] = "batch.accepted"
    batch_id: str
    found_by: Literal["tag", "operator"] | None
    """How the batch was found after its answer was lost; None if the API answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParked(ShardEvent):
    """The batch was cancelled because it did not move; requests without an answer are retried."""

    kind: ClassVar[str] = "batch.parked"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchVanished(ShardEvent):
    """The API has not shown the batch for an hour."""

    kind: ClassVar[str] = "batch.vanished"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReappeared(ShardEvent):
    """The API shows the batch again."""

    kind: ClassVar[str] = "batch.reappeared"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLost(ShardEvent):
    """The batch was deleted, or an operator gave it up: results that were not read are missing."""

    kind: ClassVar[str] = "batch.lost"
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded(ShardEvent):
    """The API processed the batch; its results can be read."""

    kind: ClassVar[str] = "batch.ended"
    counts: Counts
    """The counts that the API reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSealed(ShardEvent):
    """The results of the shard are in the destination, durably."""

    kind: ClassVar[str] = "shard.sealed"
    counts: Counts
    """The lines that were written."""
    retried: int
    """The number of requests that failed for a temporary reason and are retried."""
    missing: int
    """The number of requests without a result."""
    spend: tuple[Spend, ...]
    """The tokens of these lines, for each model and price step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReopened(ShardEvent):
    """Results that were sealed are gone from the destination: they are read again."""

    kind: ClassVar[str] = "shard.reopened"
    why: str


Event: TypeAlias = (
    JobSubmitted
    | JobLimited
    | RequestsPlanned
    | InputChanged
    | JobClosed
    | CancelRequested
    | JobStopped
    | JobResumed
    | JobMoved
    | JobFinished
    | ResolutionRequested
    | ResolutionRefused
    | DuplicateSeen
    | ShardPlanned
    | ShardCommitted
    | CandidatesChanged
    | AnswerUnreadable
    | ShardHeld
    | ShardWithdrawn
    | ShardRejected
    | ShardSplit
    | ShardUnplanned
    | ShardAbandoned
    | BatchAccepted
    | BatchParked
    | BatchVanished
    | BatchReappeared
    | BatchLost
    | BatchEnded
    | ShardSealed
    | ShardReopened
)
"""Everything that can happen to a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsMissed(JobEvent):
    """The reader was too slow: these events are not in its stream; `seq`, `at` and `job` are those of the last one."""

    kind: ClassVar[str] = "events.missed"
    count: int
    """How many events of any job the reader lost."""
    since: int
    """`JournalView.events(since=…)` with this number yields them and all later events."""


OnEvent: TypeAlias = Callable[[Event | EventsMissed], Awaitable[object] | object]
"""The function of `BatchManager(on_event=…)`: plain or async; what it returns is ignored."""


def event_of(recorded: Recorded, key: str, folder: Path) -> Event:
    """Convert a fact to its event.

    Args:
        recorded: the fact.
        key: the key of its job.
        folder: the folder of the journal, to which paths in facts are relative.

    """
    seq, at, number = recorded.seq, recorded.at, recorded.shard or 0
    match recorded.fact:
        case facts.Planned(rows=rows, trial=trial):
            return ShardPlanned(seq=seq, at=at, job=key, shard=number, requests=rows, trial=trial)
        case facts.Committing(attempt=attempt):
            return ShardCommitted(seq=seq, at=at, job=key, shard=number, attempt=attempt)
        case facts.CandidatesChanged(seen=seen, foreign=foreign):
            shown = tuple(each.batch_id for each in seen)
            return CandidatesChanged(seq=seq, at=at, job=key, shard=number, shown=shown, excluded=foreign)
        case facts.Unreadable(status=status):
            return AnswerUnreadable(seq=seq, at=at, job=key, shard=number, status=status)
        case facts.Accepted(batch_id=batch_id):
            return BatchAccepted(seq=seq, at=at, job=key, shard=number, batch_id=batch_id, found_by=None)
        case facts.Found(batch_id=batch_id, by=by):
            found_by: Literal["tag", "operator"] = "operator" if by == "operator" else "tag"
            return BatchAccepted(seq=seq, at=at, job=key, shard=number, batch_id=batch_id, found_by=found_by)
        case facts.CancelledAsParked(why=why):
            return BatchParked(seq=seq, at=at, job=key, shard=number, why=why)
        case facts.Withdrawn(why=why, rule=rule):
            return ShardWithdrawn(seq=seq, at=at, job=key, shard=number, why=why, rule=rule)
        case facts.Rejected():
            return ShardRejected(seq=seq, at=at, job=key, shard=number)
        case facts.Vanished():
            return BatchVanished(seq=seq, at=at, job=key, shard=number)
        case facts.Reappeared():
            return BatchReappeared(seq=seq, at=at, job=key, shard=number)
        case facts.Lost(why=why):
            return BatchLost(seq=seq, at=at, job=key, shard=number, why=why)
        case facts.Ended(counts=counts):
            return BatchEnded(seq=seq, at=at, job=key, shard=number, counts=counts)
        case facts.Drained(counts=counts, retried=again, missing=missing, spend=spend):
            return ShardSealed(
                seq=seq,
                at=at,
                job=key,
                shard=number,
                counts=counts,
                retried=again,
                missing=missing,
                spend=spend,
            )
        case facts.Reopened(why=why):
            return ShardReopened(seq=seq, at=at, job=key, shard=number, why=why)
        case facts.Split(into=into):
            return ShardSplit(seq=seq, at=at, job=key, shard=number, into=into)
        case facts.Unplanned():
            return ShardUnplanned(seq=seq, at=at, job=key, shard=number)
        case facts.Abandoned(why=why, counts=counts):
            return ShardAbandoned(seq=seq, at=at, job=key, shard=number, why=why, counts=counts)
        case facts.Held(reason=reason, rule=rule):
            return ShardHeld(seq=seq, at=at, job=key, shard=number, reason=reason, rule=rule)
        case facts.Submitted(to=to):
            return JobSubmitted(seq=seq, at=at, job=key, destination=_url(folder, to))
        case facts.Limited(rows=rows):
            return JobLimited(seq=seq, at=at, job=key, requests=rows)
        case facts.Cut(rows=rows, last=last):
            return RequestsPlanned(seq=seq, at=at, job=key, requests=rows, complete=last)
        case facts.InputChanged():
            return InputChanged(seq=seq, at=at, job=key)
        case facts.Closed():
            return JobClosed(seq=seq, at=at, job=key)
        case facts.CancelWished():
            return CancelRequested(seq=seq, at=at, job=key)
        case facts.ResolveWished(shard=shard, batch_id=batch_id):
            return ResolutionRequested(seq=seq, at=at, job=key, shard=shard, batch_id=batch_id, lost=False)
        case facts.LostWished(shard=shard):
            return ResolutionRequested(seq=seq, at=at, job=key, shard=shard, batch_id=None, lost=True)
        case facts.WishRefused(shard=shard):
            return ResolutionRefused(seq=seq, at=at, job=key, shard=shard)
        case facts.DuplicateSeen(shard=shard, attempt=attempt, batch_id=batch_id):
            return DuplicateSeen(seq=seq, at=at, job=key, shard=shard, attempt=attempt, batch_id=batch_id)
        case facts.Stopped(reason=reason, remedy=remedy):
            return JobStopped(seq=seq, at=at, job=key, reason=reason, remedy=remedy)
        case facts.Resumed():
            return JobResumed(seq=seq, at=at, job=key)
        case facts.Moved(to=to):
            return JobMoved(seq=seq, at=at, job=key, destination=_url(folder, to))
        case facts.Finished(location=location):
            return JobFinished(seq=seq, at=at, job=key, location=location)
        case _:
            assert_never(recorded.fact)


def _url(folder: Path, to: str) -> str:
    return absolute_url(folder, to) if to else ""

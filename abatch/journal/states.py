"""The states of jobs and shards, in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

from abatch.protocol.facts import Abandoned, LostWished, ResolveWished, Split, Unplanned
from abatch.protocol.lifecycle import Dead, Done, Draining, Held, InDoubt, Lost, Processing, Ready, Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.journal.status import Obstacle, ResultsUnread, RunFailed

__all__ = [
    "ShardState",
    "State",
    "StateOfJob",
    "attempt_of",
    "created_at_of",
    "resolution_in_words",
    "shard_in_words",
    "state_of_job",
    "state_of_shard",
]


NOTHING_UNREAD: Final[Mapping[int, ResultsUnread]] = MappingProxyType({})
State: TypeAlias = Literal["planning", "running", "in doubt", "held", "stopped", "cancelling", "done"]
"""The state of a job, for people and programs."""
ShardState: TypeAlias = Literal[
    "ready",
    "in doubt",
    "held",
    "processing",
    "vanished",
    "draining",
    "lost",
    "rejected",
    "done",
    "split",
    "unplanned",
    "abandoned",
]
"""The state of a shard, for people and programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateOfJob:
    """The state of a job, with its reason and remedy."""

    state: State
    reason: str = ""
    remedy: str = ""


def state_of_job(
    job: JobRecord,
    failed: RunFailed | None = None,
    unread: Mapping[int, ResultsUnread] = NOTHING_UNREAD,
    obstacle: Obstacle | None = None,
) -> StateOfJob:
    """Return the state of a job; if several apply, the most important one.

    Args:
        job: the job.
        failed: the error that ended its run, which only the driving process knows; None if no error did.
        unread: per shard whose results could not be read completely: why, which only the driving process knows, too.
        obstacle: why it gets no further at the moment, which only the driving process knows, too.

    """
    if job.finished is not None:
        return StateOfJob(state="done", reason="cancelled" if job.cancel_wished else "")
    if failed is not None:
        return StateOfJob(state="stopped", reason=failed.reason, remedy=failed.remedy)
    if job.stopped is not None and not job.cancel_wished:
        return StateOfJob(state="stopped", reason=job.stopped.reason, remedy=job.stopped.remedy)
    for shard in job.open_shards.values():
        if isinstance(shard.state, Held):
            return StateOfJob(
                state="held",
                reason=f"shard {shard.shard}: {shard.state.reason}",
                remedy=_remedy_of_held(job, shard.shard),
            )
    if job.cancel_wished:
        return StateOfJob(state="cancelling")
    hindered, remedy = ("", "") if obstacle is None else (obstacle.reason, obstacle.remedy)
    if any(isinstance(shard.state, InDoubt) for shard in job.open_shards.values()):
        reason = "a create was not answered; it is settled by itself"
        return StateOfJob(state="in doubt", reason="; ".join(filter(None, [reason, hindered])), remedy=remedy)
    if job.limit_reached and not job.open_shards:
        return StateOfJob(
            state="stopped",
            reason=f"only its first {job.limit:,} requests were to be sent",
            remedy="Submit it without a limit to send the rest.",
        )
    results = _unread_in_words([unread[shard] for shard in job.open_shards if shard in unread])
    return StateOfJob(
        state="running" if job.cut.last or _has_begun(job) else "planning",
        reason="; ".join(filter(None, [results, hindered])),
        remedy=remedy,
    )


def _unread_in_words(unread: list[ResultsUnread]) -> str:
    if not unread:
        return ""
    first = min(unread, key=lambda each: each.since)
    others = f" (and of {len(unread) - 1:,} more)" if len(unread) > 1 else ""
    since = datetime.fromtimestamp(first.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"the results of batch {first.batch_id}{others} could not be read since {since}: {first.why}"


def _has_begun(job: JobRecord) -> bool:
    """Return whether a part of a job was sent: then it counts as running, even while its input is still read."""
    return job.sealed_count > 0 or any(not isinstance(shard.state, Ready) for shard in job.open_shards.values())


def _remedy_of_held(job: JobRecord, shard: int) -> str:
    if (wish := job.wishes.get(shard)) is not None:
        return f"Noted, and not done yet: it {resolution_in_words(wish)}"
    refused = ""
    if (wish := job.refused.get(shard)) is not None:
        refused = (
            f"Your last decision, that it {resolution_in_words(wish)}, was refused: the API contradicts it, or the "
            "attempt was settled before. "
        )
    return f"{refused}Look in the Console, then: abatch resolve {shard} --adopt BATCH_ID, or --not-created, or --lost"


def state_of_shard(shard: ShardRecord) -> tuple[ShardState, str]:
    """Return the state of a shard in a word or two, and its reason, which may be empty."""
    match shard.state:
        case Ready():
            return "ready", ""
        case Rejected():
            return "rejected", "too large for the API"
        case InDoubt():
            return "in doubt", ""
        case Held(reason=reason):
            return "held", reason
        case Processing(vanished=None, parked=True):
            return "processing", "cancelled as parked"
        case Processing(vanished=None):
            return "processing", ""
        case Draining(vanished=None):
            return "draining", ""
        case Processing() | Draining():
            return "vanished", "the API does not show its batch any more"
        case Lost(why=why):
            return "lost", why
        case Done():
            return "done", ""
        case Dead(end=end):
            return _state_of_dead(end), ""
        case _:
            assert_never(shard.state)


def _state_of_dead(end: Split | Unplanned | Abandoned) -> ShardState:
    match end:
        case Split():
            return "split"
        case Unplanned():
            return "unplanned"
        case Abandoned():
            return "abandoned"
        case _:
            assert_never(end)


def shard_in_words(shard: ShardRecord) -> str:
    """Return the state of a shard and its reason."""
    return ": ".join(filter(None, state_of_shard(shard)))


def resolution_in_words(wish: ResolveWished | LostWished) -> str:
    """Return an operator's decision about a shard."""
    match wish:
        case LostWished():
            return "is lost"
        case ResolveWished(batch_id=None):
            return "was not created"
        case ResolveWished(batch_id=batch_id):
            return f"is batch {batch_id}"
        case _:
            assert_never(wish)


def attempt_of(shard: ShardRecord) -> int | None:
    """Return the number of a shard's last attempt, 0 before the first; None if only the journal's facts hold it."""
    match shard.state:
        case Ready(attempt=attempt) | InDoubt(attempt=attempt):
            return attempt
        case Held() | Processing() | Draining() | Lost() | Done():
            return shard.state.doubt.attempt
        case Rejected() | Dead():
            return None
        case _:
            assert_never(shard.state)


def created_at_of(shard: ShardRecord) -> float | None:
    """Return when the batch of a shard was created, by the API's clock; None if no batch is known."""
    match shard.state:
        case Processing() | Draining() | Lost() | Done():
            return None if shard.state.batch_id is None else shard.state.created_at
        case Ready() | InDoubt() | Held() | Rejected() | Dead():
            return None
        case _:
            assert_never(shard.state)

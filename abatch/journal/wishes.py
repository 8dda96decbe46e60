"""Record an operator's decision about a shard, or a request to cancel a job, in a journal that others may drive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatch.errors import ConfigError
from abatch.journal.log import Entry
from abatch.journal.states import shard_in_words
from abatch.protocol.facts import CancelWished, LostWished, ResolveWished
from abatch.protocol.lifecycle import Held, InDoubt, doubt_of

if TYPE_CHECKING:
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord

__all__ = ["wish_cancel", "wish_lost", "wish_resolved"]


async def wish_cancel(ledger: Ledger, job: JobRecord) -> None:
    """Record the request to cancel a job, unless it is recorded already.

    Raises:
        ConfigError: the job is done.

    """
    if job.finished is not None:
        raise ConfigError(f"job {job.key!r} is done; there is nothing to cancel")
    if not job.cancel_wished:
        await ledger.record(Entry(job.job, CancelWished()))


async def wish_resolved(ledger: Ledger, number: int, batch_id: str | None) -> tuple[JobRecord, ResolveWished]:
    """Record the decision that a shard is this batch, or with None that no batch was created.

    Raises:
        ConfigError: there is no such shard, or it is neither in doubt nor held.

    """
    shard = await _shard(ledger, number)
    doubt = doubt_of(shard.state)
    if doubt is None or not isinstance(shard.state, InDoubt | Held):
        hint = "" if doubt is None else "; if its batch was deleted, use lost=True"
        raise ConfigError(f"shard {number} is neither in doubt nor held, it is {shard_in_words(shard)}{hint}")
    wish = ResolveWished(shard=number, attempt=doubt.attempt, batch_id=batch_id)
    await ledger.record(Entry(shard.job, wish))
    return ledger.jobs[shard.job], wish


async def wish_lost(ledger: Ledger, number: int, *, any_key: bool) -> tuple[JobRecord, LostWished]:
    """Record the decision to give up the results of a shard.

    Raises:
        ConfigError: there is no such shard, or it has no committed attempt that is not settled or drained yet.

    """
    shard = await _shard(ledger, number)
    doubt = doubt_of(shard.state)
    if doubt is None:
        raise ConfigError(f"shard {number} has no batch to give up, it is {shard_in_words(shard)}")
    wish = LostWished(shard=number, attempt=doubt.attempt, any_key=any_key)
    await ledger.record(Entry(shard.job, wish))
    return ledger.jobs[shard.job], wish


async def _shard(ledger: Ledger, number: object) -> ShardRecord:
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConfigError(f"shard must be the number of a shard, such as 1, got {number!r}")
    shard = await ledger.find_shard(number)
    if shard is None:
        raise ConfigError(f"journal {ledger.folder} has no shard {number}")
    return shard

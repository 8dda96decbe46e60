"""Append the facts of one shard, each at the position that its driver expects.

The position is the fence: if another process has appended a fact there, `Overtaken` is raised, and the driver examines
the shard again. Only changes of a doubt's candidates are appended at the next free position, because they stay true
while the shard is in doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.errors import Overtaken
from abatch.log import log
from abatch.protocol.facts import (
    Abandoned,
    Accepted,
    CancelledAsParked,
    CandidatesChanged,
    Committing,
    Ended,
    Found,
    Held,
    Lost,
    Reappeared,
    Rejected,
    Unreadable,
    Vanished,
    Withdrawn,
)
from abatch.protocol.lifecycle import Held as HeldState
from abatch.protocol.lifecycle import InDoubt, doubt_of

if TYPE_CHECKING:
    from abatch.engine.context import JobContext
    from abatch.journal.log import Entry
    from abatch.journal.records import ShardRecord
    from abatch.protocol.facts import ShardFact

__all__ = ["ShardRecorder"]


class ShardRecorder:
    """Appends the facts of one shard for its driver."""

    def __init__(self, context: JobContext, shard: ShardRecord) -> None:
        self.context = context
        self.shard = shard
        self.appending = anyio.Lock()
        """Held while a fact of the shard is appended, because the scope and the driver append concurrently."""
        self._at = 0
        """The position of the next fact: the shard's facts when this action began, and those recorded since."""

    def begin(self) -> None:
        """Begin an action, which is decided from the facts that the shard has now."""
        self._at = self.shard.length

    async def record(self, *facts: ShardFact) -> None:
        """Append facts at the expected position.

        Raises:
            Overtaken: another process appended to the shard first.

        """
        async with self.appending:
            await self.append(*facts)

    async def append(self, *facts: ShardFact) -> None:
        """Append facts at the expected position; the caller holds `appending`."""
        await self._append(*facts, at=self._at)
        self._at += len(facts)

    def entries(self, *facts: ShardFact) -> list[Entry]:
        """Return facts as entries at the expected position, to be recorded in one transaction with others."""
        return self.context.ledger.next(self.shard, *facts, at=self._at)

    async def note(self, attempt: int, change: CandidatesChanged) -> None:
        """Record a change of this attempt's candidates at the next free position; it stays true during the doubt.

        Raises:
            Overtaken: the attempt is no longer in doubt.

        """
        async with self.appending:
            while True:
                state = self.shard.state
                doubt = doubt_of(state) if isinstance(state, InDoubt | HeldState) else None
                if doubt is None or doubt.attempt != attempt:
                    raise Overtaken
                known = {each.batch_id for each in doubt.candidates} | doubt.foreign
                seen = tuple(each for each in change.seen if each.batch_id not in known)
                foreign = tuple(each for each in change.foreign if each not in doubt.foreign)
                closes = None if doubt.closed_at is not None else change.closed_at
                if not seen and not foreign and closes is None:
                    return
                at = self.shard.length
                try:
                    await self._append(CandidatesChanged(seen=seen, foreign=foreign, closed_at=closes), at=at)
                except Overtaken:  # Another process appended facts, which are loaded now.
                    continue
                if self._at == at:
                    self._at += 1
                return

    async def _append(self, *facts: ShardFact, at: int) -> None:
        await self.context.ledger.record(*self.context.ledger.next(self.shard, *facts, at=at))
        for fact in facts:
            say = log.warning if isinstance(fact, Vanished | Lost | CancelledAsParked) else log.info
            say(
                EVENTS[type(fact)],
                job=self.context.job.key,
                shard=self.shard.shard,
                **{name: value for name in SAID if (value := getattr(fact, name, None)) is not None},
            )


SAID: Final = ("attempt", "batch_id", "why", "reason", "by", "status")
EVENTS: Final[dict[type[ShardFact], str]] = {
    CandidatesChanged: "candidates_changed",
    Committing: "shard_committing",
    Unreadable: "answer_unreadable",
    Accepted: "shard_accepted",
    Found: "shard_found",
    CancelledAsParked: "parked_batch_cancelled",
    Withdrawn: "shard_withdrawn",
    Rejected: "shard_rejected",
    Vanished: "batch_vanished",
    Reappeared: "batch_reappeared",
    Lost: "shard_lost",
    Ended: "batch_ended",
    Held: "shard_held",
    Abandoned: "shard_abandoned",
}

"""Settle the doubt about one attempt: wait for the ruling by table B, and record it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from abatch.config import GRACE_FOREIGN_SOCKET, GRACE_OWN_SOCKET
from abatch.errors import Overtaken
from abatch.log import log
from abatch.protocol.clocks import Moment
from abatch.protocol.durations import CREATED_WITHIN, QUEUED_FOR
from abatch.protocol.facts import (
    Found,
    Held,
    LostWished,
    ResolveWished,
    Withdrawn,
)
from abatch.protocol.lifecycle import Held as HeldState
from abatch.protocol.lifecycle import (
    InDoubt,
    doubt_of,
)
from abatch.protocol.reconcile import (
    Absent,
    Doubt,
    FoundBatch,
    Hold,
    still_open,
)

if TYPE_CHECKING:
    from abatch.engine.context import JobContext
    from abatch.engine.recorder import ShardRecorder
    from abatch.engine.scope import Scope
    from abatch.engine.wishes import OperatorWishes
    from abatch.journal.records import ShardRecord

__all__ = ["DoubtSettler", "doubt_about"]

FOREIGN_SOCKET: Final = (GRACE_FOREIGN_SOCKET - GRACE_OWN_SOCKET).total_seconds()
"""Seconds by which bound A4 is wider if the socket is not abatch's own."""


def doubt_about(scope: Scope, shard: ShardRecord, committed: InDoubt) -> Doubt:
    """Describe an attempt in doubt in the form that table B takes."""
    guarded = scope.key.is_guarded(committed.fingerprint)
    return Doubt(shard=shard.shard, rows=shard.planned.rows, committed=committed, guarded=guarded)


class DoubtSettler:
    """Settles the doubts about one shard."""

    def __init__(
        self, context: JobContext, shard: ShardRecord, recorder: ShardRecorder, wishes: OperatorWishes
    ) -> None:
        self.context = context
        self.shard = shard
        self.recorder = recorder
        self.wishes = wishes

    async def settle(self, *, committed_here: bool) -> bool:
        """Wait for a ruling and record it; return whether the shard has another action to perform now.

        Args:
            committed_here: whether this process passed the commit point, so that the grace counts from the first look.

        """
        context, committed = self.context, doubt_of(self.shard.state)
        assert committed is not None
        held = isinstance(self.shard.state, HeldState)
        context.scope.pace.holds(self.shard.shard, self.shard.planned.rows, committed.date + QUEUED_FOR)
        match wish := self.wishes.wish():
            case ResolveWished():
                await self.wishes.obey(wish)
                return True
            case LostWished():  # The list is read once before the wish is obeyed, because it may show the batch.
                once = True
            case None:
                once = held and not self._may_conclude(committed)
        since = None if committed_here else self._committed_at(committed)
        doubt = doubt_about(self.context.scope, self.shard, committed)
        ruling = await context.scope.doubts.settled(
            doubt, since=since, note=partial(self.recorder.note, committed.attempt), once=once
        )
        match ruling:
            case None if wish is not None:
                await self.wishes.lose()
            case None:
                return not held or self.wishes.wish() is not None or (once and self._may_conclude(committed))
            case Hold() if held:
                return False
            case FoundBatch(batch=batch):
                late = batch.created_at + context.scope.skew.offset - committed.date - CREATED_WITHIN
                if late > (0 if context.client.owns_socket else FOREIGN_SOCKET):
                    log.warning("bound_A1_broken", shard=self.shard.shard, batch_id=batch.batch_id)
                await self.recorder.record(Found(batch_id=batch.batch_id, created_at=batch.created_at, by="tag"))
                context.scope.owns(batch.batch_id, batch.created_at)
            case Absent():
                await self._record_absence()
            case Hold(reason=reason, rule=rule):
                await self.recorder.record(Held(reason=reason, rule=rule))
            case _:
                assert_never(ruling)
        return True

    async def _record_absence(self) -> None:
        """Record that the attempt made no batch (B8), unless a candidate is recorded that the ruling did not know.

        The list in another shard's gate may have shown a candidate while the ruling was made, and `ShardRecorder.note`
        may have been cancelled, or its doubt replaced, after the fact was durable. The doubt is then settled again from
        the facts.
        """
        async with self.recorder.appending:  # `ShardRecorder.note` holds this lock while it records.
            committed = doubt_of(self.shard.state)
            if committed is None:
                raise Overtaken
            if still_open(doubt_about(self.context.scope, self.shard, committed), self.context.scope.known):
                return
            self.context.scope.pace.frees(self.shard.shard)
            await self.recorder.append(Withdrawn(why="no batch appeared (B8)", rule="B8"))

    def _committed_at(self, committed: InDoubt) -> Moment:
        """Return the time of the commit point on every clock."""
        if committed.at is not None:
            return committed.at
        # A journal of format 2 recorded only the date.
        return Moment(date=committed.date, boot=0.0, boot_id="", wall=self.shard.since)

    def _may_conclude(self, doubt: InDoubt) -> bool:
        """Return whether absence would now lead to a conclusion, because the reason for the hold may be gone."""
        policy = self.context.config.unresolved == "resubmit"
        return policy and not doubt.certain and self.context.scope.key.is_guarded(doubt.fingerprint)

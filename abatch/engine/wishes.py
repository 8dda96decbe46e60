"""Act on an operator's decision about one shard: which batch it made, that it made none, or that it is lost.

The decision is recorded as a wish. A wish stays until a fact answers it: the fact that it asks for, or `WishRefused` if
the API contradicts it, or the attempt was settled before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.doubt import doubt_about
from abatch.errors import ApiError
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.facts import (
    Found,
    Lost,
    LostWished,
    ResolveWished,
    WishRefused,
    Withdrawn,
)
from abatch.protocol.lifecycle import (
    Draining,
    Held,
    InDoubt,
    Processing,
    Ready,
    doubt_of,
)
from abatch.protocol.pacing import Backoff
from abatch.protocol.reconcile import (
    still_open,
)

if TYPE_CHECKING:
    from abatch.engine.context import JobContext
    from abatch.engine.recorder import ShardRecorder
    from abatch.journal.records import ShardRecord
    from abatch.protocol.lifecycle import State

__all__ = ["CALLED_LOST", "OperatorWishes"]

CALLED_LOST: Final = "an operator says that it is lost"
OTHER_KEY: Final = (
    "the API key is not known to be the one that the batch was sent with, and sees no other batch of this journal; "
    "use that key, or resolve the shard with --lost --any-key (lost=True, any_key=True) if it is gone"
)


class OperatorWishes:
    """The wishes of operators for one shard, and their fulfilment."""

    def __init__(self, context: JobContext, shard: ShardRecord, recorder: ShardRecorder) -> None:
        self.context = context
        self.shard = shard
        self.recorder = recorder
        self._pause = Backoff(first=1.0, most=120.0)

    def wish(self) -> ResolveWished | LostWished | None:
        """Return the operator's wish for the attempt in doubt; None if there is none."""
        wish, doubt = self.context.job.wishes.get(self.shard.shard), doubt_of(self.shard.state)
        return wish if wish is not None and doubt is not None and wish.attempt == doubt.attempt else None

    def is_called_lost(self) -> bool:
        """Return whether an operator gave up this attempt or its batch."""
        return isinstance(self.wish(), LostWished)

    async def refuse_if_late(self) -> None:
        """Refuse a wish if its attempt was settled otherwise before: no other fact would answer it for hours."""
        wish = self.context.job.wishes.get(self.shard.shard)
        if wish is not None and _is_late(wish, self.shard.state):
            named = wish.batch_id if isinstance(wish, ResolveWished) else None
            await self._refuse(named, f"attempt {wish.attempt} was settled otherwise before")

    async def obey(self, wish: ResolveWished) -> None:
        """Record the outcome of the attempt that an operator decided (table B9), unless the API contradicts it."""
        context = self.context
        if wish.batch_id is None:
            context.scope.pace.frees(self.shard.shard)
            await self.recorder.record(Withdrawn(why="an operator says that it was not created", rule="B9"))
            return
        try:
            batch = await context.client.retrieve(context.scope.workspace_id, wish.batch_id)
        except ApiError as failure:
            if failure.status != 404:
                await self._try_word_again(wish.batch_id, str(failure))
                return
            await self._refuse(wish.batch_id, str(failure))
            return
        if not batch.total:
            await self._try_word_again(wish.batch_id, "the API does not report how many requests it has")
            return
        if batch.total != self.shard.planned.rows:
            await self._refuse(wish.batch_id, f"it has {batch.total} requests, the shard {self.shard.planned.rows}")
            return
        await self.recorder.record(Found(batch_id=batch.batch_id, created_at=batch.created_at, by="operator"))

    async def lose(self) -> None:
        """Record an attempt that was given up as lost (table B9), unless the API shows a batch that may be its own."""
        scope, committed = self.context.scope, doubt_of(self.shard.state)
        if committed is None or not self.is_called_lost():
            return
        candidates = still_open(doubt_about(scope, self.shard, committed), scope.known)
        asked = [each.batch_id for each in candidates if each.batch_id not in scope.known.gone]
        if await self._are_lost(asked, "the API shows this batch, which may be the shard's"):
            scope.pace.frees(self.shard.shard)
            await self.recorder.record(Lost(why=CALLED_LOST))

    async def lost_by_word(self, batch_id: str) -> Lost | None:
        """Return `Lost` for a batch that an operator gave up; None if the API shows the batch or cannot decide yet."""
        return Lost(why=CALLED_LOST) if await self._are_lost([batch_id], "the API shows the batch") else None

    async def _are_lost(self, batch_ids: list[str], shown: str) -> bool:
        """Return whether these batches are lost: the API knows none of them, and the key in use would see them.

        Otherwise the wish is refused for the reason `shown`, or kept for another try after a pause.
        """
        try:
            for batch_id in batch_ids:
                if await self._shows(batch_id):
                    await self._refuse(batch_id, shown)
                    return False
            if not batch_ids or await self._may_see():
                return True
            why = OTHER_KEY
        except ApiError as failure:
            why = str(failure)
        await self._try_word_again(batch_ids[0], why)
        return False

    async def _may_see(self) -> bool:
        """Return whether a 404 counts: the key in use would see the batch, or the operator waived that condition.

        Raises:
            ApiError: the API could not be reached.

        """
        wish, doubt = self.wish(), doubt_of(self.shard.state)
        assert doubt is not None
        anyhow = isinstance(wish, LostWished) and wish.any_key
        return anyhow or await self.context.scope.key.may_see(doubt.fingerprint)

    async def _shows(self, batch_id: str) -> bool:
        """Return whether the API knows the batch.

        Raises:
            ApiError: the API could not be reached.

        """
        try:
            await self.context.client.retrieve(self.context.scope.workspace_id, batch_id)
        except ApiError as failure:
            if failure.status != 404:
                raise
            return False
        return True

    async def _try_word_again(self, batch_id: str, why: str) -> None:
        """Log that an operator's wish cannot be fulfilled yet, and wait before the next try."""
        log.warning("resolve_waits", shard=self.shard.shard, batch_id=batch_id, why=why)
        await anyio.sleep(self._pause.next())

    async def _refuse(self, batch_id: str | None, why: str) -> None:
        """Record that an operator's wish is refused, so that it is not tried again after a restart."""
        await self.context.ledger.record(Entry(self.context.job.job, WishRefused(shard=self.shard.shard)))
        log.error("resolve_refused", shard=self.shard.shard, batch_id=batch_id, why=why)


def _is_late(wish: ResolveWished | LostWished, state: State) -> bool:
    """Return whether the attempt of this wish was settled, and not as the wish says."""
    match state:
        case InDoubt() | Held():
            doubt = doubt_of(state)
            return doubt is not None and doubt.attempt != wish.attempt
        case Ready(attempt=attempt):
            is_true = isinstance(wish, ResolveWished) and wish.batch_id is None and wish.attempt == attempt
            return not is_true
        case Processing(doubt=doubt, batch_id=batch_id) | Draining(doubt=doubt, batch_id=batch_id):
            is_other_batch = isinstance(wish, ResolveWished) and wish.batch_id != batch_id
            return wish.attempt != doubt.attempt or is_other_batch
        case _:  # the facts that follow soon answer the wish
            return False

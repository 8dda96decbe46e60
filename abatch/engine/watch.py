"""Watch one of the journal's batches until there is a fact to record: its end, its absence, or that it is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from abatch.errors import ApiError
from abatch.log import log
from abatch.protocol.durations import QUEUED_FOR
from abatch.protocol.facts import (
    CancelledAsParked,
    Ended,
    Lost,
    Reappeared,
    Vanished,
)
from abatch.protocol.lifecycle import (
    Processing,
)
from abatch.protocol.pacing import Backoff
from abatch.protocol.refusals import remedy_of

if TYPE_CHECKING:
    from abatch.engine.context import JobContext
    from abatch.engine.recorder import ShardRecorder
    from abatch.engine.wishes import OperatorWishes
    from abatch.journal.records import ShardRecord
    from abatch.protocol.parked import Parked

__all__ = ["BatchWatcher"]


class BatchWatcher:
    """Watches the batch of one shard."""

    def __init__(
        self, context: JobContext, shard: ShardRecord, recorder: ShardRecorder, wishes: OperatorWishes
    ) -> None:
        self.context = context
        self.shard = shard
        self.recorder = recorder
        self.wishes = wishes

    async def watch(self, batch_id: str) -> bool:
        """Wait for news of the batch and record it; always return True, because another action follows."""
        context, state = self.context, self.shard.state
        assert isinstance(state, Processing)
        context.scope.pace.holds(self.shard.shard, self.shard.planned.rows, state.created_at + QUEUED_FOR)
        news = (
            await self.wishes.lost_by_word(batch_id)
            if self.wishes.is_called_lost()
            else await self._news_of(batch_id, state)
        )
        if news is not None:
            await self.recorder.record(news)
        if isinstance(news, Lost):
            context.scope.forget(batch_id)
        return True

    async def _news_of(
        self, batch_id: str, state: Processing
    ) -> Ended | Vanished | Reappeared | Lost | CancelledAsParked | None:
        """Wait for a fact to record about the batch: news from its scope, or that it is given up as parked."""
        news: list[Ended | Vanished | Reappeared | Lost | CancelledAsParked | None] = []

        async def give_up() -> None:
            news.append(CancelledAsParked(why=str(await self._parked_for_good(batch_id))))
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            if state.parked:  # The cancellation is recorded, but the API may not have received it.
                group.start_soon(self._cancel, batch_id)
            elif state.proven:
                group.start_soon(self._cancel_when_wished, batch_id)
                if self.context.config.parked == "cancel-and-retry":
                    group.start_soon(give_up)
            news.append(
                await self.context.scope.in_flight.ended(
                    self.shard.shard,
                    batch_id,
                    state.created_at,
                    fingerprint=state.doubt.fingerprint,
                    vanished=state.vanished,
                )
            )
            group.cancel_scope.cancel()
        return news[-1]

    async def _parked_for_good(self, batch_id: str) -> Parked:
        """Wait until the batch is parked and its rows can be sent again; wait forever if they have no try left."""
        context = self.context
        if self.shard.planned.trial >= context.job.submitted.tries:
            await anyio.sleep_forever()
        while True:
            parked = await context.scope.parking.until_parked(batch_id)
            if context.wants_more and context.scope.availability.refused is None:
                return parked
            await anyio.sleep(context.config.longest_poll_interval.total_seconds())

    async def _cancel_when_wished(self, batch_id: str) -> None:
        """Wait for a wish to cancel the job, then cancel the batch, which must be proven ours."""
        await self.context.job.cancelling()
        await self._cancel(batch_id)

    async def _cancel(self, batch_id: str) -> None:
        pause = Backoff(first=1.0, most=60.0)
        while True:
            try:
                await self.context.client.cancel(self.context.scope.workspace_id, batch_id)
            except ApiError as failure:
                log.warning("cancel_not_taken", batch_id=batch_id, error=str(failure))
                if failure.status == 400 and remedy_of(400, failure.error_code, failure.message) is None:
                    return  # The batch has ended meanwhile.
                await anyio.sleep(pause.next())
                continue
            log.info("batch_cancel_asked", batch_id=batch_id)
            return

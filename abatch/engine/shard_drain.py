"""Drain the batch of one shard: wait for a slot, give the results to the sink, and record the end of the drain.

One transaction records `Drained`, the retry shard, and a stop of the job, if the results give a reason for one.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from abatch.engine.sift import NotOurs
from abatch.engine.slots import SHORT_REST, Postponed
from abatch.engine.wishes import CALLED_LOST
from abatch.errors import ApiError, LineTooLong, Overtaken
from abatch.journal.log import Entry
from abatch.journal.status import ResultsUnread
from abatch.log import log
from abatch.protocol.absence import Absence
from abatch.protocol.clocks import moment
from abatch.protocol.durations import DAY, HOUR, KEPT_FOR
from abatch.protocol.early import one_failure, stop_for
from abatch.protocol.facts import Held, Lost, Stopped
from abatch.protocol.lifecycle import Draining, Ready
from abatch.protocol.lifecycle import Lost as LostState
from abatch.protocol.pacing import READ_AGAIN, Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from abatch.engine.context import JobContext
    from abatch.engine.drain import DrainOutcome
    from abatch.engine.recorder import ShardRecorder
    from abatch.engine.wishes import OperatorWishes
    from abatch.journal.records import ShardRecord
    from abatch.protocol.facts import Drained

__all__ = ["ShardDrainer"]

BILLING: Final = Stopped(
    reason="the API could not bill the account",
    remedy="Settle the account's billing, then run the same command again.",
)


class ShardDrainer:
    """Drains the batch of one shard, however often that is begun again; it is the `Presence` of its drains."""

    def __init__(
        self, context: JobContext, shard: ShardRecord, recorder: ShardRecorder, wishes: OperatorWishes
    ) -> None:
        self.context = context
        self.shard = shard
        self.recorder = recorder
        self.wishes = wishes
        self._sleep: Callable[[float], Awaitable[None]] = anyio.sleep
        """Sleeps for the present drain, without its slot if that is possible."""
        self._reads = iter(READ_AGAIN)
        """The remaining waits between reads, which outlast a drain that is postponed while it sleeps."""
        self._put_off = Backoff(first=SHORT_REST, most=900.0)
        self._absence = Absence()
        """How long the batch has been missing while it is drained."""
        self._missed_at = inf
        """Loop time at which the batch was last found missing."""

    async def drain(self) -> bool:
        """Drain the batch and record the outcome; return False while this process does not have the job's backend.

        Raises:
            JobStopped: a line is too long; the stop is recorded before it is raised.

        """
        context, state = self.context, self.shard.state
        assert isinstance(state, Draining | LostState)
        if context.drainer is None:
            return False
        if isinstance(state, Draining):
            _warn_of_deadline(self.shard.shard, state, context.scope.date)
        elif state.batch_id is not None:
            context.scope.forget(state.batch_id)
        try:
            async with context.manager.drains.slot(state.created_at) as self._sleep:
                outcome = await context.drainer.drain(self.shard, state, self, self._reads)
        except Postponed as postponed:  # The next drain starts again at the first line, and with short rests.
            await self._unless_called_lost(anyio.sleep, max(postponed.seconds, self._put_off.next()))
            return True
        except NotOurs as other:
            await self.recorder.record(Held(reason=str(other)))
            context.unread.pop(self.shard.shard, None)
            return True
        except LineTooLong as failure:
            reason = f"batch {state.batch_id} of shard {self.shard.shard}: {failure.reason}"
            remedy = "All else of the job is done. Fetch the results of this batch from the API by hand."
            await context.stop(reason, remedy)
        context.outage.over()
        context.unread.pop(self.shard.shard, None)
        await self._record(outcome)
        if state.batch_id is not None:
            context.scope.drained(state.batch_id)
        return True

    async def _record(self, outcome: DrainOutcome) -> None:
        """Record the end of the drain in one transaction, and start the driver of the retry shard."""
        context, drained = self.context, outcome.drained
        entries = self.recorder.entries(drained)
        retry = None
        if outcome.retry is not None:
            retry = context.ledger.number_shard()
            planned = msgspec.structs.replace(outcome.retry, part=context.job.take_part())
            entries.append(Entry(context.job.job, planned, retry, 0))
        unpaid = outcome.billing and context.job.stopped is None
        stop = BILLING if unpaid else self._stop_of_failing(drained)
        if stop is not None:
            entries.append(Entry(context.job.job, stop))
        await context.ledger.record(*entries)
        log.info(
            "shard_drained",
            job=context.job.key,
            shard=self.shard.shard,
            succeeded=drained.counts.succeeded,
            failed=drained.counts.total - drained.counts.succeeded,
            retried=drained.retried,
            missing=drained.missing,
        )
        if retry is not None:
            context.spawn(retry)
        if stop is not None:
            log.error("job_stopped", job=context.job.key, reason=stop.reason)

    def _stop_of_failing(self, drained: Drained) -> Stopped | None:
        """Return the stop if this whole batch failed, no request succeeded before, and requests are unsent."""
        context, job = self.context, self.context.job
        if context.config.failing != "stop" or job.stopped is not None or job.cancel_wished or job.has_succeeded:
            return None
        failure = one_failure(drained, self.shard.planned.rows, job.largest)
        if failure is None:
            return None
        unsent = not job.cut.last or any(isinstance(shard.state, Ready) for shard in job.open_shards.values())
        return stop_for(failure, self.shard.batch_id) if unsent else None

    # ---- the presence of a drain ------------------------------------------------------------------------------

    async def rest(self, seconds: float, /) -> None:
        """Sleep, but wake when an operator gives up the batch of this attempt."""
        await self._unless_called_lost(self._sleep, seconds)

    def given_up(self) -> str:
        """Return why an operator gave the batch up; empty if it is not given up."""
        return CALLED_LOST if self.wishes.is_called_lost() else ""

    def unread(self, why: str, /) -> None:
        """Note why the results could not be read completely, for the status."""
        before = self.context.unread.get(self.shard.shard)
        self.context.unread[self.shard.shard] = ResultsUnread(
            job=self.context.job.key,
            batch_id=self.shard.batch_id or "",
            since=time.time() if before is None else before.since,
            why=why,
        )

    async def missed(self) -> str:
        """Note that the batch and its results return 404; return why they are given up, or an empty string."""
        context, state = self.context, self.shard.state
        if not isinstance(state, Draining):  # Another process has recorded a further fact.
            raise Overtaken
        before, self._missed_at = self._missed_at, anyio.current_time()
        try:
            page = await context.scope.page(limit=1)  # Only a list shows the server's time.
            news = self._absence.missed(moment(page.date), state.vanished)
            if context.scope.listed_since(state.batch_id, before) or (
                news is not None and await context.scope.lists(state.batch_id, state.created_at)
            ):
                await self.seen()
                return ""
            if isinstance(news, Lost):
                return news.why if await context.scope.key.may_see(state.doubt.fingerprint) else ""
        except ApiError as failure:
            log.info("batch_not_visible", batch_id=state.batch_id, status=failure.status)
            return ""
        if news is not None:
            await self.recorder.record(news)
        return ""

    async def seen(self) -> None:
        """Note that the API shows the batch that is drained, or its results."""
        state = self.shard.state
        if not isinstance(state, Draining):
            raise Overtaken
        news = self._absence.seen(state.vanished)
        if news is not None:
            await self.recorder.record(news)

    async def _unless_called_lost(self, sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
        """Sleep, but wake when an operator gives up the batch of this attempt."""

        async def wake(scope: anyio.CancelScope) -> None:
            while not self.wishes.is_called_lost():
                await self.context.job.wish()
            scope.cancel()

        failure: Postponed | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(wake, group.cancel_scope)
            try:
                await sleep(seconds)
            except Postponed as postponed:  # It is raised below, alone and not in a group.
                failure = postponed
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _warn_of_deadline(shard: int, state: Draining, server_now: float) -> None:
    left = state.created_at + KEPT_FOR - (server_now or time.time())
    if left < 2 * DAY:
        log.error("results_vanish_soon", shard=shard, batch_id=state.batch_id, hours_left=round(left / HOUR))
    elif left < 7 * DAY:
        log.warning("results_vanish", shard=shard, batch_id=state.batch_id, hours_left=round(left / HOUR))

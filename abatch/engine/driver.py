"""Drive one shard: perform the next action, make its fact durable, repeat. Running and recovering are the same code."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, assert_never

import anyio
import msgspec

from abatch.engine.context import JobContext, backend_unknown
from abatch.engine.doubt import DoubtSettler
from abatch.engine.fallbacks import seal_fallbacks
from abatch.engine.recorder import ShardRecorder
from abatch.engine.sift import NotOurs
from abatch.engine.slots import SHORT_REST, Postponed
from abatch.engine.upload import Uploader
from abatch.engine.watch import BatchWatcher
from abatch.engine.wishes import CALLED_LOST, OperatorWishes
from abatch.errors import ApiError, BackendError, LineTooLong, Overtaken, SpoolDamaged, SpoolUnusable, TooManyOpenFiles
from abatch.input.spool import FREE_DISK, open_spool
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.absence import Absence
from abatch.protocol.clocks import moment
from abatch.protocol.durations import DAY, HOUR, KEPT_FOR
from abatch.protocol.early import one_failure, stop_for
from abatch.protocol.facts import (
    Abandoned,
    Held,
    Lost,
    Stopped,
)
from abatch.protocol.lifecycle import (
    Abandon,
    Drain,
    Draining,
    GiveUp,
    Ready,
    Settle,
    Upload,
    Watch,
    next_action,
)
from abatch.protocol.lifecycle import Lost as LostState
from abatch.protocol.pacing import READ_AGAIN, Backoff
from abatch.system import threads
from abatch.system.disk import remove

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from abatch.journal.records import ShardRecord
    from abatch.protocol.facts import Drained
    from abatch.protocol.lifecycle import Action

__all__ = ["Driver"]

RESTORE: Final = "Put the file back; or submit its requests, which were not sent, under another key."
RESTORE_PAID: Final = (
    "Put the file back: the batch is paid for, and its results are there for 29 days (abatch status --batches). "
    "Requests that are submitted under another key are paid again."
)
BILLING: Final = Stopped(
    reason="the API could not bill the account",
    remedy="Settle the account's billing, then run the same command again.",
)


class Driver:
    """Drive one shard: `run` returns once it is done, or when it needs an operator or the caller to continue."""

    def __init__(self, context: JobContext, shard: ShardRecord) -> None:
        self.context = context
        self.shard = shard
        self.recorder = ShardRecorder(context, shard)
        self.wishes = OperatorWishes(context, shard, self.recorder)
        self._uploader = Uploader(context, shard, self.recorder)
        self._settler = DoubtSettler(context, shard, self.recorder, self.wishes)
        self._watcher = BatchWatcher(context, shard, self.recorder, self.wishes)
        self._reads = iter(READ_AGAIN)
        """The remaining waits between reads, which outlast a drain that is postponed while it sleeps."""
        self._put_off = Backoff(first=SHORT_REST, most=900.0)
        self._absence = Absence()
        """How long the batch has been missing while it is drained."""
        self._out_of_files = Backoff(first=1.0, most=120.0)
        self._missed_at = inf
        """Loop time at which the batch was last found missing."""

    async def run(self) -> None:
        """Perform actions until nothing is left to do for this shard in this process now.

        Raises:
            JobStopped: the job cannot continue; the stop is recorded before it is raised.
            BackendError: the job's storage failed permanently, or for longer than the job's patience.
            JournalError: the journal failed, so no job can continue.

        """
        while (action := await self._next_action()) is not None:
            self.recorder.begin()
            try:
                if not await self._perform(action):
                    return
            except Overtaken:
                log.warning("shard_overtaken", shard=self.shard.shard)
            except SpoolDamaged as damage:
                await self.context.stop(damage.reason, RESTORE if isinstance(self.shard.state, Ready) else RESTORE_PAID)
            except SpoolUnusable as failure:
                await self.context.stop(failure.reason, FREE_DISK)
            except TooManyOpenFiles as failure:
                if isinstance(action, Upload):  # The spool had no descriptor; no seal follows that would end an outage.
                    await self._rest(failure)
                else:
                    await self.context.outage.wait(failure)
            except BackendError as failure:  # Only draining and abandoning raise it; both restart with a new sink.
                await self.context.outage.wait(failure)
        await threads.run(remove, self.context.manager.ledger.folder.spool_file(self.shard.planned.spool))

    async def _next_action(self) -> Action | None:
        await self.wishes.refuse_if_late()
        return next_action(self.shard.state)

    async def _rest(self, failure: TooManyOpenFiles) -> None:
        pause = self._out_of_files.next()
        log.warning("too_many_open_files", shard=self.shard.shard, place=failure.url, seconds=pause)
        await anyio.sleep(pause)

    async def _perform(self, action: Action) -> bool:
        match action:
            case Upload(attempt):
                if self.context.job.cancel_wished:
                    return await self._abandon("the job was cancelled before this shard was sent")
                return await self._uploader.upload(attempt)
            case Settle():
                return await self._settler.settle(committed_here=self._uploader.committed_here)
            case Watch(batch_id):
                return await self._watcher.watch(batch_id)
            case Drain() | GiveUp():
                return await self._drain()
            case Abandon(error):
                line = b'{"type":"errored","error":%b}' % error.encode()
                return await self._abandon("the API refuses this request as too large", line)
            case _:
                assert_never(action)

    async def _abandon(self, why: str, result: bytes | None = None) -> bool:
        """Seal a shard that is never sent: every row gets `result`, or its fallback line."""
        context = self.context
        if context.collector is None:
            raise backend_unknown(context.job.key)
        spool = await open_spool(context.manager.ledger.folder.spool, self.shard.planned)
        with closing(spool) as reader:
            counts, sealed, failures = await seal_fallbacks(
                context.collector.backend, context.ref, self.shard, reader, result
            )
        context.outage.over()
        await self.recorder.record(Abandoned(why=why, counts=counts, sealed=sealed, failures=failures))
        return True

    async def _drain(self) -> bool:
        context, state = self.context, self.shard.state
        assert isinstance(state, Draining | LostState)
        if context.collector is None:
            return False
        if isinstance(state, Draining):
            _warn_of_deadline(self.shard.shard, state, context.scope.date)
        elif state.batch_id is not None:
            context.scope.forget(state.batch_id)
        try:
            async with context.manager.drains.slot(state.created_at) as rest:
                presence = _Presence(self, rest)
                collected = await context.collector.drain(self.shard, state, presence, self._reads)
        except Postponed as postponed:  # The next drain starts again at the first line, and with short rests.
            await self.unless_called_lost(anyio.sleep, max(postponed.seconds, self._put_off.next()))
            return True
        except NotOurs as other:
            await self.recorder.record(Held(reason=str(other)))
            return True
        except LineTooLong as failure:
            reason = f"batch {state.batch_id} of shard {self.shard.shard}: {failure.reason}"
            remedy = "All else of the job is done. Fetch the results of this batch from the API by hand."
            await self.context.stop(reason, remedy)
        context.outage.over()
        entries = self.recorder.entries(collected.drained)
        retry = None
        if collected.retry is not None:
            retry = context.manager.ledger.number_shard()
            planned = msgspec.structs.replace(collected.retry, part=context.job.take_part())
            entries.append(Entry(context.job.job, planned, retry, 0))
        unpaid = collected.billing and context.job.stopped is None
        stop = BILLING if unpaid else self._stop_of_failing(collected.drained)
        if stop is not None:
            entries.append(Entry(context.job.job, stop))
        await context.manager.ledger.record(*entries)
        if state.batch_id is not None:
            context.scope.drained(state.batch_id)
        counts = collected.drained.counts
        log.info(
            "shard_drained",
            job=context.job.key,
            shard=self.shard.shard,
            succeeded=counts.succeeded,
            failed=counts.total - counts.succeeded,
            retried=collected.drained.retried,
            missing=collected.drained.missing,
        )
        if retry is not None:
            context.spawn(retry)
        if stop is not None:
            log.error("job_stopped", job=context.job.key, reason=stop.reason)
        return True

    def _stop_of_failing(self, drained: Drained) -> Stopped | None:
        """Return the stop if this whole batch failed, no request succeeded before, and requests are unsent."""
        context, job = self.context, self.context.job
        if (
            context.manager.config.failing != "stop"
            or job.stopped is not None
            or job.cancel_wished
            or job.has_succeeded
        ):
            return None
        failure = one_failure(drained, self.shard.planned.rows, job.largest)
        if failure is None:
            return None
        unsent = not job.cut.last or any(isinstance(shard.state, Ready) for shard in job.open_shards.values())
        return stop_for(failure, self.shard.batch_id) if unsent else None

    async def unless_called_lost(self, sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
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


@dataclass(frozen=True, slots=True)
class _Presence:
    """The driver's implementation of `Presence`: it sleeps for a drain, and reports whether the batch is given up."""

    driver: Driver
    sleep: Callable[[float], Awaitable[None]]

    async def rest(self, seconds: float) -> None:
        await self.driver.unless_called_lost(self.sleep, seconds)

    async def missed(self) -> str:
        return await self.driver.missed()

    async def seen(self) -> None:
        await self.driver.seen()

    def given_up(self) -> str:
        return CALLED_LOST if self.driver.wishes.is_called_lost() else ""


def _warn_of_deadline(shard: int, state: Draining, server_now: float) -> None:
    left = state.created_at + KEPT_FOR - (server_now or time.time())
    if left < 2 * DAY:
        log.error("results_vanish_soon", shard=shard, batch_id=state.batch_id, hours_left=round(left / HOUR))
    elif left < 7 * DAY:
        log.warning("results_vanish", shard=shard, batch_id=state.batch_id, hours_left=round(left / HOUR))

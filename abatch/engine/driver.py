"""Drive one shard: perform the next action, make its fact durable, repeat. Running and recovering are the same code."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final, assert_never

import anyio

from abatch.engine.context import JobContext, backend_unknown
from abatch.engine.doubt import DoubtSettler
from abatch.engine.fallbacks import seal_fallbacks
from abatch.engine.recorder import ShardRecorder
from abatch.engine.shard_drain import ShardDrainer
from abatch.engine.upload import Uploader
from abatch.engine.watch import BatchWatcher
from abatch.engine.wishes import OperatorWishes
from abatch.errors import BackendError, Overtaken, SpoolDamaged, SpoolUnusable, TooManyOpenFiles
from abatch.input.spool import FREE_DISK, open_spool
from abatch.log import log
from abatch.protocol.facts import Abandoned
from abatch.protocol.lifecycle import (
    Abandon,
    Drain,
    GiveUp,
    Ready,
    Settle,
    Upload,
    Watch,
    next_action,
)
from abatch.protocol.pacing import Backoff
from abatch.system import threads
from abatch.system.disk import remove

if TYPE_CHECKING:
    from abatch.journal.records import ShardRecord
    from abatch.protocol.lifecycle import Action

__all__ = ["Driver"]

RESTORE: Final = "Put the file back; or submit its requests, which were not sent, under another key."
RESTORE_PAID: Final = (
    "Put the file back: the batch is paid for, and its results are there for 29 days (abatch status --batches). "
    "Requests that are submitted under another key are paid again."
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
        self._drainer = ShardDrainer(context, shard, self.recorder, self.wishes)
        self._out_of_files = Backoff(first=1.0, most=120.0)

    async def run(self) -> None:
        """Perform actions until nothing is left to do for this shard in this process now.

        Raises:
            JobStopped: the job cannot continue; the stop is recorded before it is raised.
            BackendError: the job's storage failed permanently, or for longer than the job's patience.
            JournalError: the journal failed, so no job can continue.

        """
        try:
            await self._act()
        finally:  # Also if a pause cancels this just after the last fact, because no later driver removes the file.
            if not self.shard.open:
                await threads.clean_up(remove, self.context.folder.spool_file(self.shard.planned.spool))

    async def _act(self) -> None:
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
                return await self._drainer.drain()
            case Abandon(error):
                line = b'{"type":"errored","error":%b}' % error.encode()
                return await self._abandon("the API refuses this request as too large", line)
            case _:
                assert_never(action)

    async def _abandon(self, why: str, result: bytes | None = None) -> bool:
        """Seal a shard that is never sent: every row gets `result`, or its fallback line."""
        context = self.context
        if context.drainer is None:
            raise backend_unknown(context.job.key)
        spool = await open_spool(context.folder.spool, self.shard.planned)
        with closing(spool) as reader:
            counts, sealed, failures = await seal_fallbacks(
                context.drainer.backend, context.ref, self.shard, reader, result
            )
        context.outage.over()
        await self.recorder.record(Abandoned(why=why, counts=counts, sealed=sealed, failures=failures))
        return True

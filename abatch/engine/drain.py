"""Drain one ended batch into a sink: raw lines, each row once, with at most a few chunks in memory.

Rows whose try failed for a temporary reason are withheld for a retry shard while the job has tries left. Every other
line is passed on as bytes, with the caller's custom_id in place of the wire id. A shard is complete when every row has
its line: the rows decide, not the counts. A stream that ends early is read again, and is never taken as complete.

This order makes a crash harmless: the withheld lines become durable in the spool, then `seal()` is called, then one
transaction records `Drained` and the retry shard's `Planned`. After `Drained` a shard is read again only if its part is
gone (`Reopened`).
"""

from __future__ import annotations

import time
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from abatch.backend import Sealed, ShardRef
from abatch.engine.sealing import WRITE_BYTES, check_lines, discard, record_of
from abatch.engine.sift import LineSifter, NotOurs
from abatch.errors import ApiError, BackendError, SpoolDamaged
from abatch.input.spool import (
    SpoolReader,
    Written,
    guarded,
    open_spool,
)
from abatch.journal.kept import KeptIds, read_kept, write_kept
from abatch.journal.missing import count_missing, write_missing
from abatch.log import log
from abatch.protocol import wire
from abatch.protocol.durations import KEPT_FOR
from abatch.protocol.facts import Counts, Drained, Planned
from abatch.protocol.lifecycle import Draining, Lost
from abatch.protocol.pacing import READ_AGAIN, Backoff
from abatch.protocol.reconcile import counts_of
from abatch.protocol.wire import decode_id
from abatch.result import Block, Failure, Line
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from abatch.backend import Backend, JobRef, Sink
    from abatch.engine.client import Client
    from abatch.engine.presence import Presence
    from abatch.journal.folder import JournalFolder
    from abatch.journal.lineage import Lineage
    from abatch.journal.records import ShardRecord
    from abatch.prices import PriceList

__all__ = ["DrainOutcome", "Drainer"]

READS: Final = len(READ_AGAIN) + 1
"""The number of reads after which rows are missing; each was complete without them, or showed the batch as archived."""
RECOUNTS: Final = 6
"""How often the API is asked for its counts before rows are sealed although the counts differ."""
READ_BYTES: Final = 2**18
"""Approximate number of bytes of lines that are processed in one turn of the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOutcome:
    """The outcome of a drain, which is not recorded yet."""

    drained: Drained
    retry: Planned | None
    """The retry shard, without its part number."""
    billing: bool
    """Whether a line reported that the account cannot be billed."""


class Drainer:
    """Drains the ended batches of one job."""

    def __init__(
        self,
        client: Client,
        folder: JournalFolder,
        lineage: Lineage,
        job: JobRef,
        backend: Backend,
        *,
        tries: int,
        prices: PriceList,
        may_retry: Callable[[], bool],
        server_now: Callable[[], float],
        one_block: anyio.Lock,
    ) -> None:
        self.client = client
        self.folder = folder
        self.lineage = lineage
        self.job = job
        self.backend = backend
        self.one_block = one_block
        """Each drain holds this lock while it processes one text, so the event loop runs between any two texts."""
        self.tries = tries
        self.step = prices.long_prompt_tokens
        self.may_retry = may_retry
        self.server_now = server_now

    async def drain(
        self,
        shard: ShardRecord,
        state: Draining | Lost,
        presence: Presence,
        again: Iterator[float],
    ) -> DrainOutcome:
        """Stream the batch's results into the sink until every row has its line, and seal it.

        A lost batch is not read: its part is sealed without lines, and all its rows are missing.

        Args:
            shard: the shard.
            state: the state of the shard, which names its batch.
            presence: reports whether the batch is given up, and sleeps for the drain.
            again: the waits between reads that are left of `READ_AGAIN`; an earlier drain that was postponed used some.

        Raises:
            NotOurs: an operator named this batch, but its results are not this shard's.
            BackendError: the storage failed, or sealed another number of lines than it was given.
            SpoolDamaged: the shard's custom_ids cannot be read.
            SpoolUnusable: the lines that are withheld for a retry cannot be written to disk.
            LineTooLong: a line has more than 64 MiB.

        """
        with closing(await self._open_ids(shard)) as reader:
            return await _BatchDrain(self, shard, state, reader, presence=presence, again=again).run()

    async def _open_ids(self, shard: ShardRecord) -> SpoolReader | KeptIds:
        """Open the shard's spool file; if the shard was drained before and has none, read its kept custom_ids."""
        try:
            return await open_spool(self.folder.spool, shard.planned)
        except SpoolDamaged:
            with guarded(self.folder.ids):
                kept = await threads.run(read_kept, self.folder.ids, shard.shard, shard.planned.rows)
            if kept is None:
                raise
            return kept


class _Gone(NamedTuple):
    """The results of a batch cannot be read."""

    why: str
    certain: bool = True
    """Whether one look proves it; otherwise it counts as one of the reads that did not bring the rows."""


class _BatchDrain:
    """One drain of one shard, from reading the batch to sealing the part."""

    def __init__(
        self,
        drainer: Drainer,
        shard: ShardRecord,
        state: Draining | Lost,
        reader: SpoolReader | KeptIds,
        *,
        presence: Presence,
        again: Iterator[float],
    ) -> None:
        self._drainer = drainer
        self._presence = presence
        self._again = again
        self._shard = shard
        self._state = state
        self._reader = reader
        self._batch_id = state.batch_id or ""
        self._lines = LineSifter(drainer, shard, state, reader)
        self._withheld = self._lines.withheld
        self._earlier = state.earlier if isinstance(state, Draining) else None
        """The first `Drained` of the shard, if this is a redrain."""
        self._first_missing = ""

    async def run(self) -> DrainOutcome:
        drainer, planned = self._drainer, self._shard.planned
        ref = ShardRef(
            job=drainer.job,
            shard=self._shard.shard,
            part=planned.part,
            rows=planned.rows,
            batch_id=self._state.batch_id,
        )
        opened = await drainer.backend.open(ref)
        if isinstance(opened, Sealed):
            return await self._recount(opened)
        try:
            await self._withheld.forget_leftover()
            state = self._state
            gone = await self._read_all(opened, state) if isinstance(state, Draining) else state.why
            self._check_withheld()
            written = await self._withheld.seal()
            missing = await self._note_missing(gone)
            sealed = await opened.seal()
        except BaseException:
            await discard(opened)
            await self._withheld.discard()
            raise
        check_lines(self._drainer.job, sealed.part, sealed.lines, self._lines.totals.counts.total)
        await self._keep_ids()
        return self._outcome(sealed, written, missing, gone)

    async def _read_all(self, sink: Sink, state: Draining) -> str:
        """Read until every row has its line; return why the rest is missing, or an empty string."""
        trouble = Backoff(first=1.0, most=300.0)
        while True:
            failure = await self._read_once(sink)
            if not self._lines.left:  # A break of the stream after the last row does not matter.
                if self._earlier is None:
                    await self._compare_counts(state.counts)
                return ""
            gone = None if failure is None else await self._gone(failure)
            if gone is not None and gone.certain:
                return gone.why
            if given_up := self._presence.given_up():
                if self._begins_last_read():
                    continue
                return given_up
            if failure is not None:
                wait = max(failure.retry_after or 0.0, trouble.next())
                if gone is not None:
                    patience = next(self._again, None)
                    if patience is None:
                        return gone.why
                    wait = patience
                log.warning(
                    "results_interrupted",
                    shard=self._shard.shard,
                    batch_id=self._batch_id,
                    status=failure.status,
                    error=str(failure),
                    rows_left=self._lines.left,
                )
                self._presence.unread(str(failure))
                await self._presence.rest(wait)
                continue
            await self._presence.seen()
            patience = next(self._again, None)
            if patience is None and not self._lines.proven:
                raise NotOurs(f"batch {self._state.batch_id} sent no line that proves it ours, in {READS} reads")
            if patience is None:
                if self._begins_last_read():
                    continue
                left = "1 result is" if self._lines.left == 1 else f"{self._lines.left} results are"
                return f"{left} not in what the API sends, after {READS} reads"
            log.warning("results_incomplete", shard=self._shard.shard, rows_left=self._lines.left, again_in=patience)
            self._presence.unread(f"{self._lines.left:,} of {self._shard.planned.rows:,} were not in what the API sent")
            await self._presence.rest(patience)

    def _begins_last_read(self) -> bool:
        """Return whether a last read is needed, and make it accept torn lines.

        No earlier read brought whole lines for these rows, so the torn ones may be all that the API has. Torn lines are
        not kept from one read to the next, because they may be many and long.
        """
        if self._lines.takes_torn or not self._lines.rows_torn:
            return False
        self._lines.takes_torn = True
        log.warning("torn_lines_taken", shard=self._shard.shard, rows_left=self._lines.left)
        return True

    async def _compare_counts(self, counts: Counts) -> None:
        """Compare the counts once all rows are read; if they differ, ask again, then log it. The rows decide."""
        again = Backoff(first=1.0, most=60.0)
        for n in range(RECOUNTS):
            if counts == self._lines.counts:
                return
            if n == 0:
                log.info("counts_awaited", shard=self._shard.shard, batch_id=self._batch_id)
            await self._presence.rest(again.next())
            with suppress(ApiError):
                workspace_id = self._shard.planned.headers.workspace_id
                batch = await self._drainer.client.retrieve(workspace_id, self._batch_id)
                counts = counts_of(batch)
        log.warning("counts_disagree", shard=self._shard.shard, batch_id=self._batch_id)

    async def _gone(self, failure: ApiError) -> _Gone | None:
        """Return why the results can no longer be read; None if nothing suggests that."""
        if failure.status != 404:
            return None
        workspace_id = self._shard.planned.headers.workspace_id
        try:
            batch = await self._drainer.client.retrieve(workspace_id, self._batch_id)
        except ApiError as lost:
            if lost.status != 404:
                return None
            if self._is_past(KEPT_FOR):
                return _Gone("the API does not know the batch any more, and its results are kept for 29 days")
            why = self._presence.given_up() or await self._presence.missed()
            return _Gone(why) if why else None
        await self._presence.seen()
        if self._is_past(KEPT_FOR):  # Answers recorded in 2024 have no `archived_at`.
            return _Gone("the API archived the results before they were read (29 days)")
        if not batch.archived:
            return None
        log.warning("batch_shown_as_archived", shard=self._shard.shard, batch_id=self._batch_id)
        return _Gone(f"the API shows the batch as archived, and had no results in {READS} reads", certain=False)

    def _is_past(self, age: float) -> bool:
        """Return whether the batch is older than `age` by this machine's clock, and by the server's if it is known."""
        return self._state.created_at + age < min(self._drainer.server_now() or time.time(), time.time())

    async def _read_once(self, sink: Sink) -> ApiError | None:
        """Read the results from their beginning; one block is written while the next is read.

        Returns the error that broke the stream, if any; the lines before the break are written.
        """
        unwritten: list[Exception] = []
        unread: Exception | None = None
        full, empty = anyio.create_memory_object_stream[Block](0)
        async with anyio.create_task_group() as group:
            group.start_soon(_write_all, sink, empty, unwritten)
            try:
                async with full:
                    await self._read_into(full)
            except Exception as failure:  # noqa: BLE001 - it is raised below, alone and not in a group
                unread = failure
        if unwritten:  # The rows of the lost block already count as seen, so a broken stream must not hide this.
            raise unwritten[0]
        if unread is None or isinstance(unread, ApiError):
            return unread
        raise unread

    async def _read_into(self, full: MemoryObjectSendStream[Block]) -> None:
        workspace_id = self._shard.planned.headers.workspace_id
        block, broken = Block(_line), None
        try:
            async with (
                self._drainer.client.results(workspace_id, self._batch_id) as chunks,
                aclosing(_blocks(chunks)) as texts,
            ):
                async for text in texts:
                    if block and len(text) >= wire.LONG:  # A long line gets a separate block, so it is not joined.
                        await full.send(block)
                        block = Block(_line)
                    async with self._drainer.one_block:
                        self._lines.take(text, block)
                        del text
                        await anyio.lowlevel.checkpoint()
                    if self._withheld.waits:
                        await threads.run(self._withheld.write)
                    if block.weight >= WRITE_BYTES:
                        await full.send(block)
                        block = Block(_line)
        except ApiError as failure:
            broken = failure
        if block:  # The lines before a break count as seen, so they must be written.
            await full.send(block)
        if broken is not None:
            raise broken

    # ---- sealing ----------------------------------------------------------------------------------------------

    def _check_withheld(self) -> None:
        """Refuse to reseal a shard unless exactly the rows of its retry shard were left out."""
        if self._earlier is not None and not self._withheld.agrees(None):
            raise BackendError(
                self._drainer.job.key,
                f"part {self._shard.planned.part} cannot be read again: {self._earlier.retried} of its rows were "
                f"retried, and {self._withheld.rows.count(1)} look so; put the part back",
            )

    async def _keep_ids(self) -> None:
        """Keep the custom_ids in case the part is lost; this precedes `Drained`, which removes the spool file."""
        if isinstance(self._reader, KeptIds):
            return
        with guarded(self._drainer.folder.ids):
            await threads.run(self._write_ids, self._reader)

    def _write_ids(self, reader: SpoolReader) -> None:
        folder = self._drainer.folder.ids
        write_kept(folder, self._shard.shard, reader.custom_id, self._withheld.rows, reader.params_marks())

    async def _note_missing(self, gone: str) -> int:
        if not gone:
            return 0
        entries = [(self._reader.custom_id(row), gone) for row, seen in enumerate(self._lines.seen) if not seen]
        with guarded(self._drainer.folder.missing):
            await threads.run(write_missing, self._drainer.folder.missing_list(self._shard.shard), entries)
        self._first_missing = decode_id(entries[0][0])
        log.error("rows_missing", shard=self._shard.shard, rows=len(entries), why=gone)
        return len(entries)

    async def _recount(self, sealed: Sealed) -> DrainOutcome:
        """Read back a part that an earlier run sealed but did not record before it died, and continue from there."""
        async for raw in self._drainer.backend.read(sealed):
            line = wire.delivered(raw)
            self._lines.billing |= line.error_type == "billing_error"
            self._lines.totals.add(line)
        written = await self._withheld.found()
        lines = self._lines.totals.counts.total
        missing = self._shard.planned.rows - lines - self._withheld.retried(written)
        if missing:  # If nothing is missing, an existing list is a leftover of an earlier read.
            with guarded(self._drainer.folder.missing):
                listed = await threads.run(count_missing, self._drainer.folder.missing_list(self._shard.shard))
            check_lines(self._drainer.job, sealed.part, lines, lines + missing - listed)
        sealed_so = (
            self._state.why if isinstance(self._state, Lost) else "results were missing when the shard was sealed"
        )
        why = sealed_so if missing else ""
        if self._withheld.agrees(written):
            await self._keep_ids()
        return self._outcome(sealed, written, missing, why)

    def _missed(self, missing: int, gone: str) -> Failure:
        return Failure(type="missing", message=gone, count=missing, example=self._first_missing)

    def _outcome(self, sealed: Sealed, written: Written | None, missing: int, gone: str) -> DrainOutcome:
        if dropped := self._lines.dropped:
            log.warning(
                "lines_dropped",
                shard=self._shard.shard,
                identical=dropped.identical,
                conflicting=dropped.conflicting,
                foreign=dropped.foreign,
                torn=dropped.torn,
            )
        drained = Drained(
            counts=self._lines.totals.counts,
            sealed=record_of(sealed),
            spend=self._lines.totals.spend,
            retried=self._withheld.retried(written),
            missing=missing,
            gone=gone,
            stops=self._lines.totals.stops,
            failures=self._lines.totals.failures
            if not missing
            else (*self._lines.totals.failures, self._missed(missing, gone)),
        )
        return DrainOutcome(
            drained=drained, retry=self._withheld.retry(written), billing=self._lines.billing and self._earlier is None
        )


async def _write_all(sink: Sink, blocks: MemoryObjectReceiveStream[Block], unwritten: list[Exception]) -> None:
    """Write blocks as they arrive; the first failure ends both the writing and the reading."""
    async with blocks:
        try:
            async for block in blocks:
                await sink.write(block)
                del block  # Free it before waiting for the next block.
        except Exception as failure:  # noqa: BLE001 - the reader raises it
            unwritten.append(failure)


def _line(raw: bytes) -> Line:
    """Make the Line of a raw line that was decoded once and has the caller's custom_id since then."""
    seen = wire.read_line(raw)
    assert seen is not None
    return Line(raw, *seen)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield whole lines in blocks."""
    reader = wire.BlockReader()
    try:
        async for chunk in chunks:
            reader.feed(chunk)
            if reader.weight >= READ_BYTES and (text := reader.take()):
                yield text
    except ApiError:  # The lines before the break are valid, so they count before the results are read again.
        if text := reader.take():
            yield text
        last = reader.end()
        if last.strip() and wire.is_whole(last):  # Only its newline is missing.
            yield last
        raise
    if text := reader.take():
        yield text
    last = reader.end()
    if last.strip() and wire.is_whole(last):  # Otherwise the stream was cut inside the line, which is read again.
        yield last

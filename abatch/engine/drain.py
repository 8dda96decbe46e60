"""Drain one ended batch into a sink: raw lines, each row once, at most a few chunks in memory.

Rows whose try failed for a passing reason are withheld for a retry shard while the job has tries left; every
other line goes on as bytes, with the caller's custom_id put in place. Complete means that every row of the shard
has its line: the rows decide, not the counts, and a stream that ends early is read again, never taken as the end.

The order that makes a crash harmless: withheld lines durable in the spool; `seal()`; then one transaction with
`Drained` and the retry shard's `Planned`. After `Drained` a shard is read again only if its part is gone (`Reopened`).
"""

from __future__ import annotations

import time
import zlib
from array import array
from collections import Counter
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import add
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import anyio
import msgspec

from abatch.backend import Sealed, ShardRef
from abatch.errors import ApiError, BackendError
from abatch.input.spool import (
    SpoolDamaged,
    SpoolReader,
    SpoolWriter,
    Written,
    count_missing,
    examine,
    guarded,
    open_spool,
    write_missing,
)
from abatch.journal.kept import KeptIds, read_kept, write_kept
from abatch.log import log
from abatch.prices import MOST_SPENDS, NO_USAGE, OTHER_MODELS, TOO_MANY
from abatch.protocol import wire
from abatch.protocol.durations import KEPT_FOR
from abatch.protocol.facts import Counts, Drained, Planned, SealedRecord, Spend
from abatch.protocol.failures import MOST_OF_SHARD, Failures, is_final
from abatch.protocol.lifecycle import Draining, Lost
from abatch.protocol.pacing import READ_AGAIN, Backoff
from abatch.protocol.reconcile import counts_of
from abatch.protocol.stops import UNKNOWN, add_stops
from abatch.result import OUTCOMES, Block, Failure, Line, Usage
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from abatch.backend import Backend, JobRef, Sink
    from abatch.engine.client import Client
    from abatch.journal.ledger import ShardRecord
    from abatch.journal.sqlite import Journal
    from abatch.prices import PriceList

__all__ = [
    "RETRYABLE",
    "Collected",
    "Collector",
    "NotOurs",
    "discard",
    "failure_of",
    "record_of",
    "seal_fallbacks",
    "sealed_of",
]

RETRYABLE: Final = frozenset({"rate_limit_error", "timeout_error", "api_error", "overloaded_error"})
"""Errors that pass; `expired` is retried, too, and a download that timed out, which is an `invalid_request_error`.
Anything else, also what is not known yet, is kept as it is."""
READS: Final = len(READ_AGAIN) + 1
"""Complete reads that do not bring a row, before it is missing."""
RECOUNTS: Final = 6
"""Times that the API is asked for its counts before rows that it counts otherwise are sealed."""
READ_BYTES: Final = 2**18
"""Bytes of lines, about, that are taken in one turn of the event loop."""
WRITE_BYTES: Final = 2**19
"""Lines go to the sink in blocks of about this size."""

_decode_id = msgspec.json.Decoder(str).decode


class Presence(Protocol):
    """What a drain asks whoever began it."""

    async def rest(self, seconds: float, /) -> None:
        """Sleep, but no longer than until the batch is given up."""
        ...

    async def missed(self) -> str:
        """Note that the batch and its results are a 404; why they are given up, empty while they are not."""
        ...

    async def seen(self) -> None:
        """Note that the API shows the batch, or its results."""
        ...

    def given_up(self) -> str:
        """Why somebody gave the batch up; empty if nobody did."""
        ...


class Alone:
    """The presence of a batch that nobody gives up."""

    async def rest(self, seconds: float, /) -> None:
        """Sleep."""
        await anyio.sleep(seconds)

    async def missed(self) -> str:
        """Wait on."""
        return ""

    async def seen(self) -> None:
        """Go on."""

    def given_up(self) -> str:
        """Nobody did."""
        return ""


class NotOurs(Exception):
    """A batch that an operator named does not hold this shard."""


_Bucket: TypeAlias = tuple[str, bool, str, tuple[str, ...]]
"""Model, whether the prompt is long, place of inference, what has no price."""
_NONE: Final = (0, 0, 0, 0, 0, 0)


class UsageTotals:
    """Counts and tokens of lines as they pass; a prompt of more than `step` tokens has the long price."""

    def __init__(self, *, step: int) -> None:
        self._step = step
        self._outcomes: dict[str, int] = {}
        self._succeeded = 0
        self._tokens: dict[_Bucket, tuple[int, ...]] = {}
        self._stops: dict[str, int] = {}
        self._failures = Failures(MOST_OF_SHARD)

    def note(self, outcome: str) -> None:
        """Count an outcome."""
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def add(self, line: Line) -> None:
        """Count a line, and its tokens."""
        self.note(line.outcome)
        if line.outcome == "succeeded":
            add_stops(self._stops, {line.stop_reason or UNKNOWN: 1})
            usage = line.usage or Usage(unpriced=(NO_USAGE,))
        else:
            self._failures.add(failure_of(line))
            if line.usage is None:
                return
            usage = line.usage
        *numbers, geo, unpriced = msgspec.structs.astuple(usage)
        self._add_tokens((line.model or "", usage.prompt_tokens > self._step, geo, unpriced), numbers)

    def add_succeeded(self, messages: Sequence[wire.Message]) -> None:
        """Count the lines of rows that succeeded with these messages."""
        self._succeeded += len(messages)
        told: dict[_Bucket, list[tuple[int, ...]]] = {}
        add_stops(self._stops, Counter([message.stop_reason or UNKNOWN for message in messages]))
        for message in messages:
            usage, model = message.usage, message.model or ""
            if usage is None:
                self._add_tokens((model, False, "", (NO_USAGE,)), _NONE)
                continue
            fresh, _, read, written, _ = numbers = usage.numbers()
            searches, geo, unpriced = usage.charges()
            bucket = (model, fresh + read + written > self._step, geo, unpriced)
            told.setdefault(bucket, []).append(numbers)
            if searches:
                self._add_tokens(bucket, (0, 0, 0, 0, 0, searches))
        for bucket, of_each in told.items():
            self._add_tokens(bucket, (*map(sum, zip(*of_each, strict=True)), 0))

    def _add_tokens(self, bucket: _Bucket, numbers: Iterable[int]) -> None:
        if bucket not in self._tokens and len(self._tokens) >= MOST_SPENDS:
            bucket = (OTHER_MODELS, False, "", (TOO_MANY,))
        sums = self._tokens.get(bucket, _NONE)
        self._tokens[bucket] = tuple(map(add, sums, numbers))

    @property
    def counts(self) -> Counts:
        """Per outcome."""
        known = {outcome: self._outcomes.get(outcome, 0) for outcome in OUTCOMES}
        other = sum(self._outcomes.values()) - sum(known.values())
        known["succeeded"] += self._succeeded
        return Counts(**known, other=other)

    @property
    def spend(self) -> tuple[Spend, ...]:
        """Tokens per model."""
        return tuple(
            Spend(
                model=model,
                long=long,
                usage=Usage(
                    input_tokens=fresh,
                    output_tokens=output,
                    cache_read_tokens=read,
                    cache_creation_tokens=written,
                    cache_creation_1h_tokens=hour,
                    web_search_requests=searches,
                    inference_geo=geo,
                    unpriced=unpriced,
                ),
            )
            for (model, long, geo, unpriced), (fresh, output, read, written, hour, searches) in self._tokens.items()
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The lines that did not succeed, in few groups."""
        return self._failures.groups

    @property
    def stops(self) -> dict[str, int]:
        """Answers per stop reason."""
        return dict(self._stops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a drain came to; not recorded yet."""

    drained: Drained
    retry: Planned | None
    """The retry shard, without its part number."""
    billing: bool
    """A line said that the account cannot be billed."""


class Collector:
    """Drains the ended batches of one job."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        job: JobRef,
        backend: Backend,
        *,
        tries: int,
        prices: PriceList,
        may_retry: Callable[[], bool],
        server_now: Callable[[], float],
        one_block: anyio.Lock | None = None,
    ) -> None:
        self.client = client
        self.journal = journal
        self.job = job
        self.backend = backend
        self.one_block = one_block or anyio.Lock(fast_acquire=True)
        """Held for one text by each drain in turn: between any two the event loop goes round."""
        self.tries = tries
        self.step = prices.long_prompt_tokens
        self.may_retry = may_retry
        self.server_now = server_now

    async def drain(
        self,
        shard: ShardRecord,
        state: Draining | Lost,
        presence: Presence | None = None,
        again: Iterator[float] | None = None,
    ) -> Collected:
        """Stream the batch's results into the sink until every row has its line, and seal it.

        What is lost is not read: its part is sealed without lines, and all its rows are missing.

        Args:
            shard: the shard.
            state: its batch.
            presence: whom to ask whether the batch is to be given up, and for its sleep.
            again: what is left of `READ_AGAIN`, if an earlier drain of the batch was given up in a rest.

        Raises:
            NotOurs: an operator named this batch, and its results are another's.
            BackendError: the storage failed, or sealed other than it was given.
            SpoolDamaged: the shard's custom_ids cannot be read.
            SpoolUnusable: the disk does not take the lines that are withheld for a retry.
            LineTooLong: a line of more than 64 MiB.

        """
        with closing(await self._open_ids(shard)) as reader:
            drain = _Drain(self, shard, state, reader, presence=presence or Alone(), again=again or iter(READ_AGAIN))
            return await drain.run()

    async def _open_ids(self, shard: ShardRecord) -> SpoolReader | KeptIds:
        """The shard's rows; of one that was drained before its custom_ids alone, unless its spool was written again."""
        try:
            return await open_spool(self.journal.spool, shard.planned)
        except SpoolDamaged:
            with guarded(self.journal.ids):
                kept = await threads.run(read_kept, self.journal.ids, shard.shard, shard.planned.rows)
            if kept is None:
                raise
            return kept


class _Drain:
    """One shard's way from the batch to the seal."""

    def __init__(
        self,
        owner: Collector,
        shard: ShardRecord,
        state: Draining | Lost,
        reader: SpoolReader | KeptIds,
        *,
        presence: Presence,
        again: Iterator[float],
    ) -> None:
        self._owner = owner
        self._presence = presence
        self._again = again
        self._shard = shard
        self._state = state
        self._reader = reader
        self._batch_id = state.batch_id or ""
        self._proven = isinstance(state, Draining) and state.proven
        self._lineage_key = owner.journal.lineage_key
        prefix = wire.prefix(self._lineage_key, shard.shard, state.doubt.attempt)
        self._prefix = prefix.decode()
        self._head = wire.ROW_HEAD + prefix
        self._earlier = state.earlier if isinstance(state, Draining) else None
        """How the shard was drained the first time, if it is drained once more."""
        self._withheld_rows = bytearray(shard.planned.rows)
        """1 for each row that is, or the first time was, put into a retry shard."""
        self._seen = bytearray(shard.planned.rows)
        if self._earlier is not None and isinstance(reader, KeptIds):
            self._withheld_rows[:] = reader.withheld
            self._seen[:] = reader.withheld
        self._marks = array("q", bytes(8 * shard.planned.rows))
        self._totals = UsageTotals(step=owner.step)
        self._withheld: SpoolWriter | None = None
        self._held_back: list[tuple[int, bytes, bytes]] = []
        """Rows of one block on their way there: row number, custom_id, line."""
        self._withheld_totals = UsageTotals(step=0)
        self._duplicates = self._conflicts = self._foreign = 0
        self._torn = 0
        """Torn lines that were not taken."""
        self._rows_torn = False
        """Whether one of them was of a row that had no line yet."""
        self._takes_torn = False
        """Whether this is the last read."""
        self._billing = False
        self._first_missing = ""
        self._retry_name = f"retry-{shard.shard:08d}.spool"
        self._missing_name = f"{shard.shard:08d}.jsonl"

    async def run(self) -> Collected:
        owner, planned = self._owner, self._shard.planned
        ref = ShardRef(
            job=owner.job,
            shard=self._shard.shard,
            part=planned.part,
            rows=planned.rows,
            batch_id=self._state.batch_id,
        )
        opened = await owner.backend.open(ref)
        if isinstance(opened, Sealed):
            return await self._recount(opened)
        try:
            if self._earlier is None:  # else it is the file of the retry shard, which may be on its way
                with guarded(owner.journal.spool):
                    await threads.run((owner.journal.spool / self._retry_name).unlink, missing_ok=True)
            state = self._state
            gone = await self._read_all(opened, state) if isinstance(state, Draining) else state.why
            self._check_withheld()
            written = await self._seal_withheld()
            missing = await self._note_missing(gone)
            sealed = await opened.seal()
        except BaseException:
            await discard(opened)
            if self._withheld is not None:
                await threads.clean_up(self._withheld.discard)
            raise
        _check_lines(self._owner.job, sealed.part, sealed.lines, self._totals.counts.total)
        await self._keep_ids()
        return self._collected(sealed, written, missing, gone)

    async def _read_all(self, sink: Sink, state: Draining) -> str:
        """Read until every row was seen; why the rest is missing, if it is."""
        trouble = Backoff(first=1.0, most=300.0)
        while True:
            failure = await self._read_once(sink)
            if not self._left():  # a stream that breaks behind the last of them costs nothing
                if self._earlier is None:
                    await self._compare_counts(state.counts)
                return ""
            if failure is not None and (gone := await self._is_gone(failure)):
                return gone
            if given_up := self._presence.given_up():
                if self._begins_last_read():
                    continue
                return given_up
            if failure is not None:
                wait = max(failure.retry_after or 0.0, trouble.next())
                log.warning(
                    "results_interrupted",
                    shard=self._shard.shard,
                    batch_id=self._batch_id,
                    status=failure.status,
                    error=str(failure),
                    rows_left=self._left(),
                )
                await self._presence.rest(wait)
                continue
            await self._presence.seen()
            patience = next(self._again, None)
            if patience is None and not self._proven:
                raise NotOurs(f"batch {self._state.batch_id} sent no line that proves it ours, in {READS} reads")
            if patience is None:
                if self._begins_last_read():
                    continue
                return f"{self._left()} results are not in what the API sends, after {READS} reads"
            log.warning("results_incomplete", shard=self._shard.shard, rows_left=self._left(), again_in=patience)
            await self._presence.rest(patience)

    def _begins_last_read(self) -> bool:
        """Whether to read once more, and to take torn lines: nothing better came, and they may be all that the API has.

        A torn line is not kept from one read to the next, as many may be torn, and long.
        """
        if self._takes_torn or not self._rows_torn:
            return False
        self._takes_torn = True
        log.warning("torn_lines_taken", shard=self._shard.shard, rows_left=self._left())
        return True

    @property
    def _counts(self) -> Counts:
        """Of every row that was seen, withheld ones too."""
        return self._totals.counts + self._withheld_totals.counts

    def _left(self) -> int:
        """Rows that have no line yet."""
        return self._seen.count(0)

    async def _compare_counts(self, counts: Counts) -> None:
        """All rows are there; if the API counts them otherwise, ask again, then say so. The rows decide."""
        again = Backoff(first=1.0, most=60.0)
        for _ in range(RECOUNTS):
            if counts == self._counts:
                return
            await self._presence.rest(again.next())
            with suppress(ApiError):
                workspace_id = self._shard.planned.headers.workspace_id
                batch = await self._owner.client.retrieve(workspace_id, self._batch_id)
                counts = counts_of(batch)
        log.warning("counts_disagree", shard=self._shard.shard, batch_id=self._batch_id)

    async def _is_gone(self, failure: ApiError) -> str:
        """Why the results cannot be had any more; empty while they may be."""
        if failure.status != 404:
            return ""
        workspace_id = self._shard.planned.headers.workspace_id
        try:
            batch = await self._owner.client.retrieve(workspace_id, self._batch_id)
        except ApiError as lost:
            if lost.status != 404:
                return ""
            if self._is_past(KEPT_FOR):
                return "the API does not know the batch any more, and its results are kept for 29 days"
            return self._presence.given_up() or await self._presence.missed()
        await self._presence.seen()
        archived = batch.archived or self._is_past(KEPT_FOR)  # recorded answers of 2024 have no `archived_at`
        return "the API archived the results before they were read (29 days)" if archived else ""

    def _is_past(self, age: float) -> bool:
        """Whether the batch is older than this by this machine's time, and by the server's where that is known."""
        return self._state.created_at + age < min(self._owner.server_now() or time.time(), time.time())

    async def _read_once(self, sink: Sink) -> ApiError | None:
        """Read the results from their beginning; one block is written while the next is read.

        Returns what broke the stream; what came before is written.
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
        if unwritten:  # its rows count as seen already: a stream that broke, too, must not hide it
            raise unwritten[0]
        if unread is None or isinstance(unread, ApiError):
            return unread
        raise unread

    async def _read_into(self, full: MemoryObjectSendStream[Block]) -> None:
        workspace_id = self._shard.planned.headers.workspace_id
        block, broken = Block(_line), None
        try:
            async with (
                self._owner.client.results(workspace_id, self._batch_id) as chunks,
                aclosing(_blocks(chunks)) as texts,
            ):
                async for text in texts:
                    if block and len(text) >= wire.LONG:  # a long line is a block of its own, which need not be joined
                        await full.send(block)
                        block = Block(_line)
                    async with self._owner.one_block:
                        self._take(text, block)
                        del text
                        await anyio.lowlevel.checkpoint()
                    if self._held_back:
                        await threads.run(self._withhold)
                    if block.weight >= WRITE_BYTES:
                        await full.send(block)
                        block = Block(_line)
        except ApiError as failure:
            broken = failure
        if block:  # what came before a break counts as seen
            await full.send(block)
        if broken is not None:
            raise broken

    def _take(self, text: bytes, block: Block) -> None:
        """Put the lines of a text into a block, but those that are withheld, dropped and counted, or set aside.

        What nearly all lines are, of a new row, in the API's own form and succeeded, is dealt with here at little
        cost; every other goes through `_sift`.
        """
        pieces, plain, odd = list[bytes | memoryview](), list[wire.Message](), dict[int, Line]()

        def sift(raw: bytes) -> None:
            line = self._sift(raw)
            if line is not None:
                pieces.extend((line.raw, b"\n"))
                odd[len(plain) + len(odd)] = line

        read = wire.read_plain(text, self._head)
        if read is None:
            for raw in wire.lines_of(text):
                sift(raw)
        else:
            self._proven = True
            row_head, seen, marks, size = wire.ROW_HEAD[:-1], self._seen, self._marks, len(self._seen)
            mark = hash if len(text) < wire.LONG else _mark
            id_of = self._reader.custom_id
            for row, tail, envelope in zip(*read, strict=True):
                result = envelope.result
                message = result.message
                if row < size and not seen[row] and message is not None and result.type == "succeeded":
                    seen[row] = 1
                    marks[row] = mark(tail)
                    plain.append(message)
                    pieces += (row_head, id_of(row), tail[wire.ROW_SUFFIX + 1 :], b"\n")
                else:
                    sift(self._head + tail)
            self._totals.add_succeeded(plain)
        if pieces:
            few = [b"".join(pieces)] if len(text) < wire.LONG else _gathered(pieces)
            block.add(few, len(plain) + len(odd), odd)

    def _sift(self, raw: bytes) -> Line | None:
        """Any line, with all care; None unless it goes to the sink."""
        seen = wire.read_line(raw)
        row = None if seen is None else self._row(seen.wire_id)
        if seen is None or row is None:
            self._foreign += 1
            if self._foreign == 1:
                log.warning("foreign_line_seen", shard=self._shard.shard, batch_id=self._batch_id)
            return None
        if self._earlier is not None and self._withheld_rows[row]:
            return None  # its line is the retry shard's
        torn = isinstance(seen, wire.Torn)
        if torn and (self._seen[row] or not self._takes_torn):  # it contradicts nothing; a later read has it whole
            if not self._torn:
                log.warning("torn_line_seen", shard=self._shard.shard, batch_id=self._batch_id, row=row)
            self._torn += 1
            self._rows_torn |= not self._seen[row]
            return None
        mark = _mark(memoryview(raw)[len(self._head) :])
        if self._seen[row]:
            self._repeat(row, mark)
            return None
        self._seen[row] = 1
        self._marks[row] = mark
        custom_id = self._reader.custom_id(row)
        delivered = wire.with_custom_id(raw, seen.wire_id.encode(), custom_id)
        if torn:  # it may be delivered in an envelope made here; it is counted as `_recount` would count it
            line = wire.outcome_of(delivered, _decode_id(custom_id))
        else:
            line = Line(delivered, _decode_id(custom_id), *seen[1:])
        if self._is_retryable(line):
            self._withheld_rows[row] = 1
            self._withheld_totals.note(seen.outcome)
            if self._earlier is None:
                self._held_back.append((row, custom_id, line.raw))
            return None
        self._billing |= line.error_type == "billing_error"
        self._totals.add(line)
        return line

    def _row(self, wire_id: str) -> int | None:
        """The row of an id of this attempt; None for any other."""
        if not wire_id.startswith(self._prefix):
            if not self._proven:
                raise NotOurs(f"batch {self._batch_id} does not hold this shard")
            return None
        named = wire.parse_id(wire_id.encode("utf-8", "replace"))
        if named is None:
            return None
        self._proven = True
        return named.row if named.row < len(self._seen) else None

    def _repeat(self, row: int, mark: int) -> None:
        if self._marks[row] == mark:
            self._duplicates += 1
            return
        self._conflicts += 1
        log.warning("conflicting_line_seen", shard=self._shard.shard, batch_id=self._batch_id, row=row)

    def _is_retryable(self, line: Line) -> bool:
        parked = isinstance(self._state, Draining) and self._state.parked
        passes = _passes(line) or (line.outcome == "canceled" and parked)
        if self._earlier is not None:  # what was withheld then, where that was not kept: `_check_withheld` proves it
            return passes and self._earlier.retried > 0 and not isinstance(self._reader, KeptIds)
        return passes and self._shard.planned.trial < self._owner.tries and self._owner.may_retry()

    def _withhold(self) -> None:
        """Put the rows of the last block that go again into the spool of the retry shard."""
        spool = self._owner.journal.spool
        with guarded(spool):
            if self._withheld is None:
                self._withheld = SpoolWriter(spool)
            for row, custom_id, raw in self._held_back:
                assert isinstance(self._reader, SpoolReader)  # what was kept of a drained shard has no params
                self._withheld.add(custom_id, self._reader.params(row), raw)
        self._held_back.clear()

    # ---- sealing ----------------------------------------------------------------------------------------------

    def _check_withheld(self) -> None:
        """Refuse to seal a shard once more unless just the rows were left out that its retry shard holds."""
        if self._earlier is not None and self._withheld_rows.count(1) != self._earlier.retried:
            raise BackendError(
                self._owner.job.key,
                f"part {self._shard.planned.part} cannot be read again: {self._earlier.retried} of its rows were "
                f"retried, and {self._withheld_rows.count(1)} look so; put the part back",
            )

    async def _keep_ids(self) -> None:
        """Keep the custom_ids, for the case that the part is lost; before `Drained`, after which the spool goes."""
        if isinstance(self._reader, KeptIds):
            return
        with guarded(self._owner.journal.ids):
            await threads.run(self._write_ids, self._reader)

    def _write_ids(self, reader: SpoolReader) -> None:
        folder = self._owner.journal.ids
        write_kept(folder, self._shard.shard, reader.custom_id, self._withheld_rows, reader.params_marks())

    def _note_withheld(self, written: Written) -> None:
        """Mark the rows that an earlier run put into the retry shard, which no fact describes yet."""
        spool = self._owner.journal.spool
        with closing(SpoolReader(spool, written.planned(self._retry_name, self._shard.planned.headers))) as retried:
            ids = {retried.custom_id(row) for row in range(retried.rows)}
        for row in range(self._shard.planned.rows):
            self._withheld_rows[row] = self._reader.custom_id(row) in ids

    async def _seal_withheld(self) -> Written | None:
        if self._withheld is None:
            return None
        with guarded(self._owner.journal.spool):
            return await threads.run(self._withheld.seal, self._retry_name)

    async def _note_missing(self, gone: str) -> int:
        if not gone:
            return 0
        entries = [(self._reader.custom_id(row), gone) for row, seen in enumerate(self._seen) if not seen]
        with guarded(self._owner.journal.missing):
            await threads.run(write_missing, self._owner.journal.missing, self._missing_name, entries)
        self._first_missing = _decode_id(entries[0][0])
        log.error("rows_missing", shard=self._shard.shard, rows=len(entries), why=gone)
        return len(entries)

    async def _recount(self, sealed: Sealed) -> Collected:
        """An earlier run sealed the shard and died before it could record it: read it back and go on from there."""
        async for raw in self._owner.backend.read(sealed):
            line = wire.delivered(raw)
            self._billing |= line.error_type == "billing_error"
            self._totals.add(line)
        written = None
        if self._earlier is None:
            with guarded(self._owner.journal.spool):
                written = await threads.run(examine, self._owner.journal.spool / self._retry_name)
                if written is not None:
                    await threads.run(self._note_withheld, written)
        lines = self._totals.counts.total
        missing = self._shard.planned.rows - lines - self._retried(written)
        if missing:  # if nothing is missing, an existing list is a leftover of an earlier read
            with guarded(self._owner.journal.missing):
                listed = await threads.run(count_missing, self._owner.journal.missing / self._missing_name)
            _check_lines(self._owner.job, sealed.part, lines, lines + missing - listed)
        sealed_so = (
            self._state.why if isinstance(self._state, Lost) else "results were missing when the shard was sealed"
        )
        why = sealed_so if missing else ""
        if self._withheld_rows.count(1) == self._retried(written):
            await self._keep_ids()
        return self._collected(sealed, written, missing, why)

    def _retried(self, written: Written | None) -> int:
        """Rows that are in the retry shard: of this drain, or of the first."""
        if self._earlier is not None:
            return self._earlier.retried
        return 0 if written is None else written.rows

    def _missed(self, missing: int, gone: str) -> Failure:
        return Failure(type="missing", message=gone, count=missing, example=self._first_missing)

    def _collected(self, sealed: Sealed, written: Written | None, missing: int, gone: str) -> Collected:
        planned = self._shard.planned
        counts = self._totals.counts
        if self._duplicates or self._foreign or self._conflicts or self._torn:
            log.warning(
                "lines_dropped",
                shard=self._shard.shard,
                identical=self._duplicates,
                conflicting=self._conflicts,
                foreign=self._foreign,
                torn=self._torn,
            )
        retry = None
        if written is not None:
            retry = written.planned(
                self._retry_name, planned.headers, parent=self._shard.shard, trial=planned.trial + 1
            )
        drained = Drained(
            counts=counts,
            sealed=record_of(sealed),
            spend=self._totals.spend,
            retried=self._retried(written),
            missing=missing,
            gone=gone,
            stops=self._totals.stops,
            failures=self._totals.failures if not missing else (*self._totals.failures, self._missed(missing, gone)),
        )
        return Collected(drained=drained, retry=retry, billing=self._billing and self._earlier is None)


async def _write_all(sink: Sink, blocks: MemoryObjectReceiveStream[Block], unwritten: list[Exception]) -> None:
    """Write blocks as they come. The first failure ends it, and with it the reading."""
    async with blocks:
        try:
            async for block in blocks:
                await sink.write(block)
                del block  # free it before waiting for the next block
        except Exception as failure:  # noqa: BLE001 - the reader raises it
            unwritten.append(failure)


def _passes(line: Line) -> bool:
    """Whether the request failed for a reason that may be gone at the next try."""
    if line.outcome == "errored":
        download = line.error_type == "invalid_request_error" and wire.is_download_timeout(line.raw)
        return download or line.error_type in RETRYABLE
    return line.outcome == "expired"


def failure_of(line: Line) -> Failure:
    """Why the request of a line did not succeed."""
    if line.outcome != "errored":
        return Failure(type=line.outcome, example=line.custom_id)
    _, message = wire.error_in(line.raw)
    final = is_final(line.error_type, message) and not _passes(line)
    return Failure(type=line.error_type or "errored", message=message, example=line.custom_id, final=final)


def _mark(tail: bytes | memoryview) -> int:
    """What tells a line that is repeated from one that contradicts; a hash takes three times as long as a checksum."""
    return hash(tail) if len(tail) < wire.LONG else zlib.crc32(tail)


def _gathered(pieces: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """The same bytes: long pieces uncopied, and the short ones between them joined."""
    few: list[bytes | memoryview] = []
    for long, group in groupby(pieces, key=lambda piece: len(piece) >= wire.LONG):
        several = list(group)
        few += several if long else [b"".join(several)]
    return few


def _line(raw: bytes) -> Line:
    """Of a line that was decoded once, and has its caller's custom_id since."""
    seen = wire.read_line(raw)
    assert seen is not None
    return Line(raw, *seen)


async def _blocks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Whole lines in blocks."""
    reader = wire.BlockReader()
    try:
        async for chunk in chunks:
            reader.feed(chunk)
            if reader.weight >= READ_BYTES and (text := reader.take()):
                yield text
    except ApiError:  # what came before the break is good, and keeps the next read from starting at nothing
        if text := reader.take():
            yield text
        last = reader.end()
        if last.strip() and wire.is_whole(last):  # a line that wants only its newline
            yield last
        raise
    if text := reader.take():
        yield text
    last = reader.end()
    if last.strip() and wire.is_whole(last):  # else the stream was cut inside it, and it is read again
        yield last


async def seal_fallbacks(
    backend: Backend, job: JobRef, shard: ShardRecord, spool: SpoolReader, result: bytes | None = None
) -> tuple[Counts, SealedRecord, tuple[Failure, ...]]:
    """Seal a line for every row of a shard that will never be a batch.

    Args:
        backend: where.
        job: the job.
        shard: the shard.
        spool: its rows.
        result: the JSON of the `result` every row gets; None for each row's own fallback line.

    """
    planned, totals = shard.planned, UsageTotals(step=0)

    def line(row: int) -> Line:
        custom_id = spool.custom_id(row)
        raw = spool.fallback(row) if result is None else wire.fallback(custom_id, result)
        return wire.outcome_of(raw, _decode_id(custom_id))

    async def pass_on(sink: Sink | None) -> None:
        begin = 0
        while begin < spool.rows:
            block: list[Line] = []
            weight = 0
            while begin < spool.rows and weight < WRITE_BYTES:
                block.append(line(begin))
                weight += len(block[-1].raw)
                begin += 1
            for each in block:
                totals.add(each)
            if sink is not None:
                await sink.write(block)
            await anyio.lowlevel.checkpoint()

    ref = ShardRef(job=job, shard=shard.shard, part=planned.part, rows=planned.rows, batch_id=None)
    opened = await backend.open(ref)
    if isinstance(opened, Sealed):
        sealed = opened
        await pass_on(None)
    else:
        try:
            await pass_on(opened)
            sealed = await opened.seal()
        except BaseException:
            await discard(opened)
            raise
    _check_lines(job, sealed.part, sealed.lines, spool.rows)
    return totals.counts, record_of(sealed), totals.failures


def _check_lines(job: JobRef, part: int, lines: int, given: int) -> None:
    if lines != given:
        raise BackendError(
            job.key,
            f"part {part} was sealed with {lines} lines of {given}; "
            "remove the part from the destination, then run again: it is read once more",
        )


async def discard(sink: Sink) -> None:
    """Give a sink up after a failure, which is told even if this fails, too."""
    with anyio.CancelScope(shield=True):
        try:
            await sink.discard()
        except Exception as failure:  # noqa: BLE001 - a backend may raise anything
            log.warning("sink_not_discarded", error=type(failure).__name__)


def record_of(sealed: Sealed) -> SealedRecord:
    """As the journal keeps it."""
    return SealedRecord(part=sealed.part, lines=sealed.lines, detail=dict(sealed.detail))


def sealed_of(record: SealedRecord) -> Sealed:
    """As backends know it."""
    return Sealed(part=record.part, lines=record.lines, detail=record.detail)

"""Decide for each line of a batch's results whether it goes to the sink: each row once, and no other line.

A line is delivered, withheld for a retry shard, dropped and counted because it is repeated or torn, or set aside as
foreign.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from abatch.engine.usage import UsageTotals
from abatch.engine.withheld import Withheld
from abatch.journal.kept import KeptIds
from abatch.log import log
from abatch.protocol import wire
from abatch.protocol.failures import passes
from abatch.protocol.lifecycle import Draining, Lost
from abatch.protocol.wire import decode_id
from abatch.result import Block, Line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.engine.drain import Drainer
    from abatch.input.spool import (
        SpoolReader,
    )
    from abatch.journal.records import ShardRecord
    from abatch.protocol.facts import Counts

__all__ = ["LineSifter", "NotOurs"]


class NotOurs(Exception):
    """A batch that an operator named does not hold this shard."""


@dataclass(slots=True)
class Dropped:
    """Lines that were not delivered, by reason."""

    identical: int = 0
    conflicting: int = 0
    foreign: int = 0
    torn: int = 0

    def __bool__(self) -> bool:
        return bool(self.identical or self.conflicting or self.foreign or self.torn)


class LineSifter:
    """Sifts the lines of one batch, and remembers which rows of the shard have their line."""

    def __init__(
        self,
        drainer: Drainer,
        shard: ShardRecord,
        state: Draining | Lost,
        reader: SpoolReader | KeptIds,
    ) -> None:
        self._drainer = drainer
        self._shard = shard
        self._state = state
        self._reader = reader
        self._batch_id = state.batch_id or ""
        self.proven = isinstance(state, Draining) and state.proven
        """Whether the batch is known to hold this shard."""
        prefix = drainer.lineage.prefix(shard.shard, state.doubt.attempt)
        self._prefix = prefix.decode()
        self._head = wire.ROW_HEAD + prefix
        self._earlier = state.earlier if isinstance(state, Draining) else None
        """The first `Drained` of the shard, if this is a redrain."""
        self.withheld = Withheld(drainer.folder, shard, reader, self._earlier)
        self.seen = bytearray(self.withheld.rows)
        """1 for each row that has its line; in a redrain, rows withheld the first time may be marked from the start."""
        self._marks = array("q", bytes(8 * shard.planned.rows))
        self.totals = UsageTotals(step=drainer.step)
        self.dropped = Dropped()
        self.rows_torn = False
        """Whether a torn line belonged to a row that had no line yet."""
        self.takes_torn = False
        """Whether this is the last read, in which torn lines are accepted."""
        self.billing = False
        """Whether a line reported that the account cannot be billed."""

    @property
    def left(self) -> int:
        """The number of rows that have no line yet."""
        return self.seen.count(0)

    @property
    def counts(self) -> Counts:
        """The outcomes of every row that was seen, including withheld ones."""
        return self.totals.counts + self.withheld.counts

    def take(self, text: bytes, block: Block) -> None:
        """Put the lines of a text into a block, except those that are withheld, dropped and counted, or set aside.

        Nearly every line is a success of a new row in the API's own form. These lines are processed here at little
        cost; every other line goes through `_sift`.
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
            self.proven = True
            row_head, seen, marks, size = wire.ROW_HEAD[:-1], self.seen, self._marks, len(self.seen)
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
            self.totals.add_succeeded(plain)
        if pieces:
            few = [b"".join(pieces)] if len(text) < wire.LONG else _gathered(pieces)
            block.add(few, len(plain) + len(odd), odd)

    def _sift(self, raw: bytes) -> Line | None:
        """Decide about a line of any form, slowly and completely; return it if it goes to the sink."""
        seen = wire.read_line(raw)
        row = None if seen is None else self._row(seen.wire_id)
        if seen is None or row is None:
            self.dropped.foreign += 1
            if self.dropped.foreign == 1:
                log.warning("foreign_line_seen", shard=self._shard.shard, batch_id=self._batch_id)
            return None
        if self._earlier is not None and self.withheld.rows[row]:
            return None  # The retry shard delivers the line of this row.
        torn = isinstance(seen, wire.Torn)
        if torn and (self.seen[row] or not self.takes_torn):  # It contradicts no line, and a later read has it whole.
            if not self.dropped.torn:
                log.warning("torn_line_seen", shard=self._shard.shard, batch_id=self._batch_id, row=row)
            self.dropped.torn += 1
            self.rows_torn |= not self.seen[row]
            return None
        mark = _mark(memoryview(raw)[len(self._head) :])
        if self.seen[row]:
            self._repeat(row, mark)
            return None
        self.seen[row] = 1
        self._marks[row] = mark
        custom_id = self._reader.custom_id(row)
        delivered = wire.with_custom_id(raw, seen.wire_id.encode(), custom_id)
        if torn:  # It may be delivered in an envelope made here, so count it as `_BatchDrain._recount` does.
            line = wire.outcome_of(delivered, decode_id(custom_id))
        else:
            line = Line(delivered, decode_id(custom_id), *seen[1:])
        if self._is_retryable(line):
            self.withheld.add(row, custom_id, line)
            return None
        self.billing |= line.error_type == "billing_error"
        self.totals.add(line)
        return line

    def _row(self, wire_id: str) -> int | None:
        """Return the row of an id of this attempt; None for any other id."""
        if not wire_id.startswith(self._prefix):
            if not self.proven:
                raise NotOurs(f"batch {self._batch_id} does not hold this shard")
            return None
        named = wire.parse_id(wire_id.encode("utf-8", "replace"))
        if named is None:
            return None
        self.proven = True
        return named.row if named.row < len(self.seen) else None

    def _repeat(self, row: int, mark: int) -> None:
        if self._marks[row] == mark:
            self.dropped.identical += 1
            return
        self.dropped.conflicting += 1
        log.warning("conflicting_line_seen", shard=self._shard.shard, batch_id=self._batch_id, row=row)

    def _is_retryable(self, line: Line) -> bool:
        parked = isinstance(self._state, Draining) and self._state.parked
        may_pass = passes(line) or (line.outcome == "canceled" and parked)
        # If no custom_ids were kept, this is a guess, which `_BatchDrain._check_withheld` verifies.
        if self._earlier is not None:
            return may_pass and self._earlier.retried > 0 and not isinstance(self._reader, KeptIds)
        return may_pass and self._shard.planned.trial < self._drainer.tries and self._drainer.may_retry()


def _mark(tail: bytes | memoryview) -> int:
    """Return a hash that distinguishes a repeated line from a conflicting one.

    The hash of a long line is a checksum, which takes a third of the time.
    """
    return hash(tail) if len(tail) < wire.LONG else zlib.crc32(tail)


def _gathered(pieces: Iterable[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the same bytes in fewer pieces: long pieces are not copied, and the short ones between them are joined."""
    few: list[bytes | memoryview] = []
    for long, group in groupby(pieces, key=lambda piece: len(piece) >= wire.LONG):
        several = list(group)
        few += several if long else [b"".join(several)]
    return few

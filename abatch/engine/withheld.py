"""Rows that a drain withholds from the sink, because a retry shard sends them again."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from abatch.engine.usage import UsageTotals
from abatch.input.spool import (
    SpoolReader,
    SpoolWriter,
    Written,
    examine,
    guarded,
)
from abatch.journal.kept import KeptIds
from abatch.system import threads

if TYPE_CHECKING:
    from abatch.journal.folder import JournalFolder
    from abatch.journal.records import ShardRecord
    from abatch.protocol.facts import Counts, Drained, Planned
    from abatch.result import Line

__all__ = ["Withheld"]


class Withheld:
    """The rows of one shard that go into its retry shard, or went into it at the first drain.

    Args:
        folder: the journal's folder, where the retry shard's spool file is written.
        shard: the shard that is drained.
        reader: the rows of that shard.
        earlier: the first `Drained` of the shard, if this is a redrain.

    """

    def __init__(
        self, folder: JournalFolder, shard: ShardRecord, reader: SpoolReader | KeptIds, earlier: Drained | None
    ) -> None:
        self._folder = folder
        self._planned = shard.planned
        self._shard = shard.shard
        self._reader = reader
        self._earlier = earlier
        self.rows = bytearray(shard.planned.rows)
        """1 for each row that goes into a retry shard, or went into it at the first drain."""
        if earlier is not None and isinstance(reader, KeptIds):
            self.rows[:] = reader.withheld
        self._totals = UsageTotals(step=0)
        self._writer: SpoolWriter | None = None
        self._block: list[tuple[int, bytes, bytes]] = []
        """Rows of one block that are not written yet: row number, custom_id, line."""
        self._name = folder.retry_name(shard.shard)

    @property
    def counts(self) -> Counts:
        """The number of withheld rows per outcome."""
        return self._totals.counts

    @property
    def waits(self) -> bool:
        """Whether rows of the last block are not written yet."""
        return bool(self._block)

    def add(self, row: int, custom_id: bytes, line: Line) -> None:
        """Withhold a row whose try failed with this line."""
        self.rows[row] = 1
        self._totals.note(line.outcome)
        if self._earlier is None:
            self._block.append((row, custom_id, line.raw))

    def write(self) -> None:
        """Write the rows of the last block to the spool file of the retry shard.

        Raises:
            SpoolUnusable: the rows cannot be written to disk.

        """
        spool = self._folder.spool
        with guarded(spool):
            if self._writer is None:
                self._writer = SpoolWriter(spool)
            for row, custom_id, raw in self._block:
                assert isinstance(self._reader, SpoolReader)  # KeptIds of a drained shard have no params.
                self._writer.add(custom_id, self._reader.params(row), raw)
        self._block.clear()

    async def forget_leftover(self) -> None:
        """Remove the spool file of an earlier drain that died before its seal."""
        if self._earlier is None:  # In a redrain it is the file of the retry shard, which may be in use.
            with guarded(self._folder.spool):
                await threads.run(self._folder.spool_file(self._name).unlink, missing_ok=True)

    async def seal(self) -> Written | None:
        """Make the withheld rows durable; None if there are none."""
        if self._writer is None:
            return None
        with guarded(self._folder.spool):
            return await threads.run(self._writer.seal, self._name)

    async def discard(self) -> None:
        """Remove the written rows after a failure."""
        if self._writer is not None:
            await threads.clean_up(self._writer.discard)

    async def found(self) -> Written | None:
        """Find the spool file that an earlier run sealed and no fact describes yet, and mark its rows."""
        if self._earlier is not None:
            return None
        with guarded(self._folder.spool):
            written = await threads.run(examine, self._folder.spool_file(self._name))
            if written is not None:
                await threads.run(self._mark, written)
        return written

    def _mark(self, written: Written) -> None:
        spool = self._folder.spool
        with closing(SpoolReader(spool, written.planned(self._name, self._planned.headers))) as retried:
            ids = {retried.custom_id(row) for row in range(retried.rows)}
        for row in range(self._planned.rows):
            self.rows[row] = self._reader.custom_id(row) in ids

    def retried(self, written: Written | None) -> int:
        """Return the number of rows in the retry shard, of this drain or of the first."""
        if self._earlier is not None:
            return self._earlier.retried
        return 0 if written is None else written.rows

    def agrees(self, written: Written | None) -> bool:
        """Return whether exactly as many rows are marked as the retry shard holds."""
        return self.rows.count(1) == self.retried(written)

    def retry(self, written: Written | None) -> Planned | None:
        """Describe the retry shard, without its part number; None if nothing is withheld."""
        if written is None:
            return None
        planned = self._planned
        return written.planned(self._name, planned.headers, parent=self._shard, trial=planned.trial + 1)

"""Write the spool files of drained shards again, from the unchanged input of their job.

A shard holds the rows with its headers between two cuts; half of a split shard holds a part of them. The digests in its
`Planned` fact prove that the rows are the same as before. The file of a retry shard cannot be written again, because
its rows are in the order in which results arrived, and that order cannot be repeated.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abatch.config import BATCH_BYTES
from abatch.errors import BadRequest, ConfigError
from abatch.input.files import FileInput, FilesInput, SelectedInput, opened_source
from abatch.input.request import from_checked_lines
from abatch.input.spool import SpoolWriter, guarded
from abatch.protocol.facts import Cut, Headers, InputChanged, IterableSource, OpenSource, Planned, Split, betas_of_row
from abatch.protocol.lifecycle import Dead
from abatch.system import threads
from abatch.system.disk import remove

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.journal.ledger import Ledger
    from abatch.journal.log import Recorded
    from abatch.journal.records import JobRecord, ShardRecord

__all__ = ["respool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """The rows of the input between two cuts."""

    first: int
    offset: int
    """The offset of the first row in a plain file."""
    end: int


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """A shard whose file has to be written."""

    shard: int
    planned: Planned
    stretch: _Stretch
    rows: range
    """The rows of the shard, counted among the rows with its headers in the stretch."""
    writer: SpoolWriter | None = None
    passed: int = 0
    """Number of rows with its headers that were read."""


async def respool(ledger: Ledger, job: JobRecord, paths: Sequence[Path], shards: Sequence[ShardRecord]) -> set[int]:
    """Write the spool files of these shards from the input.

    Returns:
        the numbers of the shards whose files are the same as before.

    Raises:
        BackendUnavailable: reading `.zst` needs a package that is not installed.
        SpoolUnusable: a file cannot be written to disk.

    """
    stretches = await _stretches(ledger, job)
    wanted: list[_Wanted] = []
    for shard in shards:
        root, rows = _root_of(job, shard)
        if root in stretches:
            wanted.append(_Wanted(shard=shard.shard, planned=shard.planned, stretch=stretches[root], rows=rows))
    source = job.submitted.source
    if not wanted or isinstance(source, IterableSource | OpenSource):
        return set()
    try:
        file = await opened_source(source, paths, longest=2 * BATCH_BYTES)
    except ConfigError:  # The input is gone, so no file can be written.
        return set()
    reading = _Pass(ledger.folder.spool, job.submitted.headers, file, wanted)
    with closing(file), guarded(ledger.folder.spool):
        try:
            left = reading.row
            while left := await threads.run(file.skip, offset=reading.offset, rows=left):
                pass
            while await threads.run(reading.step):
                pass
        except BadRequest:  # The input has changed, so the remaining files cannot be written.
            pass
        finally:
            await threads.clean_up(reading.discard)
    return reading.written


def _root_of(job: JobRecord, shard: ShardRecord) -> tuple[int, range]:
    """Return the shard that was cut from the input and that this shard is a part of, and which of its rows it holds."""
    planned, first = shard.planned, 0
    number = shard.shard
    while planned.parent is not None:
        parent = job.shards[planned.parent]
        match parent.state:
            case Dead(end=Split(into=into)):
                first += 0 if into.index(number) == 0 else parent.planned.rows // 2
                number, planned = parent.shard, parent.planned
            case _:  # The parent was not split, so this is a retry shard, which was not cut from the input.
                return -1, range(0)
    return number, range(first, first + shard.planned.rows)


async def _stretches(ledger: Ledger, job: JobRecord) -> dict[int, _Stretch]:
    """Return for each shard that was cut from the input the stretch of the input with its rows."""
    found: dict[int, _Stretch] = {}
    fresh: list[int] = []
    before, sent = Cut(rows=0), 0

    def visit(recorded: Recorded) -> None:
        nonlocal before, sent
        match recorded.fact:
            case Planned(parent=None) if recorded.shard is not None:
                fresh.append(recorded.shard)
            case Cut() as cut:
                stretch = _Stretch(first=before.rows - sent, offset=before.offset, end=cut.rows - sent)
                found.update(dict.fromkeys(fresh, stretch))
                fresh.clear()
                before = cut
            case InputChanged(source=changed):  # The earlier rows were planned from an input that no longer exists.
                found.clear()
                fresh.clear()
                before, sent = Cut(rows=changed.sent), changed.sent
            case _:
                pass

    await ledger.facts.replay(visit, job=job.job)
    return found


class _Pass:
    """One read of the input, from the first wanted stretch to the end of the last."""

    def __init__(
        self, folder: Path, common: Headers, file: FileInput | FilesInput | SelectedInput, wanted: Sequence[_Wanted]
    ) -> None:
        self.written: set[int] = set()
        self._folder = folder
        self._common = common
        self._file = file
        self._coming = sorted(wanted, key=lambda each: -each.stretch.first)
        self._open: list[_Wanted] = []
        self.row = self._coming[-1].stretch.first
        self.offset = self._coming[-1].stretch.offset

    def step(self) -> bool:
        """Read one block of lines; return whether there is more to do."""
        block = self._file.block()
        if block is not None:
            rows = from_checked_lines(block.text)
            for custom_id, params, betas in zip(rows.custom_ids, rows.params, rows.betas, strict=True):
                self._turn()
                self._take(custom_id, params, betas)
                self.row += 1
        self._turn()
        return block is not None and bool(self._coming or self._open)

    def discard(self) -> None:
        """Remove the files that were not sealed."""
        for each in self._open:
            assert each.writer is not None
            each.writer.discard()

    def _turn(self) -> None:
        """Seal the files of stretches that end at this row, and open those of stretches that begin."""
        for each in [each for each in self._open if each.stretch.end == self.row]:
            self._open.remove(each)
            self._seal(each)
        while self._coming and self._coming[-1].stretch.first == self.row:
            each = self._coming.pop()
            each.writer = SpoolWriter(self._folder)
            self._open.append(each)

    def _take(self, custom_id: bytes, params: bytes, betas: tuple[str, ...]) -> None:
        common = self._common
        headers = common
        if betas:
            both = betas_of_row(common.betas, betas)
            headers = Headers(betas=both, user_profile_id=common.user_profile_id, workspace_id=common.workspace_id)
        for each in self._open:
            if each.planned.headers == headers:
                if each.passed in each.rows:
                    assert each.writer is not None
                    each.writer.add(custom_id, params)
                each.passed += 1

    def _seal(self, wanted: _Wanted) -> None:
        assert wanted.writer is not None
        then = wanted.planned
        if wanted.writer.rows != then.rows:
            wanted.writer.discard()
            return
        now = wanted.writer.seal(then.spool)
        if (now.params_digest, now.ids_digest) == (then.params_digest, then.ids_digest):
            self.written.add(wanted.shard)
        else:
            remove(self._folder / then.spool)

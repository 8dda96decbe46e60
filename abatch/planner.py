"""Cut a job's requests into shards, sealed in the spool; streaming, and resumable at the last cut.

There is one open shard per header set. When one of them is full, all are sealed together: their `Planned` facts
and the new input position are one transaction (a *cut*), so after a crash planning goes on exactly there. At most
a few sealed shards wait to be sent; then planning waits, so an endless input is held back.
"""

from __future__ import annotations

import shutil
import zlib
from contextlib import aclosing, closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from abatch import threads
from abatch.errors import BadRequest, ConfigError, JobConflict, JobStopped
from abatch.facts import Cut, FileSource, Headers
from abatch.intake import (
    HEADER_SETS,
    FileInput,
    IterableInput,
    Numbered,
    SeenIds,
    check_size,
    file_sha256,
    too_many_header_sets,
)
from abatch.journal import Entry
from abatch.pacing import LIMITS
from abatch.request import from_checked_line
from abatch.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from abatch.config import Config
    from abatch.ledger import JobRecord, Ledger
    from abatch.request import Row

__all__ = ["Planner", "spool_needed"]

SPREAD: Final = 256
"""Shards of a job differ in size by up to this many rows, so that doubts seldom share a count."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A shard being filled."""

    writer: SpoolWriter
    limit: int
    """Rows at which it is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """What one turn of the worker thread put into the open shards."""

    rows: int
    offset: int
    """After the last of them; 0 if there was none."""
    full: bool


class Planner:
    """Plan one job; `run_file` or `run_iterable` returns when the input is planned, or planning is not wanted.

    Args:
        ledger: where cuts are recorded.
        job: the job.
        config: the limits of a batch.
        room: awaited before shards are filled; False ends planning.
        cut_made: called after each cut.

    """

    def __init__(
        self,
        ledger: Ledger,
        job: JobRecord,
        config: Config,
        *,
        room: Callable[[], Awaitable[bool]],
        cut_made: Callable[[], None],
    ) -> None:
        self._ledger, self._job, self._config = ledger, job, config
        self._room, self._cut_made = room, cut_made
        self._spool = ledger.journal.spool
        self._open: dict[Headers, _Open] = {}
        self._header_sets = {shard.planned.headers for shard in job.shards.values()}
        self._held_back: Numbered | None = None  # the row that did not fit any more

    async def run_file(self, source: FileSource, path: Path) -> None:
        """Plan what is left of a file that was checked.

        Raises:
            JobStopped: the file changed since, or the spool cannot be written.
            BackendUnavailable, ConfigError: the file cannot be read.

        """
        cut = self._job.cut
        if cut.last or not await self._may_fill():
            return
        rows, offset = cut.rows, cut.offset
        file = await threads.run(FileInput, path, longest=2 * self._config.bytes_per_batch)
        with closing(file):
            if (now := file.stat()) != (source.size, source.mtime_ns):
                await self._compare(path, source)
            try:
                await threads.run(file.skip, offset=cut.offset, rows=cut.rows)
                while (lines := await threads.run(file.block)) is not None:
                    items = (Numbered(from_checked_line(line, number), number, end) for line, number, end in lines)
                    while (taken := await self._take(items)) is not None:
                        rows, offset = rows + taken.rows, taken.offset or offset
                        if file.stat() != now:
                            raise self._changed(path)
                        if taken.full and not await self._cut(Cut(rows=rows, offset=offset if file.plain else 0)):
                            return
                if file.stat() != now or rows != source.rows:
                    raise self._changed(path)
                await self._cut(Cut(rows=rows, offset=now[0] if file.plain else 0, last=True))
            except BadRequest as bad:  # the line was good when it was checked
                raise self._changed(path) from bad
            finally:
                await threads.clean_up(self._discard)

    async def run_iterable(self, requests: object) -> None:
        """Plan a caller's iterable; what was sealed of it before is read past, and compared.

        Raises:
            BadRequest: a row cannot be sent, or its custom_id was there before; the shards before it stay.
            JobConflict: these are not the requests the job was started with.
            JobStopped: the spool cannot be written.
            ConfigError: there is no request.
            Exception: whatever the iterable raises.

        """
        before = self._job.cut
        if not before.last and not await self._may_fill():
            return
        source, rows = IterableInput(requests), 0
        try:
            seen = await threads.run(SeenIds, self._ledger.journal.folder)
        except OSError as failure:
            raise self._no_disk(str(failure)) from failure
        try:
            async with aclosing(source.blocks(most=self._config.requests_per_batch)) as blocks:
                async for block in blocks:
                    problem = await self._first_problem(seen, block)
                    good = block if problem is None else [item for item in block if item.number < problem.line]
                    known = [item for item in good if item.number <= before.rows]
                    for item in known:
                        source.note(item.row)
                    rows += len(known)
                    if known and rows == before.rows and source.digest() != before.digest:
                        raise JobConflict(self._job.key, "other requests")
                    fresh = iter(good[len(known) :])
                    while (taken := await self._take(fresh, source)) is not None:
                        if before.last:
                            raise JobConflict(self._job.key, "fewer requests")
                        rows += taken.rows
                        if taken.full and not await self._cut(Cut(rows=rows, digest=source.digest())):
                            return
                    if problem is not None:
                        raise problem
            if rows < before.rows:
                raise JobConflict(self._job.key, "more requests")
            if rows == 0:
                raise ConfigError(f"job {self._job.key!r} has no request")
            if not before.last:
                await self._cut(Cut(rows=rows, digest=source.digest(), last=True))
        finally:
            seen.close()
            await threads.clean_up(self._discard)

    async def _first_problem(self, seen: SeenIds, block: Sequence[Numbered]) -> BadRequest | None:
        try:
            return await threads.run(self._look_for_problem, seen, block)
        except OSError as failure:
            raise self._no_disk(str(failure)) from failure

    def _look_for_problem(self, seen: SeenIds, block: Sequence[Numbered]) -> BadRequest | None:
        too_large = (check_size(item, self._config.bytes_per_batch) for item in block)
        problems = [*filter(None, too_large), *seen.add(block)]
        return min(problems, key=lambda bad: bad.line, default=None)

    # ---- filling ----------------------------------------------------------------------------------------------

    async def _take(self, items: Iterable[Numbered], source: IterableInput | None = None) -> _Taken | None:
        """Put rows into the open shards until one is full; None once there are no more rows."""
        try:
            return await threads.run(self._fill, items, source)
        except OSError as failure:
            raise self._no_disk(failure.strerror or str(failure)) from failure

    def _fill(self, items: Iterable[Numbered], source: IterableInput | None) -> _Taken | None:
        rows = offset = 0
        held, self._held_back = self._held_back, None
        for item in chain([] if held is None else [held], items):
            shard = self._shard_for(item)
            if not shard.writer.fits(len(item.row.params), self._config.bytes_per_batch):
                self._held_back = item
                return _Taken(rows=rows, offset=offset, full=True)
            shard.writer.add(item.row.custom_id, item.row.params)
            if source is not None:
                source.note(item.row)
            rows, offset = rows + 1, item.end
            if shard.writer.rows >= shard.limit:
                return _Taken(rows=rows, offset=offset, full=True)
        return _Taken(rows=rows, offset=offset, full=False) if rows else None

    def _shard_for(self, item: Numbered) -> _Open:
        headers = self._headers(item.row)
        shard = self._open.get(headers)
        if shard is None:
            self._header_sets.add(headers)
            if len(self._header_sets) > HEADER_SETS:
                raise too_many_header_sets(item)
            nth = self._job.parts + len(self._open)
            shard = _Open(writer=SpoolWriter(self._spool), limit=self._limit(nth))
            self._open[headers] = shard
        return shard

    def _headers(self, row: Row) -> Headers:
        common = self._job.submitted.headers
        if not row.betas:
            return common
        betas = tuple(sorted({*common.betas, *row.betas}))
        return Headers(betas=betas, user_profile_id=common.user_profile_id, workspace_id=common.workspace_id)

    def _limit(self, nth: int) -> int:
        most = self._config.requests_per_batch
        spread = min(SPREAD, most - (most + 1) // 2 + 1)
        return most - (zlib.crc32(self._job.key.encode()) + nth) % spread

    async def _may_fill(self) -> bool:
        if not await self._room():
            return False
        free = (await threads.run(shutil.disk_usage, self._spool)).free
        if free < self._config.free_disk:
            raise self._no_disk(f"{free} bytes are free")
        return True

    # ---- cutting ----------------------------------------------------------------------------------------------

    async def _cut(self, cut: Cut) -> bool:
        """Seal all open shards and record the position; whether planning goes on."""
        entries: list[Entry] = []
        for headers, shard in self._open.items():
            number = self._ledger.number_shard()
            name = f"{number:08d}.spool"
            try:
                written = await threads.run(shard.writer.seal, name)
            except OSError as failure:
                raise self._no_disk(failure.strerror or str(failure)) from failure
            planned = written.planned(name, headers, part=self._job.take_part())
            entries.append(Entry(self._job.job, planned, number, 0))
        self._open.clear()
        await self._ledger.record(*entries, Entry(self._job.job, cut, n=self._job.cuts))
        self._cut_made()
        return not cut.last and await self._may_fill()

    def _discard(self) -> None:
        for shard in self._open.values():
            shard.writer.discard()
        self._open.clear()
        self._held_back = None

    async def _compare(self, path: Path, source: FileSource) -> None:
        if await threads.run(file_sha256, path) != source.sha256:
            raise self._changed(path)

    def _changed(self, path: Path) -> JobStopped:
        return JobStopped(
            self._job.key,
            f"input {path} changed since the job was started",
            "Put the old content back and run again; or give the new content a key of its own.",
        )

    def _no_disk(self, why: str) -> JobStopped:
        return JobStopped(
            self._job.key,
            f"the spool in {self._spool} cannot be written ({why})",
            "Free the disk, then run again.",
        )


def spool_needed(source: FileSource, config: Config) -> int:
    """Bytes that a file's shards may take in the spool at once: those in flight and those that wait."""
    _, queue = LIMITS[config.tier]
    waiting = (config.sealed_unsent + 1) * config.requests_per_batch
    return int(source.size / max(source.rows, 1) * min(source.rows, queue + waiting))

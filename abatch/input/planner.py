"""Cut a job's requests into shards that are sealed in the spool; planning streams, and resumes at the last cut.

There is one open shard per header set. When one of them is full, all are sealed together: their `Planned` facts
and the new input position are one transaction (a *cut*), so after a crash planning resumes exactly there. If a few
sealed shards wait to be sent, planning waits, so an endless input is held back.
"""

from __future__ import annotations

import shutil
import time
import zlib
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import inf
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import anyio

from abatch.config import BATCH_BYTES
from abatch.errors import BadRequest, ConfigError, JobConflict, JobStopped, Overtaken, SpoolUnusable, cancel_and_skip
from abatch.input.check import HEADER_SETS, check_size, too_many_header_sets
from abatch.input.duplicates import DuplicateIndex
from abatch.input.files import BLOCK, FileInput, FilesInput, Lines, SelectedInput, file_sha256, opened_source
from abatch.input.iterables import IterableInput, Numbered, other_row
from abatch.input.params import check_of
from abatch.input.request import Rows, from_checked_lines
from abatch.input.spool import FREE_DISK, SpoolWriter, guarded
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.facts import ChangedSource, Cut, Headers, OpenSource, betas_of_row, files_of, takes_changed_input
from abatch.protocol.pacing import LIMITS
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from pathlib import Path

    from abatch.config import Config
    from abatch.errors import Alike
    from abatch.journal.inbox import Waiting
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.protocol.facts import FilePart, SourceOfFiles

__all__ = ["Planner", "log_doubts", "spool_needed"]

P = ParamSpec("P")
T = TypeVar("T")

SPREAD: Final = 256
"""Number of rows by which a job's shards may differ in size, so that two shards in doubt seldom have equal counts."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A shard being filled."""

    writer: SpoolWriter
    limit: int
    """Number of rows at which the shard is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """The rows that one turn of the worker thread put into the open shards."""

    rows: int
    full: bool
    offset: int = 0
    """The offset in the file after the last of these rows, if a shard is full."""


class Planner:
    """Plan one job; `run_file` or `run_iterable` returns when the input is planned, or when planning has to stop.

    Args:
        ledger: the journal's jobs, where cuts are recorded.
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
        self._ledger = ledger
        self._job = job
        self._config = config
        self._room = room
        self._cut_made = cut_made
        self._spool = ledger.folder.spool
        self._open: dict[Headers, _Open] = {}
        self._header_sets = set(job.header_sets)
        self._params = check_of(config.params, betas=bool(job.submitted.headers.betas))
        self._filled = job.cut.rows
        """Number of rows that are planned or in the open shards."""
        self._met_end = False
        """Whether the input has a row after the last one that may be planned now."""
        self._rest: tuple[Lines, Rows, int] | None = None
        """The last block of a file, and the index of its first row that no longer fitted."""

    async def run_file(self, source: SourceOfFiles, *paths: Path) -> None:
        """Plan the rest of one or several files that were checked.

        Raises:
            JobStopped: a file changed since it was checked, or the spool cannot be written.
            BackendUnavailable, ConfigError: a file cannot be read.

        """
        cut = self._job.cut
        if cut.last or self._job.limit_reached or not await self._may_fill():
            return
        rows = self._filled = cut.rows
        # The files may have been checked under a larger `bytes_per_batch`, so the longest possible line is allowed.
        file = await opened_source(source, paths, longest=2 * BATCH_BYTES)
        with closing(file):
            now = file.stats()
            for path, stat, then in zip(paths, now, files_of(source), strict=True):
                if stat != (then.size, then.mtime_ns):
                    await self._compare(path, then)
            try:
                left = cut.rows - (source.sent if isinstance(source, ChangedSource) else 0)
                while left := await threads.run(file.skip, offset=cut.offset, rows=left):
                    pass
                while (taken := await self._in_spool(self._fill_from, file)) is not None:
                    rows += taken.rows
                    if file.stats() != now:
                        raise self._changed(*paths)
                    if taken.full and not await self._cut(Cut(rows=rows, offset=taken.offset if file.plain else 0)):
                        return
                if file.stats() != now or rows != source.rows:
                    raise self._changed(*paths)
                await self._cut(Cut(rows=rows, offset=now[0][0] if file.plain else 0, last=True))
            except BadRequest as bad:  # The line was valid when it was checked, so the file has changed.
                raise self._changed(*paths) from bad
            finally:
                await threads.clean_up(self._discard)

    async def run_iterable(self, requests: object) -> None:
        """Plan a caller's iterable; rows that were sealed before are read again, compared and skipped.

        Raises:
            BadRequest: a row cannot be sent, or its custom_id is a duplicate; the shards before it are kept.
            JobConflict: these are not the requests with which the job was started.
            JobStopped: the spool cannot be written.
            ConfigError: there is no request.
            Exception: whatever the iterable raises.

        """
        before = self._job.cut
        if not before.last and not await self._may_fill():
            return
        head = (await self._ledger.in_full(self._job)).head
        source, rows = IterableInput(requests), 0
        self._filled = before.rows
        seen = DuplicateIndex(self._ledger.folder.path)
        try:
            async with aclosing(source.blocks(most=self._config.requests_per_batch)) as blocks:
                async for block in blocks:
                    seen.unit = source.unit
                    problem = await self._in_spool(self._first_problem, seen, block, before.rows)
                    good = block if problem is None else [item for item in block if item.number < problem.line]
                    known = [item for item in good if item.number <= before.rows]
                    for item in known:
                        source.note(item.row)
                        if (difference := other_row(head, item.row, item.number)) is not None:
                            raise JobConflict(self._job.key, difference)
                    rows += len(known)
                    if known and rows == before.rows and source.digest() != before.digest:
                        raise JobConflict(self._job.key, "other requests")
                    fresh = good[len(known) :]
                    while fresh:
                        if before.last:
                            raise JobConflict(self._job.key, "fewer requests")
                        taken = await self._in_spool(self._fill_with, fresh, source)
                        fresh = fresh[taken.rows :]
                        rows += taken.rows
                        if taken.full and not await self._cut(self._cut_of(source, rows)):
                            return
                    if problem is not None:
                        raise problem
            if rows < before.rows:
                raise JobConflict(self._job.key, "more requests")
            if rows == 0:
                raise ConfigError(f"job {self._job.key!r} has no request")
            if not before.last:
                await self._cut(self._cut_of(source, rows, last=True))
        except BadRequest as bad:
            bad.unit, bad.job = source.unit, self._job.key
            raise
        finally:
            await threads.clean_up(self._discard, seen)

    async def run_inbox(self, source: OpenSource) -> None:
        """Plan the requests of an open job as they arrive, until the inbox is closed and planned to its end.

        A shard is cut when it is full, or when its first request has waited `linger` seconds. The rows of a job that
        is being cancelled are planned, too, so that each gets its line.

        Raises:
            JobStopped: the spool cannot be written.
            Overtaken: another process plans the job, too.

        """
        job, facts = self._job, self._ledger.facts
        self._filled = job.cut.rows
        self._header_sets.clear()  # An open job has no limit of header sets, but its open shards do.
        due = inf
        """When the first request in the open shards has waited long enough, by the clock of the event loop."""
        try:
            while not job.cut.last and (job.cancel_wished or await self._may_fill()):
                arrival = job.arrival()
                rows = await facts.waiting(job.job, after=self._filled, most=BLOCK)
                if rows and rows[0].number != self._filled + 1:
                    raise Overtaken  # Another process has planned the requests before these.
                while rows:
                    due = min(due, anyio.current_time() + _left_of(source.linger, rows[0].at))
                    taken = await self._in_spool(self._fill_waiting, rows)
                    rows = rows[taken.rows :]
                    if taken.full:
                        await self._cut_inbox()
                        due = inf
                        if not (job.cancel_wished or await self._may_fill()):
                            return
                inbox = await facts.inbox(job.job)
                if self._filled < inbox.released:
                    raise Overtaken  # Another process has planned these requests.
                if self._filled < inbox.total:
                    continue
                if inbox.closed:
                    await self._cut_inbox(last=True)
                elif due <= anyio.current_time():
                    await self._cut_inbox()
                    due = inf
                else:
                    with anyio.CancelScope(deadline=due):
                        await arrival.wait()
        finally:
            await threads.clean_up(self._discard)

    def _fill_waiting(self, waiting: Sequence[Waiting]) -> _Taken:
        """Put requests of an inbox into the open shards, until one is full."""
        rows = Rows(
            [each.custom_id for each in waiting],
            [each.params for each in waiting],
            [each.betas for each in waiting],
            waiting[0].number,
        )
        end, full = self._fill(rows, 0)
        return _Taken(rows=end, full=full)

    async def _cut_inbox(self, *, last: bool = False) -> None:
        """Cut, then let the inbox drop the params, which are durable in the spool now."""
        await self._cut(Cut(rows=self._filled, last=last))
        self._header_sets.clear()
        await self._ledger.facts.release(self._job.job, through=self._filled)
        self._job.wake()  # Callers of `put` may wait for room in the inbox.

    def _cut_of(self, source: IterableInput, rows: int, *, last: bool = False) -> Cut:
        head = "" if self._job.cuts else source.head()
        return Cut(rows=rows, digest=source.digest(), head=head, last=last)

    def _first_problem(self, seen: DuplicateIndex, block: Sequence[Numbered], sealed: int) -> BadRequest | None:
        """Return the first problem of these rows; params of rows that were sealed before are not checked again."""
        params: list[BadRequest] = []
        if self._params is not None:
            for item in block:
                if item.number > sealed:
                    params += self._params.row(item.row, item.number)
            log_doubts(self._job.key, self._params.fresh_doubts())
        too_large = (check_size(item.row, item.number, self._config.bytes_per_batch) for item in block)
        repeated = seen.add([item.row.custom_id for item in block], [item.number for item in block])
        return min([*filter(None, too_large), *params, *repeated], key=lambda bad: bad.line, default=None)

    # ---- filling ----------------------------------------------------------------------------------------------

    def _fill_from(self, file: FileInput | FilesInput | SelectedInput) -> _Taken | None:
        """Put about a megabyte of a file into the open shards, or less if one is full; return None at the end."""
        taken = weight = 0
        while weight < BLOCK:
            if self._rest is None:
                block = file.block()
                if block is None:
                    break
                weight += len(block.text) or BLOCK  # An empty block took as long to read, so it counts as a full one.
                self._rest = block, from_checked_lines(block.text), 0
            block, rows, begin = self._rest
            end, full = self._fill(rows, begin)
            taken += end - begin
            self._rest = None if end == len(rows.custom_ids) else (block, rows, end)
            if full:
                return _Taken(rows=taken, offset=block.requests()[end - 1][2] if end else block.offset, full=True)
        return _Taken(rows=taken, full=False) if taken or weight else None

    def _fill_with(self, items: Sequence[Numbered], source: IterableInput) -> _Taken:
        """Put rows of an iterable into the open shards, until one is full."""
        rows = Rows(
            [item.row.custom_id for item in items],
            [item.row.params for item in items],
            [item.row.betas for item in items],
            items[0].number,
        )
        end, full = self._fill(rows, 0)
        for item in items[:end]:
            source.note(item.row)
        return _Taken(rows=end, full=full)

    def _fill(self, rows: Rows, begin: int) -> tuple[int, bool]:
        """Put the rows from `begin` into the open shards; return the index of the end, and whether a cut is due."""
        for betas, run in groupby(rows.betas[begin:]):
            end = begin + len(list(run))
            left = self._left()
            if left == 0:
                self._met_end = True
                return begin, True
            shard = self._shard_for(betas)
            if shard is None and isinstance(self._job.submitted.source, OpenSource):
                return begin, True  # A cut makes room for other header sets; a request was refused by nobody before.
            if shard is None:
                raise too_many_header_sets(rows.custom_ids[begin], rows.number + begin)
            writer = shard.writer
            most = shard.limit - writer.rows if left is None else min(shard.limit - writer.rows, left)
            params = rows.params[begin : min(end, begin + most)]
            fitting = writer.room_for(list(map(len, params)), self._config.bytes_per_batch)
            writer.extend(rows.custom_ids[begin : begin + fitting], params[:fitting])
            begin += fitting
            self._filled += fitting
            self._met_end = begin < end and fitting == left
            if begin < end or writer.rows >= shard.limit:
                return begin, True
        return begin, False

    def _left(self) -> int | None:
        """Return how many rows may follow before the next required cut: the end of a pilot, or the limit."""
        planned, limit, pilot = self._job.cut.rows, self._job.limit, self._job.submitted.pilot
        ends = [pilot] if planned < pilot else []
        ends += [] if limit is None else [max(limit, planned)]
        return max(min(ends) - self._filled, 0) if ends else None

    def _shard_for(self, betas: tuple[str, ...]) -> _Open | None:
        """Return the open shard for these betas; None if they would exceed the maximum number of header sets."""
        headers = self._headers(betas)
        shard = self._open.get(headers)
        if shard is None:
            self._header_sets.add(headers)
            if len(self._header_sets) > HEADER_SETS:
                self._header_sets.discard(headers)
                return None
            nth = self._job.parts + len(self._open)
            shard = _Open(writer=SpoolWriter(self._spool), limit=self._limit(nth))
            self._open[headers] = shard
        return shard

    def _headers(self, betas: tuple[str, ...]) -> Headers:
        common = self._job.submitted.headers
        if not betas:
            return common
        both = betas_of_row(common.betas, betas)
        return Headers(betas=both, user_profile_id=common.user_profile_id, workspace_id=common.workspace_id)

    def _limit(self, nth: int) -> int:
        most = self._config.requests_per_batch
        spread = min(SPREAD, most - (most + 1) // 2 + 1)
        return most - (zlib.crc32(self._job.key.encode()) + nth) % spread

    async def _may_fill(self) -> bool:
        if not await self._room():
            return False
        with self._guarded():
            free = (await threads.run(shutil.disk_usage, self._spool)).free
            if free < self._config.free_disk:
                raise SpoolUnusable(self._spool, f"{free} bytes are free")
        return True

    async def _in_spool(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work on the spool in a worker thread."""
        with self._guarded():
            return await threads.run(work, *args, **kwargs)

    @contextmanager
    def _guarded(self) -> Generator[None, None, None]:
        """Raise JobStopped for a disk error in work on the spool."""
        try:
            with guarded(self._spool):
                yield
        except SpoolUnusable as failure:
            raise JobStopped(self._job.key, failure.reason, FREE_DISK) from failure

    # ---- cutting ----------------------------------------------------------------------------------------------

    async def _cut(self, cut: Cut) -> bool:
        """Seal all open shards and record the position; return whether planning continues."""
        if not self._open and not cut.last:  # The limit ends at the previous cut, so there is nothing to seal.
            return False
        met_end, self._met_end = self._met_end, False
        entries: list[Entry] = []
        for headers, shard in self._open.items():
            number = self._ledger.number_shard()
            name = self._ledger.folder.spool_name(number)
            written = await self._in_spool(shard.writer.seal, name)
            planned = written.planned(name, headers, part=self._job.take_part())
            entries.append(Entry(self._job.job, planned, number, 0))
        self._open.clear()
        await self._ledger.record(*entries, Entry(self._job.job, cut, n=self._job.cuts))
        self._cut_made()
        if cut.last or (met_end and self._job.limit_reached):
            return False
        return await self._may_fill()

    def _discard(self, seen: DuplicateIndex | None = None) -> None:
        if seen is not None:
            seen.close()
        for shard in self._open.values():
            shard.writer.discard()
        self._open.clear()
        self._rest = None

    async def _compare(self, path: Path, then: FilePart) -> None:
        if await file_sha256(path) != then.sha256:
            raise self._changed(path)

    def _changed(self, *paths: Path) -> JobStopped:
        remedy = (
            "Put the old content back and run the same command again; or run it with --changed-input "
            "(`changed_input=True`), which takes the changed requests that were not sent."
        )
        if not takes_changed_input(self._job.submitted.source):
            remedy = f"Put the old content back and run the same command again. Or: {cancel_and_skip(self._job.key)}"
        return JobStopped(
            self._job.key, f"input {' or '.join(map(str, paths[:3]))} changed since the job was started", remedy
        )


def _left_of(linger: float, since: float) -> float:
    """Return how many seconds of `linger` are left for a request; a clock that was set back does not prolong it."""
    return min(max(since + linger - time.time(), 0.0), linger)


def log_doubts(key: str, doubts: Sequence[Alike]) -> None:
    """Log params that the API may refuse: each kind once, with the first lines of that kind."""
    for doubt in doubts:
        first, *_ = doubt.examples
        lines = ", ".join(
            str(each.line) if each.file is None else f"{each.file}:{each.line}" for each in doubt.examples
        )
        log.warning("params_doubtful", job=key, why=first.why, requests=doubt.count, lines=lines)


def spool_needed(source: SourceOfFiles, config: Config) -> int:
    """Estimate the bytes that the shards of files take in the spool at once, both in flight and waiting."""
    _, queue = LIMITS[config.tier]
    waiting = (config.sealed_unsent + 1) * config.requests_per_batch
    size = sum(file.size for file in files_of(source))
    return int(size / max(source.rows, 1) * min(source.rows, queue + waiting))

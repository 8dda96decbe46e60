"""Let an unfinished job continue with a changed input: sent requests must be unchanged, all others are planned again.

    check that nothing is in flight   a create or a batch that is not settled prevents the change
    compare the sent requests         by custom_id, and by the digests of their params if these were kept
    make `InputChanged` durable       in one transaction with `Unplanned` for each shard that was not sent

The rows that were sent are left out of the changed files, so only the other rows are planned. Retry shards stay,
because their rows were sent. A crash before the facts are durable leaves the job as it was. The caller must make sure
that no driver or planner of the job runs meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from abatch.errors import ConfigError, JobConflict, cancel_and_skip
from abatch.input.files import CHANGED_MEANWHILE, packed_mask, read_again, unskipped
from abatch.input.params_index import opened_params_index
from abatch.input.request import Rows
from abatch.journal.kept import params_mark, read_kept
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.facts import ChangedSource, InputChanged, Unplanned, betas_of_row, files_of, takes_changed_input
from abatch.protocol.lifecycle import Dead, Done, Ready
from abatch.system import threads
from abatch.system.disk import remove

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.input.check import Preview
    from abatch.input.params_index import ParamsIndex
    from abatch.journal.kept import KeptIds
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.protocol.facts import FileSource, FilesSource

__all__ = ["check_may_change", "take_changed"]

FORGOTTEN: Final = "what it has sent is not known any more: that is kept for 29 days"


def check_may_change(job: JobRecord) -> None:
    """Make sure that the state of a job allows a changed input.

    Raises:
        JobConflict: the state does not allow it.

    """
    if not takes_changed_input(job.submitted.source):
        raise _refused(job.key, "it was begun with skip_answered=", remedy=cancel_and_skip(job.key))
    if in_flight := job.unsettled:
        raise _refused(
            job.key,
            f"{in_flight:,} of its requests are in flight",
            remedy="Run the same command with --changed-input, which waits for their answers; in Python enter the "
            'manager with resume="given", await Job.settled(), and then submit with changed_input=True.',
        )
    if job.cut.last and not job.open_shards:  # The destination may be finished already, so no row can be added.
        raise _refused(job.key, "all of its requests were sent")
    if any(isinstance(shard.state, Dead) and shard.sealed is not None for shard in job.shards.values()):
        raise _refused(job.key, "a request of it was refused as too large, or cancelled, and cannot be compared")


def _refused(key: str, why: str, *, remedy: str = "") -> JobConflict:
    return JobConflict(key, why, why="change", remedy=remedy)


async def take_changed(
    ledger: Ledger,
    job: JobRecord,
    source: FileSource | FilesSource,
    paths: Sequence[Path],
    *,
    limit: int | None,
    preview: Preview | None,
) -> None:
    """Let the job continue with these files, which were checked.

    Args:
        ledger: the journal's jobs, where the change is recorded.
        job: the job; no driver or planner of it may be running.
        source: the files.
        paths: the paths of these files.
        limit: how many requests the job sends in all, including those already sent; None for all.
        preview: receives the requests that the job will send from now on, and may raise before anything is recorded.

    Raises:
        JobConflict: the job does not allow the change, or requests that were sent differ now; the job is unchanged.
        ConfigError: a file changes meanwhile.
        Overtaken: another process changed the job first; its change stays.

    """
    check_may_change(job)
    cuts = job.cuts
    sent: list[ShardRecord] = []
    unplanned: list[ShardRecord] = []
    for shard in job.shards.values():
        if shard.planned.trial > 1:  # The rows of a retry shard were sent in an earlier shard and are counted there.
            continue
        match shard.state:
            case Done():
                sent.append(shard)
            case Ready():
                unplanned.append(shard)
            case _:
                pass
    async with opened_params_index(ledger.folder.path) as known:
        for shard in sent:
            await threads.run(_note_sent, ledger.folder.ids, job, shard, known)
        _check_accounts(job, known.count, unplanned)
        left = None if limit is None else max(limit - known.count, 0)
        comparison = _Comparison(known, job.submitted.headers.betas, preview, left)
        await read_again(source, paths, comparison.look)
        if comparison.others:
            raise _refused(job.key, _told(comparison.others, "have other params now", comparison.other))
        if gone := known.count - comparison.found:
            await read_again(source, paths, lambda rows: known.drop(rows.custom_ids))
            named = await threads.run(_first_of, ledger.folder.ids, job, sent, known)
            raise _refused(job.key, _told(gone, "are not in the input any more", named))
        if len(comparison.mask) != source.rows:
            raise ConfigError(CHANGED_MEANWHILE)
        changed = ChangedSource(
            files=files_of(source),
            rows=source.rows,
            sent=known.count,
            mask=await threads.run(packed_mask, comparison.mask),
        )
    if preview is not None:
        await preview.agree()
    entries = [entry for shard in unplanned for entry in ledger.next(shard, Unplanned())]
    await ledger.record(Entry(job.job, InputChanged(source=changed), n=cuts), *entries)
    log.warning("input_changed", job=job.key, requests=source.rows, sent=changed.sent, shards_unplanned=len(unplanned))
    for shard in unplanned:
        await threads.run(remove, ledger.folder.spool_file(shard.planned.spool))


def _check_accounts(job: JobRecord, sent: int, unplanned: Sequence[ShardRecord]) -> None:
    """Make sure that each planned row was sent or is planned again, so no row is lost or sent twice."""
    accounted = sent + sum(shard.planned.rows for shard in unplanned)
    if accounted != job.cut.rows:
        raise _refused(job.key, f"its shards hold {accounted:,} requests where {job.cut.rows:,} were planned")


def _note_sent(folder: Path, job: JobRecord, shard: ShardRecord, known: ParamsIndex) -> None:
    kept = _kept(folder, job, shard)
    known.add(job.job, ((kept.custom_id(row), kept.params_mark(row)) for row in range(shard.planned.rows)))


def _kept(folder: Path, job: JobRecord, shard: ShardRecord) -> KeptIds:
    kept = read_kept(folder, shard.shard, shard.planned.rows)
    if kept is None:
        raise _refused(job.key, FORGOTTEN)
    return kept


def _first_of(folder: Path, job: JobRecord, shards: Sequence[ShardRecord], known: ParamsIndex) -> bytes:
    """Return the first custom_id of these shards that the index still holds."""
    for shard in shards:
        kept = _kept(folder, job, shard)
        for row in range(shard.planned.rows):
            if known.of(custom_id := kept.custom_id(row)) is not None:
                return custom_id
    raise ConfigError(CHANGED_MEANWHILE)  # The missing request was put back between the two reads.


class _Comparison:
    """The comparison of the rows of the changed input with the rows that were sent."""

    def __init__(
        self, known: ParamsIndex, betas: tuple[str, ...], preview: Preview | None, preview_rows: int | None
    ) -> None:
        self.mask = bytearray()
        """One byte per row: 1 if the row was sent."""
        self.found = 0
        """Number of rows that were sent."""
        self.others = 0
        """How many of the sent rows have other params or betas now."""
        self.other = b""
        """The custom_id of the first row with other params or betas."""
        self._known = known
        self._betas = betas
        self._preview = preview
        self._preview_rows = preview_rows
        """How many more rows the preview receives; None for all."""

    def look(self, rows: Rows) -> None:
        """Compare the next rows."""
        begin = len(self.mask)
        for custom_id, params, betas in zip(rows.custom_ids, rows.params, rows.betas, strict=True):
            marks = self._known.of(custom_id)
            self.mask.append(marks is not None)
            if marks is None:
                continue
            self.found += 1
            if marks and params_mark(params, betas_of_row(self._betas, betas)) not in marks:
                self.others += 1
                self.other = self.other or custom_id
        if self._preview is not None:
            self._show(self._preview, unskipped(rows, self.mask[begin:]))

    def _show(self, preview: Preview, rows: Rows) -> None:
        if self._preview_rows is not None:
            most = self._preview_rows
            rows = Rows(rows.custom_ids[:most], rows.params[:most], rows.betas[:most])
            self._preview_rows -= len(rows.custom_ids)
        preview.add(rows)


def _told(count: int, what: str, custom_id: bytes) -> str:
    named = msgspec.json.decode(custom_id, type=str)
    return f"{count:,} requests that were sent {what}, such as custom_id {named[:80]!r}"

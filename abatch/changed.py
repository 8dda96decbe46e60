"""Take an unfinished job up with a changed input: what was sent must be the same, all else is planned once more.

    nothing in flight             a create or batch that is not settled stands in the way
    compare what was sent         its custom_ids, and digests of its params where they were kept
    make `InputChanged` durable   with it, in one transaction, `Unplanned` for each shard that was not sent

The rows that were sent are left out of the changed files, so that planning begins behind them. Retry shards stay: their
rows were sent. A crash before the facts leaves the job as it was. The caller must make sure that no driver or planner
of the job runs meanwhile.
"""

from __future__ import annotations

import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from abatch import threads
from abatch.config import BATCH_BYTES
from abatch.disk import remove
from abatch.errors import BadRequest, ConfigError, JobConflict
from abatch.facts import ChangedSource, InputChanged, SelectedSource, Unplanned, files_of
from abatch.intake import opened_input
from abatch.journal import Entry
from abatch.kept import params_mark, read_kept
from abatch.lifecycle import Dead, Done, Ready
from abatch.log import log
from abatch.request import from_checked_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.facts import FileSource, FilesSource
    from abatch.intake import FileInput, FilesInput
    from abatch.ledger import JobRecord, Ledger, ShardRecord

__all__ = ["check_may_change", "take_changed"]

QUICK: Final = 1
"""Of zlib."""
OTHER_NOW: Final = "the input changed while it was checked; run again once it is complete"


def check_may_change(job: JobRecord) -> None:
    """Make sure that the state of a job allows a changed input.

    Raises:
        JobConflict: it does not.

    """
    in_flight = sum(shard.planned.rows for shard in job.open_shards.values() if not isinstance(shard.state, Ready))
    if in_flight:
        raise JobConflict(
            job.key,
            f"another input, and {in_flight:,} of its requests are in flight",
            remedy="read their answers first: put the old content back, run the same command without --changed-input, "
            "and then with the new content and --changed-input",
        )
    if job.cut.last and not job.open_shards:  # its destination may be finished already
        raise JobConflict(job.key, "another input, and all requests of its own were sent")
    if isinstance(job.submitted.source, SelectedSource):
        raise JobConflict(job.key, "another input, which a job that was begun with --skip-answered does not take")
    if any(isinstance(shard.state, Dead) and shard.sealed is not None for shard in job.shards.values()):
        raise JobConflict(
            job.key, "another input, which cannot be compared: a request of it was refused as too large, or cancelled"
        )


async def take_changed(ledger: Ledger, job: JobRecord, source: FileSource | FilesSource, paths: Sequence[Path]) -> None:
    """Let the job go on with these files, which were checked.

    Raises:
        JobConflict: the job does not allow it, or requests that were sent are others now; it is as it was.
        ConfigError: a file changes meanwhile.
        Overtaken: another process changed the job; it is as that left it.

    """
    check_may_change(job)
    cuts = job.cuts
    sent: dict[bytes, bytes] = {}
    unplanned: list[ShardRecord] = []
    for shard in job.shards.values():
        if shard.planned.trial > 1:  # its rows were sent in another one, and failed there
            continue
        match shard.state:
            case Done():
                await threads.run(_note_sent, ledger.journal.ids, job, shard, sent)
            case Ready():
                unplanned.append(shard)
            case _:
                pass
    _check_accounts(job, len(sent), unplanned)
    comparison = _Comparison(sent, job.submitted.headers.betas)
    with closing(await opened_input(paths, longest=2 * BATCH_BYTES)) as file:
        try:
            while await threads.run(comparison.turn, file):
                pass
        except BadRequest as bad:  # every line was good when it was checked
            raise ConfigError(OTHER_NOW) from bad
    comparison.check(job.key)
    if len(comparison.mask) != source.rows:
        raise ConfigError(OTHER_NOW)
    changed = ChangedSource(
        files=files_of(source),
        rows=source.rows,
        sent=len(sent),
        mask=await threads.run(zlib.compress, bytes(comparison.mask), QUICK),
    )
    entries = [entry for shard in unplanned for entry in ledger.next(shard, Unplanned())]
    await ledger.record(Entry(job.job, InputChanged(source=changed), n=cuts), *entries)
    log.warning("input_changed", job=job.key, requests=source.rows, sent=len(sent), shards_unplanned=len(unplanned))
    for shard in unplanned:
        await threads.run(remove, ledger.journal.spool / shard.planned.spool)


def _check_accounts(job: JobRecord, sent: int, unplanned: Sequence[ShardRecord]) -> None:
    """Make sure that each planned row was either sent or is planned once more: no row is lost, or sent twice."""
    accounted = sent + sum(shard.planned.rows for shard in unplanned)
    if accounted != job.cut.rows:
        raise JobConflict(
            job.key,
            f"another input, and its shards hold {accounted:,} requests where {job.cut.rows:,} were planned",
        )


def _note_sent(folder: Path, job: JobRecord, shard: ShardRecord, sent: dict[bytes, bytes]) -> None:
    kept = read_kept(folder, shard.shard, shard.planned.rows)
    if kept is None:
        raise JobConflict(
            job.key,
            "another input, and what it has sent is not known any more: that is kept for 29 days",
        )
    for row in range(shard.planned.rows):
        sent[kept.custom_id(row)] = kept.params_mark(row)


class _Comparison:
    """The rows of the changed input, compared with what was sent."""

    def __init__(self, sent: dict[bytes, bytes], betas: tuple[str, ...]) -> None:
        self.mask = bytearray()
        """A byte per row, 1 where it was sent."""
        self._sent = sent
        self._betas = betas
        self._left = set(sent)
        self._others: list[bytes] = []
        """Custom_ids of requests that were sent with other params or betas."""

    def turn(self, file: FileInput | FilesInput) -> bool:
        """Compare one block of lines; False at the end."""
        block = file.block()
        if block is None:
            return False
        rows = from_checked_lines(block.text)
        for custom_id, params, betas in zip(rows.custom_ids, rows.params, rows.betas, strict=True):
            mark = self._sent.get(custom_id)
            self.mask.append(mark is not None)
            if mark is None:
                continue
            self._left.discard(custom_id)
            both = tuple(sorted({*self._betas, *betas})) if betas else self._betas
            if mark and mark != params_mark(params, both):
                self._others.append(custom_id)
        return True

    def check(self, key: str) -> None:
        """Raise unless all that was sent is in the input as it was."""
        if self._others:
            raise JobConflict(key, _told(self._others, "have other params now"))
        if self._left:
            raise JobConflict(key, _told(sorted(self._left), "are not in the input any more"))


def _told(ids: Sequence[bytes], what: str) -> str:
    first = msgspec.json.decode(ids[0], type=str)
    return f"another input: {len(ids):,} requests that were sent {what}, such as custom_id {first[:80]!r}"

"""Leave out of an input the requests that an earlier job answered, so that only the others are sent and paid for.

A request counts as answered if the earlier job, one of its retries, or a job whose answers the earlier job left out in
the same way has a success for its custom_id, and its params are the ones that were answered. abatch keeps a digest of
the params for as long as the API keeps results (`kept.py`). If there is no digest, the custom_id alone decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.json import encode

from abatch.errors import ConfigError
from abatch.input.files import BLOCK, packed_mask, read_again, unskipped
from abatch.input.params_index import opened_params_index
from abatch.journal.kept import params_mark, read_kept
from abatch.protocol import wire
from abatch.protocol.facts import SelectedSource, betas_of_row, files_of
from abatch.result import LeftOut
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from abatch.engine.destination import Destination
    from abatch.input.params_index import ParamsIndex
    from abatch.input.request import Rows
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.protocol.facts import FileSource, FilesSource, Source

__all__ = ["answering", "left_out_of", "retried_key", "retries_of", "root_of", "without_answered"]


def retried_key(key: str) -> str:
    """Return the key of the job that the job `key` retries; empty if `key` does not have the form of a retry's key."""
    return key.rpartition(".retry-")[0]


def root_of(ledger: Ledger, job: JobRecord) -> JobRecord:
    """Return the job that `job` retries, or `job` if it is not a retry."""
    return ledger.job(retried_key(job.key)) or job


def retries_of(ledger: Ledger, job: JobRecord) -> list[JobRecord]:
    """Return the retries of a job, oldest first; the last one may be unfinished."""
    found: list[JobRecord] = []
    while (retry := ledger.job(f"{job.key}.retry-{len(found) + 1}")) is not None:
        found.append(retry)
    return found


def answering(ledger: Ledger, key: str) -> list[JobRecord]:
    """Return the job `key`, or the job that it retries, with all retries, and the jobs whose answers it left out.

    Raises:
        JobNotFound: there is no such job.
        ConfigError: one of these jobs is not finished, so requests in flight would be paid for twice.

    """
    found: list[JobRecord] = []
    while key:
        job = root_of(ledger, ledger.named(key))
        family = [job, *retries_of(ledger, job)]
        for each in family:
            if each.finished is None:
                raise ConfigError(
                    f"job {each.key!r} is not finished, so its answers are not all known; run it to its end first"
                )
        found += family
        source = job.submitted.source
        key = source.answered_by if isinstance(source, SelectedSource) else ""
    return found


def left_out_of(source: Source) -> LeftOut | None:
    """Return the requests that `skip_answered` left out of the files of a job; None if it was not given."""
    if not isinstance(source, SelectedSource):
        return None
    return LeftOut(
        answered_by=source.answered_by, skipped=source.skipped, changed=source.changed, uncompared=source.uncompared
    )


async def without_answered(
    ledger: Ledger,
    source: FileSource | FilesSource,
    paths: Sequence[Path],
    *,
    betas: tuple[str, ...],
    answered_by: str,
    destination_of: Callable[[JobRecord], Destination],
    note: Callable[[Rows], None] | None = None,
) -> SelectedSource:
    """Return the input without the requests that were answered.

    Args:
        ledger: the journal's jobs.
        source: the checked files.
        paths: the paths of these files.
        betas: the betas that apply to all requests of the new job.
        answered_by: the key of the earlier job.
        destination_of: returns the destination of a job; its results are read there.
        note: called in a worker thread with the requests that are left, in input order.

    Raises:
        ConfigError: a job is not finished (see `answering`), every request was answered, or a file changes meanwhile.
        BackendError: the results of a job are not where they were.

    """
    async with opened_params_index(ledger.folder.path) as known:
        for job in answering(ledger, answered_by):
            await _note_job(ledger, job, destination_of(job), known)
        selection = _Selection(known, betas, note)
        await read_again(source, paths, selection.look)
    rows = selection.mask.count(0)
    if not rows:
        raise ConfigError(
            f"all {source.rows:,} requests were answered by job {answered_by!r}, so nothing is left to send; nothing "
            "was begun"
        )
    return SelectedSource(
        files=files_of(source),
        rows=rows,
        answered_by=answered_by,
        skipped=len(selection.mask) - rows,
        changed=selection.changed,
        uncompared=selection.uncompared,
        mask=await threads.run(packed_mask, selection.mask),
    )


async def _note_job(ledger: Ledger, job: JobRecord, destination: Destination, known: ParamsIndex) -> None:
    """Note the requests that a job answered, with the digests of their params if these were kept."""
    async with destination.reading() as backend:
        for sealed in await destination.sealed_since(0):
            piece: list[bytes] = []
            weight = 0
            async for raw in backend.read(sealed):
                piece.append(raw)
                weight += len(raw)
                if weight >= BLOCK:
                    await threads.run(_note_answers, job, piece, known)
                    piece, weight = [], 0
            await threads.run(_note_answers, job, piece, known)
    for shard in (await ledger.in_full(job)).shards.values():
        await threads.run(_note_params, ledger.folder.ids, shard, known)


def _note_answers(job: JobRecord, results: list[bytes], known: ParamsIndex) -> None:
    lines = map(wire.delivered, results)
    known.add(
        job.job, [(encode(line.custom_id), b"") for line in lines if line.outcome == "succeeded" and line.custom_id]
    )


def _note_params(folder: Path, shard: ShardRecord, known: ParamsIndex) -> None:
    kept = read_kept(folder, shard.shard, shard.planned.rows)
    if kept is not None:
        known.note(shard.job, ((kept.custom_id(row), kept.params_mark(row)) for row in range(shard.planned.rows)))


@dataclass(slots=True)
class _Selection:
    """The decision for each row of an input: left out or kept."""

    known: ParamsIndex
    """The requests that were answered."""
    betas: tuple[str, ...]
    """The betas of the whole job."""
    note: Callable[[Rows], None] | None
    mask: bytearray = field(default_factory=bytearray)
    changed: int = 0
    uncompared: int = 0

    def look(self, rows: Rows) -> None:
        """Decide on the next rows."""
        begin = len(self.mask)
        for custom_id, params, betas in zip(rows.custom_ids, rows.params, rows.betas, strict=True):
            self.mask.append(self._is_answered(custom_id, params, betas))
        if self.note is not None:
            self.note(unskipped(rows, self.mask[begin:]))

    def _is_answered(self, custom_id: bytes, params: bytes, betas: tuple[str, ...]) -> bool:
        marks = self.known.of(custom_id)
        if marks is None:
            return False
        if not marks:
            self.uncompared += 1
            return True
        if params_mark(params, betas_of_row(self.betas, betas)) in marks:
            return True
        self.changed += 1
        return False

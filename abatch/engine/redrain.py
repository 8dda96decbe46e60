"""Find the sealed parts of a job that are gone, and let their shards be drained again.

The API keeps the results of a batch for 29 days, so a part that was removed or damaged can be read again, into a new
part with the same number. Nothing is sent: the fact `Reopened` returns a shard from done to draining, and the rest is
an ordinary drain. The result is exactly one line per request, because a row that went to a retry shard the first time
is left to that shard.

Nothing is recorded before the custom_ids of every shard whose part is gone are known.
"""

from __future__ import annotations

from hashlib import file_digest, sha256
from typing import TYPE_CHECKING, NamedTuple

from abatch.backend import Places, Sealed, ShardRef
from abatch.engine.sealing import record_of, sealed_of
from abatch.errors import BackendError, JobStopped
from abatch.input.respool import respool
from abatch.journal.kept import read_kept
from abatch.log import log, ranges
from abatch.protocol.durations import KEPT_FOR
from abatch.protocol.facts import Reopened
from abatch.protocol.lifecycle import Done
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.backend import Backend, JobRef
    from abatch.engine.client import Client
    from abatch.engine.runner import JobRun
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord

__all__ = ["Gone", "check_age", "check_ids", "note_reopened", "reopen_missing_parts"]

PUT_BACK = "Put the part back where it was, or make it readable"


class Gone(NamedTuple):
    """A shard whose part is gone from the destination, or cannot be read there."""

    shard: ShardRecord
    state: Done


async def reopen_missing_parts(run: JobRun, ledger: Ledger, client: Client, input_paths: Sequence[Path]) -> list[int]:
    """Look for every sealed part of a job, and record `Reopened` for the shards whose part is gone.

    Returns:
        the numbers of these shards; none if every part is in its place.

    Raises:
        BackendError: the destination cannot be used, or holds a part that is not what was sealed.
        JobStopped: a part is gone that cannot be read again.
        ApiError: the API's time cannot be read.

    """
    job = run.job
    async with run.finishing:
        await ledger.take_back(job)
        try:
            return await _reopen(run, ledger, client, input_paths)
        finally:
            ledger.let_go(job)


async def _reopen(run: JobRun, ledger: Ledger, client: Client, input_paths: Sequence[Path]) -> list[int]:
    job = run.job
    trouble = await run.what_is_wrong()
    if job.finished is not None and trouble is None:
        return []
    await ledger.take_back(job)  # `what_is_wrong` may just have finished the job.
    async with run.destination.rewriting() as backend:
        gone = [shard for shard in job.shards.values() if await _is_gone(backend, run.destination.ref(), shard)]
        if not gone and trouble is not None:
            raise trouble
        reopened = _redrainable(job, gone)
        await check_age(client, job, reopened)
        await check_ids(ledger, job, reopened, input_paths)
        listed = await threads.run(_digest, run.destination.ref().missing)
        facts = [
            entry
            for shard, _ in reopened
            for entry in ledger.next(shard, Reopened(why="its part is gone from the destination", listed=listed))
        ]
        if facts:
            await ledger.record(*facts)
    note_reopened(job, reopened)
    return [shard.shard for shard, _ in reopened]


def note_reopened(job: JobRecord, gone: Sequence[Gone]) -> None:
    """Log which shards are read again, as ranges of numbers, because there may be thousands."""
    if gone:
        log.warning("shards_reopened", job=job.key, shards=ranges(shard.shard for shard, _ in gone), count=len(gone))


def _digest(lists: Sequence[Path]) -> str:
    """Return the SHA-256 of the joined lists of missing requests; empty if there are none."""
    found = sha256()
    for path in lists:  # A list may have millions of lines, so it is not read at once.
        with path.open("rb") as file:
            file_digest(file, lambda: found)
    return found.hexdigest() if lists else ""


async def _is_gone(backend: Backend, ref: JobRef, shard: ShardRecord) -> bool:
    """Return whether the part of a sealed shard is missing from its place.

    Raises:
        BackendError: another part is in its place.

    """
    record = shard.sealed
    if record is None:
        return False
    place = ShardRef(
        job=ref, shard=shard.shard, part=shard.planned.part, rows=shard.planned.rows, batch_id=shard.batch_id
    )
    found = await backend.open(place)
    if not isinstance(found, Sealed):
        await found.discard()
        return True
    if record_of(found) != record:
        part = backend.place_of(sealed_of(record)) if isinstance(backend, Places) else f"part {record.part}"
        raise BackendError(
            ref.key, f"{part} (shard {shard.shard}) is not what was sealed; remove it, then run the same command again"
        )
    return False


def _redrainable(job: JobRecord, gone: list[ShardRecord]) -> list[Gone]:
    """Return the shards with their states.

    Raises:
        JobStopped: abatch itself made the lines of one shard, so the API has none of them.

    """
    found: list[Gone] = []
    for shard in gone:
        if not isinstance(shard.state, Done):
            raise JobStopped(
                job.key,
                f"part {shard.planned.part} is gone, and its lines were made here (cancelled or refused requests): "
                "the API has none of them",
                f"{PUT_BACK}.",
            )
        found.append(Gone(shard, shard.state))
    return found


async def check_age(client: Client, job: JobRecord, gone: list[Gone]) -> None:
    """Make sure that the API still has the results of all these shards.

    Raises:
        JobStopped: the API no longer has some of them.
        ApiError: the API's time cannot be read.

    """
    if not gone:
        return
    now = (await client.list(job.submitted.headers.workspace_id, limit=1)).date
    for shard, state in gone:
        if state.batch_id is not None and state.created_at + KEPT_FOR < now:
            raise JobStopped(
                job.key,
                f"part {shard.planned.part} is gone or cannot be read, and the API keeps results for 29 days: "
                f"those of batch {state.batch_id} are older",
                f"{PUT_BACK}.",
            )


async def check_ids(ledger: Ledger, job: JobRecord, gone: list[Gone], input_paths: Sequence[Path]) -> None:
    """Make sure that the custom_ids of all these shards are known; if none were kept, read them from the input.

    Raises:
        JobStopped: some custom_ids are not known.

    """
    without: list[ShardRecord] = []
    for shard, state in gone:
        kept = await threads.run(read_kept, ledger.folder.ids, shard.shard, shard.planned.rows)
        if kept is None or sum(kept.withheld) != state.drained.retried:
            without.append(shard)
    if not without:
        return
    found: set[int] = set()
    if input_paths:
        found = await respool(ledger, job, input_paths, without)
    for shard in without:
        if shard.shard not in found:
            raise JobStopped(
                job.key,
                f"part {shard.planned.part} is gone or cannot be read, and the custom_ids of its requests are not "
                "known any more: they are kept for 29 days, and can be read from the unchanged input file, except "
                "those of a retry",
                f"{PUT_BACK}, or put the input file back, then run the same command again.",
            )

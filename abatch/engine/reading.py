"""Read the sealed lines of a job from its destination, finished or not, without driving it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatch.backend import JobRef, connect
from abatch.engine.sealing import sealed_of
from abatch.errors import BackendError
from abatch.system.paths import absolute_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.backend import Backend
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["read_results"]


async def read_results(ledger: Ledger, job: JobRecord) -> AsyncGenerator[bytes]:
    """Yield every line of a job that is sealed now, in sealing order.

    If a driver finishes the job meanwhile, the lines move, so the destination is opened again.

    Raises:
        BackendError: the destination is not what it was, or was an object of the caller's.

    """
    given = 0  # It counts the yielded lines of the present shard.
    full = await ledger.in_full(job)  # This keeps the shards even if the job finishes and its record drops them.
    order = list(full.sealed_order)
    while order:
        was_finished = job.finished is not None
        backend = await _open_to_read(ledger, job)
        try:
            while order:
                async for line in _after(backend, full, order[0], given):
                    yield line
                    given += 1
                given = 0
                order.pop(0)
        except BackendError:
            await ledger.refresh()
            if was_finished or job.finished is None:
                raise
        finally:
            await backend.aclose()


async def _open_to_read(ledger: Ledger, job: JobRecord) -> Backend:
    if not job.to:
        raise BackendError(job.key, "its backend is an object of the application that ran it: read it there")
    ref = JobRef(key=job.key, lineage=ledger.lineage.name, finished=job.finished is not None)
    backend = await connect(absolute_url(ledger.folder.path, job.to), ref)
    if job.finished is not None:
        full = await ledger.in_full(job)
        records = [shard.sealed for shard in full.shards.values() if shard.sealed is not None]
        try:
            await backend.finish(ref, [sealed_of(record) for record in sorted(records, key=lambda each: each.part)])
        except BaseException:
            await backend.aclose()
            raise
    return backend


async def _after(backend: Backend, job: JobRecord, shard: int, given: int) -> AsyncGenerator[bytes]:
    record = job.shards[shard].sealed
    assert record is not None
    skipped = 0
    async for line in backend.read(sealed_of(record)):
        if skipped < given:
            skipped += 1
            continue
        yield line

"""Move an unfinished job to another destination: copy what is sealed, then record where the job is now.

    claim the new destination          repeatable; the job is still at the old one
    copy each sealed shard             a shard that an earlier move copied is found sealed there
    make `Moved` durable               from here on the job is at the new destination

A crash before the fact leaves the job at the old destination, and the same move goes on. Nothing is removed from the
old destination, which keeps a copy of what it had. The caller sees to it that no driver of the job runs meanwhile.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from abatch import backend as backends
from abatch import wire
from abatch.backend import JobRef, Sealed, ShardRef
from abatch.collector import WRITE_BYTES, discard, record_of, sealed_of
from abatch.errors import BackendError, ConfigError
from abatch.facts import Moved
from abatch.journal import Entry, Overtaken
from abatch.log import log
from abatch.places import absolute_url, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.backend import Backend, Sink
    from abatch.facts import SealedRecord
    from abatch.ledger import JobRecord, Ledger, ShardRecord
    from abatch.result import Line

__all__ = ["move"]


class _Unreadable(Exception):
    """The old destination does not give a sealed shard back."""


async def move(ledger: Ledger, job: JobRecord, to: str, *, old: Backend | None = None) -> None:
    """Take an unfinished job to the destination `to`, a URL as the journal keeps it.

    Args:
        ledger: the journal's jobs; this process drives it.
        job: the job.
        to: the new destination.
        old: the job's backend, if it is connected.

    Raises:
        ConfigError: the job is done, or the new destination's URL cannot work.
        BackendError: the new destination is another job's or failed, or the old one does not give back what is
            sealed there; the job is still at the old destination.

    """
    while job.to != to:
        if job.finished is not None:
            raise ConfigError(f"job {job.key!r} is done; copy its results from {job.location}")
        try:
            await _move(ledger, job, to, old)
        except Overtaken:  # another process has planned more of it, or moved it; the copies are found
            log.warning("move_overtaken", job=job.key)


async def _move(ledger: Ledger, job: JobRecord, to: str, old: Backend | None) -> None:
    cuts = job.cuts
    ref = JobRef(key=job.key, lineage=ledger.journal.lineage)
    new = await backends.connect(absolute_url(job.folder, to), ref)
    try:
        async with aclosing(_Source(job, ref, old)) as source:
            copies, unreadable = await _copy_all(job, ref, source, new)
    finally:
        await new.aclose()
    if unreadable:
        numbers = ", ".join(map(str, sorted(unreadable)))
        why = unreadable[min(unreadable)]
        raise BackendError(
            shown(absolute_url(job.folder, job.to)) if job.to else job.key,
            f"the sealed results of shard {numbers} cannot be read ({why}). Nothing was moved, and nothing is sent "
            "again: make them readable, then run the same command again",
        )
    await ledger.record(Entry(job.job, Moved(to=to, sealed=copies), n=cuts))
    log.info("job_moved", job=job.key, shards=len(copies))


async def _copy_all(
    job: JobRecord, ref: JobRef, source: _Source, new: Backend
) -> tuple[dict[int, SealedRecord], dict[int, str]]:
    """Copy every sealed shard; per shard its results at the new destination, or why the old one does not give them."""
    copies: dict[int, SealedRecord] = {}
    unreadable: dict[int, str] = {}
    for shard in list(job.shards.values()):
        if shard.sealed is None:
            continue
        try:
            try:
                copies[shard.shard] = await _copy(shard, shard.sealed, ref, source, new)
            except _Unreadable:
                if not await source.is_assembled():
                    raise
                copies[shard.shard] = await _copy(shard, shard.sealed, ref, source, new)
        except _Unreadable as failure:
            unreadable[shard.shard] = str(failure)
    return copies, unreadable


async def _copy(shard: ShardRecord, record: SealedRecord, job: JobRef, source: _Source, new: Backend) -> SealedRecord:
    """Seal a shard at the new destination as it is sealed at the old one."""
    ref = ShardRef(job=job, shard=shard.shard, part=record.part, rows=shard.planned.rows, batch_id=shard.batch_id)
    opened = await new.open(ref)
    if isinstance(opened, Sealed):
        sealed = opened
    else:
        try:
            await _pass_on(source, record, opened)
            sealed = await opened.seal()
        except BaseException:
            await discard(opened)
            raise
    if sealed.lines != record.lines:
        raise BackendError(
            job.key,
            f"part {record.part} has {sealed.lines} lines at the new destination and {record.lines} at the old one; "
            "choose another destination",
        )
    return record_of(sealed)


async def _pass_on(source: _Source, record: SealedRecord, sink: Sink) -> None:
    block: list[Line] = []
    weight = lines = 0
    async with aclosing(source.read(sealed_of(record))) as raws:
        async for raw in raws:
            block.append(wire.delivered(raw))
            weight += len(raw)
            lines += 1
            if weight >= WRITE_BYTES:
                await sink.write(block)
                block, weight = [], 0
    if lines != record.lines:
        raise _Unreadable(f"part {record.part} has {lines} lines of {record.lines}")
    if block:
        await sink.write(block)


class _Source:
    """The old destination, connected when the first shard is read."""

    def __init__(self, job: JobRecord, ref: JobRef, backend: Backend | None) -> None:
        self._job = job
        self._ref = ref
        self._backend = backend
        self._opened = AsyncExitStack()
        self._asked = False

    async def aclose(self) -> None:
        """Close what was connected here."""
        await self._opened.aclose()

    async def read(self, sealed: Sealed) -> AsyncGenerator[bytes, None]:
        """Every line of a sealed shard.

        Raises:
            _Unreadable: the old destination does not give it back.

        """
        try:
            backend = await self._connected()
            async for raw in backend.read(sealed):
                yield raw
        except BackendError as failure:
            raise _Unreadable(failure.why) from failure

    async def is_assembled(self) -> bool:
        """Whether the destination was assembled by a run that died before it could record that; found out once.

        The lines of a single file are then no longer in the parts, and only `finish` knows where they are.
        """
        job = self._job
        if self._asked or not job.cut.last or any(shard.open for shard in job.shards.values()):
            return False
        self._asked = True
        try:
            backend = await self._connected()
            records = [shard.sealed for shard in job.shards.values() if shard.sealed is not None]
            await backend.finish(self._ref, sorted(map(sealed_of, records), key=lambda each: each.part))
        except BackendError:  # the caller reports why the shard cannot be read
            return False
        return True

    async def _connected(self) -> Backend:
        if self._backend is None:
            if not self._job.to:
                raise BackendError(self._job.key, "its backend is an object of the caller's: hand the job over with it")
            url = absolute_url(self._job.folder, self._job.to)
            self._backend = await backends.connect(url, self._ref)
            self._opened.push_async_callback(self._backend.aclose)
        return self._backend

"""Move an unfinished job to another destination: copy its sealed shards, then record the new destination.

    claim the new destination          repeatable; the job is still at the old one
    copy each sealed shard             a shard that an earlier move copied is found sealed at the new destination
    check the unreadable shards        the API must still have their results, and abatch their custom_ids
    make `Moved` durable               from now on the job is at the new destination

Shards that cannot be read at the old destination are reopened in the transaction of `Moved`: their batches are drained
again into the new destination. A crash before the fact leaves the job at the old destination, and repeating the move
continues it. Nothing is removed from the old destination, which keeps its copy. The caller must make sure that no
driver of the job runs meanwhile.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

from abatch import backend as backends
from abatch.backend import JobRef, Sealed, ShardRef
from abatch.engine.redrain import Gone, check_age, check_ids, note_reopened
from abatch.engine.sealing import WRITE_BYTES, discard, record_of, sealed_of
from abatch.errors import BackendError, ConfigError, Overtaken, TooManyOpenFiles
from abatch.journal.log import Entry
from abatch.log import log, ranges
from abatch.protocol import wire
from abatch.protocol.facts import Moved, Reopened
from abatch.protocol.lifecycle import Done
from abatch.system.paths import absolute_url, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from pathlib import Path

    from abatch.backend import Backend, Sink
    from abatch.engine.client import Client
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.protocol.facts import SealedRecord
    from abatch.result import Line

__all__ = ["move"]


class _Unreadable(Exception):
    """A sealed shard cannot be read at the old destination."""


async def move(
    ledger: Ledger,
    job: JobRecord,
    to: str,
    *,
    api: Callable[[], Awaitable[Client]],
    input_paths: Sequence[Path],
    old: Backend | None = None,
) -> list[int]:
    """Move an unfinished job to the destination `to`, a URL as the journal keeps it.

    Args:
        ledger: the journal's jobs; this process drives the journal.
        job: the job.
        to: the new destination.
        api: returns the API's client; called only if sealed results cannot be read at the old destination.
        input_paths: the paths of the input, for custom_ids that are kept nowhere else.
        old: the job's backend, if it is connected.

    Returns:
        the numbers of the shards whose batches have to be drained again.

    Raises:
        ConfigError: the job is done, the new destination's URL cannot work, or a key for the API is needed and not set.
        BackendError: the new destination belongs to another job or failed, or results that the API does not have cannot
            be read at the old one. The job is still at the old destination.
        JobStopped: results that the API no longer keeps cannot be read at the old destination. The job is still there.
        ApiError: the API is needed, but its time cannot be read. The job is still at the old destination.

    """
    while job.to != to:
        if job.finished is not None:
            raise ConfigError(f"job {job.key!r} is done; copy its results from {job.location}")
        try:
            return await _move(ledger, job, to, api=api, input_paths=input_paths, old=old)
        except Overtaken:  # Another process planned more of the job or moved it; the next pass finds the copies.
            log.warning("move_overtaken", job=job.key)
    return []


async def _move(
    ledger: Ledger,
    job: JobRecord,
    to: str,
    *,
    api: Callable[[], Awaitable[Client]],
    input_paths: Sequence[Path],
    old: Backend | None,
) -> list[int]:
    cuts = job.cuts
    ref = JobRef(
        key=job.key,
        lineage=ledger.lineage.name,
        missing=ledger.folder.missing_lists(job.missing_shards),
        listed=job.listed,
    )  # The lists are for the old destination, which may have to be assembled before it can be read.
    new = await backends.connect(absolute_url(job.folder, to), ref)
    try:
        async with aclosing(_Source(job, ref, old)) as source:
            copies, unreadable = await _copy_all(job, ref, source, new)
    finally:
        await new.aclose()
    gone = _of_the_api(job, unreadable)
    if gone:
        await check_age(await api(), job, gone)
        await check_ids(ledger, job, gone, input_paths)
    reopened = [
        entry for shard, _ in gone for entry in ledger.next(shard, Reopened(why=f"moved: {unreadable[shard.shard]}"))
    ]
    await ledger.record(Entry(job.job, Moved(to=to, sealed=copies), n=cuts), *reopened)
    log.info("job_moved", job=job.key, shards=len(copies))
    note_reopened(job, gone)
    return [shard.shard for shard, _ in gone]


def _of_the_api(job: JobRecord, unreadable: dict[int, str]) -> list[Gone]:
    """Return the shards that cannot be read at the old destination, if all of their lines came from the API.

    Raises:
        BackendError: abatch itself made the lines of one of them.

    """
    gone: list[Gone] = []
    made_here: list[int] = []
    for number in sorted(unreadable):
        shard = job.shards[number]
        if isinstance(shard.state, Done) and shard.state.batch_id is not None:
            gone.append(Gone(shard, shard.state))
        else:
            made_here.append(number)
    if made_here:
        numbers = ranges(made_here)
        raise BackendError(
            shown(absolute_url(job.folder, job.to)) if job.to else job.key,
            f"the sealed results of shard {numbers} cannot be read ({unreadable[made_here[0]]}), and the API has none "
            "of them: they were made here (cancelled or refused requests). Nothing was moved, and nothing is sent "
            "again: make them readable, then run the same command again",
        )
    return gone


async def _copy_all(
    job: JobRecord, ref: JobRef, source: _Source, new: Backend
) -> tuple[dict[int, SealedRecord], dict[int, str]]:
    """Copy every sealed shard; return the records of the copies, and why each remaining shard could not be read."""
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
    """Seal a shard at the new destination with the lines that it has at the old one."""
    ref = ShardRef(job=job, shard=shard.shard, part=record.part, rows=shard.planned.rows, batch_id=shard.batch_id)
    opened = await new.open(ref)
    if isinstance(opened, Sealed):
        sealed = opened
    else:
        try:
            if record.lines:
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
        self._down: BackendError | None = None
        """The reason why it is no longer used: it cannot be connected, or is not available."""

    async def aclose(self) -> None:
        """Close the backend if this object connected it."""
        await self._opened.aclose()

    async def read(self, sealed: Sealed) -> AsyncGenerator[bytes, None]:
        """Yield every line of a sealed shard.

        Raises:
            _Unreadable: the shard cannot be read at the old destination.

        """
        if self._down is not None:
            raise _Unreadable(self._down.why)
        try:
            backend = await self._connected()
            async for raw in backend.read(sealed):
                yield raw
        except TooManyOpenFiles:  # This process has no descriptor left; the destination is not at fault.
            raise
        except BackendError as failure:
            if failure.passes:
                self._down = failure
            raise _Unreadable(failure.why) from failure

    async def is_assembled(self) -> bool:
        """Return whether a run assembled the destination and died before it could record that; checked only once.

        The lines of a single file are then no longer in the parts, and only `finish` can find them.
        """
        job = self._job
        if self._asked or self._down is not None or not job.cut.last or job.open_shards:
            return False
        self._asked = True
        try:
            backend = await self._connected()
            records = [shard.sealed for shard in job.shards.values() if shard.sealed is not None]
            await backend.finish(self._ref, sorted(map(sealed_of, records), key=lambda each: each.part))
        except BackendError:  # The caller reports why the shard cannot be read.
            return False
        return True

    async def _connected(self) -> Backend:
        if self._backend is None:
            if not self._job.to:
                raise BackendError(
                    self._job.key,
                    "its backend is an object of the application: submit the job with it, then call BatchManager.move",
                )
            url = absolute_url(self._job.folder, self._job.to)
            try:
                self._backend = await backends.connect(url, self._ref)
            except BackendError as failure:
                self._down = failure
                raise
            self._opened.push_async_callback(self._backend.aclose)
        return self._backend

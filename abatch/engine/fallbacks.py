"""Seal a line for every row of a shard that will never be a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from abatch.backend import Sealed, ShardRef
from abatch.engine.sealing import WRITE_BYTES, check_lines, discard, record_of
from abatch.engine.usage import UsageTotals
from abatch.protocol import wire
from abatch.protocol.wire import decode_id

if TYPE_CHECKING:
    from abatch.backend import Backend, JobRef, Sink
    from abatch.input.spool import (
        SpoolReader,
    )
    from abatch.journal.records import ShardRecord
    from abatch.protocol.facts import Counts, SealedRecord
    from abatch.result import Failure, Line

__all__ = ["seal_fallbacks"]


async def seal_fallbacks(
    backend: Backend, job: JobRef, shard: ShardRecord, spool: SpoolReader, result: bytes | None = None
) -> tuple[Counts, SealedRecord, tuple[Failure, ...]]:
    """Seal a line for every row of a shard that will never be a batch.

    Args:
        backend: the job's backend.
        job: the job.
        shard: the shard.
        spool: the rows of the shard.
        result: the JSON of the `result` that every row gets; None for each row's own fallback line.

    """
    planned, totals = shard.planned, UsageTotals(step=0)

    def line(row: int) -> Line:
        custom_id = spool.custom_id(row)
        raw = spool.fallback(row) if result is None else wire.fallback(custom_id, result)
        return wire.outcome_of(raw, decode_id(custom_id))

    async def pass_on(sink: Sink | None) -> None:
        begin = 0
        while begin < spool.rows:
            block: list[Line] = []
            weight = 0
            while begin < spool.rows and weight < WRITE_BYTES:
                block.append(line(begin))
                weight += len(block[-1].raw)
                begin += 1
            for each in block:
                totals.add(each)
            if sink is not None:
                await sink.write(block)
            await anyio.lowlevel.checkpoint()

    ref = ShardRef(job=job, shard=shard.shard, part=planned.part, rows=planned.rows, batch_id=None)
    opened = await backend.open(ref)
    if isinstance(opened, Sealed):
        sealed = opened
        await pass_on(None)
    else:
        try:
            await pass_on(opened)
            sealed = await opened.seal()
        except BaseException:
            await discard(opened)
            raise
    check_lines(job, sealed.part, sealed.lines, spool.rows)
    return totals.counts, record_of(sealed), totals.failures

"""`abatch results`: the raw result lines of a job, finished or not, without driving it and without a key."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

import typer

from abatch import wire
from abatch.backend import connect
from abatch.cli.exits import perform
from abatch.cli.options import JobArgument, JournalOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.places import DEFAULT_JOURNAL, job_named, ledger_of, ref_of
from abatch.cli.screen import Screen
from abatch.cli.text import clean
from abatch.collector import sealed_of
from abatch.errors import BackendError
from abatch.places import absolute_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.backend import Backend
    from abatch.ledger import JobRecord, Ledger

__all__ = ["did_fail", "read_results", "results"]

BLOCK: Final = 2**18
"""Bytes written to stdout at once."""


def results(
    key: JobArgument,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that did not succeed.")] = False,
    journal: JournalOption = DEFAULT_JOURNAL,
) -> None:
    """Print a job's results so far, as raw JSON lines. Works beside a running process, without an API key.

    Example: abatch results nightly --failed | head
    """
    screen = Screen()

    async def work() -> None:
        async with ledger_of(journal) as ledger:
            job = job_named(ledger, key)
            block: list[bytes] = []
            weight = 0
            async with aclosing(read_results(ledger, job)) as lines:
                async for line in lines:
                    if failed and not did_fail(line):
                        continue
                    block += (line, b"\n")
                    weight += len(line)
                    if weight >= BLOCK:
                        _write(b"".join(block))
                        block, weight = [], 0
            _write(b"".join(block))
            if missing := job.missing:
                screen.say(f"{missing:,} requests have no result; the list beside the results names them.")
            if job.finished is None:
                screen.say("The job is not finished: these are its results so far.")

    perform(work, journal)


def did_fail(line: bytes) -> bool:
    """Whether a result line is of a request that did not succeed."""
    seen = wire.read_line(line)
    return seen is None or seen.outcome != "succeeded"


async def read_results(ledger: Ledger, job: JobRecord) -> AsyncGenerator[bytes]:
    """Every sealed line of a job, in the order of sealing, up to now.

    A job that is driven may be finished while it is read, and its lines then move: they are looked for once more.

    Raises:
        BackendError: the destination is not what it was, or was an object of the caller's.

    """
    given = 0  # lines of the present shard
    full = await ledger.in_full(job)  # its shards stay here, even if the job is finished and lets them go
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
    ref = ref_of(ledger, job)
    backend = await connect(absolute_url(ledger.journal.folder, job.to), ref)
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


def _write(block: bytes) -> None:
    if sys.stdout.isatty():  # an answer's bytes are for files and pipes; a terminal would obey some of them
        block = clean(block.decode("utf-8", "replace"), lines=True).encode()
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()

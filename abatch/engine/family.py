"""Combine a job with its retries: the status that counts for each request, and one line per custom_id."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.engine.reading import read_results
from abatch.journal.kept import mark_of
from abatch.journal.missing import read_missing
from abatch.protocol import wire
from abatch.protocol.failures import failure_of
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection

    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.result import Line

__all__ = [
    "CANCELED",
    "FAILED",
    "FINAL",
    "MISSING",
    "STOPPED",
    "last_words",
    "mark_of",
    "merged",
    "unanswered",
]

FAILED: Final = "failed"
FINAL: Final = "final"
"""The status of a request that failed and cannot succeed unchanged."""
MISSING: Final = "missing"
CANCELED: Final = "canceled"
STOPPED: Final = "stopped"
"""The status of a request that succeeded with one of the stop reasons that the caller asks for."""


async def last_words(
    ledger: Ledger, job: JobRecord, retries: list[JobRecord], stops: Collection[str]
) -> dict[bytes, str]:
    """Return by mark the status of each request that did not succeed, or that stopped for one of these reasons.

    A success in any of the jobs takes precedence over a failure in a later one.
    """
    words: dict[bytes, str] = {}
    async with aclosing(read_results(ledger, job)) as lines:
        async for raw in lines:
            line = wire.delivered(raw)
            if line.custom_id and (word := _word(line, stops)) is not None:
                words[_mark(line)] = word
    for mark in await _missing(ledger, job):
        words[mark] = MISSING
    for retry in retries:
        async with aclosing(read_results(ledger, retry)) as lines:
            async for raw in lines:
                line = wire.delivered(raw)
                mark = _mark(line)
                word = _word(line, stops)
                if word is None:
                    words.pop(mark, None)
                elif word == STOPPED or words.get(mark, STOPPED) != STOPPED:  # Otherwise it succeeded before.
                    words[mark] = word
        for mark in await _missing(ledger, retry):
            if words.get(mark, STOPPED) != STOPPED:
                words[mark] = MISSING
    return words


async def merged(ledger: Ledger, job: JobRecord, retries: list[JobRecord]) -> AsyncGenerator[bytes]:
    """Yield one line per custom_id: from the last job that answered it, or else from the last that has a line for it.

    Memory grows only with the retries.
    """
    answered: set[bytes] = set()
    failing: dict[bytes, int] = {}
    """Marks that no retry answered, each with the last retry that has a line for it."""
    for number, retry in reversed(list(enumerate(retries))):
        async with aclosing(read_results(ledger, retry)) as lines:
            async for raw in lines:
                line = wire.delivered(raw)
                mark = _mark(line)
                if mark in answered:
                    continue
                if line.outcome == "succeeded":
                    answered.add(mark)
                    failing.pop(mark, None)
                    yield raw
                else:
                    failing.setdefault(mark, number)
    async with aclosing(read_results(ledger, job)) as lines:
        async for raw in lines:
            if not retries:
                yield raw
                continue
            line = wire.delivered(raw)
            mark = _mark(line)
            if mark in answered or (mark in failing and line.outcome != "succeeded"):
                continue
            failing.pop(mark, None)
            yield raw
    last = set(failing.values())
    for number, retry in enumerate(retries):
        if number not in last:
            continue
        async with aclosing(read_results(ledger, retry)) as lines:
            async for raw in lines:
                if failing.get(_mark(wire.delivered(raw))) == number:
                    yield raw


async def unanswered(ledger: Ledger, job: JobRecord, retries: list[JobRecord]) -> int:
    """Return how many requests have no line in any of the jobs."""
    missing = set(await _missing(ledger, job))
    for retry in retries if missing else ():
        async with aclosing(read_results(ledger, retry)) as lines:
            async for raw in lines:
                missing.discard(_mark(wire.delivered(raw)))
    return len(missing)


def _word(line: Line, stops: Collection[str]) -> str | None:
    if line.outcome == "succeeded":
        return STOPPED if line.stop_reason in stops else None
    if line.outcome == "canceled":
        return CANCELED
    return FINAL if failure_of(line).final else FAILED


def _mark(line: Line) -> bytes:
    return mark_of(msgspec.json.encode(line.custom_id))


async def _missing(ledger: Ledger, job: JobRecord) -> list[bytes]:
    marks: list[bytes] = []
    for shard in job.missing_shards:
        marks += map(mark_of, await threads.run(read_missing, ledger.folder.missing_list(shard)))
    return marks

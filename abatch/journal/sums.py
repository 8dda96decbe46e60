"""The sums over the shards of a job: its progress, and the totals of its summary."""

from __future__ import annotations

from dataclasses import dataclass
from sys import intern
from typing import TYPE_CHECKING, assert_never

import msgspec

from abatch.prices import MOST_SPENDS, OTHER_MODELS, TOO_MANY
from abatch.protocol.facts import (
    Abandoned,
    Counts,
    Spend,
)
from abatch.protocol.lifecycle import (
    Dead,
    Done,
    Draining,
    Held,
    InDoubt,
    Lost,
    Processing,
    Ready,
    Rejected,
)
from abatch.protocol.stops import add_stops

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.journal.records import ShardRecord
    from abatch.result import Usage

__all__ = ["Progress", "Totals", "progress_of", "progress_of_sums", "totals_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a job; its fields count requests unless they say otherwise."""

    planned: int = 0
    """Requests that are checked and cut into shards."""
    submitted: int = 0
    """Requests that are, or were, in a batch or in doubt."""
    in_flight: int = 0
    """Requests in a batch that has not ended, or in doubt."""
    sealed: int = 0
    """Requests whose final line is in the destination, or that are known to be missing."""
    failed: int = 0
    """Sealed requests that did not succeed, or are missing."""
    missing: int = 0
    """Failed requests whose result cannot be retrieved."""
    batches: int = 0
    """Batches that the API accepted, ended or not."""
    batches_in_flight: int = 0
    """Batches that have not ended."""
    in_doubt: int = 0
    """Shards whose create was not answered."""
    held: int = 0
    """Shards that only an operator can decide."""
    retried: int = 0
    """Requests that were sent again because they expired or failed for a passing reason."""
    total: int | None = None
    """All requests of the job, if that number is known."""
    limit: int | None = None
    """The largest number of requests that are sent, the first ones; None for all."""

    @property
    def wanted(self) -> int | None:
        """The number of requests to send for now: all, or what the limit allows; None while it is not known."""
        if self.limit is None:
            return self.total
        if self.planned >= self.limit:
            return self.planned
        return None if self.total is None else min(self.total, self.limit)


class Totals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The totals over a job's shards, for its summary."""

    counts: Counts
    missing: int
    batches: int
    retried: int
    spends: tuple[Spend, ...]
    """One entry for each combination of model, price step, place of inference, and reasons for having no price."""
    stops: tuple[tuple[str, int], ...] = ()
    """The number of answers per stop reason, the most frequent first."""
    submitted: int = 0
    """The number of requests in the drained batches; each counts once, however often it was tried."""


def progress_of(shards: Iterable[ShardRecord], *, planned: int, total: int | None, limit: int | None) -> Progress:
    """Compute the progress of a job with these shards."""
    submitted = in_flight = sealed = failed = missing = batches = flying = in_doubt = held = retried = 0
    for shard in shards:
        rows, first = shard.planned.rows, shard.planned.trial == 1
        match shard.state:
            case Done(drained=end):
                batches += shard.batch_id is not None
                sealed += end.counts.total + end.missing
                failed += end.counts.total - end.counts.succeeded + end.missing
                missing += end.missing
                retried += end.retried
            case Ready() | Rejected():
                continue
            case InDoubt():
                in_doubt += 1
                in_flight += rows
            case Held():
                held += 1
                in_flight += rows
            case Processing():
                batches += 1
                flying += 1
                in_flight += rows
            case Draining() | Lost():
                batches += shard.batch_id is not None
            case Dead(end=Abandoned() as end):
                sealed += end.counts.total
                failed += end.counts.total
                continue
            case Dead():
                continue
            case _:
                assert_never(shard.state)
        submitted += rows if first else 0
    return Progress(
        planned=planned,
        submitted=submitted,
        in_flight=in_flight,
        sealed=sealed,
        failed=failed,
        missing=missing,
        batches=batches,
        batches_in_flight=flying,
        in_doubt=in_doubt,
        held=held,
        retried=retried,
        total=total,
        limit=limit,
    )


def progress_of_sums(sums: Totals, *, planned: int, total: int | None, limit: int | None) -> Progress:
    """Compute the progress of a finished job from its totals, which are all that is kept of its shards."""
    counts, missing = sums.counts, sums.missing
    return Progress(
        planned=planned,
        submitted=sums.submitted,
        sealed=counts.total + missing,
        failed=counts.total - counts.succeeded + missing,
        missing=missing,
        batches=sums.batches,
        retried=sums.retried,
        total=total,
        limit=limit,
    )


def totals_of(shards: Iterable[ShardRecord]) -> Totals:
    """Compute the totals over these shards of a job."""
    counts, missing, batches, retried, submitted = Counts(), 0, 0, 0, 0
    spent: dict[tuple[str, bool, str, tuple[str, ...]], Usage] = {}
    stops: dict[str, int] = {}
    for shard in shards:
        match shard.state:
            case Done(drained=end):
                counts += end.counts
                missing += end.missing
                retried += end.retried
                submitted += shard.planned.rows if shard.planned.trial == 1 else 0
                add_stops(stops, end.stops)
                for spend in end.spend:
                    usage = spend.usage
                    # All jobs share a few models.
                    bucket = (intern(spend.model), spend.long, usage.inference_geo, usage.unpriced)
                    if bucket not in spent and len(spent) >= MOST_SPENDS:
                        bucket = (OTHER_MODELS, False, "", (TOO_MANY,))
                        usage = msgspec.structs.replace(usage, inference_geo="", unpriced=bucket[3])
                    spent[bucket] = spent[bucket] + usage if bucket in spent else usage
                batches += shard.batch_id is not None
            case Dead(end=Abandoned() as end):
                counts += end.counts
            case Processing() | Draining() | Lost():
                batches += shard.batch_id is not None
            case _:
                pass
    return Totals(
        counts=counts,
        missing=missing,
        batches=batches,
        retried=retried,
        spends=tuple(Spend(model=key[0], long=key[1], usage=usage) for key, usage in spent.items()),
        stops=tuple(sorted(stops.items(), key=lambda stop: (-stop[1], stop[0]))),
        submitted=submitted,
    )

"""Collect what a journal knows about each scope when it is opened: the batches that are ours, and the commit points.

The survey visits every shard once, in a worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abatch.protocol.commits import CommitTimes
from abatch.protocol.lifecycle import Done, Draining, Lost, Processing
from abatch.protocol.reconcile import Known

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.journal.records import JobRecord, ShardRecord

__all__ = ["Survey", "Surveys"]


@dataclass(frozen=True, slots=True)
class Survey:
    """The knowledge about one scope."""

    known: Known = field(default_factory=Known)
    commits: CommitTimes = field(default_factory=CommitTimes)
    lost: set[str] = field(default_factory=set[str])
    """Batches that were given up, and whose rows are all missing."""

    def add(self, job: JobRecord) -> None:
        """Add the shards of a job of this scope."""
        for shard, batch_id, created_at in bound_batches(job):
            self.known.bound.add(batch_id)
            self.lost.discard(batch_id)  # a job that was reopened is visited twice
            if _is_lost(shard):
                self.lost.add(batch_id)
            elif shard.open:
                self.known.live[batch_id] = created_at
        for shard in job.shards.values():
            if shard.committed_at is not None:
                self.commits.add(shard.planned.rows, shard.committed_at)


class Surveys:
    """The surveys of all scopes of a journal."""

    def __init__(self) -> None:
        self.of: dict[str | None, Survey] = {}
        """The survey of each workspace."""

    def add(self, job: JobRecord) -> None:
        """Add all shards of a job; a finished job must be added before its shards are released."""
        self.of.setdefault(job.submitted.headers.workspace_id, Survey()).add(job)

    def add_all(self, jobs: Iterable[JobRecord]) -> None:
        """Add the shards of these jobs."""
        for job in jobs:
            self.add(job)


def bound_batches(job: JobRecord) -> list[tuple[ShardRecord, str, float]]:
    """Return the shards of a job whose batch is proven by an answer or a tag, with the batch's id and creation time."""
    bound: list[tuple[ShardRecord, str, float]] = []
    for shard in job.shards.values():
        match shard.state:
            case Done() | Processing() | Draining() | Lost():
                if shard.state.proven and shard.state.batch_id is not None:
                    bound.append((shard, shard.state.batch_id, shard.state.created_at))
            case _:
                pass
    return bound


def _is_lost(shard: ShardRecord) -> bool:
    """Return whether the batch of a shard was given up and all its rows are missing."""
    match shard.state:
        case Done(drained=drained):
            return drained.missing == shard.planned.rows
        case Lost():
            return True
        case _:
            return False

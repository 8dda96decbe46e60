"""Gather what a journal knows of each scope when it is opened: the batches that are ours, and the commit points.

It looks at every shard once, in a worker thread.
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
    """What is known of one scope."""

    known: Known = field(default_factory=Known)
    commits: CommitTimes = field(default_factory=CommitTimes)
    lost: set[str] = field(default_factory=set[str])
    """Batches that were given up, all of whose rows are missing."""

    def add(self, job: JobRecord) -> None:
        """Take in the shards of a job of this scope."""
        for shard, batch_id, created_at in bound_batches(job):
            self.known.bound.add(batch_id)
            self.lost.discard(batch_id)  # a job that was reopened is looked at twice
            if _is_lost(shard):
                self.lost.add(batch_id)
            elif shard.open:
                self.known.live[batch_id] = created_at
        for shard in job.shards.values():
            if shard.committed_at is not None:
                self.commits.add(shard.planned.rows, shard.committed_at)


class Surveys:
    """What is known of every scope of a journal, as its jobs are taken in."""

    def __init__(self) -> None:
        self.of: dict[str | None, Survey] = {}
        """Per workspace."""

    def add(self, job: JobRecord) -> None:
        """Take in the shards of a job, in full: a finished one is taken in before they are let go."""
        self.of.setdefault(job.submitted.headers.workspace_id, Survey()).add(job)

    def add_all(self, jobs: Iterable[JobRecord]) -> None:
        """Take in these jobs."""
        for job in jobs:
            self.add(job)


def bound_batches(job: JobRecord) -> list[tuple[ShardRecord, str, float]]:
    """The shards of a job whose batch is known by an answer or a tag, with its id and time of creation."""
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
    """Whether its batch was given up and all its rows are missing."""
    match shard.state:
        case Done(drained=drained):
            return drained.missing == shard.planned.rows
        case Lost():
            return True
        case _:
            return False

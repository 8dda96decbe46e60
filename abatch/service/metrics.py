"""Metrics: counters fed by the events of the manager, and gauges read when they are asked for.

No label comes from user data: no key of a job, no id of a shard or a batch.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from typing import TYPE_CHECKING, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from abatch import events
from abatch.journal.states import State as JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Collection
    from pathlib import Path

    from abatch.events import Event, EventsMissed
    from abatch.snapshot import JobStatus

__all__ = ["Metrics"]

OUTCOMES: Final = ("succeeded", "errored", "canceled", "expired")
SECONDS: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)


class Metrics:
    """The metrics of one process. Counters begin at zero with it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._committed: dict[int, float] = {}
        self._events = self._counter("abatch_events", "Facts that were recorded, by kind.", "kind")
        self._missed = self._counter(
            "abatch_events_missed", "Events that were not counted, because too many came at once."
        )
        self._batches = self._counter(
            "abatch_batches_accepted", "Batches that the API accepted, by how that was learnt.", "by"
        )
        self._doubles = self._counter("abatch_duplicate_submissions", "Batches that were paid for a second time.")
        self._rows = self._counter(
            "abatch_rows_delivered", "Requests whose final line is in its destination.", "outcome"
        )
        self._lost = self._counter("abatch_rows_missing", "Requests whose result cannot be retrieved.")
        self._finished = self._counter("abatch_jobs_finished", "Jobs that are done.")
        self._webhooks = self._counter(
            "abatch_webhook_attempts", "Attempts to deliver a message, by how they ended.", "outcome"
        )
        self._create = Histogram(
            "abatch_create_commit_seconds",
            "From the commit of an attempt until its batch was known.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._jobs = self._gauge("abatch_jobs", "Jobs by state.", "state")
        self._in_flight = self._gauge(
            "abatch_requests_in_flight", "Requests in a batch that has not ended, or in doubt."
        )
        self._batches_in_flight = self._gauge("abatch_batches_in_flight", "Batches that have not ended.")
        self._in_doubt = self._gauge("abatch_shards_in_doubt", "Shards whose create was not answered.")
        self._held = self._gauge("abatch_shards_held", "Shards that only an operator can decide.")
        self._disk = self._gauge("abatch_disk_free_bytes", "Free bytes on the disk of the journal.")
        self._late = self._gauge("abatch_event_loop_late_seconds", "How late the event loop is.")
        for outcome in OUTCOMES:
            self._rows.labels(outcome)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    async def follow(self, stream: AsyncIterable[Event | EventsMissed]) -> None:
        """Count the events of a manager until it is left."""
        async for event in stream:
            self.count(event)

    def count(self, event: Event | EventsMissed) -> None:
        """Count one event."""
        self._events.labels(event.kind).inc()
        match event:
            case events.EventsMissed():
                self._missed.inc(event.count)
            case events.ShardCommitted():
                self._committed[event.shard] = event.at
            case events.BatchAccepted():
                self._batches.labels(event.found_by or "answer").inc()
                if (committed := self._committed.pop(event.shard, None)) is not None:
                    self._create.observe(max(0.0, event.at - committed))
            case events.ShardWithdrawn() | events.ShardRejected() | events.ShardSplit() | events.ShardAbandoned():
                self._committed.pop(event.shard, None)
            case events.ShardSealed():
                for outcome in OUTCOMES:
                    self._rows.labels(outcome).inc(getattr(event.counts, outcome))
                self._lost.inc(event.missing)
            case events.DuplicateSeen():
                self._doubles.inc()
            case events.JobFinished():
                self._finished.inc()
            case _:
                pass

    def count_webhook(self, outcome: str) -> None:
        """Count an attempt to deliver a message: `delivered`, `failed` or `gone`."""
        self._webhooks.labels(outcome).inc()

    def exposition(self, jobs: Collection[JobStatus], *, folder: Path, late: float) -> bytes:
        """Set the gauges, and return everything in Prometheus' text format.

        Args:
            jobs: the jobs of the journal.
            folder: the folder of the journal.
            late: the seconds that the event loop is late.

        """
        tally = Tally(job.state for job in jobs)
        for name in get_args(JobState):
            self._jobs.labels(name).set(tally[name])
        unfinished = [job.progress for job in jobs if not job.done]
        self._in_flight.set(sum(progress.in_flight for progress in unfinished))
        self._batches_in_flight.set(sum(progress.batches_in_flight for progress in unfinished))
        self._in_doubt.set(sum(progress.in_doubt for progress in unfinished))
        self._held.set(sum(progress.held for progress in unfinished))
        disk = os.statvfs(folder)
        self._disk.set(disk.f_bavail * disk.f_frsize)
        self._late.set(late)
        return generate_latest(self.registry)

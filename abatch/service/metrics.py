"""Metrics: counters fed by the events of the manager, and gauges read when they are asked for.

No label comes from user data: no key of a job, no id of a shard or a batch, and only models that have a price.
"""

from __future__ import annotations

import math
import os
from collections import Counter as Tally
from typing import TYPE_CHECKING, Final, get_args
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from abatch import events
from abatch.journal.states import State as JobState
from abatch.prices import load as load_prices

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Collection, Iterable
    from pathlib import Path

    from abatch.events import Event, EventsMissed, Spend
    from abatch.journal.states import ShardState
    from abatch.snapshot import JobStatus, ShardStatus

__all__ = ["Metrics"]

OUTCOMES: Final = ("succeeded", "errored", "canceled", "expired", "other")
TOKENS: Final = ("input", "output", "cache_read", "cache_creation")
SECONDS: Final = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
AGES: Final = {"under_30m": 1_800.0, "under_24h": 86_400.0, "over_24h": math.inf}
"""The ages of a doubt: the longest that is usual, the longest that the API may need, and all others."""
BATCHES: Final[tuple[ShardState, ...]] = ("processing", "draining", "vanished")
OTHER: Final = "other"
"""The label of models without a price, and of destinations without a URL."""


class Metrics:
    """The metrics of one process. Counters begin at zero with it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._prices = load_prices()
        self._committed: dict[int, float] = {}
        """Per shard whose create is not answered: when it passed its commit point."""
        self._unlisted: set[int] = set()
        """Those of them whose batch no list has shown."""
        self._sinks: dict[str, str] = {}
        """Per job: the kind of its destination."""
        self._events = self._counter("abatch_events", "Facts that were recorded, by kind.", "kind")
        self._missed = self._counter(
            "abatch_events_missed", "Events that were not counted, because too many came at once."
        )
        self._submissions = self._counter(
            "abatch_submissions", "Creates that were answered, by the row of table A that judged the answer.", "outcome"
        )
        self._resolved = self._counter(
            "abatch_in_doubt_resolved", "Unanswered creates that were settled, by the row of table B.", "rule"
        )
        self._batches = self._counter(
            "abatch_batches_accepted", "Batches that the API accepted, by how that was learnt.", "by"
        )
        self._doubles = self._counter("abatch_duplicate_submissions", "Batches that were paid for a second time.")
        self._rows = self._counter(
            "abatch_rows_delivered",
            "Requests whose final line is in its destination, by outcome and kind of destination.",
            "outcome",
            "sink",
        )
        self._lost = self._counter("abatch_rows_missing", "Requests whose result cannot be retrieved.")
        self._tokens = self._counter("abatch_tokens", "Tokens of delivered results.", "type", "model")
        self._cost = self._counter("abatch_cost_usd", "US dollars of delivered results that have a price.")
        self._finished = self._counter("abatch_jobs_finished", "Jobs that are done.")
        self._webhooks = self._counter(
            "abatch_webhook_attempts", "Attempts to deliver a message, by how they ended.", "outcome"
        )
        self._create = self._histogram(
            "abatch_create_commit_seconds", "From the commit of an attempt until its answer was durable."
        )
        self._visibility = self._histogram(
            "abatch_list_visibility_seconds",
            "From the commit of an unanswered attempt until a list showed a batch that may be its own.",
        )
        self._jobs = self._gauge("abatch_jobs", "Jobs by state.", "state")
        self._in_flight = self._gauge(
            "abatch_requests_in_flight", "Requests in a batch that has not ended, or in doubt."
        )
        self._open = self._gauge("abatch_batches", "Batches whose results are not sealed, by state.", "state")
        self._in_doubt = self._gauge("abatch_in_doubt", "Shards whose create was not answered, by age.", "age")
        self._held = self._gauge("abatch_shards_held", "Shards that only an operator can decide.")
        self._deadline = self._gauge(
            "abatch_results_deadline_seconds",
            "Until the API removes the first results that are not read; infinite if all are.",
        )
        self._disk = self._gauge("abatch_disk_free_bytes", "Free bytes on the disk of the journal.")
        self._late = self._gauge(
            "abatch_event_loop_late_seconds", "The most that the event loop was late in the last minute."
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=SECONDS, registry=self.registry)

    async def follow(self, stream: AsyncIterable[Event | EventsMissed], jobs: Iterable[JobStatus] = ()) -> None:
        """Count the events of a manager until it is left.

        Args:
            stream: the events.
            jobs: the jobs that were submitted before the first of them.

        """
        self._sinks |= {job.key: _sink(job.destination) for job in jobs if not job.done}
        async for event in stream:
            self.count(event)

    def count(self, event: Event | EventsMissed) -> None:
        """Count one event."""
        self._events.labels(event.kind).inc()
        match event:
            case events.EventsMissed():
                self._missed.inc(event.count)
            case events.JobSubmitted() | events.JobMoved():
                self._sinks[event.job] = _sink(event.destination)
            case events.JobFinished():
                self._sinks.pop(event.job, None)
                self._finished.inc()
            case events.ShardSealed():
                sink = self._sinks.get(event.job, OTHER)
                for outcome in OUTCOMES:
                    self._rows.labels(outcome, sink).inc(getattr(event.counts, outcome))
                self._lost.inc(event.missing)
                self._count_spend(event.spend)
            case events.DuplicateSeen():
                self._doubles.inc()
            case _:
                self._count_attempt(event)

    def _count_attempt(self, event: Event) -> None:
        """Count an event of a create: its commit, its answer, or the end of its doubt."""
        match event:
            case events.ShardCommitted():
                self._committed[event.shard] = event.at
                self._unlisted.add(event.shard)
            case events.CandidatesChanged():
                if event.shown and event.shard in self._unlisted:
                    self._unlisted.remove(event.shard)
                    self._visibility.observe(max(0.0, event.at - self._committed[event.shard]))
            case events.BatchAccepted(found_by=found_by):
                self._batches.labels(found_by or "answer").inc()
                committed = self._settled(event.shard, {None: "A4", "tag": "B2", "operator": "B9"}[found_by])
                if committed is not None and found_by is None:
                    self._create.observe(max(0.0, event.at - committed))
            case events.AnswerUnreadable():
                self._submissions.labels("A5").inc()
            case events.ShardWithdrawn() | events.ShardHeld():
                self._settled(event.shard, event.rule)
            case events.ShardRejected():
                self._settled(event.shard, "A7")
            case events.BatchLost():
                self._settled(event.shard, "")
            case _:
                pass

    def _settled(self, shard: int, rule: str) -> float | None:
        """Count the row of the tables that settled an attempt; return when the attempt passed its commit point."""
        if rule:
            (self._submissions if rule.startswith("A") else self._resolved).labels(rule).inc()
        self._unlisted.discard(shard)
        return self._committed.pop(shard, None)

    def _count_spend(self, spends: Collection[Spend]) -> None:
        for spend in spends:
            model = spend.model if self._prices.price(spend.model) is not None else OTHER
            for kind in TOKENS:
                self._tokens.labels(kind, model).inc(getattr(spend.usage, f"{kind}_tokens"))
            self._cost.inc(self._prices.bill([spend]).batch or 0.0)

    def count_webhook(self, outcome: str) -> None:
        """Count an attempt to deliver a message: `delivered`, `failed` or `gone`."""
        self._webhooks.labels(outcome).inc()

    def exposition(
        self, jobs: Collection[JobStatus], shards: Collection[ShardStatus], *, folder: Path, late: float, now: float
    ) -> bytes:
        """Set the gauges, and return everything in Prometheus' text format.

        Args:
            jobs: the jobs of the journal.
            shards: the shards with something left to do.
            folder: the folder of the journal.
            late: the most seconds by which the event loop was late in the last minute.
            now: seconds since the epoch.

        """
        tally = Tally(job.state for job in jobs)
        for name in get_args(JobState):
            self._jobs.labels(name).set(tally[name])
        self._in_flight.set(sum(job.progress.in_flight for job in jobs if not job.done))
        states = Tally(shard.state for shard in shards)
        for name in BATCHES:
            self._open.labels(name).set(states[name])
        self._held.set(states["held"])
        ages = Tally(_age(now - (shard.committed_at or now)) for shard in shards if shard.state == "in doubt")
        for name in AGES:
            self._in_doubt.labels(name).set(ages[name])
        ended = [shard.results_until for shard in shards if shard.state == "draining"]
        self._deadline.set(min((until - now for until in ended if until is not None), default=math.inf))
        disk = os.statvfs(folder)
        self._disk.set(disk.f_bavail * disk.f_frsize)
        self._late.set(late)
        return generate_latest(self.registry)


def _age(seconds: float) -> str:
    return next(name for name, most in AGES.items() if seconds < most)


def _sink(destination: str) -> str:
    return urlsplit(destination).scheme or OTHER

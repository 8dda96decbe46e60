"""Jobs as JSON objects, for the HTTP API."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import msgspec

from abatch.journal.sums import Progress

if TYPE_CHECKING:
    from abatch.result import Failure
    from abatch.snapshot import JobStatus, ShardStatus
    from abatch.view import JournalView

__all__ = ["failure", "job_in_full", "job_in_short"]

PROGRESS: Final = tuple(each.name for each in fields(Progress))


def job_in_short(job: JobStatus) -> dict[str, Any]:
    """Return the members that every job has."""
    return {
        "key": job.key,
        "state": job.state,
        "reason": job.reason,
        "remedy": job.remedy,
        "done": job.done,
        "destination": job.destination,
        "started_at": job.started_at,
        "since": job.since,
        "retry_of": job.retry_of,
        **{name: getattr(job.progress, name) for name in PROGRESS},
    }


def job_in_full(view: JournalView, job: JobStatus, failures: tuple[Failure, ...]) -> dict[str, Any]:
    """Return a job with its cost, its failures, the expected end, and its shards if the status has them."""
    summary, forecast = view.summary(job.key), view.forecast(job.key)
    return {
        **job_in_short(job),
        "succeeded": summary.succeeded,
        "errored": summary.errored,
        "canceled": summary.canceled,
        "expired": summary.expired,
        "other": summary.other,
        "location": summary.location,
        "usage": msgspec.structs.asdict(summary.usage),
        "cost_usd": summary.cost,
        "synchronous_cost_usd": summary.synchronous_cost,
        "unpriced": summary.unpriced,
        "seconds": summary.seconds,
        "eta_seconds": forecast.seconds,
        "eta_unknown": forecast.why or None,
        "failures": [failure(each) for each in failures],
        **({} if job.shards is None else {"shards": [_shard(each) for each in job.shards]}),
    }


def failure(failed: Failure) -> dict[str, Any]:
    """Return one kind of failure."""
    return msgspec.structs.asdict(failed)


def _shard(shard: ShardStatus) -> dict[str, Any]:
    return {
        "shard": shard.shard,
        "part": shard.part,
        "rows": shard.rows,
        "state": shard.state,
        "reason": shard.reason,
        "attempt": shard.attempt,
        "batch_id": shard.batch_id,
        "since": shard.since,
    }

"""The list of jobs, and the numbers above it."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from abatch.protocol.pacing import LIMITS
from abatch.service.page.chart import strip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from abatch.service.state import State
    from abatch.snapshot import JobStatus

__all__ = ["job_row", "overview"]

SHOWN: Final = 50
"""Jobs of one page."""
ORDERS: Final = ("submitted", "changed")


async def overview(state: State, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the template of the list needs.

    Args:
        state: the state of the service.
        query: the filter, in the names of the URL: `state`, `text`, `order`, `after`.

    """
    view = state.view
    await view.refresh()
    wanted = {name: query.get(name, "") for name in ("state", "text", "order", "after")}
    found = view.list_jobs(
        state=wanted["state"] or None,
        text=wanted["text"],
        order="changed" if wanted["order"] == "changed" else "submitted",
        after=wanted["after"] or None,
        limit=SHOWN,
    )
    unfinished = view.unfinished()
    counts = Counter(job.state for job in unfinished)
    counts["done"] = view.job_count - len(unfinished)
    more = None
    if found.has_more:
        more = "?" + urlencode(
            {name: value for name, value in {**wanted, "after": found.jobs[-1].key}.items() if value}
        )
    parts = state.activity.last_day(time.time())
    tier = state.settings.config.tier
    expiries = [each.results_until for each in view.open_shards() if each.state == "draining"]
    return {
        "query": wanted,
        "orders": ORDERS,
        "jobs": [await job_row(state, job) for job in found.jobs],
        "more": more,
        "counts": {name: counts[name] for name in counts if counts[name]},
        "any_jobs": view.job_count,
        "in_flight": sum(job.progress.in_flight for job in unfinished),
        "queue": LIMITS[tier][1],
        "tier": tier,
        "spent": sum(part.cost for part in parts),
        "expires": min((until for until in expiries if until is not None), default=None),
        "strip": strip(parts),
    }


async def job_row(state: State, job: JobStatus) -> dict[str, Any]:
    """Return what the list shows of a job."""
    view, progress = state.view, job.progress
    summary, forecast = view.summary(job.key), view.forecast(job.key)
    failures = await view.failures(job.key) if progress.failed else ()
    minutes = (job.since - job.started_at) / 60
    saved = None
    if summary.cost is not None and summary.synchronous_cost is not None:
        saved = summary.synchronous_cost - summary.cost
    return {
        "job": job,
        "progress": progress,
        "whole": progress.wanted if progress.wanted is not None else progress.total,
        "rate": round(progress.sealed / minutes) if progress.sealed and minutes > 0 else None,
        "eta": None if job.done else forecast.seconds,
        "eta_why": "" if job.done else forecast.why,
        "cost": summary.cost,
        "saved": saved,
        "worst": failures[0] if failures else None,
    }

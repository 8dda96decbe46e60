"""One job in full, for `abatch status`: cost, tokens, where its results are, why requests failed, how long it takes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from rich.text import Text

from abatch.cli.follow import failures_table, summary_rows
from abatch.cli.sanitize import clean, duration, moment
from abatch.cli.screen import table
from abatch.prices import load
from abatch.protocol.forecast import Forecast, forecast

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rich.console import RenderableType

    from abatch.journal.records import JobRecord
    from abatch.result import Failure

__all__ = ["detail_json", "detail_of", "time_left"]

NOT_DRIVEN = "no process drives this journal"
SO_FAR = frozenset({"tokens", "cost", "synchronous cost", "time"})
"""Sums that still grow while a job is not done."""


def time_left(job: JobRecord, durations: Collection[float], now: float, *, driven: bool) -> Forecast:
    """How long a job may still take; nothing can be said of one that nobody drives."""
    if job.finished is None and not driven:
        return Forecast(why=NOT_DRIVEN)
    return forecast(job, job.progress(), durations, now)


def detail_of(job: JobRecord, failures: Sequence[Failure], left: Forecast, now: float) -> list[RenderableType]:
    """What is to be shown of one job besides its row."""
    done = job.finished is not None
    summary = job.summary(load())
    if not done:  # a job that is not done takes time until now, and not until its last fact
        summary = replace(summary, seconds=now - job.started_at)
    rows = [
        (f"{name} so far" if not done and name in SO_FAR else name, value)
        for name, value in summary_rows(summary, today=datetime.fromtimestamp(now).astimezone().date())
    ]
    if not done:
        rows.append(("expected end", _end_in_words(left, now)))
    parts: list[RenderableType] = [table("", "", rows=rows)]
    return [*parts, Text(), failures_table(failures)] if failures else parts


def detail_json(job: JobRecord, failures: Sequence[Failure] | None, left: Forecast) -> dict[str, Any]:
    """The same facts as members of a JSON object; `failures` is None where they were not read."""
    summary = job.summary(load())
    return {
        "location": clean(summary.location),
        "succeeded": summary.succeeded,
        "errored": summary.errored,
        "canceled": summary.canceled,
        "expired": summary.expired,
        "other": summary.other,
        "stop_reasons": summary.stop_reasons,
        "usage": msgspec.structs.asdict(summary.usage),
        "cost": summary.cost,
        "synchronous_cost": summary.synchronous_cost,
        "unpriced": summary.unpriced,
        "prices_of": summary.prices_of,
        "seconds": summary.seconds,
        "failures": None if failures is None else [msgspec.structs.asdict(each) for each in failures],
        "eta_seconds": left.seconds,
        "eta_unknown": left.why or None,
    }


def _end_in_words(left: Forecast, now: float) -> str:
    if left.seconds is None:
        return f"not known: {left.why}"
    return f"{moment(now + left.seconds)}, in about {duration(left.seconds)}"

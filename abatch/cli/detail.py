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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from abatch import Failure, Forecast, JobStatus, Summary

__all__ = ["detail_json", "detail_of"]

SO_FAR = frozenset({"tokens", "cost", "synchronous cost", "time"})
"""Sums that grow until a job is done."""


def detail_of(
    job: JobStatus, summary: Summary, failures: Sequence[Failure], left: Forecast, now: float
) -> list[RenderableType]:
    """Return the details of one job in addition to its row."""
    done = job.done
    if not done:  # the time of an unfinished job ends now, not with its last fact
        summary = replace(summary, seconds=now - job.started_at)
    rows = [
        (f"{name} so far" if not done and name in SO_FAR else name, value)
        for name, value in summary_rows(summary, today=datetime.fromtimestamp(now).astimezone().date())
    ]
    if not done:
        rows.append(("expected end", _end_in_words(left, now)))
    parts: list[RenderableType] = [table("", "", rows=rows)]
    return [*parts, Text(), failures_table(failures)] if failures else parts


def detail_json(summary: Summary, failures: Sequence[Failure] | None, left: Forecast) -> dict[str, Any]:
    """Return the same facts as members of a JSON object; `failures` is None if they were not read."""
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

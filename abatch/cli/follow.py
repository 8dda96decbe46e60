"""Show how a job comes along while it runs, and what it came to."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from abatch.cli.screen import table
from abatch.cli.text import clean, duration, moment, money, price_age, words
from abatch.places import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from rich.console import RenderableType

    from abatch.cli.screen import Screen
    from abatch.job import Job
    from abatch.ledger import Progress
    from abatch.result import Failure, Summary

__all__ = ["failures_table", "follow", "summary_json", "summary_rows", "summary_table"]

FRAME: Final = 0.25
LINE: Final = 10.0
"""Seconds between two lines of progress where nobody watches a bar,"""
GROUPS: Final = 8
"""Kinds of failures that are shown one by one."""
AT_LEAST: Final = 600.0
"""and where nothing changes."""


async def follow(job: Job, screen: Screen) -> Summary:
    """Wait for the job, and meanwhile move a bar, or write a line now and then.

    Raises:
        as `Job.wait`.

    """
    view = _View(job)
    if screen.live:
        with Live(get_renderable=view.render, console=screen.messages, auto_refresh=False, transient=True) as bar:
            while True:
                bar.refresh()
                with anyio.move_on_after(FRAME):
                    return await job.wait()
    try:
        while True:
            with anyio.move_on_after(LINE):
                return await job.wait()
            view.write(screen)
    finally:
        view.write(screen)


class _View:
    """A job's progress as a person sees it: a bar over one line of numbers, or that line now and then."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._began = time.monotonic()
        self._before = job.progress().sealed
        self._written = ("", -AT_LEAST)

    def render(self) -> RenderableType:
        """The frame for now."""
        progress = self._job.progress()
        elapsed = time.monotonic() - self._began
        rate = (progress.sealed - self._before) / max(elapsed, 0.001)
        lines = Table.grid(expand=True)
        lines.add_row(ProgressBar(total=progress.total, completed=progress.sealed))
        lines.add_row(Text(f"{numbers(progress)} · {rate:,.0f}/s · {duration(elapsed)}"))
        return lines

    def write(self, screen: Screen) -> None:
        """A line for now, unless it was said lately."""
        line, elapsed = numbers(self._job.progress()), time.monotonic() - self._began
        said, at = self._written
        if line != said or elapsed - at >= AT_LEAST:
            self._written = line, elapsed
            screen.say(f"{moment(time.time())} {line}")


def numbers(progress: Progress) -> str:
    """A job's progress on one line."""
    return words(
        (
            f"planned {progress.planned:,}" + ("" if progress.total is None else f" of {progress.total:,}"),
            f"submitted {progress.submitted:,}",
            f"in flight {progress.in_flight:,} in {progress.batches_in_flight:,} batches",
            f"sealed {progress.sealed:,}",
            f"failed {progress.failed:,}",
            f"missing {progress.missing:,}" if progress.missing else "",
            f"in doubt {progress.in_doubt}" if progress.in_doubt else "",
            f"held {progress.held}" if progress.held else "",
        )
    )


def summary_table(summary: Summary, *, today: date | None = None) -> RenderableType:
    """What a job came to, as a table."""
    return table("", "", rows=summary_rows(summary, today=today))


def summary_rows(summary: Summary, *, today: date | None = None) -> list[tuple[str, str]]:
    """What a job came to, as names and values."""
    age = price_age(summary.prices_of, today or datetime.now().astimezone().date())
    usage = summary.usage
    stops = words(f"{reason} {count:,}" for reason, count in summary.stop_reasons.items())
    rows = [
        ("requests", f"{summary.requests:,}"),
        ("succeeded", f"{summary.succeeded:,}"),
        *(
            (name, f"{count:,}")
            for name in ("errored", "expired", "canceled", "other", "missing")
            if (count := getattr(summary, name))
        ),
        *([("stopped by", stops)] if stops else []),
        ("batches", f"{summary.batches:,}" + (f" ({summary.retried:,} requests tried again)" * bool(summary.retried))),
        ("tokens", f"{usage.prompt_tokens:,} in, {usage.output_tokens:,} out"),
        ("cost", money(summary.cost, summary.unpriced)),
        *([] if summary.cost is None else [("synchronous cost", money(summary.synchronous_cost))]),
        *([("prices", age)] if age else []),
        ("time", duration(summary.seconds)),
        ("results", shown(summary.location)),
    ]
    if summary.duplicates:
        rows.append(("accepted twice", f"{summary.duplicates:,}: see docs/reliability.md"))
    return rows


def failures_table(failures: Sequence[Failure]) -> RenderableType:
    """Why requests did not succeed, the most frequent reasons first."""
    rows = [(f"{each.count:,}", each.type, each.message, each.example) for each in failures[:GROUPS]]
    if rest := failures[GROUPS:]:
        rows.append((f"{sum(each.count for each in rest):,}", f"of {len(rest):,} other kinds", "", rest[0].example))
    return table("failed", "type", "message", "for example", rows=rows, right=("failed",))


def summary_json(summary: Summary) -> dict[str, Any]:
    """What a job came to, as a JSON object."""
    values = {name: value for name, value in asdict(summary).items() if name != "usage"}
    return {
        **values,
        "location": clean(summary.location),
        "usage": msgspec.structs.asdict(summary.usage),
        "ok": summary.ok,
    }

"""Show the progress of a job while it runs, and its summary."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio
import msgspec
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from abatch.cli.progress import Pace, awake, counts, flowed, percent, times
from abatch.cli.sanitize import clean, duration, moment, money, price_age, words
from abatch.cli.screen import table
from abatch.destination import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from rich.console import RenderableType

    from abatch import Forecast, Progress
    from abatch.cli.screen import Screen
    from abatch.result import Failure, Summary

__all__ = ["failures_table", "follow", "summary_json", "summary_rows", "summary_table"]

FRAME: Final = 0.25
FORECAST: Final = 1.0
"""Seconds between two forecasts."""
LINE: Final = 10.0
"""Seconds between two lines of progress where no bar is shown,"""
GROUPS: Final = 8
"""Kinds of failures that are shown one by one."""
AT_LEAST: Final = 600.0
"""and while nothing changes."""

T_co = TypeVar("T_co", covariant=True)


async def follow(job: Awaited[T_co], screen: Screen) -> T_co:
    """Wait for a job, or for several, and meanwhile move a bar, or write a line from time to time.

    Raises:
        as `Job.wait`.

    """
    view = _View(job)
    if screen.live:
        with Live(
            get_renderable=lambda: view.render(screen.messages.width),
            console=screen.messages,
            auto_refresh=False,
            transient=True,
        ) as bar:
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
        view.write(screen, last=True)


class Followed(Protocol):
    """The methods of a job that this module uses."""

    def progress(self) -> Progress:
        """Return the progress of the job."""
        ...

    def forecast(self, progress: Progress | None = None) -> Forecast:
        """Estimate how long the job may still take, from a current snapshot."""
        ...


class Awaited(Followed, Protocol[T_co]):
    """A job that `follow` waits for, or several."""

    async def wait(self) -> T_co:
        """Wait until it is done; may be cancelled and called again."""
        ...


class _View:
    """A job's progress for a person: a bar over a few numbers, or a line of numbers from time to time."""

    def __init__(self, job: Followed, clock: Callable[[], float] = awake) -> None:
        self._job = job
        self._pace = Pace(job.progress().sealed, clock)
        self._written: tuple[list[str], float] = ([], -AT_LEAST)
        self._forecast: tuple[Forecast, float] | None = None
        """The last forecast, and when it was made."""

    def render(self, width: int) -> RenderableType:
        """The frame for now."""
        progress = self._job.progress()
        bar = Table.grid(expand=True, padding=(0, 1, 0, 0), pad_edge=False)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(ProgressBar(total=progress.wanted, completed=progress.sealed), percent(progress))
        lines = flowed(counts(progress), width)
        lines += flowed(times(progress, self._pace, self._left(progress)), width)
        return Group(bar, *(Text(line, no_wrap=True) for line in lines))

    def _left(self, progress: Progress) -> Forecast:
        """Return the forecast; it is renewed only at times, because it costs as much as a frame of a large job."""
        now = self._pace.elapsed
        if self._forecast is None or now - self._forecast[1] >= FORECAST:
            self._forecast = self._job.forecast(progress), now
        return self._forecast[0]

    def write(self, screen: Screen, *, last: bool = False) -> None:
        """Write a line, unless nothing changed lately; the last line has no time left."""
        progress, elapsed = self._job.progress(), self._pace.elapsed
        now = counts(progress)
        before, at = self._written
        if now == before and elapsed - at < AT_LEAST:
            return
        self._written = now, elapsed
        told = now if last else [*now, *times(progress, self._pace, self._left(progress))]
        when = moment(time.time())
        indent = " " * (len(when) + 1)
        lines = flowed([*filter(None, [percent(progress)]), *told], screen.messages.width - len(indent))
        screen.say(f"{when} " + f"\n{indent}".join(lines))


def summary_table(summary: Summary, *, done: bool = True, today: date | None = None) -> RenderableType:
    """Return the summary of a job as a table; of an unfinished job, so far."""
    return table("", "", rows=summary_rows(summary, done=done, today=today))


def summary_rows(summary: Summary, *, done: bool = True, today: date | None = None) -> list[tuple[str, str]]:
    """Return the summary of a job as names and values; the destination is complete only once the job is done."""
    age = price_age(summary.prices_of, today or datetime.now().astimezone().date())
    usage = summary.usage
    stops = words(f"{reason} {count:,}" for reason, count in summary.stop_reasons.items())
    again = f" ({summary.retried:,} requests tried again)" if summary.retried else ""
    rows = [
        ("requests", f"{summary.requests:,}"),
        ("succeeded", f"{summary.succeeded:,}"),
        *(
            (name, f"{count:,}")
            for name in ("errored", "expired", "canceled", "other", "missing")
            if (count := getattr(summary, name))
        ),
        *([] if summary.not_sent == 0 else [("not sent", f"{_number(summary.not_sent)}: the job was cancelled")]),
        *([("stopped by", stops)] if stops else []),
        ("batches", f"{summary.batches:,}" + again),
        ("tokens", f"{usage.prompt_tokens:,} in, {usage.output_tokens:,} out"),
        ("cost", money(summary.cost, summary.unpriced)),
        *([] if summary.cost is None else [("synchronous cost", money(summary.synchronous_cost))]),
        *([("prices", age)] if age else []),
        ("time", duration(summary.seconds)),
        ("results" if done else "results go to", shown(summary.location)),
    ]
    if summary.duplicates:
        rows.append(("accepted twice", f"{summary.duplicates:,}: see docs/reliability.md"))
    return rows


def _number(count: int | None) -> str:
    return "some" if count is None else f"{count:,}"


def failures_table(failures: Sequence[Failure]) -> RenderableType:
    """Return a table of reasons why requests did not succeed, the most frequent first."""
    rows = [(f"{each.count:,}", each.type, each.message, each.example) for each in failures[:GROUPS]]
    if rest := failures[GROUPS:]:
        rows.append((f"{sum(each.count for each in rest):,}", f"of {len(rest):,} other kinds", "", rest[0].example))
    return table("failed", "type", "message", "for example", rows=rows, right=("failed",))


def summary_json(summary: Summary) -> dict[str, Any]:
    """Return the summary of a job as a JSON object."""
    values = {name: value for name, value in asdict(summary).items() if name != "usage"}
    return {
        **values,
        "location": clean(summary.location),
        "usage": msgspec.structs.asdict(summary.usage),
        "ok": summary.ok,
    }

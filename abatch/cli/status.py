"""`abatch status`: show a journal while any other process may drive it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from abatch import JournalView, Progress
from abatch.cli.commands import completed, in_options
from abatch.cli.detail import detail_json, detail_of
from abatch.cli.exit_codes import OK, STUCK, exit_code_of, perform
from abatch.cli.next_steps import Resume, resuming
from abatch.cli.options import JsonOption, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, place_of
from abatch.cli.sanitize import clean, moment
from abatch.cli.screen import Screen, tables

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from rich.console import RenderableType

    from abatch import DriverStatus, Failure, Forecast, JobStatus, JournalStatus, Resolution, ShardStatus, Summary

__all__ = ["status"]

OF_JOB: Final = tuple(each.name for each in fields(Progress))
"""The fields of a job's progress in JSON; `asdict` would copy each number deeply, for many jobs."""
OF_SHARD: Final = {
    "shard": "shard",
    "part": "part",
    "rows": "rows",
    "state": "state",
    "attempt": "attempt",
    "batch": "batch_id",
    "wire prefix": "wire_prefix",
}
"""Columns of the table of shards, each with its name in the JSON."""


def status(
    key: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this job.", show_default=False)] = None,
    *,
    batches: Annotated[bool, typer.Option("--batches", help="Also show a row for every shard.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the jobs until all are done, or no process drives them, or Ctrl-C.")
    ] = False,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit 0: succeeded; 1: some failed; 3: does not continue; 4: continues."),
    ] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the jobs of a journal; for one job also cost, tokens, failures and the expected end.

    It only reads, and works beside a running process. Exit status with --watch: 0 all is done; 3 no process drives
    the journal, and something is not done.

    Example: abatch status --watch
    """
    screen = Screen()

    async def work() -> int:
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            shown: _Shown | None = None
            async for each in _states(view, key, batches=batches, watch=watch):
                if shown is not None and not as_json:
                    screen.output.line()
                shown = each
                _show(screen, view, shown, as_json=as_json)
            return _end(screen, shown, watch=watch, exit_code=exit_code)

    async def work_live() -> int:
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            shown: _Shown | None = None
            with Live(console=screen.output, auto_refresh=False) as live:
                async for shown in _states(view, key, batches=batches, watch=True):
                    live.update(_picture(shown, width=screen.output.width), refresh=True)
            return _end(screen, shown, watch=watch, exit_code=exit_code)

    live = watch and screen.output.is_terminal and not screen.output.is_dumb_terminal and not as_json
    raise typer.Exit(perform(work_live if live else work, asked_for(journal, sandbox=sandbox)))


def _end(screen: Screen, shown: _Shown | None, *, watch: bool, exit_code: bool) -> int:
    """Report why watching ends, unless all jobs are done; return the exit code."""
    assert shown is not None  # a journal that was read has a state
    status = shown.status
    if watch and not status.done:
        screen.complain("No process drives this journal: there is nothing to watch.")
    if exit_code:
        return exit_code_of(status.jobs, driven=status.driver is not None)
    return STUCK if watch and not status.done else OK


@dataclass(frozen=True, slots=True, kw_only=True)
class _InFull:
    """What is shown for a single job in addition to its row."""

    summary: Summary
    forecast: Forecast
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What is shown at one moment."""

    status: JournalStatus
    in_full: _InFull | None
    """The details of the single job; None if there are several jobs."""


async def _states(view: JournalView, key: str | None, *, batches: bool, watch: bool) -> AsyncGenerator[_Shown]:
    """Yield the jobs now, and after every change if they are watched."""
    if not watch:
        yield await _completed(view, await view.status(key, shards=batches))
        return
    async for status in view.follow(key, shards=batches):
        yield await _completed(view, status)


async def _completed(view: JournalView, status: JournalStatus) -> _Shown:
    in_full = None
    if len(status.jobs) == 1:
        key = status.jobs[0].key
        in_full = _InFull(summary=view.summary(key), forecast=view.forecast(key), failures=await view.failures(key))
    return _Shown(status=status, in_full=in_full)


def _show(screen: Screen, view: JournalView, shown: _Shown, *, as_json: bool) -> None:
    if not as_json:
        screen.output.print(_picture(shown, width=screen.output.width))
        return
    told = [_job_json(job, view, shown) for job in shown.status.jobs]
    driver = None if shown.status.driver is None else msgspec.to_builtins(shown.status.driver)
    screen.give({"jobs": told, "driver": driver})


def _picture(shown: _Shown, *, width: int) -> RenderableType:
    jobs, folder, driver = shown.status.jobs, shown.status.folder, shown.status.driver
    parts: list[RenderableType] = [_job_table(jobs, width)] if jobs else [Text("This journal has no jobs.")]
    for job in jobs:
        if job.reason or job.remedy:
            reason, remedy = job.reason.removesuffix("."), completed(in_options(job.remedy), folder)
            parts.append(Text(clean(f"{job.key} is {job.state}: {reason}. {remedy}".rstrip())))
        parts += [Text(clean(_in_words(each))) for each in job.resolutions]
    if (full := shown.in_full) is not None:
        parts += [Text(), *detail_of(jobs[0], full.summary, full.failures, full.forecast, shown.status.at)]
    unfinished = [job for job in jobs if not job.done]
    if driver is not None:
        parts += [Text(clean(completed(line, folder))) for line in _account(driver, jobs)]
    elif unfinished:
        parts.append(Text("No process drives this journal. To resume:"))
        parts += [Text(clean(f"  {resuming(folder, job).in_words}")) for job in unfinished]
        parts.append(
            Text("Policies of an earlier command (--unresolved, --refusals, --parked, --grace) are not kept: add them.")
        )
    for job in jobs:
        if job.shards is not None:
            parts += [Text(f"\nshards of {job.key}"), _shard_table(job.shards, width)]
    return Group(*parts)


def _in_words(resolution: Resolution) -> str:
    """Describe a decision of an operator that was not carried out yet, or was refused."""
    if resolution.refused:
        return (
            f"shard {resolution.shard}: the last resolution, that it {resolution.says}, was refused: "
            "the API says otherwise"
        )
    return f"shard {resolution.shard}: noted, and not done yet: it {resolution.says}"


def _account(driver: DriverStatus, jobs: Sequence[JobStatus]) -> list[str]:
    """Describe the driver's status, for people."""
    job_of = {batch_id: job.key for job in jobs for batch_id in job.parked}
    lines = [f"shard {shard} waits: {why}" for shard, why in driver.waiting.items()]
    lines += [
        f"batch {batch_id} has not been visible for an hour; abatch asks for it again"
        for batch_id in driver.not_visible
    ]
    lines += [
        f"batch {batch_id} {why}; `abatch cancel {job_of[batch_id]}` keeps finished rows"
        for batch_id, why in driver.parked.items()
        if batch_id in job_of
    ]
    lines += [
        f"the storage of {down.job} has been failing since {moment(down.since)}: {down.why}; abatch retries"
        + (f" until {moment(down.until)}" if down.until else "")
        for down in driver.storage_down
    ]
    if driver.trouble:
        lines.append(f"the API cannot be asked: {driver.trouble}; abatch retries")
    return lines


def _job_table(jobs: Sequence[JobStatus], width: int) -> RenderableType:
    """Return a table with a row for each job; it has a column for missing requests only if there are any."""
    names = ["planned", "in flight", "sealed", "failed", "batches"]
    if any(job.progress.missing for job in jobs):
        names.insert(-1, "missing")

    def row(job: JobStatus) -> tuple[object, ...]:
        progress = job.progress
        total = "?" if progress.total is None else f"{progress.total:,}"
        counts = [f"{getattr(progress, name.replace(' ', '_')):,}" for name in names]
        return job.key, job.state, total, *counts, moment(job.since)

    numbers = ("total", *names)
    return tables(width, "job", "state", *numbers, "since", rows=map(row, jobs), right=numbers)


def _shard_table(shards: Sequence[ShardStatus], width: int) -> RenderableType:
    def row(shard: ShardStatus) -> tuple[object, ...]:
        values = (getattr(shard, name) for name in OF_SHARD.values())
        return (*("" if value is None else value for value in values), moment(shard.since))

    return tables(width, *OF_SHARD, "since", rows=map(row, shards), right=("shard", "part", "rows", "attempt"))


def _job_json(job: JobStatus, view: JournalView, shown: _Shown) -> dict[str, Any]:
    folder, full = shown.status.folder, shown.in_full
    resume = Resume() if job.done else resuming(folder, job)
    summary, forecast, failures = (
        (view.summary(job.key), view.forecast(job.key), None)
        if full is None
        else (full.summary, full.forecast, full.failures)
    )
    told = {
        "key": job.key,
        "state": job.state,
        "reason": job.reason,
        "remedy": completed(in_options(job.remedy), folder),
        "destination": job.short_destination,
        "resume": resume.command or None,
        "resume_anyway": resume.anyway or None,
        "resume_needs": resume.needs or None,
        **{name: getattr(job.progress, name) for name in OF_JOB},
        **detail_json(summary, failures, forecast),
        "since": job.since,
    }
    return told if job.shards is None else {**told, "shards": list(map(_shard_json, job.shards))}


def _shard_json(shard: ShardStatus) -> dict[str, Any]:
    return {
        **{name: getattr(shard, name) for name in OF_SHARD.values()},
        "since": shard.since,
        "reason": shard.reason or None,
    }

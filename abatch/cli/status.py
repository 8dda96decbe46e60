"""`abatch status`: what a journal knows, read beside whoever drives it."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from abatch.cli.commands import completed
from abatch.cli.detail import detail_json, detail_of, time_left
from abatch.cli.exit_codes import OK, STUCK, exit_code_of, perform
from abatch.cli.next_steps import Resume, resuming
from abatch.cli.options import JsonOption, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, job_named, ledger_of, place_of
from abatch.cli.sanitize import clean, moment
from abatch.cli.screen import Screen, tables
from abatch.journal.states import attempt_of, standing_of, state_of, wish_in_words
from abatch.journal.status import DriverStatus, driver_status
from abatch.journal.sums import Progress
from abatch.protocol.facts import Committing
from abatch.protocol.lifecycle import Held
from abatch.system import paths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import RenderableType

    from abatch.journal.ledger import Ledger
    from abatch.journal.log import Recorded
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.protocol.forecast import Forecast
    from abatch.result import Failure

__all__ = ["status"]

LOOK_EVERY: Final = 0.5
OF_JOB: Final = tuple(each.name for each in fields(Progress))
"""What the JSON of a job says of its progress; `asdict` would copy each of these numbers deeply, for many jobs."""
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
    key: Annotated[str | None, typer.Argument(metavar="JOB", help="One job alone.", show_default=False)] = None,
    *,
    batches: Annotated[bool, typer.Option("--batches", help="A row for every shard, too.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow it until all is done, or no process drives it, or Ctrl-C.")
    ] = False,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit 0: succeeded; 1: some failed; 3: it does not go on; 4: it goes on."),
    ] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the jobs of a journal; of one job also cost, tokens, failures and when it is expected to end.

    It only reads, and works beside a running process. Exit status with --watch: 0 all is done; 3 no process drives
    the journal, and something is not done.

    Example: abatch status --watch
    """
    screen = Screen()

    async def work() -> int:
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            shown = first = await _take_snapshot(ledger, key, batches=batches)
            _show(screen, shown, as_json=as_json)
            if watch:
                async for shown in _follow(ledger, key, first):
                    if not as_json:
                        screen.output.line()
                    _show(screen, shown, as_json=as_json)
            return _end(screen, shown, watch=watch, exit_code=exit_code)

    async def work_live() -> int:
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            shown = first = await _take_snapshot(ledger, key, batches=batches)
            with Live(_picture(shown, width=screen.output.width), console=screen.output, auto_refresh=False) as live:
                live.refresh()
                async for shown in _follow(ledger, key, first):
                    live.update(_picture(shown, width=screen.output.width), refresh=True)
            return _end(screen, shown, watch=watch, exit_code=exit_code)

    live = watch and screen.output.is_terminal and not screen.output.is_dumb_terminal and not as_json
    raise typer.Exit(perform(work_live if live else work, asked_for(journal, sandbox=sandbox)))


def _end(screen: Screen, shown: _Snapshot, *, watch: bool, exit_code: bool) -> int:
    """Say why watching ends, if that is not because all is done; the exit code."""
    unfinished = any(job.finished is None for job in shown.jobs)
    if watch and unfinished:
        screen.complain("No process drives this journal: there is nothing to watch.")
    if exit_code:
        return exit_code_of(shown.jobs, driven=shown.driver is not None)
    return STUCK if watch and unfinished else OK


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """What is shown at one moment."""

    ledger: Ledger
    jobs: list[JobRecord]
    batches: bool
    """Whether the shards of these jobs are shown, too."""
    attempts: dict[int, int]
    """Per shard, the number of its last attempt; only for `batches`."""
    failures: tuple[Failure, ...] | None
    """Of the one job that is shown in full; None if there are more."""
    driver: DriverStatus | None
    now: float


async def _take_snapshot(ledger: Ledger, key: str | None, *, batches: bool) -> _Snapshot:
    driver = driver_status(ledger.folder)
    if driver is None:
        await ledger.refresh()  # the last facts of a process that is gone by now
    attempts = await _read_attempts(ledger) if batches else {}
    jobs = list(ledger.jobs.values()) if key is None else [job_named(ledger, key)]
    if batches or len(jobs) == 1:
        jobs = [await ledger.in_full(job) for job in jobs]
    return _Snapshot(
        ledger=ledger,
        jobs=jobs,
        batches=batches,
        attempts=attempts,
        failures=jobs[0].failures() if len(jobs) == 1 else None,
        driver=driver,
        now=time.time(),
    )


async def _follow(ledger: Ledger, key: str | None, shown: _Snapshot) -> AsyncIterator[_Snapshot]:
    """The jobs after every change, until all are done or no process drives them."""
    while shown.driver is not None and any(job.finished is None for job in shown.jobs):
        while not await ledger.refresh() and driver_status(ledger.folder) == shown.driver:  # noqa: ASYNC110
            await anyio.sleep(LOOK_EVERY)  # what another process appends wakes nobody here
        shown = await _take_snapshot(ledger, key, batches=shown.batches)
        yield shown


async def _read_attempts(ledger: Ledger) -> dict[int, int]:
    """The last attempt of every shard; the state of one that is done does not tell it."""
    attempts: dict[int, int] = {}

    def visit(recorded: Recorded) -> None:
        if isinstance(recorded.fact, Committing) and recorded.shard is not None:
            attempts[recorded.shard] = recorded.fact.attempt

    await ledger.facts.replay(visit)
    return attempts


def _show(screen: Screen, shown: _Snapshot, *, as_json: bool) -> None:
    if not as_json:
        screen.output.print(_picture(shown, width=screen.output.width))
        return
    told = [_job_json(job, shown) for job in shown.jobs]
    if shown.batches:
        for job, record in zip(told, shown.jobs, strict=True):
            job["shards"] = [_shard_json(shard, shown) for shard in record.shards.values()]
    driver = None if shown.driver is None else msgspec.to_builtins(shown.driver)
    screen.give({"jobs": told, "driver": driver})


def _picture(shown: _Snapshot, *, width: int) -> RenderableType:
    jobs, ledger, driver = shown.jobs, shown.ledger, shown.driver
    parts: list[RenderableType] = [_job_table(jobs, width)] if jobs else [Text("This journal has no jobs.")]
    for job in jobs:
        standing = standing_of(job)
        if standing.reason or standing.remedy:
            reason, remedy = standing.reason.removesuffix("."), completed(standing.remedy, ledger.folder.path)
            parts.append(Text(clean(f"{job.key} is {standing.state}: {reason}. {remedy}".rstrip())))
        parts += [Text(clean(line)) for line in _noted(job)]
    if shown.failures is not None:
        parts += [Text(), *detail_of(jobs[0], shown.failures, _left(jobs[0], shown), shown.now)]
    unfinished = [job for job in jobs if job.finished is None]
    if driver is not None:
        parts += [Text(clean(completed(line, ledger.folder.path))) for line in _account(driver, jobs)]
    elif unfinished:
        parts.append(Text("No process drives this journal. To go on:"))
        parts += [Text(clean(f"  {resuming(ledger, job).in_words}")) for job in unfinished]
        parts.append(
            Text("Policies of an earlier command (--unresolved, --refusals, --parked, --grace) are not kept: add them.")
        )
    for job in jobs if shown.batches else ():
        parts += [Text(f"\nshards of {job.key}"), _shard_table(job, shown, width)]
    return Group(*parts)


def _left(job: JobRecord, shown: _Snapshot) -> Forecast:
    return time_left(job, shown.ledger.durations, shown.now, driven=shown.driver is not None)


def _noted(job: JobRecord) -> list[str]:
    """Words of operators that were not carried out yet, or were refused, on shards that are not held."""
    if job.finished is not None:
        return []
    unheld = {number for number, shard in job.open_shards.items() if not isinstance(shard.state, Held)}
    lines = [
        f"shard {number}: noted, and not done yet: it {wish_in_words(wish)}"
        for number, wish in job.wishes.items()
        if number in unheld
    ]
    refused = sorted(job.refused & unheld)
    return lines + [f"shard {number}: the last word was refused: the API says otherwise" for number in refused]


def _account(driver: DriverStatus, jobs: list[JobRecord]) -> list[str]:
    """The driver's account, for people."""
    job_of = {shard.batch_id: job.key for job in jobs for shard in job.shards.values()} if driver.parked else {}
    lines = [f"shard {shard} waits: {why}" for shard, why in driver.waiting.items()]
    lines += [
        f"batch {batch_id} has not been visible for an hour; it is asked for again" for batch_id in driver.not_visible
    ]
    lines += [
        f"batch {batch_id} {why}; `abatch cancel {job_of[batch_id]}` keeps finished rows"
        for batch_id, why in driver.parked.items()
        if batch_id in job_of
    ]
    lines += [
        f"the storage of {down.job} has been failing since {moment(down.since)}: {down.why}; it is tried again"
        + (f" until {moment(down.until)}" if down.until else "")
        for down in driver.storage_down
    ]
    if driver.trouble:
        lines.append(f"the API cannot be asked: {driver.trouble}; it is tried again")
    return lines


def _job_table(jobs: list[JobRecord], width: int) -> RenderableType:
    """A row for each job; a column for missing requests only where there are some."""
    progresses = [job.progress() for job in jobs]
    names = ["planned", "in flight", "sealed", "failed", "batches"]
    if any(progress.missing for progress in progresses):
        names.insert(-1, "missing")

    def row(job: JobRecord, progress: Progress) -> tuple[object, ...]:
        total = "?" if progress.total is None else f"{progress.total:,}"
        counts = [f"{getattr(progress, name.replace(' ', '_')):,}" for name in names]
        return job.key, standing_of(job).state, total, *counts, moment(job.changed_at)

    numbers = ("total", *names)
    return tables(width, "job", "state", *numbers, "since", rows=map(row, jobs, progresses), right=numbers)


def _shard_table(job: JobRecord, shown: _Snapshot, width: int) -> RenderableType:
    def row(shard: ShardRecord) -> tuple[object, ...]:
        told = _shard_json(shard, shown)
        return (*("" if told[name] is None else told[name] for name in OF_SHARD.values()), moment(shard.since))

    return tables(
        width, *OF_SHARD, "since", rows=map(row, job.shards.values()), right=("shard", "part", "rows", "attempt")
    )


def _job_json(job: JobRecord, shown: _Snapshot) -> dict[str, Any]:
    standing, ledger, progress = standing_of(job), shown.ledger, job.progress()
    resume = resuming(ledger, job) if job.finished is None else Resume()
    return {
        "key": job.key,
        "state": standing.state,
        "reason": standing.reason,
        "remedy": completed(standing.remedy, ledger.folder.path),
        "destination": paths.shown(job.to),
        "resume": resume.command or None,
        "resume_anyway": resume.anyway or None,
        "resume_needs": resume.needs or None,
        **{name: getattr(progress, name) for name in OF_JOB},
        **detail_json(job, shown.failures, _left(job, shown)),
        "since": job.changed_at,
    }


def _shard_json(shard: ShardRecord, shown: _Snapshot) -> dict[str, Any]:
    attempt = attempt_of(shard)
    attempt = shown.attempts.get(shard.shard, 0) if attempt is None else attempt
    lineage = shown.ledger.lineage
    state, reason = state_of(shard)
    return {
        "shard": shard.shard,
        "part": shard.planned.part,
        "rows": shard.planned.rows,
        "state": state,
        "attempt": attempt,
        "batch_id": shard.batch_id,
        "wire_prefix": lineage.prefix(shard.shard, attempt).decode() if attempt else None,
        "since": shard.since,
        "reason": reason or None,
    }

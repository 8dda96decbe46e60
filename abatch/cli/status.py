"""`abatch status`: what a journal knows, read beside whoever drives it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import msgspec
import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from abatch import wire
from abatch.bulletin import Bulletin, read
from abatch.cli.again import resuming
from abatch.cli.commands import completed
from abatch.cli.exits import perform
from abatch.cli.options import JsonOption, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.places import asked_for, job_named, ledger_of, place_of
from abatch.cli.screen import Screen, tables
from abatch.cli.standing import attempt_of, standing_of, state_of, wish_in_words
from abatch.cli.text import clean, moment
from abatch.facts import Committing
from abatch.lifecycle import Held
from abatch.places import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rich.console import RenderableType

    from abatch.journal import Recorded
    from abatch.ledger import JobRecord, Ledger, Progress, ShardRecord

__all__ = ["status"]

LOOK_EVERY: Final = 0.5
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
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until all is done, or Ctrl-C.")] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the jobs of a journal. It only reads, and works beside a running process.

    Example: abatch status --watch
    """
    screen = Screen()

    async def work() -> None:
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            attempts: dict[int, int] = {}
            if not watch:
                await _read_attempts(ledger, attempts, wanted=batches)
                jobs = await _jobs(ledger, key, in_full=batches)
                _show(screen, jobs, ledger, attempts, batches=batches, as_json=as_json)
                return
            async for jobs in _follow(ledger, key, attempts, batches=batches):
                _show(screen, jobs, ledger, attempts, batches=batches, as_json=as_json)

    async def work_live() -> None:
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            attempts: dict[int, int] = {}
            with Live(console=screen.output, auto_refresh=False) as live:
                async for jobs in _follow(ledger, key, attempts, batches=batches):
                    width = screen.output.width
                    live.update(_picture(jobs, ledger, attempts, width=width, batches=batches), refresh=True)

    perform(
        work_live if watch and screen.output.is_terminal and not as_json else work, asked_for(journal, sandbox=sandbox)
    )


async def _follow(
    ledger: Ledger, key: str | None, attempts: dict[int, int], *, batches: bool
) -> AsyncIterator[list[JobRecord]]:
    """The jobs, now and after every change, until all are done."""
    while True:
        await _read_attempts(ledger, attempts, wanted=batches)
        jobs = await _jobs(ledger, key, in_full=batches)
        yield jobs
        if all(job.finished is not None for job in jobs):
            return
        driver = _driver(ledger.journal.folder)
        while not await ledger.refresh() and _driver(ledger.journal.folder) == driver:  # noqa: ASYNC110 - another's
            await anyio.sleep(LOOK_EVERY)


async def _jobs(ledger: Ledger, key: str | None, *, in_full: bool) -> list[JobRecord]:
    jobs = list(ledger.jobs.values()) if key is None else [job_named(ledger, key)]
    return [await ledger.in_full(job) for job in jobs] if in_full else jobs


async def _read_attempts(ledger: Ledger, attempts: dict[int, int], *, wanted: bool) -> None:
    """The last attempt of every shard; the state of one that is done does not tell it."""

    def visit(recorded: Recorded) -> None:
        if isinstance(recorded.fact, Committing) and recorded.shard is not None:
            attempts[recorded.shard] = recorded.fact.attempt

    if wanted:
        await ledger.journal.replay(visit)


def _show(
    screen: Screen,
    jobs: list[JobRecord],
    ledger: Ledger,
    attempts: dict[int, int],
    *,
    batches: bool,
    as_json: bool,
) -> None:
    if not as_json:
        screen.output.print(_picture(jobs, ledger, attempts, width=screen.output.width, batches=batches))
        return
    driver = _driver(ledger.journal.folder)
    told = [_job_json(job, ledger) for job in jobs]
    if batches:
        for job, record in zip(told, jobs, strict=True):
            job["shards"] = [_shard_json(shard, ledger, attempts) for shard in record.shards.values()]
    screen.give({"jobs": told, "driver": None if driver is None else msgspec.to_builtins(driver)})


def _driver(folder: Path) -> Bulletin | None:
    """What the process that drives the journal says of itself; None if it is gone."""
    try:
        pid = int((folder / "lock").read_text())
    except (FileNotFoundError, ValueError):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it is somebody else's, and alive
        pass
    bulletin = read(folder)
    return bulletin if bulletin is not None and bulletin.pid == pid else Bulletin(pid=pid)


def _picture(
    jobs: list[JobRecord], ledger: Ledger, attempts: dict[int, int], *, width: int, batches: bool
) -> RenderableType:
    parts: list[RenderableType] = [_job_table(jobs, width)] if jobs else [Text("This journal has no jobs.")]
    for job in jobs:
        standing = standing_of(job)
        if standing.reason or standing.remedy:
            reason, remedy = standing.reason.removesuffix("."), completed(standing.remedy, ledger.journal.folder)
            parts.append(Text(clean(f"{job.key} is {standing.state}: {reason}. {remedy}".rstrip())))
        parts += [Text(clean(line)) for line in _noted(job)]
    driver, unfinished = _driver(ledger.journal.folder), [job for job in jobs if job.finished is None]
    if driver is not None:
        parts += [Text(clean(completed(line, ledger.journal.folder))) for line in _account(driver, jobs)]
    elif unfinished:
        parts.append(Text("No process drives this journal. To go on:"))
        parts += [Text(clean("  " + ", ".join(filter(None, resuming(ledger, job))))) for job in unfinished]
        parts.append(
            Text("Policies of an earlier command (--unresolved, --refusals, --parked, --grace) are not kept: add them.")
        )
    for job in jobs if batches else ():
        parts += [Text(f"\nshards of {job.key}"), _shard_table(job, ledger, attempts, width)]
    return Group(*parts)


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


def _account(driver: Bulletin, jobs: list[JobRecord]) -> list[str]:
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


def _shard_table(job: JobRecord, ledger: Ledger, attempts: dict[int, int], width: int) -> RenderableType:
    def row(shard: ShardRecord) -> tuple[object, ...]:
        told = _shard_json(shard, ledger, attempts)
        return (*("" if told[name] is None else told[name] for name in OF_SHARD.values()), moment(shard.since))

    return tables(
        width, *OF_SHARD, "since", rows=map(row, job.shards.values()), right=("shard", "part", "rows", "attempt")
    )


def _job_json(job: JobRecord, ledger: Ledger) -> dict[str, Any]:
    standing = standing_of(job)
    resume, _ = resuming(ledger, job) if job.finished is None else ("", "")
    return {
        "key": job.key,
        "state": standing.state,
        "reason": standing.reason,
        "remedy": completed(standing.remedy, ledger.journal.folder),
        "destination": shown(job.to),
        "resume": resume or None,
        **asdict(job.progress()),
        "since": job.changed_at,
    }


def _shard_json(shard: ShardRecord, ledger: Ledger, attempts: dict[int, int]) -> dict[str, Any]:
    attempt = attempt_of(shard)
    attempt = attempts.get(shard.shard, 0) if attempt is None else attempt
    state, reason = state_of(shard)
    return {
        "shard": shard.shard,
        "part": shard.planned.part,
        "rows": shard.planned.rows,
        "state": state,
        "attempt": attempt,
        "batch_id": shard.batch_id,
        "wire_prefix": wire.prefix(ledger.journal.lineage_key, shard.shard, attempt).decode() if attempt else None,
        "since": shard.since,
        "reason": reason or None,
    }

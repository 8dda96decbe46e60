"""Submit a job, follow it until it is finished, and report its summary; for `run`, `retry` and `redrain`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
import typer

from abatch import read_stdin
from abatch.backend import failed_elsewhere
from abatch.cli.commands import command, in_options
from abatch.cli.conflicts import Typed, ask_before_paying_again, say_left_out, with_commands
from abatch.cli.exit_codes import BAD_INPUT, FAILED, INTERRUPTED, OK, STUCK, reported, status_of, tell
from abatch.cli.follow import failures_table, follow, summary_json, summary_table
from abatch.cli.next_steps import OVERRIDE, about_failures, about_stops
from abatch.cli.paths import DEFAULT_JOURNAL, SANDBOX_JOURNAL
from abatch.cli.sandbox import sandbox_beside
from abatch.cli.sanitize import clean
from abatch.cli.screen import configure_logs
from abatch.cli.streams import OutputGone
from abatch.config import Config
from abatch.destination import address, is_local, load_backend, missing_folder, normalize, shown
from abatch.errors import BackendError, BadRequest, ConfigError, JobConflict, JobStopped, LimitReached
from abatch.log import ranges
from abatch.manager import BatchManager
from abatch.view import folder_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskStatus

    from abatch.cli.screen import Screen
    from abatch.cli.spending import Spending
    from abatch.config import Failing, Params, Parked, Refusals, Tier, Unresolved
    from abatch.job import Job
    from abatch.result import Failure

__all__ = ["Order", "Redrain", "Surroundings", "config_of", "drive", "journal_of"]

SHORTEST: Final = 0.01
LONGEST: Final = 7 * 86_400
"""The bounds of an interval in seconds; a grace may be 0."""
SANDBOX_POLL, SANDBOX_GRACE = 0.2, 2.0
"""Nothing is late on one machine, so a doubt is settled at once."""
ORDER: Final = "results are in the order in which batches ended; join by custom_id"
"""True for every destination: a join by position gives a request the answer to another."""
_WORK: Final = "The exit status, {}, is that of the job; `abatch status` shows where it is."
HUSHED: Final = frozenset({"grace_below_the_bounds"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The job to submit."""

    requests: list[Path] | AsyncIterator[bytes] | None
    """None for the lines of stdin."""
    to: str
    key: str | None = None
    betas: tuple[str, ...] = ()
    user_profile_id: str | None = None
    workspace_id: str | None = None
    tries: int = 3
    limit: int | None = None
    """Only this many requests are sent, the first ones."""
    pilot: int = 0
    """This many requests are sent alone, the first ones."""
    spending: Spending | None = None
    """Shows what the job may cost before anything is sent."""
    skip_answered: str | None = None
    """The job whose answered requests are not sent."""
    changed_input: bool = False
    """Whether an unfinished job takes the requests that it has not sent from a changed input."""
    again: bool = False
    """Whether requests that another job has, too, are sent, and paid for, again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrain:
    """The job whose missing parts are to be read again."""

    key: str
    workspace_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where and how a job runs."""

    journal: Path
    config: Config
    screen: Screen
    prices: str | None = None
    sandbox: str | None = None
    """The latency of the sandbox of `--sandbox`; None for the real API."""
    json: bool = False


@dataclass(slots=True)
class _Course:
    """The progress and the result of a run."""

    key: str | None = None
    job: Job | None = None
    error: Exception | None = None
    interrupted: bool = False
    failures: tuple[Failure, ...] = ()
    """Why requests did not succeed, once the job is done."""
    limited: LimitReached | None = None
    """Whether its limit is reached: the job is not finished, but this command is done."""
    carried_out: bool = False
    """Whether a redrain is complete."""

    @property
    def status(self) -> int:
        """The exit status of this run."""
        match self.error:
            case BadRequest() if self.job is not None:
                return FAILED
            case BackendError() if self.job is None:
                return BAD_INPUT
            case BackendError() if self.job is not None and self.job.done:
                return FAILED
            case Exception():
                return status_of(self.error)
            case None if self.job is not None and self.limited is not None:
                return OK if self.job.summary().ok else FAILED
            case None if self.carried_out:
                return OK
            case None if self.job is not None and self.job.done:
                return OK if self.job.summary().ok else FAILED
            case None:
                return INTERRUPTED

    @property
    def goes_on(self) -> bool:
        """Whether the same command, run again, resumes the job."""
        unfinished = self.limited is None and (self.job is None or not self.job.done)
        return self.status in (STUCK, INTERRUPTED) or (self.status == FAILED and unfinished)


def journal_of(journal: Path | None, *, sandbox: bool) -> Path:
    """Return the named journal, or the default one."""
    return journal or (SANDBOX_JOURNAL if sandbox else DEFAULT_JOURNAL)


def config_of(
    *,
    sandbox: bool,
    requests_per_batch: int | None = None,
    bytes_per_batch: int | None = None,
    poll_interval: float | None = None,
    grace: float | None = None,
    storage_patience: float | None = None,
    unresolved: Unresolved = "resubmit",
    refusals: Refusals = "believe",
    parked: Parked = "wait",
    failing: Failing = "stop",
    tier: Tier = "start",
    params: Params = "check",
) -> Config:
    """Return the settings of the options.

    Raises:
        ConfigError: one of them cannot work.

    """
    poll = SANDBOX_POLL if poll_interval is None and sandbox else poll_interval
    grace = SANDBOX_GRACE if grace is None and sandbox else grace
    for option, seconds, least in (
        ("--poll-interval", poll, SHORTEST),
        ("--grace", grace, 0),
        ("--storage-patience", storage_patience, 0),
    ):
        if seconds is not None and not least <= seconds <= LONGEST:
            raise ConfigError(f"{option} must be a number of seconds from {least} to {LONGEST}, got {seconds}")
    given: dict[str, Any] = {  # Any: the fields differ in type, and Config checks them
        "requests_per_batch": requests_per_batch,
        "bytes_per_batch": bytes_per_batch,
        "poll_interval": None if poll is None else timedelta(seconds=poll),
        "grace": None if grace is None else timedelta(seconds=grace),
        "storage_patience": None if storage_patience is None else timedelta(seconds=storage_patience),
    }
    return Config(
        unresolved=unresolved,
        refusals=refusals,
        parked=parked,
        failing=failing,
        tier=tier,
        params=params,
        **{name: value for name, value in given.items() if value is not None},
    )


def drive(order: Order | Redrain, around: Surroundings) -> None:
    """Run the job until it is finished.

    Raises:
        typer.Exit: always, with the status.

    """
    screen, course = around.screen, _Course()
    with reported(screen, around.journal), ExitStack() as beside:
        configure_logs(screen, hush=HUSHED if around.sandbox is not None else frozenset())
        try:
            if around.sandbox is not None:
                beside.enter_context(sandbox_beside(folder_of(around.journal), latency=around.sandbox))
                screen.say("This is the sandbox: every answer is synthetic, nothing is sent to the real API.")
            anyio.run(partial(_until_interrupted, order, around, course))
        except Exception as error:  # noqa: BLE001 - any error is reported, with --json, too
            course.error = error
        _report(course, order, around)
    raise typer.Exit(course.status)


async def _until_interrupted(order: Order | Redrain, around: Surroundings, course: _Course) -> None:
    async with anyio.create_task_group() as group:
        running = anyio.CancelScope()
        await group.start(_watch_signals, running, order, around, course)
        with running:
            try:
                if isinstance(order, Redrain):
                    await _redrain(order, around, course)
                else:
                    await _run(order, around, course)
            except Exception as error:  # noqa: BLE001 - kept out of the group, which would wrap it
                course.error = error
        group.cancel_scope.cancel()


async def _watch_signals(
    running: anyio.CancelScope,
    order: Order | Redrain,
    around: Surroundings,
    course: _Course,
    *,
    task_status: TaskStatus[None],
) -> None:
    """End the run in good order at the first Ctrl-C or SIGTERM, at once at the second; the journal makes that safe."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if course.interrupted:
                _report(course, order, around)
                os._exit(INTERRUPTED)
            course.interrupted = True
            running.cancel()
            around.screen.complain(
                "Interrupted: nothing new is sent; waiting up to 30 s for answers that are on their way. "
                "Once more ends at once, and is safe, too."
            )


async def _run(order: Order, around: Surroundings, course: _Course) -> None:
    screen = around.screen
    journal = folder_of(around.journal)
    manager = BatchManager(journal, config=around.config, resume="given", prices=around.prices)
    url = normalize(order.to)
    await load_backend(url)
    course.key = order.key
    paths = order.requests if isinstance(order.requests, list) else []
    async with manager:
        course.key = order.key or manager.key_of(paths, to=url)
        screen.say(f"key          {course.key}\njournal      {around.journal}\ndestination  {shown(url)}")
        typed = _typed(order, journal)
        known = next((each for each in manager.jobs() if each.key == course.key), None)
        is_new, is_done = known is None, known is not None and known.done
        if is_new and isinstance(order.requests, list) and not order.again and around.sandbox is None:
            await ask_before_paying_again(manager, typed)
        if is_new and (made := missing_folder(url)) is not None:
            screen.say(f"The folder {made} does not exist; abatch creates it.")
        if screen.live:
            screen.say("Checking the API and the requests.")
        if is_done:
            screen.say(f"Job {course.key} was done before; nothing is sent now.")
        if order.requests is None and is_new:
            screen.say("cost         unknown: requests from stdin are sent as they come")
        if not (is_done and isinstance(order.requests, list)):  # such a job makes no call to the API
            await manager.check_access(course.key, order.workspace_id)
        if order.changed_input and known is not None:
            if flying := known.progress().in_flight:
                screen.say(
                    f"{flying:,} requests are in flight: their answers come first, and then the changed input is taken."
                )
            await known.settled()  # also if all batches have ended, and results are still read
        if known is not None and not known.done and order.spending is not None:
            order.spending.goes_on()
        try:
            job = course.job = await manager.submit(
                await _requests(order, around.config),
                to=order.to,
                key=course.key,
                betas=order.betas,
                user_profile_id=order.user_profile_id,
                workspace_id=order.workspace_id,
                tries=order.tries,
                limit=order.limit,
                pilot=order.pilot,
                preview=order.spending,
                skip_answered=order.skip_answered,
                changed_input=order.changed_input,
            )
            say_left_out(job, screen)
            if (here := job.destination) != address(url):
                screen.say(f"job {job.key} was moved: its results are in {shown(here)}")
            if job.done and is_local(here):
                await _check_in_place(job, here)
            others = [other.key for other in manager.jobs() if not other.done and other.key != job.key]
            if others:
                screen.say(f"also unfinished here, polled but not submitted: {', '.join(others)}")
            try:
                await follow(job, screen)
            except LimitReached as limited:
                course.limited = limited
            except JobStopped as stop:
                if stop.failing:
                    course.failures = await job.failures()
                raise
            course.failures = await job.failures()
        except JobConflict as conflict:
            if order.requests is None or isinstance(order.requests, list):
                raise with_commands(conflict, manager, typed) from conflict
            raise
        except Exception as failure:
            if (told := failed_elsewhere(url, failure)) is not None:
                raise told from failure
            raise


def _typed(order: Order, journal: Path) -> Typed:
    """Return the parts of the command that identify its job."""
    return Typed(
        journal,
        order.requests if isinstance(order.requests, list) else (),
        order.to,
        key=order.key,
        betas=order.betas,
        workspace_id=order.workspace_id,
        skip_answered=order.skip_answered,
        limit=order.limit,
        pilot=order.pilot,
    )


async def _redrain(order: Redrain, around: Surroundings, course: _Course) -> None:
    screen = around.screen
    course.key = order.key
    async with BatchManager(folder_of(around.journal), config=around.config, resume="given") as manager:
        job = manager.job(order.key)
        await manager.check_access(order.key, order.workspace_id)
        course.job = job
        shards = await manager.redrain(order.key)
        if not shards:
            if job.done:
                screen.say("Every sealed part is in its place; nothing is read again.")
            else:
                screen.say(
                    f"Every part that is sealed by now is in its place; nothing is read again. Job {job.key} is not "
                    "finished: a run of it reads and sends what is still to come."
                )
            course.carried_out = True
            return
        screen.say(f"{len(shards):,} part(s) are gone and are read again: shards {ranges(shards)}")
        await follow(job, screen)
        course.failures = await job.failures()
        course.carried_out = True


async def _requests(order: Order, config: Config) -> list[Path] | AsyncIterator[bytes]:
    """Return the requests: files unchanged, lines of stdin after a check of their beginning."""
    if order.requests is None:
        return await read_stdin(params=config.params, betas=bool(order.betas))
    return order.requests


async def _check_in_place(job: Job, url: str) -> None:
    """Raise if a part of the results of a job that was done before is not in its place with its size."""
    place = Path(job.summary().location)
    if not await anyio.Path(place).exists():
        why = f"{place} is gone. Put it back; or read them again, which costs nothing: abatch redrain {job.key}"
    else:
        try:
            await job.check_results()
        except BackendError as wrong:
            if wrong.passes:
                raise
            why = wrong.why
            if "abatch redrain" not in why:
                why += f"; or read them again, which costs nothing: abatch redrain {job.key}"
        else:
            return
    raise BackendError(
        url,
        f"job {job.key!r} is done, but its results are not where they were: {why}; "
        "or give another --key and --again, and the requests are sent, and paid for, again",
    )


def _report(course: _Course, order: Order | Redrain, around: Surroundings) -> None:
    """Report the end; a failed report does not change the result of the work, nor its exit status."""
    try:
        _conclude(course, order, around)
    except OutputGone as gone:
        if not gone.reader_left:
            around.screen.complain(f"warning: the report is incomplete: {gone}. {_WORK.format(course.status)}")
    except Exception as failure:  # noqa: BLE001 - no failure of the report changes the result of the work
        around.screen.complain(f"warning: the report failed. {_WORK.format(course.status)} {tell(failure)}")


def _conclude(course: _Course, order: Order | Redrain, around: Surroundings) -> None:
    """Report how the run ended, and what to do next."""
    screen, job = around.screen, course.job
    if course.error is not None:
        screen.complain(f"error: {tell(course.error, around.journal)}")
    elif job is not None and (job.done or course.limited is not None):
        summary = job.summary()
        if not around.json:
            screen.show(summary_table(summary, done=job.done))
            if job.done:
                screen.say(ORDER)
        from_file = isinstance(order, Order) and isinstance(order.requests, list)
        if lines := about_stops(summary, folder_of(around.journal), from_file=from_file):
            screen.say("\n".join(lines))
        if not summary.ok:
            if not around.json and course.failures:
                screen.show(failures_table(course.failures))
            if course.limited is None:
                lines = about_failures(summary, course.failures, folder_of(around.journal), from_file=from_file)
                screen.say("\n".join(lines))
    if isinstance(course.error, BadRequest) and job is not None:
        done = job.progress()
        screen.complain(f"Of the requests before it {done.submitted:,} were sent, {done.sealed:,} have their result.")
    stop = course.error if isinstance(order, Order) and isinstance(course.error, JobStopped) else None
    failing = stop is not None and stop.failing
    changes = stop is not None and stop.takes_changed_input
    words = ["abatch", *sys.argv[1:]]
    resume = shlex.join(words + ["--changed-input"] * (changes and "--changed-input" not in words))
    resume_anyway = f"{resume} {shlex.join(OVERRIDE)}"
    if job is not None and course.limited is not None:
        resume = shlex.join(["abatch", *_without_limit(sys.argv[1:])])
        screen.complain(_held_back(job, course.limited, folder_of(around.journal), resume))
    elif failing:
        if not around.json and course.failures:
            screen.show(failures_table(course.failures))
        screen.complain(f"To send the remaining requests anyway: {resume_anyway}")
    elif course.goes_on:
        fix = "correct the input, then " * (changes or isinstance(course.error, BadRequest))
        pipe = "give all the lines again to " * (isinstance(order, Order) and order.requests is None)
        screen.complain(f"To resume: {fix}{pipe}{resume}")
    if around.json:
        screen.give(
            {
                "key": course.key,
                "journal": clean(around.journal),
                "state": "done" if job is not None and job.done else "unfinished",
                "exit_status": course.status,
                "error": None if course.error is None else _error_json(course.error, around.journal),
                "resume": resume if course.goes_on or course.limited is not None else None,
                "resume_anyway": resume_anyway if failing else None,
                **({} if job is None else summary_json(job.summary())),
                "failures": [msgspec.structs.asdict(each) for each in course.failures],
            }
        )


def _held_back(job: Job, limited: LimitReached, folder: Path, resume: str) -> str:
    total = job.progress().total
    of_all = "" if total is None else f" of {total:,}"
    return (
        f"The job is not finished: its first {limited.limit:,}{of_all} requests are done, the rest is held back.\n"
        f"To see these results: {command(folder, 'results', job.key)}\n"
        f"To send the rest (the first {limited.limit:,} are not sent again): {resume}"
    )


def _without_limit(words: list[str]) -> list[str]:
    """Return the command line without `--limit N`."""
    kept: list[str] = []
    coming = iter(words)
    for word in coming:
        if word == "--limit":
            next(coming, None)
        elif not word.startswith("--limit="):
            kept.append(word)
    return kept


def _error_json(error: Exception, journal: Path) -> dict[str, Any]:
    """Return an error as a JSON object."""
    told: dict[str, Any] = {"type": type(error).__name__, "text": clean(tell(error, journal), lines=True)}
    if isinstance(error, BadRequest):
        told["problems"] = [
            {
                **({} if each.file is None else {"file": each.file}),
                "line": each.line,
                "custom_id": each.custom_id,
                "why": each.why,
            }
            for each in error.problems
        ]
    if isinstance(error, JobStopped):
        told |= {"reason": error.reason, "remedy": in_options(error.remedy), "failing": error.failing}
    return told

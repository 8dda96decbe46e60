"""Report how a run ended: its summary, the command that comes next, and the exit status; for people and as JSON."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from abatch.cli.commands import command, in_options
from abatch.cli.exit_codes import BAD_INPUT, FAILED, INTERRUPTED, OK, STUCK, WORST_LAST, status_of, tell
from abatch.cli.follow import failures_table, follow, summary_json, summary_table
from abatch.cli.next_steps import OVERRIDE, Resume, about_failures, about_stops
from abatch.cli.sanitize import clean
from abatch.cli.settings import Order, Redrain
from abatch.cli.streams import OutputGone
from abatch.cli.watched import WatchedJob
from abatch.errors import BackendError, BadRequest, JobStopped, LimitReached

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from abatch.cli.screen import Screen
    from abatch.cli.settings import Surroundings, Watch
    from abatch.job import Job
    from abatch.result import Failure

__all__ = ["Course", "follow_to_its_end", "report", "report_all"]

ORDER: Final = "results are in the order in which batches ended; join by custom_id"
"""True for every destination: a join by position gives a request the answer to another."""
_WORK: Final = "The exit status, {}, is that of the job; `abatch status` shows where it is."


@dataclass(slots=True)
class Course:
    """The progress and the result of a run."""

    key: str | None = None
    job: Job | WatchedJob | None = None
    error: Exception | None = None
    failures: tuple[Failure, ...] = ()
    """Why requests did not succeed, once the job is done."""
    limited: LimitReached | None = None
    """Whether its limit is reached: the job is not finished, but this command is done."""
    carried_out: bool = False
    """Whether a redrain is complete."""
    resume: Resume | None = None
    """How to resume the job, if the same command again does not."""

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


async def follow_to_its_end(job: Job | WatchedJob, course: Course, screen: Screen) -> None:
    """Follow a job until it is done or its limit is reached, and note what the report of its end needs.

    Raises:
        JobStopped: the job cannot continue until an operator acts, or no process drives it.

    """
    try:
        await follow(job, screen)
    except LimitReached as limited:
        course.limited = limited
    except JobStopped as stop:
        if stop.failing:
            course.failures = await job.failures()
        raise
    course.failures = await job.failures()


def report(course: Course, order: Order | Redrain, around: Surroundings) -> None:
    """Report the end; a failed report does not change the result of the work, nor its exit status."""
    with _harmless(course.status, around.screen):
        told = _report(course, order, around)
        if around.json:
            around.screen.give(told)


def report_all(courses: Sequence[Course], order: Watch, around: Surroundings) -> int:
    """Report the end of several jobs as `report` does, each under its key; return the worst exit status of one."""
    status = max((course.status for course in courses), key=WORST_LAST.index, default=OK)
    with _harmless(status, around.screen):
        told: list[dict[str, Any]] = []
        for course in courses:
            around.screen.say(f"key          {course.key}")
            told.append(_report(course, order, around))
        if around.json:
            around.screen.give({"jobs": told, "exit_status": status})
    return status


@contextmanager
def _harmless(status: int, screen: Screen) -> Generator[None]:
    """Turn a failure of the report into a warning."""
    try:
        yield
    except OutputGone as gone:
        if not gone.reader_left:
            screen.complain(f"warning: the report is incomplete: {gone}. {_WORK.format(status)}")
    except Exception as failure:  # noqa: BLE001 - no failure of the report changes the result of the work
        screen.complain(f"warning: the report failed. {_WORK.format(status)} {tell(failure)}")


def _report(course: Course, order: Order | Redrain | Watch, around: Surroundings) -> dict[str, Any]:
    """Report the end for people, and return it for JSON."""
    screen, job = around.screen, course.job
    if course.error is not None:
        screen.complain(f"error: {tell(course.error, order.journal)}")
    elif job is not None and (job.done or course.limited is not None):
        _show_results(job, course, order, around)
    if isinstance(course.error, BadRequest) and job is not None:
        done = job.progress()
        screen.complain(f"Of the requests before it {done.submitted:,} were sent, {done.sealed:,} have their result.")
    resume, resume_anyway = _show_next_command(course, order, around)
    return {
        "key": course.key,
        "journal": clean(order.journal),
        "state": "done" if job is not None and job.done else "unfinished",
        "exit_status": course.status,
        "error": None if course.error is None else _error_json(course.error, order.journal),
        "resume": resume,
        "resume_anyway": resume_anyway,
        **({} if job is None else summary_json(job.summary())),
        "failures": [msgspec.structs.asdict(each) for each in course.failures],
    }


def _show_results(job: Job | WatchedJob, course: Course, order: Order | Redrain | Watch, around: Surroundings) -> None:
    """Show the summary of a job that reached its end or its limit, and the commands for what did not succeed."""
    screen, summary = around.screen, job.summary()
    if not around.json:
        screen.show(summary_table(summary, done=job.done))
        if job.done:
            screen.say(ORDER)
    from_files = (isinstance(order, Order) and order.from_files) or (
        isinstance(job, WatchedJob) and bool(job.status.files)
    )
    if lines := about_stops(summary, order.folder, from_file=from_files):
        screen.say("\n".join(lines))
    if summary.ok:
        return
    if not around.json and course.failures:
        screen.show(failures_table(course.failures))
    if course.limited is None:
        lines = about_failures(summary, course.failures, order.folder, from_file=from_files)
        screen.say("\n".join(lines))


def _show_next_command(
    course: Course, order: Order | Redrain | Watch, around: Surroundings
) -> tuple[str | None, str | None]:
    """Show the command that continues the job, if there is one.

    Return it, and the command that continues a job that its first results stopped.
    """
    screen, job = around.screen, course.job
    next_ = course.resume or _same_command(course, order)
    if job is not None and course.limited is not None:
        screen.complain(_held_back(job, course.limited, order.folder, next_.in_words))
        return next_.command or None, None
    stop = course.error if isinstance(course.error, JobStopped) and not isinstance(order, Redrain) else None
    if stop is not None and stop.failing:
        if not around.json and course.failures:
            screen.show(failures_table(course.failures))
        screen.complain(f"To send the remaining requests anyway: {next_.anyway}")
        return next_.command if course.goes_on else None, next_.anyway
    if not course.goes_on:
        return None, None
    command, changes = next_.command, stop is not None and stop.takes_changed_input
    if changes and command and "--changed-input" not in command:
        command += " --changed-input"
    fix = "correct the input, then " if changes or isinstance(course.error, BadRequest) else ""
    is_same = course.resume is None
    pipe = "give all the lines again to " if is_same and isinstance(order, Order) and order.from_stdin else ""
    screen.complain(f"To resume: {fix}{pipe}{', '.join(filter(None, [command, next_.needs]))}")
    return command or None, None


def _same_command(course: Course, order: Order | Redrain | Watch) -> Resume:
    """Return the command that was typed, which resumes what it began; after a trial, without its limit."""
    words = sys.argv[1:] if course.limited is None else _without_limit(sys.argv[1:])
    resume = shlex.join(["abatch", *words])
    return Resume(command=resume, anyway=f"{resume} {shlex.join(OVERRIDE)}" if isinstance(order, Order) else "")


def _held_back(job: Job | WatchedJob, limited: LimitReached, folder: Path, resume: str) -> str:
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

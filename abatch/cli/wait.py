"""`abatch wait`: follow jobs that another process drives, until each has ended."""

from __future__ import annotations

from typing import Annotated

import typer

from abatch import JournalView
from abatch.cli.exit_codes import perform
from abatch.cli.follow import follow
from abatch.cli.next_steps import resuming
from abatch.cli.options import JsonOption, PlaceOption, QuietOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, place_of
from abatch.cli.report import Course, report_all
from abatch.cli.screen import Screen
from abatch.cli.settings import Surroundings, Watch
from abatch.cli.watched import WatchedJob, WatchedJobs, WatchedTogether
from abatch.config import Config
from abatch.errors import JobStopped, LimitReached

__all__ = ["wait"]


def wait(
    keys: Annotated[list[str], typer.Argument(metavar="JOB...", help="The jobs' keys.", show_default=False)],
    *,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Follow jobs that another process drives until all have ended, and show their summaries.

    It only reads, and needs no API key. Exit status as abatch run: 0 every request of every job succeeded; 1 some
    failed; 3 a job cannot continue, or no process drives the journal.

    Example: abatch wait nightly weekly
    """
    screen = Screen(quiet=quiet)

    async def work() -> int:
        order = Watch(journal=place_of(journal, sandbox=sandbox))
        async with JournalView(order.journal) as view:
            jobs = [WatchedJobs(view).job(key) for key in dict.fromkeys(keys)]
            courses = {job.key: Course(key=job.key, job=job) for job in jobs}

            def ended(job: WatchedJob, why: JobStopped | None) -> None:
                course = courses[job.key]
                course.resume = resuming(order.folder, job.status)
                if isinstance(why, LimitReached):
                    course.limited = why
                else:
                    course.error = why
                screen.say(f"job {job.key}: {'limit reached' if course.limited else job.status.state}")

            await follow(WatchedTogether(view, jobs, ended=ended), screen)
            for job in jobs:
                courses[job.key].failures = await job.failures()
            around = Surroundings(config=Config(), screen=screen, json=as_json)
            return report_all(list(courses.values()), order, around)

    raise typer.Exit(perform(work, asked_for(journal, sandbox=sandbox)))

"""Submit a job to the process that drives its journal; for `submit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatch import read_stdin
from abatch.cli.commands import command
from abatch.cli.conflicts import ask_before_paying_again, say_left_out, with_commands
from abatch.cli.next_steps import resuming
from abatch.cli.watched import WatchedJob, WatchedJobs, waits_for
from abatch.destination import address, normalize, shown
from abatch.errors import JobConflict

if TYPE_CHECKING:
    from pathlib import Path

    from abatch import DriverStatus, JournalView
    from abatch.cli.report import Course
    from abatch.cli.settings import Order, Surroundings

__all__ = ["submit_to_driver", "what_follows"]


async def submit_to_driver(view: JournalView, order: Order, around: Surroundings, course: Course) -> WatchedJob:
    """Check the job and record it in the journal; report what is sent, as a run does.

    Raises:
        as `JournalView.submit`.

    """
    screen, jobs, url = around.screen, WatchedJobs(view), normalize(order.to)
    course.key = order.key or view.key_of(order.files, to=url)
    screen.say(f"key          {course.key}\njournal      {order.journal}\ndestination  {shown(url)}")
    known = next((each for each in view.jobs() if each.key == course.key), None)
    if known is None and order.from_files and not order.again:
        await ask_before_paying_again(jobs, order)
    if known is not None and not known.done and order.spending is not None:
        order.spending.goes_on()
    requests = order.requests
    if requests is None:
        requests = await read_stdin(params=around.config.params, betas=bool(order.betas))
    try:
        status = await view.submit(
            requests,
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
            config=around.config,
        )
    except JobConflict as conflict:
        if order.from_stdin or order.from_files:
            raise with_commands(conflict, jobs, order) from conflict
        raise
    job = WatchedJob(view, status)
    await job.look()
    say_left_out(job, screen)
    if (here := job.destination) != address(url):
        screen.say(f"job {job.key} was moved: its results are in {shown(here)}")
    return job


def what_follows(job: WatchedJob, folder: Path) -> str:
    """Return what happens to a job that was submitted, or the command that makes it happen."""
    if job.done:
        return "The job was done before; nothing is sent."
    driver: DriverStatus | None = job.driver
    if driver is None:
        ways = filter(None, [command(folder, "serve"), resuming(folder, job.status).command])
        return f"No process drives this journal. To start one: {' or '.join(ways)}"
    if job.status.taken:
        return f"driven by process {driver.pid}"
    return waits_for(driver)

"""Submit a job, follow it until it is finished, and report its summary; for `run`, `retry` and `redrain`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import typer

from abatch import read_stdin
from abatch.backend import failed_elsewhere
from abatch.cli.conflicts import ask_before_paying_again, say_left_out, with_commands
from abatch.cli.exit_codes import reported
from abatch.cli.follow import follow
from abatch.cli.interrupts import until_interrupted
from abatch.cli.report import Course, follow_to_its_end, report
from abatch.cli.sandbox import HUSHED, sandbox_beside
from abatch.cli.screen import configure_logs
from abatch.cli.settings import Redrain
from abatch.destination import address, is_local, load_backend, missing_folder, normalize, shown
from abatch.errors import BackendError, JobConflict
from abatch.log import ranges
from abatch.manager import BatchManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from abatch.cli.settings import Order, Surroundings
    from abatch.config import Config
    from abatch.job import Job

__all__ = ["drive"]


def drive(order: Order | Redrain, around: Surroundings) -> None:
    """Run the job until it is finished.

    Raises:
        typer.Exit: always, with the status.

    """
    screen, course = around.screen, Course()

    async def work() -> None:
        try:
            if isinstance(order, Redrain):
                await _redrain(order, around, course)
            else:
                await _run(order, around, course)
        except Exception as error:  # noqa: BLE001 - any error is reported, with --json, too
            course.error = error

    def interrupted() -> None:
        screen.complain(
            "Interrupted: nothing new is sent; waiting up to 30 s for answers that are on their way. "
            "Once more ends at once, and is safe, too."
        )

    with reported(screen, order.journal), ExitStack() as beside:
        configure_logs(screen, hush=HUSHED if around.sandbox is not None else frozenset())
        try:
            if around.sandbox is not None:
                beside.enter_context(sandbox_beside(order.folder, latency=around.sandbox))
                screen.say("This is the sandbox: every answer is synthetic, nothing is sent to the real API.")
            anyio.run(
                partial(until_interrupted, work, first=interrupted, second=partial(report, course, order, around))
            )
        except Exception as error:  # noqa: BLE001 - any error is reported, with --json, too
            course.error = error
        report(course, order, around)
    raise typer.Exit(course.status)


async def _run(order: Order, around: Surroundings, course: Course) -> None:
    screen = around.screen
    manager = BatchManager(order.folder, config=around.config, resume="given", prices=around.prices)
    url = normalize(order.to)
    await load_backend(url)
    course.key = order.key
    async with manager:
        course.key = order.key or manager.key_of(order.files, to=url)
        screen.say(f"key          {course.key}\njournal      {order.journal}\ndestination  {shown(url)}")
        known = next((each for each in manager.jobs() if each.key == course.key), None)
        is_new, is_done = known is None, known is not None and known.done
        if is_new and order.from_files and not order.again and around.sandbox is None:
            await ask_before_paying_again(manager, order)
        if is_new and (made := missing_folder(url)) is not None:
            screen.say(f"The folder {made} does not exist; abatch creates it.")
        if screen.live:
            screen.say("Checking the API and the requests.")
        if is_done:
            screen.say(f"Job {course.key} was done before; nothing is sent now.")
        if order.from_stdin and is_new:
            screen.say("cost         unknown: requests from stdin are sent as they come")
        if not (is_done and order.from_files):  # such a job makes no call to the API
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
            await follow_to_its_end(job, course, screen)
        except JobConflict as conflict:
            if order.from_stdin or order.from_files:
                raise with_commands(conflict, manager, order) from conflict
            raise
        except Exception as failure:
            if (told := failed_elsewhere(url, failure)) is not None:
                raise told from failure
            raise


async def _redrain(order: Redrain, around: Surroundings, course: Course) -> None:
    screen = around.screen
    course.key = order.key
    async with BatchManager(order.folder, config=around.config, resume="given") as manager:
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

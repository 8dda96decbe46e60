"""Name the commands that help if requests would be paid for again, or if a key names another job."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Final, TypeAlias

from abatch.cli.commands import command, near
from abatch.cli.confirm import confirmed
from abatch.cli.sanitize import money
from abatch.destination import address, normalize, shown
from abatch.errors import ConfigError, JobConflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from abatch.cli.screen import Screen
    from abatch.cli.settings import Order
    from abatch.cli.watched import WatchedJob, WatchedJobs
    from abatch.job import Job
    from abatch.manager import BatchManager

    AnyJob: TypeAlias = Job | WatchedJob
    AnyJobs: TypeAlias = BatchManager | WatchedJobs

__all__ = ["ask_before_paying_again", "say_left_out", "with_commands"]

KEY_LENGTH: Final = 100


async def ask_before_paying_again(manager: AnyJobs, order: Order) -> None:
    """Ask whether to send requests again that another job of the journal has, too.

    Raises:
        ConfigError: they are not; or nobody can be asked.

    """
    jobs = await manager.same_requests(order.files, betas=order.betas, skip_answered=order.skip_answered)
    if not jobs:
        return
    first, *more = jobs
    others = f", and {len(more):,} more job{'s hold' if len(more) > 1 else ' holds'} them, too" if more else ""
    known, fewer = f"{_told(first)}{others}", _without_answered(first, manager, order)
    if await confirmed(f"{known}.\n{fewer}Send all requests of {_inputs(order)}, and pay for them again?"):
        return
    raise ConfigError(
        f"{known}. Nothing was sent now.\n{_without_paying(first, order)}\n{fewer}"
        f"To send them all, and pay for them again: {_again(order, '--again', to=_free_destination(order, manager))}"
    )


def _inputs(order: Order) -> str:
    """Return the input in short form."""
    if not order.files:
        return "stdin"
    more = ", …" if len(order.files) > 3 else ""
    return ", ".join(map(str, order.files[:3])) + more


def _again(order: Order, *options: str, to: str | None = None, key: str | None = None) -> str:
    """Return the command of this order with another destination or key, and more options."""
    named = key or order.key
    words = ["run", *([near(str(path.absolute())) for path in order.files] or ["-"]), "--to", to or order.to]
    words += [] if named is None else ["--key", named]
    words += [word for beta in order.betas for word in ("--beta", beta)]
    words += [] if order.workspace_id is None else ["--workspace-id", order.workspace_id]
    words += [] if order.limit is None else ["--limit", str(order.limit)]
    words += ["--pilot", str(order.pilot)] if order.pilot else []
    return command(order.folder, *words, *options)


def _told(job: AnyJob) -> str:
    progress, summary = job.progress(), job.summary()
    of = f" of {progress.total:,}" if progress.total is not None else ""
    answered = f"{summary.succeeded:,}{of} answered, which cost {money(summary.cost, summary.unpriced)}"
    if (left := job.left_out) is not None:
        answered += f" (and {left.skipped:,} that it left out, because job {left.answered_by!r} had answered them)"
    if job.done:
        return f"these requests were sent before, by job {job.key!r}: {answered}; its results are in {_place(job)}"
    return (
        f"these requests are in job {job.key!r}, which is not finished: {answered}; {progress.in_flight:,} in flight, "
        f"which are being paid for; its results go to {_place(job)}"
    )


def _place(job: AnyJob) -> str:
    return near(shown(job.destination)) if job.destination else "a backend of its application"


def _without_paying(job: AnyJob, order: Order) -> str:
    """Return the command that gives the answers of a job at no cost."""
    if not job.done:
        return f"To get its results in {order.to} without paying again: {_move(job, order)}"
    wanted = order.to if order.to.endswith((".jsonl", ".ndjson")) and "://" not in order.to else "answers.jsonl"
    file = _free(wanted, os.path.lexists)
    return f"To print its answers at no cost: {command(order.folder, 'results', job.key)} > {shlex.quote(file)}"


def _without_answered(job: AnyJob, manager: AnyJobs, order: Order) -> str:
    """Return the command that sends what a finished job did not answer; empty if that is nothing, or not known yet."""
    grew = sum(path.stat().st_size for path in order.files) != job.input_bytes
    if not job.done or (job.summary().ok and not grew):
        return ""
    wanted = _again(order, "--skip-answered", job.key, to=_free_destination(order, manager))
    return f"To send only requests that it did not answer: {wanted}\n"


def _move(job: AnyJob, order: Order) -> str:
    return shlex.join(["abatch", "move", job.key, "--to", order.to])  # `tell` adds the options of the journal


def with_commands(conflict: JobConflict, manager: AnyJobs, order: Order) -> JobConflict:
    """Return the same conflict with the commands that work, and their costs."""
    if all(job.key != conflict.key for job in manager.jobs()):  # another process has just begun it
        return conflict
    job = manager.job(conflict.key)
    to, key = _free_destination(order, manager), _free_key(conflict.key, manager)
    summary = job.summary()
    before: list[str] = []
    match conflict.why:
        case "destination" if not job.done:
            before.append(f"take the job elsewhere: {_move(job, order)}")
        case "content" if conflict.names_a_way and job.left_out is None:
            changed = _again(order, "--changed-input")
            before.append(f"let the job take the requests that it has not sent from the new content: {changed}")
        case "content" | "change" if job.left_out is not None and not job.done:
            before.append(_cancel_and_skip(job, order, to=to, key=key))
        case _ if conflict.names_a_way:
            before.append(conflict.remedy.removesuffix("."))
        case "change":
            before.append("put the old content back and run the same command again")
        case _:
            pass
    lines = "" if order.files else ", with the lines on stdin"
    ways = [
        *before,
        f"send these requests as a job of their own{lines}, which pays for all of them (the {summary.succeeded:,} "
        f"answers of job {job.key!r} cost {money(summary.cost, summary.unpriced)}): "
        + _again(order, *(["--again"] if order.files else []), to=to, key=key),
    ]
    if order.files and job.done and summary.succeeded:
        others = _again(order, "--skip-answered", job.key, to=to, key=key)
        ways.append(f"send only requests that job {job.key!r} did not answer: {others}")
    return JobConflict(conflict.key, conflict.difference, why=conflict.why, remedy="\nor ".join(ways))


def _cancel_and_skip(job: AnyJob, order: Order, *, to: str, key: str) -> str:
    """Return the commands for a job that takes no changed input: `errors.cancel_and_skip` in the form of this order."""
    skipping = _again(order, "--skip-answered", job.key, to=to, key=key)
    return (
        "cancel the job, and run it to its end by the same command: "
        f"{command(order.folder, 'cancel', job.key)}\n"
        f"  and then send from the new content what it did not answer: {skipping}"
    )


def say_left_out(job: AnyJob, screen: Screen) -> None:
    """Report which requests are not sent because another job has answered them."""
    if (left_out := job.left_out) is None:
        return
    by = left_out.answered_by
    parts = [f"{left_out.skipped:,} requests are not sent: job {by!r} has answered them"]
    if left_out.uncompared:
        parts.append(f"{left_out.uncompared:,} of them are known by custom_id alone, their params cannot be compared")
    if left_out.changed:
        parts.append(f"{left_out.changed:,} requests that it answered are sent again: their params are others now")
    screen.say("; ".join(parts))


def _free_key(key: str, manager: AnyJobs) -> str:
    taken = {job.key for job in manager.jobs()}
    return next(made for n in range(2, len(taken) + 3) if (made := f"{key[: KEY_LENGTH - 8]}-{n}") not in taken)


def _free_destination(order: Order, manager: AnyJobs) -> str:
    """Return the destination if it is free, else one next to it; a database or bucket holds many jobs, so it stays."""
    if not normalize(order.to).startswith("jsonl:"):
        return order.to
    to = order.to
    if address(to).endswith("/") and not to.endswith("/"):  # the name of a folder that exists
        to += "/"
    taken = {job.destination for job in manager.jobs()}

    def is_taken(made: str) -> bool:
        url = address(made)
        return url in taken or os.path.lexists(shown(url))

    return _free(to, is_taken)


def _free(name: str, is_taken: Callable[[str], bool]) -> str:
    """Return the name of a file or folder if it is free, else with a number before its ending."""
    folder, slash, last = name.rstrip("/").rpartition("/")
    begin, dot, ending = last.partition(".") if not last.startswith(".") else (last, "", "")
    tail = f"{dot}{ending}{'/' if name.endswith('/') else ''}"
    made, number = name, 1
    while is_taken(made):
        number += 1
        made = f"{folder}{slash}{begin}-{number}{tail}"
    return made

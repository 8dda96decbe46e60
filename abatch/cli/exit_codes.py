"""How a command ends: the exit status, with the same meaning for every command, and its message.

| status | meaning |
|---|---|
| 0 | every request succeeded; or the command did its work |
| 1 | finished, but some requests failed permanently or are missing, or the results were moved; or a bad row in stdin |
| 2 | bad input or usage, or no as the answer to a question; nothing was submitted |
| 3 | cannot continue now; follow the message, then the same command resumes |
| 4 | only of `abatch status --exit-code`: a job is not done, and a process drives it |
| 130 | interrupted; the same command resumes |
"""

from __future__ import annotations

import errno
import os
import signal
import traceback
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import typer

from abatch.cli.commands import completed, in_options
from abatch.cli.paths import folder_of
from abatch.cli.screen import Screen, configure_logs
from abatch.cli.streams import OutputGone
from abatch.destination import shown
from abatch.errors import AbatchError, BackendError, BackendNotFound, BadRequest, ConfigError, JobConflict
from abatch.log import redact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from pathlib import Path

    from abatch import JobStatus

__all__ = [
    "BAD_INPUT",
    "FAILED",
    "INTERRUPTED",
    "OK",
    "RUNNING",
    "STUCK",
    "WORST_LAST",
    "exit_code_of",
    "perform",
    "reported",
    "status_of",
    "tell",
    "without_output",
]

OK: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
STUCK: Final = 3
RUNNING: Final = 4
INTERRUPTED: Final = 130
WORST_LAST: Final = (OK, FAILED, RUNNING, STUCK)
"""Exit codes of jobs; with several jobs, the last of these codes that occurs counts."""
WANTS_SOMEBODY: Final = frozenset({"held", "stopped"})
"""States that no process leaves automatically."""
DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

T = TypeVar("T")


def status_of(error: BaseException) -> int:
    """Return the exit status of an error of abatch, unless a command has a more specific one."""
    return BAD_INPUT if isinstance(error, ConfigError | BadRequest | JobConflict) else STUCK


def exit_code_of(jobs: Iterable[JobStatus], *, driven: bool) -> int:
    """Return the exit code for the states of jobs: 0 if there are no jobs.

    Args:
        jobs: the jobs.
        driven: whether a process drives their journal.

    """

    def code(job: JobStatus) -> int:
        if job.done:
            return FAILED if job.progress.failed or job.not_sent != 0 else OK
        return RUNNING if driven and job.state not in WANTS_SOMEBODY else STUCK

    return max(map(code, jobs), key=WORST_LAST.index, default=OK)


def tell(error: BaseException, journal: Path | None = None) -> str:
    """Return the message of an error: its own text if the error is expected, else also its origin.

    The commands that it shows name `journal`, the folder that the command line was given or took for granted.
    """
    told = _tell(error)
    return told if journal is None else completed(told, folder_of(journal))


def _tell(error: BaseException) -> str:
    match error:
        case BackendNotFound():
            return f"no backend accepts {error.url!r}; use one of these forms:\n  " + "\n  ".join(error.forms)
        case BackendError():
            place = shown(error.url)
            folder = os.path.dirname(place)  # noqa: PTH120 - it may be no path
            return error.why if folder and folder in error.why else f"{place}: {error.why}"
        case BadRequest():
            return f"{error.total:,} problem(s) in the requests:\n{error.listed()}"
        case AbatchError():
            return in_options(str(error))
        case OSError() if error.errno in DISK_FULL:
            return f"the disk is full ({error.strerror}). Free some, then run the same command again."
        case _:  # no locals: they may hold a key or a prompt
            told = "".join(traceback.format_exception(error))
            return str(redact(None, "", {"text": f"this should not happen, please report it:\n{told}"})["text"])


@contextmanager
def reported(screen: Screen | None = None, journal: Path | None = None) -> Generator[None]:
    """Turn any exception that ends the block into a message and an exit status.

    Raises:
        typer.Exit: with the status.

    """
    try:
        yield
    except KeyboardInterrupt:
        (screen or Screen()).complain("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except OutputGone as gone:
        raise typer.Exit(without_output(gone, screen)) from None
    except Exception as error:
        if isinstance(error, typer.Exit | typer.Abort) or type(error).__module__.startswith(("click", "typer")):
            raise
        (screen or Screen()).complain(f"error: {tell(error, journal)}")
        raise typer.Exit(status_of(error)) from None


def without_output(gone: OutputGone, screen: Screen | None = None) -> int:
    """Report that stdout failed during the output of the command, and return the exit status."""
    if gone.reader_left:  # it has read enough
        return OK
    (screen or Screen()).complain(f"error: {gone}; what was asked for is incomplete")
    return STUCK


def perform(work: Callable[[], Awaitable[T]], journal: Path | None = None, /) -> T:
    """Run a command that drives nothing; Ctrl-C ends it immediately."""
    screen = Screen()
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        with reported(screen, journal):
            configure_logs(screen)
            return anyio.run(partial(work))
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(*_: object) -> None:
    """End at once: raised at any line, an exception could be lost in the event loop's own code."""
    screen = Screen()
    if screen.output.is_terminal:
        screen.output.show_cursor(True)
        screen.output.line()  # a watched table ends without a newline
    screen.complain("Interrupted.")
    os._exit(INTERRUPTED)

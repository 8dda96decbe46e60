"""`abatch results`: the raw result lines of a job, finished or not, without driving it and without a key."""

from __future__ import annotations

import sys
from contextlib import aclosing
from typing import Annotated, Final

import typer

from abatch import JournalView
from abatch.cli.exit_codes import perform
from abatch.cli.options import JobArgument, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, place_of
from abatch.cli.sanitize import clean
from abatch.cli.screen import Screen

__all__ = ["results"]

BLOCK: Final = 2**18
"""Bytes written to stdout at once."""


def results(
    key: JobArgument,
    failed: Annotated[bool, typer.Option("--failed", help="Only results that did not succeed.")] = False,
    merged: Annotated[
        bool,
        typer.Option(
            "--merged", help="With the results of its retries: one line per request, of the last that counts."
        ),
    ] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
) -> None:
    """Print a job's results so far, as raw JSON lines. Works while another process runs, without an API key.

    Example: abatch results nightly --failed | head
    """
    screen = Screen()

    async def work() -> None:
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            jobs = view.family(key) if merged else [view.job(key)]
            block: list[bytes] = []
            weight = 0
            async with aclosing(view.lines(key, retries=merged, failed=failed)) as lines:
                async for line in lines:
                    block += (line, b"\n")
                    weight += len(line)
                    if weight >= BLOCK:
                        _write(b"".join(block))
                        block, weight = [], 0
            _write(b"".join(block))
            if missing := await view.unanswered(key) if merged else view.job(key).progress.missing:
                screen.say(f"{missing:,} requests have no result; the list next to the results names them.")
            if not all(view.job(job.key).done for job in jobs):
                screen.say("The job is not finished: these are its results so far.")

    perform(work, asked_for(journal, sandbox=sandbox))


def _write(block: bytes) -> None:
    if sys.stdout.isatty():  # an answer's bytes are for files and pipes; a terminal would interpret some of them
        block = clean(block.decode("utf-8", "replace"), lines=True).encode()
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()

"""`abatch submit`: give a job to the process that drives its journal, now or later."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Final

import typer

from abatch import JournalView
from abatch.cli.behind import driving_command, follow_watched, submit_to_driver, what_follows
from abatch.cli.exit_codes import OK, perform
from abatch.cli.inputs import inputs
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    DestinationOption,
    JsonOption,
    PlaceOption,
    QuietOption,
    SandboxOption,
    YesOption,
)
from abatch.cli.report import Course, report
from abatch.cli.screen import Screen
from abatch.cli.settings import Order, Surroundings, config_of, journal_of
from abatch.cli.spending import CONFIRM_ABOVE, Spending
from abatch.errors import ConfigError

__all__ = ["submit"]

STDIN: Final = "-"


def submit(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files of JSON lines (.gz, .zst), or patterns in quotes, as one job; - for stdin.",
        ),
    ],
    *,
    to: DestinationOption,
    journal: PlaceOption = None,
    key: Annotated[str | None, typer.Option(help="The job's name; required for stdin.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it is finished.")] = False,
    requests_per_batch: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Requests in one batch at most. [10000]")
    ] = None,
    tries: Annotated[
        int,
        typer.Option(min=1, max=100, help="How often a request is sent that expires or fails for a temporary reason."),
    ] = 3,
    beta: Annotated[list[str] | None, typer.Option(help="A value of anthropic-beta; may be repeated.")] = None,
    workspace_id: Annotated[str | None, typer.Option(metavar="ID", help="The workspace of every call.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="For a trial: send the first N requests, hold back the rest."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Send, and pay for, requests again that another job here has, too.")
    ] = False,
    prices: Annotated[Path | None, typer.Option(help="Your own price file.")] = None,
    confirm_above: Annotated[
        float, typer.Option(min=0, metavar="USD", help="Ask, on a terminal, if it may cost more than this.")
    ] = CONFIRM_ABOVE,
    yes: YesOption = False,
    quiet: QuietOption = False,
    sandbox: SandboxOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a job and record it in the journal; the process that drives the journal sends it, now or later.

    It needs no API key. Without --wait it prints the job's key and returns. Exit status with --wait: as abatch run, and
    3 if no process drives the journal.

    Example: abatch submit requests.jsonl --to results.jsonl
    """
    screen = Screen(quiet=quiet)
    place = journal_of(journal, sandbox=sandbox)
    price_file = None if prices is None else str(prices)

    async def work() -> int:
        piped = STDIN in sources
        if piped and len(sources) > 1:
            raise ConfigError("stdin cannot be one of several inputs; pass it alone, or save it as a file")
        if piped and key is None:
            raise ConfigError("requests from stdin have no name: give the job one with --key")
        config = config_of(sandbox=False, requests_per_batch=requests_per_batch)
        order = Order(
            journal=place,
            requests=None if piped else inputs(sources),
            to=to,
            key=key,
            betas=tuple(beta or ()),
            workspace_id=workspace_id,
            tries=tries,
            limit=limit,
            spending=Spending(
                screen, config, price_file, confirm_above=confirm_above, ask=not (yes or sandbox), limit=limit, pilot=0
            ),
            again=again,
        )
        around = Surroundings(config=config, screen=screen, prices=price_file, json=as_json)
        course = Course()
        async with JournalView(order.folder, prices=price_file, create=True) as view:
            job = course.job = await submit_to_driver(view, order, around, course)
            screen.say(what_follows(job, order.folder))
            if not wait:
                screen.output.out(job.key)
                return OK
            try:
                await follow_watched(job, screen, course)
            except Exception as error:  # noqa: BLE001 - any error is reported, with --json, too
                course.error = error
                course.drives = " ".join(driving_command(job, order.folder))
        report(course, order, around)
        return course.status

    raise typer.Exit(perform(work, place))

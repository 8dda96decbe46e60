"""`abatch submit`: give a job to the process that drives its journal, now or later."""

from __future__ import annotations

from typing import Annotated

import typer

from abatch import JournalView
from abatch.cli.behind import submit_to_driver, what_follows
from abatch.cli.exit_codes import OK, perform
from abatch.cli.inputs import files_or_stdin
from abatch.cli.next_steps import resuming
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    AgainOption,
    BetaOption,
    ConfirmAboveOption,
    DestinationOption,
    InputArgument,
    JsonOption,
    KeyOption,
    LimitOption,
    PlaceOption,
    PricesOption,
    QuietOption,
    RequestsPerBatchOption,
    SandboxOption,
    TriesOption,
    WorkspaceOption,
    YesOption,
)
from abatch.cli.paths import mark_as_sandbox
from abatch.cli.report import Course, follow_to_its_end, report
from abatch.cli.screen import Screen
from abatch.cli.settings import Order, Surroundings, config_of, journal_of
from abatch.cli.spending import CONFIRM_ABOVE, Spending

__all__ = ["submit"]


def submit(
    sources: InputArgument,
    *,
    to: DestinationOption,
    journal: PlaceOption = None,
    key: KeyOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it is finished.")] = False,
    requests_per_batch: RequestsPerBatchOption = None,
    tries: TriesOption = 3,
    beta: BetaOption = None,
    workspace_id: WorkspaceOption = None,
    limit: LimitOption = None,
    again: AgainOption = False,
    prices: PricesOption = None,
    confirm_above: ConfirmAboveOption = CONFIRM_ABOVE,
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
        files = files_or_stdin(sources, key)
        config = config_of(sandbox=False, requests_per_batch=requests_per_batch)
        order = Order(
            journal=place,
            requests=files,
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
            if sandbox:
                mark_as_sandbox(order.folder)
            job = course.job = await submit_to_driver(view, order, around, course)
            screen.say(what_follows(job, order.folder))
            if not wait:
                screen.output.out(job.key)
                return OK
            try:
                await follow_to_its_end(job, course, screen)
            except Exception as error:  # noqa: BLE001 - any error is reported, with --json, too
                course.error = error
            course.resume = resuming(order.folder, job.status)
            report(course, order, around)
            return course.status

    raise typer.Exit(perform(work, place))

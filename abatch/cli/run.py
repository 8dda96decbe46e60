"""`abatch run`: submit a file or stdin, or submit it again, and follow the job until it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abatch import Estimate, destination
from abatch.cli.drive import drive
from abatch.cli.estimate import as_json, rows_to_show, warn_of_params
from abatch.cli.exit_codes import BAD_INPUT, perform, reported, tell
from abatch.cli.inputs import STDIN, files_or_stdin
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    AgainOption,
    BetaOption,
    ConfirmAboveOption,
    DestinationOption,
    FailingOption,
    InputArgument,
    JsonOption,
    KeyOption,
    LatencyOption,
    LimitOption,
    PlaceOption,
    PollIntervalOption,
    PricesOption,
    QuietOption,
    RequestsPerBatchOption,
    StoragePatienceOption,
    TierOption,
    TriesOption,
    WorkspaceOption,
    YesOption,
)
from abatch.cli.screen import Screen, table
from abatch.cli.settings import Order, Surroundings, config_of, journal_of
from abatch.cli.spending import CONFIRM_ABOVE, Spending
from abatch.config import Params, Parked, Refusals, Unresolved  # noqa: TC001 - typer reads the annotations
from abatch.errors import BackendError
from abatch.prices import load as load_prices

if TYPE_CHECKING:
    from abatch.config import Config

__all__ = ["run"]


def run(
    sources: InputArgument,
    *,
    to: DestinationOption,
    journal: PlaceOption = None,
    key: KeyOption = None,
    requests_per_batch: RequestsPerBatchOption = None,
    bytes_per_batch: Annotated[
        int | None, typer.Option(min=1_000, max=256_000_000, help="Bytes of one batch at most. [240000000]")
    ] = None,
    tries: TriesOption = 3,
    poll_interval: PollIntervalOption = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds in which an unanswered create may appear. [1800; less is not safe]")
    ] = None,
    storage_patience: StoragePatienceOption = None,
    unresolved: Annotated[
        Unresolved, typer.Option(help="What to do with a create that was not answered and never appeared.")
    ] = "resubmit",
    refusals: Annotated[
        Refusals, typer.Option(help="Whether a refused create is final, or abatch looks for its batch nevertheless.")
    ] = "believe",
    parked: Annotated[
        Parked, typer.Option(help="What to do with a batch that is far older than usual and has not moved.")
    ] = "wait",
    failing: FailingOption = "stop",
    params: Annotated[
        Params,
        typer.Option(
            help="What to do with params that the API may refuse: warn of them, refuse them, or send all unchecked."
        ),
    ] = "check",
    skip_answered: Annotated[
        str | None,
        typer.Option(metavar="JOB", help="Send only requests for which this finished job has no successful answer."),
    ] = None,
    changed_input: Annotated[
        bool,
        typer.Option("--changed-input", help="Let an unfinished job take a changed input for what was not sent."),
    ] = False,
    again: AgainOption = False,
    tier: TierOption = "start",
    beta: BetaOption = None,
    workspace_id: WorkspaceOption = None,
    prices: PricesOption = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Try it out: synthetic answers, no key, no cost.")] = False,
    sandbox_latency: LatencyOption = "1,3",
    limit: LimitOption = None,
    pilot: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Send the first N requests alone; stop if more than a fifth of them fail. [0]"
        ),
    ] = 0,
    confirm_above: ConfirmAboveOption = CONFIRM_ABOVE,
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the input and the destination, and estimate; send nothing.")
    ] = False,
    quiet: QuietOption = False,
    as_json_: JsonOption = False,
) -> None:
    """Run a job until it is finished. The same command again resumes it, whatever happened.

    Exit status: 0 every request succeeded; 1 finished, some failed or are missing; 2 bad input, nothing submitted;
    3 cannot continue now; 130 interrupted.

    Example: abatch run requests.jsonl --to results.jsonl
    """
    screen = Screen(quiet=quiet)
    with reported(screen):
        config = config_of(
            sandbox=sandbox,
            requests_per_batch=requests_per_batch,
            bytes_per_batch=bytes_per_batch,
            poll_interval=poll_interval,
            grace=grace,
            storage_patience=storage_patience,
            unresolved=unresolved,
            refusals=refusals,
            parked=parked,
            failing=failing,
            tier=tier,
            params=params,
        )
        files = files_or_stdin(sources, key)
        price_file = None if prices is None else str(prices)
        load_prices(price_file)  # first, so that an unusable file is refused before anything else
    if dry_run:
        _dry_run(
            [Path(STDIN)] if files is None else files,
            to,
            config,
            price_file,
            screen,
            as_json_=as_json_,
            betas=beta or [],
        )
        return
    drive(
        Order(
            journal=journal_of(journal, sandbox=sandbox),
            requests=files,
            to=to,
            key=key,
            betas=tuple(beta or ()),
            workspace_id=workspace_id,
            tries=tries,
            limit=limit,
            pilot=pilot,
            spending=Spending(
                screen,
                config,
                price_file,
                confirm_above=confirm_above,
                ask=not (yes or sandbox),
                limit=limit,
                pilot=pilot,
            ),
            skip_answered=skip_answered,
            changed_input=changed_input,
            again=again,
        ),
        Surroundings(
            config=config,
            screen=screen,
            prices=price_file,
            sandbox=sandbox_latency if sandbox else None,
            json=as_json_,
        ),
    )


def _dry_run(
    paths: list[Path], to: str, config: Config, prices: str | None, screen: Screen, *, as_json_: bool, betas: list[str]
) -> None:
    async def work() -> None:
        try:
            missing = await destination.check(destination.normalize(to))
        except BackendError as refused:  # as in a run whose job has not begun
            screen.complain(f"error: {tell(refused)}")
            raise typer.Exit(BAD_INPUT) from None
        made = await Estimate.of(paths, config=config, prices=prices, betas=betas)
        warn_of_params(screen, made)
        if as_json_:
            screen.give(as_json(made))
            return
        screen.output.print(table("", "", rows=rows_to_show(made)))
        if missing is not None:
            screen.say(f"The folder {missing} does not exist; the run creates it.")
        screen.say("Nothing was sent.")

    perform(work)

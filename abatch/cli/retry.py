"""`abatch retry`: the requests of a finished job that did not succeed, as a new job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import anyio
import typer

from abatch import JournalView
from abatch.cli.confirm import can_ask, confirmed
from abatch.cli.drive import drive
from abatch.cli.exit_codes import perform, reported
from abatch.cli.next_steps import CUT
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    FailingOption,
    JobArgument,
    JsonOption,
    LatencyOption,
    PlaceOption,
    PollIntervalOption,
    QuietOption,
    SandboxOption,
    StoragePatienceOption,
    TierOption,
    YesOption,
)
from abatch.cli.screen import Screen
from abatch.cli.settings import Order, Surroundings, config_of, journal_of
from abatch.destination import shown
from abatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

    from abatch import Retry
    from abatch.view import RetryKind

__all__ = ["retry"]

_IN_WORDS: Final = {"final": "failed for good", "stopped": "of that stop reason"}


def _check_options(kinds: Collection[RetryKind], stops: Collection[str], max_tokens: int | None) -> None:
    """Refuse options that cannot be combined, by their names.

    Raises:
        ConfigError: they do not.

    """
    if max_tokens is not None and (kinds or CUT not in stops):
        raise ConfigError(f"--max-tokens is for answers that were cut: it goes with --stop-reason {CUT} alone")
    if max_tokens is None and CUT in stops:
        raise ConfigError(f"the same request would be cut again: say --max-tokens N with --stop-reason {CUT}")


def retry(
    key: JobArgument,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Requests that errored or expired.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Requests whose result could not be read.")] = False,
    canceled: Annotated[bool, typer.Option("--canceled", help="Requests that were cancelled.")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Also requests that cannot succeed unchanged, such as bad requests.")
    ] = False,
    stop_reason: Annotated[
        list[str] | None,
        typer.Option(metavar="REASON", help="Answers that stopped for this reason; may be repeated."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --stop-reason max_tokens: how long they may be now.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="DEST", help="The destination; next to the original's results if not given.")
    ] = None,
    yes: YesOption = False,
    journal: PlaceOption = None,
    tier: TierOption = "start",
    poll_interval: PollIntervalOption = None,
    storage_patience: StoragePatienceOption = None,
    failing: FailingOption = "stop",
    sandbox: SandboxOption = False,
    sandbox_latency: LatencyOption = "1,3",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send requests again that did not succeed, as a new job with its own results: JOB.retry-1, then -2.

    Without --failed, --missing, --canceled or --stop-reason: all that did not succeed. Requests that an earlier retry
    got answered stay out. So do those that cannot succeed as they are, unless --all is given.

    Example: abatch retry nightly --failed
    """
    screen = Screen(quiet=quiet)
    place = journal_of(journal, sandbox=sandbox)
    with reported(screen):
        chosen: dict[RetryKind, bool] = {"failed": failed, "missing": missing, "canceled": canceled}
        kinds: list[RetryKind] = [kind for kind, is_chosen in chosen.items() if is_chosen]
        stops = stop_reason or []
        _check_options(kinds, stops, max_tokens)

    async def work() -> Retry:
        async with JournalView(place) as view:
            return await view.retry(key, kinds=kinds, final=all_, stop_reasons=stops, max_tokens=max_tokens, to=to)

    made = perform(work, place)
    with reported(screen, place):
        config = config_of(
            sandbox=sandbox,
            poll_interval=poll_interval,
            storage_patience=storage_patience,
            failing=failing,
            tier=tier,
            params="unchecked",  # they were checked, or sent unchecked, when the job was made
        )
        if made.left_out:
            screen.say(
                f"{made.left_out:,} requests cannot succeed unchanged, and are left out: change them; or send them "
                "unchanged with --all."
            )
        if made.long_enough:
            screen.say(
                f"{made.long_enough:,} requests are left out: they were allowed {made.max_tokens:,} tokens before."
            )
        if not made:
            screen.say(f"Job {key} has nothing to send again.")
            raise typer.Exit
        counts = ", ".join(f"{count:,} {_IN_WORDS.get(kind, kind)}" for kind, count in made.counts.items())
        screen.say(f"{len(made):,} requests to send again ({counts}) as job {made.key}, to {shown(made.to)}")
        if not (yes or made.resumes):
            if not can_ask():
                raise ConfigError("this sends requests that cost money; say --yes where nobody can be asked")
            if not anyio.run(confirmed, "Send them?"):
                raise ConfigError("you did not answer yes, so nothing was sent; --yes skips the question")
    drive(
        Order(
            journal=place,
            requests=made.requests(),
            to=made.to,
            key=made.key,
            betas=made.betas,
            user_profile_id=made.user_profile_id,
            workspace_id=made.workspace_id,
            tries=made.tries,
        ),
        Surroundings(
            config=config,
            screen=screen,
            sandbox=sandbox_latency if sandbox else None,
            json=as_json,
        ),
    )

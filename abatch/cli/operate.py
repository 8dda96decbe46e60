"""`abatch cancel` and `abatch resolve`: wishes, appended to a journal that another process may drive."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from abatch import JournalView
from abatch.cli.exit_codes import perform
from abatch.cli.options import JobArgument, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, place_of
from abatch.cli.screen import Screen
from abatch.errors import ConfigError

__all__ = ["cancel", "resolve"]

WHEN: Final = "A process that drives this journal acts on it within a second; otherwise the next `abatch run` does."


def cancel(key: JobArgument, journal: PlaceOption = None, sandbox: SandboxOption = False) -> None:
    """Ask to cancel a job: nothing more is sent, its batches are cancelled, results that they still return are kept.

    Example: abatch cancel nightly
    """
    screen = Screen()

    async def work() -> None:
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            await view.cancel(key)
            screen.say(f"Job {key} is to be cancelled. {WHEN}")

    perform(work, asked_for(journal, sandbox=sandbox))


def resolve(
    shard: Annotated[int, typer.Argument(metavar="SHARD", help="The shard's number, as `abatch status` shows it.")],
    *,
    adopt: Annotated[str | None, typer.Option(metavar="BATCH_ID", help="This batch is the shard's.")] = None,
    not_created: Annotated[
        bool, typer.Option("--not-created", help="No batch was created; send the shard again.")
    ] = False,
    lost: Annotated[bool, typer.Option("--lost", help="Give its results up; its requests are missing.")] = False,
    any_key: Annotated[
        bool, typer.Option("--any-key", help="With --lost: also if the API key is not known to see the batch.")
    ] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
) -> None:
    """Decide about a shard that is in doubt or held, or whose batch is gone, after a look in the Console.

    A batch that is not the shard's is found out by its first result line, and is then left alone. But
    `--not-created` for a batch that exists means that its requests are paid for twice. `--lost` never sends
    anything again: the requests are listed as missing, and the job continues without them.

    Example: abatch resolve 17 --adopt msgbatch_0123
    """
    screen = Screen()

    async def work() -> None:
        if [adopt is not None, not_created, lost].count(True) != 1:
            raise ConfigError("say one of --adopt BATCH_ID, --not-created, --lost")
        if any_key and not lost:
            raise ConfigError("--any-key goes with --lost only")
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            resolution = await view.resolve(shard, adopt=adopt, not_created=not_created, lost=lost, any_key=any_key)
            screen.say(
                f"Noted, and not done yet: shard {shard} of job {resolution.job} {resolution.says}. "
                f"{WHEN} It is refused if the API contradicts it or the attempt was settled before; then "
                "`abatch status` shows this, and the log of that process gives the reason (resolve_refused)."
            )

    perform(work, asked_for(journal, sandbox=sandbox))

"""`abatch cancel` and `abatch resolve`: wishes, appended to a journal that somebody else may drive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from abatch.cli.exit_codes import perform
from abatch.cli.options import JobArgument, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, job_named, ledger_of, place_of
from abatch.cli.screen import Screen
from abatch.errors import ConfigError
from abatch.journal.log import Entry
from abatch.journal.states import shard_in_words, wish_in_words
from abatch.protocol.facts import CancelWished, LostWished, ResolveWished
from abatch.protocol.lifecycle import Held, InDoubt, doubt_of

if TYPE_CHECKING:
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import ShardRecord

__all__ = ["cancel", "resolve"]

WHEN: Final = "A process that runs this journal takes it up within a second; else the next `abatch run` of it does."


def cancel(key: JobArgument, journal: PlaceOption = None, sandbox: SandboxOption = False) -> None:
    """Ask to cancel a job: nothing more of it is sent, its batches are cancelled, what they still bring is kept.

    Example: abatch cancel nightly
    """
    screen = Screen()

    async def work() -> None:
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            job = job_named(ledger, key)
            if job.finished is not None:
                raise ConfigError(f"job {key!r} is done; there is nothing to cancel")
            if not job.cancel_wished:
                await ledger.record(Entry(job.job, CancelWished()))
            screen.say(f"Job {key} is to be cancelled. {WHEN}")

    perform(work, asked_for(journal, sandbox=sandbox))


def resolve(
    shard: Annotated[int, typer.Argument(metavar="SHARD", help="The shard's number, as `abatch status` shows it.")],
    *,
    adopt: Annotated[str | None, typer.Option(metavar="BATCH_ID", help="This batch is it.")] = None,
    not_created: Annotated[bool, typer.Option("--not-created", help="No batch was created; send it again.")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="Give its results up; its requests are missing.")] = False,
    any_key: Annotated[
        bool, typer.Option("--any-key", help="With --lost: also if the API key is not known to see the batch.")
    ] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
) -> None:
    """Say what became of a shard that is in doubt or held, or whose batch is gone, after a look in the Console.

    A batch that is not the shard's is found out by its first result line, and is then left alone. But
    `--not-created` for a batch that exists means that its requests are paid for twice. `--lost` never sends
    anything again: the requests are listed as missing, and the job goes on without them.

    Example: abatch resolve 17 --adopt msgbatch_0123
    """
    screen = Screen()

    async def work() -> None:
        if [adopt is not None, not_created, lost].count(True) != 1:
            raise ConfigError("say one of --adopt BATCH_ID, --not-created, --lost")
        if any_key and not lost:
            raise ConfigError("--any-key goes with --lost only")
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            record, doubt = await (_waiting if lost else _doubtful)(ledger, shard)
            wish: ResolveWished | LostWished = ResolveWished(shard=shard, attempt=doubt.attempt, batch_id=adopt)
            if lost:
                wish = LostWished(shard=shard, attempt=doubt.attempt, any_key=any_key)
            await ledger.record(Entry(record.job, wish))
            screen.say(
                f"Noted, and not done yet: shard {shard} of job {ledger.jobs[record.job].key} {wish_in_words(wish)}. "
                f"{WHEN} It is refused where the API says otherwise; then `abatch status` says so, and the log of that "
                "process why (resolve_refused)."
            )

    perform(work, asked_for(journal, sandbox=sandbox))


async def _doubtful(ledger: Ledger, number: int) -> tuple[ShardRecord, InDoubt]:
    shard = await _shard(ledger, number)
    doubt = doubt_of(shard.state)
    if doubt is None or not isinstance(shard.state, InDoubt | Held):
        hint = "" if doubt is None else "; if its batch was deleted, say --lost"
        raise ConfigError(f"shard {number} is neither in doubt nor held, it is {shard_in_words(shard)}{hint}")
    return shard, doubt


async def _waiting(ledger: Ledger, number: int) -> tuple[ShardRecord, InDoubt]:
    """A shard of which something was committed that is not settled or drained."""
    shard = await _shard(ledger, number)
    doubt = doubt_of(shard.state)
    if doubt is None:
        raise ConfigError(f"shard {number} has no batch to give up, it is {shard_in_words(shard)}")
    return shard, doubt


async def _shard(ledger: Ledger, number: int) -> ShardRecord:
    shard = await ledger.find_shard(number)
    if shard is None:
        raise ConfigError(f"journal {ledger.folder} has no shard {number}")
    return shard

"""`abatch move`: take an unfinished job to another destination, for instance because its own one failed."""

from __future__ import annotations

import resource
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abatch.backend import load, normalize
from abatch.cli.exit_codes import perform
from abatch.cli.next_steps import resuming
from abatch.cli.options import JobArgument, JournalOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import DEFAULT_JOURNAL, job_named, ledger_of
from abatch.cli.sanitize import clean
from abatch.cli.screen import Screen
from abatch.engine.move import move as move_job
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog
from abatch.log import ranges
from abatch.protocol.facts import files_of
from abatch.system import threads
from abatch.system.paths import absolute, absolute_url, folder_of, relative_url, shown

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.engine.client import Client
    from abatch.journal.log import FactLog

__all__ = ["move"]


def move(
    key: JobArgument,
    *,
    to: Annotated[str, typer.Option(metavar="DEST", help="results.jsonl, results/, results.db, s3://bucket/prefix")],
    journal: JournalOption = DEFAULT_JOURNAL,
) -> None:
    """Take an unfinished job to another destination, for instance because its own one failed.

    What is sealed is copied, nothing is sent, and the old destination keeps its copy. What cannot be read there is read
    again from the API by the next run. `abatch run` of the same input finds the job by its old and by its new
    destination. No other process may drive the journal meanwhile.

    Example: abatch move nightly --to s3://other-bucket/runs
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core could hold the API key
    screen = Screen()

    async def work() -> None:
        url = normalize(to)
        await threads.run(load, url)
        async with ledger_of(journal) as ledger:  # to look first: a journal that is driven is made if there is none
            before = _place(ledger.folder.path, job_named(ledger, key).to)
        place = JournalFolder(folder_of(journal))
        facts = await SqliteLog.open(place, drive=True)
        try:
            ledger = await Ledger.load(facts, place)
            job = job_named(ledger, key)
            sealed = {number for number, shard in job.shards.items() if shard.sealed is not None and shard.sealed.lines}
            async with AsyncExitStack() as opened:
                source = job.submitted.source
                again = await move_job(
                    ledger,
                    job,
                    relative_url(place.path, url),
                    api=partial(_client, facts, opened),
                    input_paths=[absolute(place.path, file.path) for file in files_of(source)],
                )
            copied = sealed.difference(again)
            after = _place(place.path, job.to)
            kept = (
                ""
                if before == after or not copied
                else f" The parts in {_parts(before)} are left; you may remove them."
            )
            screen.say(clean(f"Job {key} is in {after} now.{kept}"))
            if again:
                screen.say(
                    clean(
                        f"The results of {len(again):,} shard(s) ({ranges(again)}) could not be read in {before}: the "
                        "next run reads them from the API, for nothing."
                    )
                )
            if job.finished is None:
                screen.say(clean(f"To go on: {resuming(ledger, job).in_words}"))
        finally:
            await facts.aclose()

    perform(work, journal)


async def _client(facts: FactLog, opened: AsyncExitStack) -> Client:
    """A client of the API that the journal belongs to; only a move that needs the API asks for a key."""
    module: Any = await threads.run(import_module, "abatch.engine.client")  # Any: importing the SDK takes a second
    client: Client = module.Client.from_environment()
    opened.push_async_callback(client.aclose)
    await facts.bind(client.base_url)
    return client


def _parts(place: str) -> str:
    """Where the parts of an unfinished job are: of a single file they are in a hidden folder beside it."""
    folder, slash, name = place.rpartition("/")
    return f"{folder}{slash}.{name}.abatch/" if name.endswith((".jsonl", ".ndjson")) and "://" not in place else place


def _place(folder: Path, to: str) -> str:
    """A destination as people write it."""
    return shown(absolute_url(folder, to)) if to else "The application's own backend"

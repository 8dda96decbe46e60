"""`abatch move`: move an unfinished job to another destination, for instance because its own failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatch import JournalView
from abatch.cli.exit_codes import perform
from abatch.cli.next_steps import resuming
from abatch.cli.options import DestinationOption, JobArgument, JournalOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import DEFAULT_JOURNAL
from abatch.cli.sanitize import clean
from abatch.cli.screen import Screen
from abatch.destination import load_backend, normalize, shown
from abatch.log import ranges

if TYPE_CHECKING:
    from abatch import JobStatus

__all__ = ["move"]


def move(
    key: JobArgument,
    *,
    to: DestinationOption,
    journal: JournalOption = DEFAULT_JOURNAL,
) -> None:
    """Move an unfinished job to another destination, for instance because its own failed.

    What is sealed is copied, nothing is sent, and the old destination keeps its copy. What cannot be read there is read
    again from the API by the next run. `abatch run` of the same input finds the job by its old and by its new
    destination. No other process may drive the journal meanwhile.

    Example: abatch move nightly --to s3://other-bucket/runs
    """
    screen = Screen()

    async def work() -> None:
        await load_backend(normalize(to))
        async with JournalView(journal) as view:
            before = _place(view.job(key))
            moved = await view.move(key, to=to)
            job = view.job(key)
            after = _place(job)
            kept = (
                ""
                if before == after or not moved.copied
                else f" The parts in {_parts(before)} are left; you may remove them."
            )
            screen.say(clean(f"Job {key} is in {after} now.{kept}"))
            if again := moved.to_read_again:
                screen.say(
                    clean(
                        f"The results of {len(again):,} shard(s) ({ranges(again)}) could not be read in {before}: the "
                        "next run reads them from the API, for nothing."
                    )
                )
            if not job.done:
                screen.say(clean(f"To resume: {resuming(view.folder, job).in_words}"))

    perform(work, journal)


def _parts(place: str) -> str:
    """Return the place of an unfinished job's parts: for a single file, a hidden folder next to it."""
    folder, slash, name = place.rpartition("/")
    return f"{folder}{slash}.{name}.abatch/" if name.endswith((".jsonl", ".ndjson")) and "://" not in place else place


def _place(job: JobStatus) -> str:
    """Return a destination in short form."""
    return shown(job.destination) if job.destination else "The application's own backend"

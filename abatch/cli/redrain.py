"""`abatch redrain`: read the results of a job again whose sealed parts were removed or damaged."""

from __future__ import annotations

from abatch import JournalView
from abatch.cli.drive import drive
from abatch.cli.exit_codes import perform, reported
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    JobArgument,
    JsonOption,
    LatencyOption,
    PlaceOption,
    QuietOption,
    SandboxOption,
)
from abatch.cli.screen import Screen
from abatch.cli.settings import Redrain, Surroundings, config_of, journal_of

__all__ = ["redrain"]


def redrain(
    key: JobArgument,
    *,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
    sandbox_latency: LatencyOption = "1,3",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read results again that are missing from the destination. Nothing is sent or paid for.

    Every part that is not in its place is read from the API, which keeps results for 29 days. A part that is damaged
    has to be removed first; so has a damaged file that was finished. The order of the lines may change.

    Exit status: 0 all is in its place (again), whatever the requests came to; else as for run.

    Example: abatch redrain nightly
    """
    screen = Screen(quiet=quiet)
    place = journal_of(journal, sandbox=sandbox)

    async def work() -> str | None:
        async with JournalView(place) as view:
            return view.job(key).workspace_id

    workspace_id = perform(work, place)
    with reported(screen, place):
        config = config_of(sandbox=sandbox)
    drive(
        Redrain(journal=place, key=key, workspace_id=workspace_id),
        Surroundings(
            config=config,
            screen=screen,
            sandbox=sandbox_latency if sandbox else None,
            json=as_json,
        ),
    )

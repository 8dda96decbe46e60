"""`abatch id`: find the request of a wire id."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from abatch import JournalView
from abatch.cli.exit_codes import perform
from abatch.cli.options import JsonOption, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, place_of
from abatch.cli.screen import Screen, table

__all__ = ["identify"]


def identify(
    wire_id: Annotated[str, typer.Argument(metavar="WIRE-ID", help="A custom_id as the Console shows it.")],
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which job, shard and row an id on the wire belongs to, and whether this journal made it.

    Example: abatch id a1-0000000H-01-7C2M0Z9QKXJ4-002A
    """
    screen = Screen()

    async def work() -> None:
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            told = {**asdict(await view.identify(wire_id)), "proven": True}
        if as_json:
            screen.give(told)
            return
        unknown = {
            "job": "none: its shard was never recorded",
            "custom_id": "not known any more: neither its spool file nor its list of ids is there",
        }
        rows = [
            (name, unknown.get(name, "") if value is None else value)
            for name, value in told.items()
            if name != "proven"
        ]
        screen.output.print(table("", "", rows=[*rows, ("proof", "its tag was made by this journal")]))

    perform(work, asked_for(journal, sandbox=sandbox))

"""`abatch id`: whose request a wire id is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from abatch import threads, wire
from abatch.cli.exits import perform
from abatch.cli.options import JournalOption, JsonOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.places import DEFAULT_JOURNAL, ledger_of
from abatch.cli.screen import Screen, table
from abatch.errors import ConfigError
from abatch.spool import SpoolDamaged, SpoolReader

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.facts import Planned

__all__ = ["identify"]


def identify(
    wire_id: Annotated[str, typer.Argument(metavar="WIRE-ID", help="A custom_id as the Console shows it.")],
    journal: JournalOption = DEFAULT_JOURNAL,
    as_json: JsonOption = False,
) -> None:
    """Say which job, shard and row an id on the wire belongs to, and whether this journal made it.

    Example: abatch id a1-0000000H-01-7C2M0Z9QKXJ4-002A
    """
    screen = Screen()

    async def work() -> None:
        named = wire.parse_id(wire_id.encode())
        if named is None:
            raise ConfigError(f"{wire_id!r} is not an id of abatch; one looks like a1-0000000H-01-7C2M0Z9QKXJ4-002A")
        async with ledger_of(journal) as ledger:
            key = ledger.journal.lineage_key
            if not named.shard or not named.attempt or wire.tag(key, named.shard, named.attempt) != named.tag:
                raise ConfigError(f"{wire_id} was not made by journal {ledger.journal.folder}: its tag is another's")
            shard = await ledger.find_shard(named.shard)
            custom_id = None
            if shard is not None and named.row < shard.planned.rows:
                custom_id = await threads.run(_custom_id, ledger.journal.spool, shard.planned, named.row)
            told = {
                "job": None if shard is None else ledger.jobs[shard.job].key,
                "shard": named.shard,
                "attempt": named.attempt,
                "row": named.row,
                "custom_id": custom_id,
                "proven": True,
            }
        if as_json:
            screen.give(told)
            return
        unknown = {
            "job": "none: its shard was never recorded",
            "custom_id": "not known any more: its spool file is gone",
        }
        rows = [
            (name, unknown.get(name, "") if value is None else value)
            for name, value in told.items()
            if name != "proven"
        ]
        screen.output.print(table("", "", rows=[*rows, ("proof", "its tag was made by this journal")]))

    perform(work)


def _custom_id(spool: Path, planned: Planned, row: int) -> str | None:
    try:
        with closing(SpoolReader(spool, planned)) as reader:
            return reader.id_text(row)
    except SpoolDamaged:
        return None

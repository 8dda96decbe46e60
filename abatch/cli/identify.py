"""`abatch id`: whose request a wire id is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from abatch.cli.exit_codes import perform
from abatch.cli.options import JsonOption, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, ledger_of, place_of
from abatch.cli.screen import Screen, table
from abatch.errors import ConfigError, SpoolDamaged
from abatch.input.spool import SpoolReader
from abatch.journal.kept import read_kept
from abatch.protocol import wire
from abatch.system import threads

if TYPE_CHECKING:
    from abatch.journal.folder import JournalFolder
    from abatch.journal.records import ShardRecord

__all__ = ["identify"]


def identify(
    wire_id: Annotated[str, typer.Argument(metavar="WIRE-ID", help="A custom_id as the Console shows it.")],
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
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
        async with ledger_of(place_of(journal, sandbox=sandbox)) as ledger:
            if not ledger.lineage.made(named):
                raise ConfigError(f"{wire_id} was not made by journal {ledger.folder}: its tag is another's")
            shard = await ledger.find_shard(named.shard)
            custom_id = None
            if shard is not None and named.row < shard.planned.rows:
                custom_id = await threads.run(_custom_id, ledger.folder, shard, named.row)
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
            "custom_id": "not known any more: neither its spool file nor its list of ids is there",
        }
        rows = [
            (name, unknown.get(name, "") if value is None else value)
            for name, value in told.items()
            if name != "proven"
        ]
        screen.output.print(table("", "", rows=[*rows, ("proof", "its tag was made by this journal")]))

    perform(work, asked_for(journal, sandbox=sandbox))


def _custom_id(folder: JournalFolder, shard: ShardRecord, row: int) -> str | None:
    try:
        with closing(SpoolReader(folder.spool, shard.planned)) as reader:
            return reader.id_text(row)
    except SpoolDamaged:
        kept = read_kept(folder.ids, shard.shard, shard.planned.rows)
        return None if kept is None else msgspec.json.decode(kept.custom_id(row), type=str)

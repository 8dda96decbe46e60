"""Find the request of a custom_id on the wire."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from abatch.errors import ConfigError, SpoolDamaged
from abatch.input.spool import SpoolReader
from abatch.journal.kept import read_kept
from abatch.protocol import wire
from abatch.system import threads

if TYPE_CHECKING:
    from abatch.journal.folder import JournalFolder
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import ShardRecord

__all__ = ["RequestOrigin", "origin_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOrigin:
    """The request of a custom_id on the wire; the tag in the id proves that this journal made it."""

    job: str | None
    """The job's key; None if its shard was never recorded."""
    shard: int
    attempt: int
    row: int
    """The row in its shard, counted from 0."""
    custom_id: str | None
    """The caller's custom_id; None if neither the shard's spool file nor its list of ids exists any more."""


async def origin_of(ledger: Ledger, wire_id: str) -> RequestOrigin:
    """Find the request of a custom_id on the wire.

    Raises:
        ConfigError: it is not an id of abatch, or another journal made it.

    """
    named = wire.parse_id(wire_id.encode())
    if named is None:
        raise ConfigError(f"{wire_id!r} is not an id of abatch; one looks like a1-0000000H-01-7C2M0Z9QKXJ4-002A")
    if not ledger.lineage.made(named):
        raise ConfigError(f"{wire_id} was not made by journal {ledger.folder}: its tag is another's")
    shard = await ledger.find_shard(named.shard)
    custom_id = None
    if shard is not None and named.row < shard.planned.rows:
        custom_id = await threads.run(_custom_id, ledger.folder, shard, named.row)
    return RequestOrigin(
        job=None if shard is None else ledger.jobs[shard.job].key,
        shard=named.shard,
        attempt=named.attempt,
        row=named.row,
        custom_id=custom_id,
    )


def _custom_id(folder: JournalFolder, shard: ShardRecord, row: int) -> str | None:
    try:
        with closing(SpoolReader(folder.spool, shard.planned)) as reader:
            return reader.id_text(row)
    except SpoolDamaged:
        kept = read_kept(folder.ids, shard.shard, shard.planned.rows)
        return None if kept is None else msgspec.json.decode(kept.custom_id(row), type=str)

"""Rows that are to be sent again go into one retry shard, once, whatever happens between its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from abatch.engine.withheld import Withheld
from abatch.input.spool import SpoolReader
from abatch.journal.folder import JournalFolder
from abatch.journal.records import ShardRecord
from abatch.protocol.lifecycle import Ready
from abatch.result import Line
from tests.unit.make import drained, names, planned_for, rows_of, write_spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from abatch.input.spool import Written
    from abatch.protocol.facts import Drained

pytestmark = pytest.mark.anyio

NAMES = ("a", "b", "c", "d")
RETRY = JournalFolder.retry_name(1)


class Drain:
    """A shard of four rows that is drained, in a folder that outlives the process."""

    def __init__(self, path: Path) -> None:
        self.folder = JournalFolder(path)
        self.folder.prepare()
        fact = planned_for(write_spool(self.folder.spool, rows_of(*NAMES)))
        self.shard = ShardRecord(shard=1, job=1, planned=fact, state=Ready())
        self.reader = SpoolReader(self.folder.spool, fact)

    def begin(self, earlier: Drained | None = None) -> Withheld:
        return Withheld(self.folder, self.shard, self.reader, earlier)

    def withhold(self, withheld: Withheld, *rows: int) -> None:
        for row in rows:
            withheld.add(row, self.reader.custom_id(row), line(row))

    def retried(self, withheld: Withheld, written: Written | None) -> list[tuple[bytes, bytes, bytes]]:
        """The rows of the retry shard: custom_id, params, and the line they have if no other try brings one."""
        fact = withheld.retry(written)
        assert fact is not None
        again = SpoolReader(self.folder.spool, fact)
        found = [(again.custom_id(row), again.params(row), again.own_fallback(row)) for row in range(again.rows)]
        again.close()
        return found


def line(row: int) -> Line:
    raw = msgspec.json.encode({"custom_id": NAMES[row], "result": {"type": "expired"}})
    return Line(custom_id=NAMES[row], outcome="expired", raw=raw)


@pytest.fixture
def drain(tmp_path: Path) -> Iterator[Drain]:
    made = Drain(tmp_path)
    yield made
    made.reader.close()


async def test_withheld_rows_go_with_their_params_and_the_line_they_failed_with(drain: Drain) -> None:
    withheld = drain.begin()
    drain.withhold(withheld, 2)
    withheld.write()
    drain.withhold(withheld, 0)
    withheld.write()
    written = await withheld.seal()
    rows = rows_of(*NAMES)
    assert drain.retried(withheld, written) == [
        (rows[2][0], rows[2][1], line(2).raw),
        (rows[0][0], rows[0][1], line(0).raw),
    ]
    assert (withheld.retried(written), withheld.agrees(written)) == (2, True)


async def test_retry_shard_is_of_the_next_try_and_names_its_parent(drain: Drain) -> None:
    withheld = drain.begin()
    drain.withhold(withheld, 1)
    withheld.write()
    fact = withheld.retry(await withheld.seal())
    assert fact is not None
    assert (fact.parent, fact.trial, fact.rows) == (1, drain.shard.planned.trial + 1, 1)


async def test_nothing_withheld_leaves_no_retry_and_no_file(drain: Drain) -> None:
    withheld = drain.begin()
    before = names(drain.folder.spool)
    assert await withheld.seal() is None
    assert (withheld.retry(None), withheld.agrees(None), names(drain.folder.spool)) == (None, True, before)


async def test_sealed_rows_of_a_run_that_died_are_found_and_marked_again(drain: Drain) -> None:
    """It died after its sink was sealed, and before `Drained`: the rows are in no sealed part."""
    died = drain.begin()
    drain.withhold(died, 1, 3)
    died.write()
    await died.seal()
    next_run = drain.begin()
    written = await next_run.found()
    assert written is not None
    assert list(next_run.rows) == [0, 1, 0, 1]
    assert next_run.agrees(written)
    assert drain.retried(next_run, written) == drain.retried(died, written)


async def test_rows_that_differ_from_those_on_disk_are_noticed(drain: Drain) -> None:
    died = drain.begin()
    drain.withhold(died, 1)
    died.write()
    await died.seal()
    next_run = drain.begin()
    written = await next_run.found()
    drain.withhold(next_run, 2)
    assert not next_run.agrees(written)


async def test_leftover_of_a_drain_that_died_before_its_seal_is_removed(drain: Drain) -> None:
    died = drain.begin()
    drain.withhold(died, 1)
    died.write()
    await died.seal()
    assert RETRY in names(drain.folder.spool)
    await drain.begin().forget_leftover()
    assert RETRY not in names(drain.folder.spool)


async def test_failed_drain_leaves_nothing_behind(drain: Drain) -> None:
    before = names(drain.folder.spool)
    withheld = drain.begin()
    drain.withhold(withheld, 0)
    withheld.write()
    await withheld.discard()
    assert names(drain.folder.spool) == before


async def test_shard_that_is_drained_once_more_leaves_its_retry_shard_alone(drain: Drain) -> None:
    """The retry shard may be on its way: its file stays, and no row goes into another one."""
    first = drain.begin()
    drain.withhold(first, 1, 3)
    first.write()
    await first.seal()
    again = drain.begin(drained(retried=2))
    await again.forget_leftover()
    drain.withhold(again, 1, 3)
    assert not again.waits
    assert (await again.found(), await again.seal(), again.retry(None)) == (None, None, None)
    assert (again.retried(None), again.agrees(None)) == (2, True)
    assert RETRY in names(drain.folder.spool)

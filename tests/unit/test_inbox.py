"""Inboxes in SQLite: their format, and what a digest says."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from abatch.errors import JournalError
from abatch.journal.folder import JournalFolder
from abatch.journal.inbox import InboxRequest, digest_of
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.protocol.facts import Closed, IterableSource, OpenSource, Submitted

pytestmark = pytest.mark.anyio

OPEN = Submitted(key="open", to="memory:", source=OpenSource(linger=1.0))


def version(folder: JournalFolder) -> int:
    with closing(sqlite3.connect(folder.database)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def request(custom_id: bytes, params: bytes = b"{}") -> InboxRequest:
    return InboxRequest(custom_id, params, (), digest_of(params, ()))


async def test_a_journal_gets_the_new_format_with_its_first_open_job(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "journal")
    log = await SqliteLog.open(folder, drive=True)
    await log.add_job(Submitted(key="k", to="memory:", source=IterableSource()))
    assert version(folder) == 3
    job = (await log.add_job(OPEN)).job
    assert version(folder) == 4
    assert await log.put(job, [request(b'"a"')]) == 1
    await log.aclose()
    again = await SqliteLog.open(folder, drive=True)
    assert version(folder) == 4
    assert [each.custom_id for each in await again.waiting(job, after=0, most=1)] == [b'"a"']
    await again.append(Entry(job, Closed()))
    await again.aclose()


async def test_a_process_that_does_not_drive_cannot_begin_the_first_open_job(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "journal")
    driver = await SqliteLog.open(folder, drive=True)
    log = await SqliteLog.open(folder, drive=False)
    with pytest.raises(JournalError, match="Begin the journal's first open job in the process that drives it"):
        await log.add_job(OPEN)
    assert version(folder) == 3
    await driver.add_job(OPEN)
    second = await log.add_job(Submitted(key="second", to="memory:", source=OpenSource(linger=1.0)))
    assert await driver.put(second.job, [request(b'"a"')]) == 1
    await log.aclose()
    await driver.aclose()


async def test_calls_at_once_share_a_commit(tmp_path: Path, anyio_backend: str) -> None:
    import anyio

    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    log = await SqliteLog.open(JournalFolder(tmp_path / "journal"), drive=True)
    job = (await log.add_job(OPEN)).job
    log._db.set_trace_callback(count)
    async with anyio.create_task_group() as putting:
        for number in range(1000):
            putting.start_soon(log.put, job, [request(b'"%d"' % number)])
    assert (await log.inbox(job)).total == 1000
    assert 1 <= commits <= 3
    await log.aclose()


def test_a_digest_does_not_depend_on_the_order_of_names() -> None:
    same = digest_of(b'{"a":1,"b":{"c":2,"d":[1,2]}}', ("x",))
    assert digest_of(b'{ "b": {"d":[1,2], "c":2}, "a":1}', ("x",)) == same
    for params, betas in (
        (b'{"a":1,"b":{"c":2,"d":[2,1]}}', ("x",)),
        (b'{"a":1,"b":{"c":2,"d":[1,2]}}', ()),
        (b'{"a":1,"b":{"c":2,"d":[1,2]}}', ("x", "y")),
        (b'{"a":"1","b":{"c":2,"d":[1,2]}}', ("x",)),
    ):
        assert digest_of(params, betas) != same

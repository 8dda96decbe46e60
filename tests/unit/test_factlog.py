"""The logs of facts keep the contract; each is held and failed where it writes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch.journal.folder import JournalFolder
from abatch.journal.log import FactLog
from abatch.journal.sqlite import SqliteLog
from abatch.testing import FactLogContract
from abatch.testing.memory_log import MemoryStore

pytestmark = pytest.mark.anyio


class AtCommit:
    """A connection to SQLite that does something else once instead of a COMMIT, after `skip` other ones."""

    def __init__(self, db: sqlite3.Connection, instead: Callable[[sqlite3.Connection], None], skip: int) -> None:
        self._db = db
        self._skip = skip
        self._instead: Callable[[sqlite3.Connection], None] | None = instead

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "COMMIT":
            self._skip -= 1
        if statement == "COMMIT" and self._skip < 0 and self._instead is not None:
            instead, self._instead = self._instead, None
            return instead(self._db)
        return self._db.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def at_commit(log: FactLog, instead: Callable[[sqlite3.Connection], None], *, skip: int = 0) -> None:
    assert isinstance(log, SqliteLog)
    log._db = AtCommit(log._db, instead, skip)  # type: ignore[assignment]


class TestSqliteLog(FactLogContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.folder = JournalFolder(tmp_path / "journal")

    async def open(self, *, drive: bool) -> FactLog:
        return await SqliteLog.open(self.folder, drive=drive)

    async def open_other(self) -> FactLog:
        return await SqliteLog.open(JournalFolder(self.folder.path.with_name("other")), drive=True)

    @asynccontextmanager
    async def held(self, log: FactLog, /) -> AsyncIterator[Callable[[], Any]]:
        arrived, go_on = threading.Event(), threading.Event()

        def wait(db: sqlite3.Connection) -> None:
            arrived.set()
            go_on.wait()
            db.execute("COMMIT")

        at_commit(log, wait)
        try:
            yield lambda: anyio.to_thread.run_sync(arrived.wait)
        finally:
            arrived.set()
            go_on.set()

    def fail_next_sync(self, log: FactLog, /, *, skip: int = 0) -> None:
        def fail(db: sqlite3.Connection) -> None:
            db.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")

        at_commit(log, fail, skip=skip)

    async def damage(self, seq: int, /) -> None:
        with closing(sqlite3.connect(self.folder.database)) as db, db:
            db.execute("UPDATE facts SET fact = substr(fact, 2) WHERE seq = ?", (seq,))


class TestSqliteLogOfADiskThatHasWhatItRefused(TestSqliteLog):
    """The commit is on the disk, and its fsync fails all the same."""

    facts = 1000

    def fail_next_sync(self, log: FactLog, /, *, skip: int = 0) -> None:
        def fail(db: sqlite3.Connection) -> None:
            db.execute("COMMIT")
            raise sqlite3.OperationalError("disk I/O error")

        at_commit(log, fail, skip=skip)


class TestMemoryLog(FactLogContract):
    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        self.store = MemoryStore()

    async def open(self, *, drive: bool) -> FactLog:
        return self.store.open(drive=drive)

    async def open_other(self) -> FactLog:
        return MemoryStore().open(drive=True)

    @asynccontextmanager
    async def held(self, log: FactLog, /) -> AsyncIterator[Callable[[], Any]]:
        arrived, go_on, before = asyncio.Event(), asyncio.Event(), self.store.sync

        async def wait() -> None:
            arrived.set()
            await go_on.wait()
            await before()

        self.store.sync = wait
        try:
            yield arrived.wait
        finally:
            self.store.sync = before
            arrived.set()
            go_on.set()

    def fail_next_sync(self, log: FactLog, /, *, skip: int = 0) -> None:
        before = self.store.sync
        left = skip

        async def fail() -> None:
            nonlocal left
            if left:
                left -= 1
                return await before()
            self.store.sync = before
            raise OSError(5, "Input/output error")

        self.store.sync = fail

    async def damage(self, seq: int, /) -> None:
        self.store.unreadable.add(seq)

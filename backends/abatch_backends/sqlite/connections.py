"""One connection per database and event loop for all its jobs: units of work, one after another, all or nothing."""

from __future__ import annotations

import sqlite3
import stat
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import aiosqlite
import anyio
from anyio.lowlevel import RunVar

from abatch.storage import run_blocking, run_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

__all__ = ["CLOSED", "NOT_A_FILE", "Database", "Unfit", "Work", "code_of", "databases_of_this_loop", "one"]

T = TypeVar("T")
PATIENCE: Final = 5.0
"""Seconds to wait for another writer's transaction; a longer one is an outage, which the job waits out."""
ONE_TURN: Final = 1.0
"""Seconds of this wait that remain at least once a unit has its turn, because jobs of this process wait for each other,
too."""
HOLD_ON: Final = 0.05
"""Seconds that SQLite itself may wait each time; then other databases may connect, and the unit is tried again."""
LOOK_AGAIN: Final = 0.02
OPEN: Final = 8
"""The largest number of connected databases; each needs three descriptors and a thread."""
PRIMARY_CODE: Final = 0xFF
"""The part of SQLite's error code that names the kind of error."""
CLOSED: Final = "the backend was closed"
NOT_A_FILE: Final = "is not a regular file; choose another destination"


class Unfit(Exception):
    """The database cannot hold results; the text gives the reason."""


Work: TypeAlias = "Callable[[aiosqlite.Connection], Awaitable[T]]"


class _Busy(Exception):
    """Another connection has locked the database."""

    def __init__(self, refused: sqlite3.OperationalError) -> None:
        super().__init__(refused)
        self.refused = refused


class Database:
    """A database file that one event loop uses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        """The number of backends that use it."""
        self.turn = anyio.Lock()
        self.connection: aiosqlite.Connection | None = None
        self.works = False
        """Whether a unit of work runs on the connection."""

    async def do(self, work: Work[T], *, writes: bool) -> T:
        """Do one unit of work, which must not be cancelled.

        Raises:
            _Busy: nothing was done; try again.

        """
        try:
            database = self.connection
            if database is None:
                database = self.connection = await _connected(self.path)
            if not writes:
                return await work(database)
            await database.execute("BEGIN IMMEDIATE")
            done = await work(database)
            await database.execute("COMMIT")
        except BaseException as stopped:
            if self.connection is not None:
                with suppress(sqlite3.Error):  # report the first error, not that of the rollback
                    await self.connection.rollback()
            if isinstance(stopped, sqlite3.OperationalError) and code_of(stopped) == sqlite3.SQLITE_BUSY:
                raise _Busy(stopped) from stopped
            raise
        return done

    def let_go(self) -> aiosqlite.Connection | None:
        """Detach the connection and return it to be closed; the next unit of work makes another."""
        connection, self.connection = self.connection, None
        return connection


class Databases:
    """The databases of one event loop. At most `OPEN` are connected; one more takes the place of an idle one."""

    def __init__(self) -> None:
        self._known: dict[Path, Database] = {}
        self._connected: OrderedDict[Database, None] = OrderedDict()
        self._places = anyio.Semaphore(OPEN)

    def borrow(self, path: Path) -> Database:
        """Return the database of this path, for use until `give_back`."""
        database = self._known.setdefault(path, Database(path))
        database.users += 1
        return database

    async def give_back(self, database: Database) -> None:
        """End one use of a database; the last one closes the connection."""
        database.users -= 1
        if not database.users:
            del self._known[database.path]
            self._connected.pop(database, None)
            async with database.turn:
                await _close(database)

    async def unit(self, database: Database, work: Work[T], *, writes: bool) -> T:
        """Do a unit of work, all or nothing. A cancellation takes effect before it or after it."""
        until = anyio.current_time() + PATIENCE
        async with database.turn:
            until = max(until, anyio.current_time() + min(ONE_TURN, PATIENCE))
            while True:
                if not database.users:
                    raise Unfit(CLOSED)
                try:
                    async with self._places:
                        database.works = True
                        try:
                            await self._make_room(database)
                            await anyio.lowlevel.checkpoint_if_cancelled()
                            return await run_to_end(database.do(work, writes=writes))
                        finally:
                            database.works = False
                except _Busy as busy:
                    if anyio.current_time() > until:
                        raise busy.refused from None
                    await anyio.sleep(LOOK_AGAIN)

    async def _make_room(self, database: Database) -> None:
        self._connected[database] = None
        self._connected.move_to_end(database)
        resting = [each for each in self._connected if not each.works]
        for each in resting[: max(len(self._connected) - OPEN, 0)]:
            del self._connected[each]
            await _close(each)


_databases: RunVar[Databases] = RunVar("abatch_backends.sqlite")


def databases_of_this_loop() -> Databases:
    """Return the databases of this event loop."""
    try:
        return _databases.get()
    except LookupError:
        made = Databases()
        _databases.set(made)
        return made


async def _close(database: Database) -> None:
    connection = database.let_go()
    if connection is not None:
        with anyio.CancelScope(shield=True):
            await run_to_end(connection.close())


async def _connected(path: Path) -> aiosqlite.Connection:
    """Connect to an existing file; a file that is gone is not made again."""
    await run_blocking(_check_regular, path)
    uri = f"file://{quote(str(path))}?mode=rw"
    database = await aiosqlite.connect(uri, uri=True, timeout=HOLD_ON, isolation_level=None)
    try:
        await _configure(database)
    except BaseException:
        await database.close()
        raise
    return database


def _check_regular(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(0, NOT_A_FILE, str(path))


async def _configure(database: aiosqlite.Connection) -> None:
    if await one(database, "PRAGMA encoding") != "UTF-8":
        raise Unfit("the database is not in UTF-8; choose another destination")
    # On a file system without shared memory the journal mode does not change.
    await one(database, "PRAGMA journal_mode = WAL")  # fetch the result, because an open statement keeps its lock
    await database.execute("PRAGMA synchronous = FULL")
    await database.execute("PRAGMA fullfsync = ON")  # has an effect only on macOS
    await database.execute("PRAGMA checkpoint_fullfsync = ON")


def code_of(refused: sqlite3.Error) -> int:
    """Return the kind of an SQLite error."""
    return getattr(refused, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY_CODE


async def one(database: aiosqlite.Connection, query: str, *values: str | int) -> Any:  # noqa: ANN401 - as stored
    """Return the only value of the first row; None if there is no row."""
    return next((value for (value,) in await database.execute_fetchall(query, values)), None)

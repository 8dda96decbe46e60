"""The log of facts in one SQLite file: `FactLog` in SQL. WAL, synchronous=FULL.

After a failed write or fsync nothing more is written through this connection, and the manager ends. The effect of a
failed fsync is not known, so it is never tried again.

One unit of work is one closure in one worker thread call (`threads.run`), under a shield: a cancellation can neither
interrupt it nor leave it running unnoticed. That is why this module uses `sqlite3` directly; see docs/design.md.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar

import anyio
import msgspec

from abatch.errors import (
    ConfigError,
    IllegalTransition,
    JobConflict,
    JournalCorrupt,
    JournalError,
    Overtaken,
)
from abatch.journal import sqlite_inbox
from abatch.journal.lineage import Lineage
from abatch.journal.lock import DriverLock
from abatch.journal.log import Entry, Recorded
from abatch.journal.sqlite_outbox import SqliteOutbox
from abatch.protocol import facts
from abatch.protocol.facts import (
    CancelledAsParked,
    CancelWished,
    CandidatesChanged,
    Closed,
    Finished,
    InputChanged,
    Limited,
    Lost,
    LostWished,
    Moved,
    OpenSource,
    Reappeared,
    Reopened,
    Unplanned,
    Vanished,
    WishRefused,
)
from abatch.system import threads
from abatch.system.disk import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from abatch.journal.folder import JournalFolder
    from abatch.journal.inbox import InboxRequest, InboxState, Waiting
    from abatch.protocol.facts import Submitted

__all__ = ["SqliteLog"]

P = ParamSpec("P")
T = TypeVar("T")

VERSION: Final = 3
"""The format of every other journal: of the tables, the facts, and the meaning of their columns.

A journal of an unknown format is refused.
"""
OLDER: Final = 2
"""An older format that is read, too, and migrated when the journal is driven: it only lacks some kinds of facts."""
SINCE_OLDER: Final = (
    CancelledAsParked,
    CandidatesChanged,
    Closed,
    InputChanged,
    Limited,
    LostWished,
    Moved,
    Unplanned,
    Vanished,
    Reappeared,
    Lost,
    Reopened,
    WishRefused,
)
"""Kinds of facts that a journal of the older format cannot hold, because an abatch of that format cannot read them."""
END_AN_INBOX: Final = (Closed, CancelWished, Finished)
_OF_SHARD: Final = (int, type(None))
SCHEMA: Final = """
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (job INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE facts (
    seq INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs,
    shard INTEGER,              -- NULL: a fact of the job itself
    n INTEGER,                  -- position among the shard's facts, or among the job's cuts
    at REAL NOT NULL,           -- seconds since the epoch, by this machine's clock
    writer INTEGER NOT NULL,    -- who appended it: one number per open journal
    fact BLOB NOT NULL          -- JSON
);
CREATE UNIQUE INDEX fence ON facts (shard, n) WHERE shard IS NOT NULL;
CREATE UNIQUE INDEX cuts ON facts (job, n) WHERE shard IS NULL;
"""


class SqliteLog:
    """One connection to the file, opened by `SqliteLog.open`; every method that uses the disk is awaited."""

    def __init__(
        self, folder: JournalFolder, db: sqlite3.Connection, lock: DriverLock | None, lineage: Lineage
    ) -> None:
        self.folder = folder
        self.lineage = lineage
        self._db = db
        self._lock = lock
        self._turn = anyio.Lock()
        self._writer = secrets.randbits(62)
        self._broken: JournalError | None = None
        self._puts: list[_Put] = []
        """Calls of `put` that wait for the next commit, which they share."""
        self._putting: asyncio.Task[None] | None = None
        self.outbox = SqliteOutbox(self)

    @property
    def drives(self) -> bool:
        """Whether this process holds the driver's lock."""
        return self._lock is not None and self._lock.held

    @classmethod
    async def open(cls, folder: JournalFolder, /, *, drive: bool) -> Self:
        """Open the log in `folder`; with `drive`, make it if it does not exist.

        Raises:
            ConfigError: there is no log, and `drive` is False.
            JournalLocked: another process drives it.
            JournalCorrupt: it is not a journal that this version can read.
            JournalError: the folder or file cannot be used.

        """
        return await threads.opened(cls._close, cls._open, folder, drive)

    @classmethod
    def _open(cls, folder: JournalFolder, drive: bool) -> Self:
        lock = None
        if not drive and not os.path.exists(folder.database):  # noqa: PTH110 - Path.exists raises on long names
            raise ConfigError(
                f"there is no journal in {folder}: no run has made one there yet; choose another journal with journal="
            )
        try:
            if drive:
                folder.prepare()
                lock = DriverLock(folder.lock)
            db, secret = _connect(folder.database, migrate=drive)
        except BaseException as failure:
            if lock is not None:
                lock.close()
            match failure:
                case NotADirectoryError() | FileExistsError():
                    raise ConfigError(f"journal {folder} cannot be a folder: {failure.strerror}") from failure
                case OSError():
                    place = f" ({failure.filename})" if failure.filename else ""
                    raise JournalError(f"journal {folder} cannot be opened: {failure.strerror}{place}") from failure
                case _:
                    raise
        return cls(folder, db, lock, Lineage(secret))

    async def aclose(self) -> None:
        """Close the file and free the lock."""
        await threads.whole(self._aclose())

    async def _aclose(self) -> None:
        if self._putting is not None:
            await self._putting
        async with self._turn:
            await threads.run(self._close)

    def _close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    async def bind(self, base_url: str, /) -> None:
        """Bind the journal to one API once something may have been sent; until then the last call counts.

        Raises:
            ConfigError: the journal belongs to another base URL.

        """
        known = await self._unit(self._bind, base_url)
        if known != base_url:
            raise ConfigError(
                f"journal {self.folder} belongs to {known}, not to {base_url}; "
                "a journal serves one API: choose another journal with journal="
            )

    def _bind(self, base_url: str) -> str:
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO about VALUES ('base_url', ?)", (base_url,))
            nothing_sent = "NOT EXISTS (SELECT 1 FROM facts WHERE shard IS NOT NULL AND n > 0)"
            self._db.execute(f"UPDATE about SET value = ? WHERE name = 'base_url' AND {nothing_sent}", (base_url,))  # noqa: S608
            (known,) = self._db.execute("SELECT value FROM about WHERE name = 'base_url'").fetchone()
        return str(known)

    async def base_url(self) -> str | None:
        """Return the API that the journal belongs to; None before its first use."""

        def read() -> str | None:
            row = self._db.execute("SELECT value FROM about WHERE name = 'base_url'").fetchone()
            return None if row is None else str(row[0])

        return await self._unit(read)

    async def add_job(self, fact: Submitted, /) -> Recorded:
        """Append a job's first fact, and return it with the job's number.

        Raises:
            JobConflict: another process has taken the key.

        """
        return await self._unit(self._add_job, fact)

    def _add_job(self, fact: Submitted) -> Recorded:
        with self._transaction():
            try:
                job = self._db.execute("INSERT INTO jobs (key) VALUES (?)", (fact.key,)).lastrowid
            except sqlite3.IntegrityError as taken:
                raise JobConflict(fact.key, "a start at the same moment elsewhere") from taken
            assert job is not None
            if isinstance(fact.source, OpenSource):
                self._make_inboxes()
                sqlite_inbox.begin(self._db, job)
            return self._insert(Entry(job, fact), time.time())

    def _make_inboxes(self) -> None:
        """Migrate a journal to the format with inboxes; only the driver may, because an older abatch cannot drive it.

        Raises:
            JournalError: another process may be driving it.

        """
        if sqlite_inbox.exist(self._db):
            return
        if not self.drives:
            raise JournalError(
                f"journal {self.folder} has no open job yet, so an older abatch may be driving it, which could not "
                "read one; nothing was recorded. Begin the journal's first open job in the process that drives it"
            )
        sqlite_inbox.make(self._db)

    async def append(self, /, *entries: Entry) -> list[Recorded]:
        """Make these facts durable, all or none, and return them as recorded. A cancellation does not interrupt this.

        Raises:
            Overtaken: another process has appended at one of these positions.
            JournalError: the write failed; the connection accepts nothing more.

        """
        return await self._unit(self._append, entries)

    def _append(self, entries: tuple[Entry, ...]) -> list[Recorded]:
        with self._transaction():
            self._check_format(entries)
            at = time.time()
            try:
                recorded = [self._insert(entry, at) for entry in entries]
            except sqlite3.IntegrityError as taken:
                raise Overtaken from taken
            ends = [entry for entry in entries if isinstance(entry.fact, END_AN_INBOX)]
            if ends and sqlite_inbox.exist(self._db):
                for entry in ends:
                    sqlite_inbox.close(self._db, entry.job)
                    if isinstance(entry.fact, Finished):
                        sqlite_inbox.empty(self._db, entry.job)
            return recorded

    def _check_format(self, entries: tuple[Entry, ...]) -> None:
        """Refuse a fact that the journal's format does not have; another process may have migrated it by now."""
        if any(isinstance(entry.fact, SINCE_OLDER) for entry in entries):
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == OLDER:
                raise JournalError(
                    f"journal {self.folder} has format {OLDER}, so an older abatch may be driving it, which could not "
                    "read the new fact; nothing was recorded. Run the job once with this version "
                    "(`abatch status` shows the command), then repeat this"
                )

    def _insert(self, entry: Entry, at: float) -> Recorded:
        cursor = self._db.execute(
            "INSERT INTO facts (job, shard, n, at, writer, fact) VALUES (?, ?, ?, ?, ?, ?)",
            (entry.job, entry.shard, entry.n, at, self._writer, facts.encode(entry.fact)),
        )
        assert cursor.lastrowid is not None
        return Recorded(cursor.lastrowid, entry.job, entry.shard, at, entry.fact)

    async def replay(
        self,
        visit: Callable[[Recorded], object],
        /,
        *,
        since: int = 0,
        until: int | None = None,
        others_only: bool = False,
        job: int | None = None,
    ) -> int:
        """Call `visit` (in a worker thread) with every fact after `since`, in the order in which they became durable.

        With `until`, the replay ends with the fact of that number; with `job`, it reads only the facts of that job.

        Returns:
            The number of the last of these facts; `since` if there was none.

        Raises:
            JournalCorrupt: a fact cannot be read, or `visit` reports that it does not follow from the earlier ones.

        """
        return await self._unit(self._replay, visit, since=since, until=until, others_only=others_only, of_job=job)

    def _replay(
        self,
        visit: Callable[[Recorded], object],
        *,
        since: int,
        until: int | None,
        others_only: bool,
        of_job: int | None,
    ) -> int:
        query = "SELECT seq, job, shard, at, fact FROM facts WHERE seq > ?"
        values: list[int] = [since]
        if others_only:
            query += " AND writer != ?"
            values.append(self._writer)
        for condition, value in (("seq <= ?", until), ("job = ?", of_job)):
            if value is not None:
                query += f" AND {condition}"
                values.append(value)
        decode = facts.decode
        seq = since
        with closing(self._db.execute(query + " ORDER BY seq", values)) as cursor:
            for seq, job, of_shard, at, fact in cursor:
                try:
                    decoded = decode(fact)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as unreadable:
                    raise JournalCorrupt(self.folder.path, f"fact {seq} cannot be read") from unreadable
                # The types are checked because SQLite stores any type in any column.
                if type(job) is not int or type(at) is not float or type(of_shard) not in _OF_SHARD:
                    raise JournalCorrupt(self.folder.path, f"fact {seq} cannot be read")
                try:
                    visit(Recorded(seq, job, of_shard, at, decoded))
                except (IllegalTransition, AssertionError) as failure:
                    why = f"fact {seq} does not follow from those before it ({failure})"
                    raise JournalCorrupt(self.folder.path, why) from failure
        return seq

    async def job_of(self, shard: int, /) -> int | None:
        """Return the number of the job that has this shard; None if no fact names the shard."""

        def read() -> int | None:
            row = self._db.execute("SELECT job FROM facts WHERE shard = ? AND n = 0", (shard,)).fetchone()
            return None if row is None else int(row[0])

        return await self._unit(read)

    async def version(self) -> int:
        """Return a number that changes when another process writes; cheap enough to call every second."""

        def read() -> int:
            (number,) = self._db.execute("PRAGMA data_version").fetchone()
            return int(number)

        return await self._unit(read)

    # ---- inboxes ----------------------------------------------------------------------------------------------

    async def put(self, job: int, requests: Sequence[InboxRequest], /) -> int:
        """Make these requests durable in the inbox of an open job, all or none; return how many were new.

        Calls that arrive while a commit is written share the next one.

        Raises:
            RequestConflict: the inbox holds one of these custom_ids with another digest; none was put.
            InboxClosed: the job takes no further requests, or is not an open job; none was put.
            JournalError: the write failed; the connection accepts nothing more.

        """
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._puts.append(_Put(job, requests, outcome))
        if self._putting is None:
            self._putting = asyncio.ensure_future(self._put_all())
        return await outcome

    async def _put_all(self) -> None:
        puts: list[_Put] = []
        try:
            while self._puts:
                puts, self._puts = self._puts, []
                outcomes = await self._unit(self._put, puts)
                for put, outcome in zip(puts, outcomes, strict=True):
                    put.end(outcome)
        except BaseException as failure:
            for put in [*puts, *self._puts]:
                put.end(failure)
            self._puts = []
            if isinstance(failure, asyncio.CancelledError):  # The event loop ends.
                raise
        finally:
            self._putting = None

    def _put(self, puts: list[_Put]) -> list[int | Exception]:
        by_job: dict[int, list[_Put]] = {}
        for put in puts:
            by_job.setdefault(put.job, []).append(put)
        outcomes: dict[_Put, int | Exception] = {}
        with self._transaction():
            for job, calls in by_job.items():
                ends = sqlite_inbox.put(self._db, job, [call.requests for call in calls])
                outcomes |= dict(zip(calls, ends, strict=True))
        return [outcomes[put] for put in puts]

    async def waiting(self, job: int, /, *, after: int, most: int) -> list[Waiting]:
        """Return requests of an inbox that are not released, in the order of their numbers: about `most` bytes."""

        def read() -> list[Waiting]:
            return sqlite_inbox.waiting(self._db, job, after=after, most=most) if sqlite_inbox.exist(self._db) else []

        return await self._unit(read)

    async def inbox(self, job: int, /) -> InboxState:
        """Return the state of an inbox; that of a job without one is closed and empty."""
        return await self._unit(
            lambda: sqlite_inbox.state(self._db, job) if sqlite_inbox.exist(self._db) else sqlite_inbox.NO_INBOX
        )

    async def was_put(self, job: int, custom_id: bytes, /) -> bool:
        """Return whether the inbox of an unfinished job holds or held this custom_id."""
        return await self._unit(
            lambda: sqlite_inbox.exist(self._db) and custom_id in sqlite_inbox.digests(self._db, job, {custom_id})
        )

    async def release(self, job: int, /, *, through: int) -> None:
        """Drop the params of the requests up to this number, because they are durable elsewhere."""

        def drop() -> None:
            with self._transaction():
                sqlite_inbox.release(self._db, job, through=through)

        await self._unit(drop)

    # ---- units of work ----------------------------------------------------------------------------------------

    async def read(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """Do work of the outbox that only reads."""
        return await self._unit(lambda: work(self._db))

    async def write(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """Do work of the outbox in one transaction, durable on return."""

        def unit() -> T:
            with self._transaction():
                return work(self._db)

        return await self._unit(unit)

    async def _unit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await threads.whole(self._in_turn(work, *args, **kwargs))

    async def _in_turn(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            if self._broken is not None:
                raise self._broken
            try:
                return await threads.run(work, *args, **kwargs)
            except sqlite3.Error as failure:
                self._broken = JournalError(
                    f"journal {self.folder} cannot be used: {failure}; nothing more is sent. "
                    "Free the disk or repair it, then run the same command again"
                )
                raise self._broken from failure

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


@dataclass(slots=True, eq=False)
class _Put:
    """A call of `put` that waits for its commit."""

    job: int
    requests: Sequence[InboxRequest]
    outcome: asyncio.Future[int]

    def end(self, outcome: int | BaseException) -> None:
        """Give the caller its outcome, unless it was cancelled."""
        if self.outcome.done():
            return
        match outcome:
            case int():
                self.outcome.set_result(outcome)
            case asyncio.CancelledError():
                self.outcome.cancel()
            case _:
                self.outcome.set_exception(outcome)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT; on any error ROLLBACK, and the error propagates."""

    __slots__ = ("_db",)

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _connect(path: Path, *, migrate: bool) -> tuple[sqlite3.Connection, bytes]:
    new = not path.exists()
    if new:
        with durable(path.parent):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        return db, _prepare(db, path, migrate=migrate)
    except (sqlite3.DatabaseError, TypeError) as failure:
        code = getattr(failure, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        db.close()
        if isinstance(failure, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            # The disk is full, busy or read-only; the file itself is not damaged.
            raise JournalError(f"journal {path.parent} cannot be opened: {failure}") from failure
        raise JournalCorrupt(path, f"it is not a journal ({failure})") from failure
    except BaseException:
        db.close()
        raise


def _prepare(db: sqlite3.Connection, path: Path, *, migrate: bool) -> bytes:
    """Set up a connection and, for a new file, the schema, and return the journal's secret.

    Only the process that has the driver's lock may `migrate`, because then no older abatch drives the journal.
    """
    _is_new(db, path)  # this comes first, so that another program's database is never changed
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = ON")  # has an effect only on macOS, like `disk.sync`
    db.execute("PRAGMA checkpoint_fullfsync = ON")
    db.execute("PRAGMA secure_delete = ON")  # params that an inbox dropped do not stay in the file
    with _Transaction(db):
        if _is_new(db, path):
            for statement in SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute("INSERT INTO about VALUES ('lineage_key', ?)", (secrets.token_bytes(32),))
            db.execute(f"PRAGMA user_version = {VERSION}")
        (lineage_key,) = db.execute("SELECT value FROM about WHERE name = 'lineage_key'").fetchone()
        if migrate and db.execute("PRAGMA user_version").fetchone() == (OLDER,):
            db.execute(f"PRAGMA user_version = {VERSION}")
    return bytes(lineage_key)


def _is_new(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether a database is empty; raise if it is neither empty nor a journal that this version can read."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in {0, OLDER, VERSION, sqlite_inbox.WITH_INBOXES}:
        raise JournalError(
            f"{path} has format {version}, this abatch reads {OLDER} to {sqlite_inbox.WITH_INBOXES}: "
            "finish its jobs with the abatch that wrote it, or choose another journal with journal="
        )
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
        raise JournalError(f"{path} is another program's database: choose another journal with journal=")
    return bool(version == 0)

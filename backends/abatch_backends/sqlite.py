"""Results in a SQLite database: a row per request in `results`, there as soon as it came.

One connection per database and event loop serves all its jobs, in short transactions, so that many drains, jobs and
processes take turns. A unit of work has the connection for itself and runs to its end in a task of its own: all or
nothing, and whoever is cancelled or closed leaves nothing of it behind for the others. Connections are made when there
is work, and few stay open (`OPEN`), however many databases there are, because each has a thread. The primary key
`(job, custom_id)` with `ON CONFLICT DO NOTHING` makes every repetition harmless; the seal of a shard is a row of
`abatch_shards` in the transaction of its last lines. Several jobs may share a database, each under its key.

`result` is the JSON text of the API's `result` object, cut from the line, never written anew: numbers, spaces
and escapes stand as they came.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
from codecs import iterdecode
from collections import OrderedDict
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import aiosqlite
import anyio
import msgspec
from anyio.lowlevel import RunVar

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, ConfigError, TooManyOpenFiles
from abatch.result import LONG, Block
from abatch.system import threads
from abatch.system.disk import OUT_OF_FILES, can_open_more, make_folders, passes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from abatch.result import Line, Usage

__all__ = ["open_"]

T = TypeVar("T")
FORMS: Final = ("sqlite:///results.db", "sqlite:////absolute/results.db")
ROWS: Final = 1_000
BYTES: Final = 8 * 2**20
"""A transaction ends with the write that brings it to so many rows or bytes; a write is never divided."""
PAGE: Final = 16
"""Rows fetched at once by a reader; a row may be large."""
PATIENCE: Final = 5.0
"""Seconds to wait for another writer's transaction; one that is longer is an outage, which the job waits out."""
ONE_TURN: Final = 1.0
"""Seconds of it at least from one's turn on: jobs of this process wait for each other, too."""
HOLD_ON: Final = 0.05
"""Seconds of it that SQLite itself may wait; then the place is free for others, and the unit begins again later."""
LOOK_AGAIN: Final = 0.02
OPEN: Final = 8
"""Databases that are connected at once, at most; each takes three descriptors and a thread."""
PRIMARY_CODE: Final = 0xFF
"""The part of SQLite's error code that names the kind."""
PASSING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
"""What may end without anybody's help."""
CLOSED: Final = "the backend was closed"
NOT_A_FILE: Final = "is not a regular file; choose another destination"
OLDEST: Final = (3, 38, 0)
"""json_extract is always built in from here on."""

SCHEMA: Final = {
    "results": """
        CREATE TABLE results (
            job TEXT NOT NULL,
            custom_id TEXT NOT NULL,
            outcome TEXT NOT NULL,
            result TEXT NOT NULL,
            batch_id TEXT,
            model TEXT,
            input_tokens INTEGER,
            output_tokens INTEGER,
            cache_read_tokens INTEGER,
            cache_creation_tokens INTEGER,
            sealed_at TEXT NOT NULL,
            shard INTEGER NOT NULL,
            PRIMARY KEY (job, custom_id)
        )""",
    "abatch_jobs": """
        CREATE TABLE abatch_jobs (
            job TEXT NOT NULL PRIMARY KEY,
            lineage TEXT NOT NULL,
            claimed_at TEXT NOT NULL,
            finished_at TEXT
        )""",
    "abatch_shards": """
        CREATE TABLE abatch_shards (
            job TEXT NOT NULL,
            shard INTEGER NOT NULL,
            part INTEGER NOT NULL,
            batch_id TEXT,
            lines INTEGER NOT NULL,
            sealed_at TEXT NOT NULL,
            PRIMARY KEY (job, shard)
        )""",
    "abatch_missing": """
        CREATE TABLE abatch_missing (
            job TEXT NOT NULL,
            custom_id TEXT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (job, custom_id)
        )""",
    "abatch_results_by_shard": """
        CREATE INDEX abatch_results_by_shard ON results (job, shard)""",
    "results_failed": """
        CREATE VIEW results_failed AS
        SELECT job, custom_id, outcome,
            CASE WHEN json_valid(result) THEN json_extract(result, '$.error.error.type') END AS error_type,
            CASE WHEN json_valid(result) THEN json_extract(result, '$.error.error.message') END AS message,
            batch_id, sealed_at
        FROM results WHERE outcome <> 'succeeded'""",
    # a job and its retries (`nightly.retry-1`) as one: a success counts before a failure, and a later job before an
    # earlier one; a key that ends so by chance, without the other job, is a job of its own
    "results_merged": """
        CREATE VIEW results_merged AS
        WITH split(job, lineage, head, number) AS (
            SELECT job, lineage, rtrim(job, '0123456789'),
                CAST(substr(job, length(rtrim(job, '0123456789')) + 1) AS INTEGER)
            FROM abatch_jobs
        ), family(job, root, number) AS (
            SELECT split.job, coalesce(first.job, split.job), CASE WHEN first.job IS NULL THEN 0 ELSE split.number END
            FROM split LEFT JOIN abatch_jobs AS first
                ON first.job = substr(split.head, 1, length(split.head) - 7) AND substr(split.head, -7) = '.retry-'
                AND split.job <> split.head AND split.lineage = first.lineage
        )
        SELECT family.root AS job, answer.custom_id, answer.outcome, answer.result, answer.batch_id, answer.model,
            answer.input_tokens, answer.output_tokens, answer.cache_read_tokens, answer.cache_creation_tokens,
            answer.sealed_at, answer.job AS answered_by
        FROM family JOIN results AS answer ON answer.job = family.job
        WHERE NOT EXISTS (
            SELECT 1 FROM family AS other
            JOIN results AS better ON better.job = other.job AND better.custom_id = answer.custom_id
            WHERE other.root = family.root AND other.job <> family.job
                AND (better.outcome = 'succeeded', other.number) > (answer.outcome = 'succeeded', family.number)
        )""",
}
# a result is bound as bytes: SQLite takes them for the text they are, and no str is made of each and encoded again
INSERT: Final = (
    "INSERT INTO results VALUES (?, ?, ?, coalesce(CAST(? AS TEXT), ?), ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
STORED: Final = """
    SELECT shard, part,
        (SELECT count(*) FROM results WHERE results.job = sealed.job AND results.shard = sealed.shard)
    FROM abatch_shards AS sealed WHERE job = ?"""


async def open_(url: str, job: JobRef, /) -> Backend:
    """Claim the job's key in a database; the database may hold other jobs and other tables."""
    path = _path(url)
    if sqlite3.sqlite_version_info < OLDEST:
        raise BackendError(url, f"this Python has SQLite {sqlite3.sqlite_version}; 3.38 or newer is needed")
    backend = _Sqlite(url, path, job)
    try:
        await backend.begin()
    except BaseException:
        await backend.aclose()
        raise
    return backend


def _path(url: str) -> Path:
    name = url.removeprefix("sqlite:///")
    if name == url or not name or name.endswith("/") or "\0" in name or "?" in name:
        raise ConfigError(f"{url!r} names no database, or has parameters; write one of: {', '.join(FORMS)}")
    return Path(os.path.abspath(name))  # noqa: PTH100 - links must not be followed


def _prepare(path: Path) -> None:
    """Make an empty file for us alone where none is: SQLite gives its other files the mode of this one."""
    make_folders(path.parent)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(0, NOT_A_FILE, str(path)) from None


# ---- one connection for all jobs of a database ----------------------------------------------------------------


_Work: TypeAlias = "Callable[[aiosqlite.Connection], Awaitable[T]]"


class _Busy(Exception):
    """Another connection has the database at the moment."""

    def __init__(self, refused: sqlite3.OperationalError) -> None:
        super().__init__(refused)
        self.refused = refused


class _Database:
    """A database file, as one event loop uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        """Backends that may ask for it."""
        self.turn = anyio.Lock()
        self.connection: aiosqlite.Connection | None = None
        self.works = False
        """A unit of work runs on the connection."""

    async def do(self, work: _Work[T], *, writes: bool) -> T:
        """One unit of work; nothing may cancel it.

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
                with suppress(sqlite3.Error):  # what stopped us is what counts
                    await self.connection.rollback()
            if isinstance(stopped, sqlite3.OperationalError) and _code(stopped) == sqlite3.SQLITE_BUSY:
                raise _Busy(stopped) from stopped
            raise
        return done

    def let_go(self) -> aiosqlite.Connection | None:
        """The connection, to close; who needs one after this makes another."""
        connection, self.connection = self.connection, None
        return connection


class _Databases:
    """Those of one event loop. At most `OPEN` are connected at once: one more takes the place of one that rests."""

    def __init__(self) -> None:
        self._known: dict[Path, _Database] = {}
        self._connected: OrderedDict[_Database, None] = OrderedDict()
        self._places = anyio.Semaphore(OPEN)

    def borrow(self, path: Path) -> _Database:
        """The database of this path, until `give_back`."""
        database = self._known.setdefault(path, _Database(path))
        database.users += 1
        return database

    async def give_back(self, database: _Database) -> None:
        """One user less; the last one closes the connection."""
        database.users -= 1
        if not database.users:
            del self._known[database.path]
            self._connected.pop(database, None)
            async with database.turn:
                await _close(database)

    async def unit(self, database: _Database, work: _Work[T], *, writes: bool) -> T:
        """Do a unit of work, all or nothing. A cancellation comes before it, or is heard after it."""
        until = anyio.current_time() + PATIENCE
        async with database.turn:
            until = max(until, anyio.current_time() + min(ONE_TURN, PATIENCE))
            while True:
                if not database.users:
                    raise _Unfit(CLOSED)
                try:
                    async with self._places:
                        database.works = True
                        try:
                            await self._make_room(database)
                            await anyio.lowlevel.checkpoint_if_cancelled()
                            return await threads.whole(database.do(work, writes=writes))
                        finally:
                            database.works = False
                except _Busy as busy:
                    if anyio.current_time() > until:
                        raise busy.refused from None
                    await anyio.sleep(LOOK_AGAIN)

    async def _make_room(self, database: _Database) -> None:
        self._connected[database] = None
        self._connected.move_to_end(database)
        resting = [each for each in self._connected if not each.works]
        for each in resting[: max(len(self._connected) - OPEN, 0)]:
            del self._connected[each]
            await _close(each)


_databases: RunVar[_Databases] = RunVar("abatch_backends.sqlite")


def _of_this_loop() -> _Databases:
    try:
        return _databases.get()
    except LookupError:
        made = _Databases()
        _databases.set(made)
        return made


async def _close(database: _Database) -> None:
    connection = database.let_go()
    if connection is not None:
        with anyio.CancelScope(shield=True):
            await threads.whole(connection.close())


async def _connected(path: Path) -> aiosqlite.Connection:
    """A connection to a file that is there: one that is gone is not made anew."""
    await threads.run(_check_regular, path)
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
    if await _one(database, "PRAGMA encoding") != "UTF-8":
        raise _Unfit("the database is not in UTF-8; choose another destination")
    # a file system without shared memory keeps its mode
    await _one(database, "PRAGMA journal_mode = WAL")  # to its end: an open statement keeps its lock
    await database.execute("PRAGMA synchronous = FULL")
    await database.execute("PRAGMA fullfsync = ON")  # of macOS; nothing elsewhere
    await database.execute("PRAGMA checkpoint_fullfsync = ON")


def _code(refused: sqlite3.Error) -> int:
    """The kind of SQLite's error."""
    return getattr(refused, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & PRIMARY_CODE


class _Unfit(Exception):
    """The database cannot hold results; the text says why."""


# ---- the backend -----------------------------------------------------------------------------------------------


class _Sqlite:
    def __init__(self, url: str, path: Path, job: JobRef) -> None:
        self.url, self._path, self._job = url, path, job
        self._databases = _of_this_loop()
        self._database: _Database | None = self._databases.borrow(path)

    async def begin(self) -> None:
        """Make the file if there is none, and claim."""
        try:
            await threads.run(_prepare, self._path)
        except OSError as refused:
            raise self._failed(refused) from refused
        await self.unit(self._claim)

    async def _claim(self, database: aiosqlite.Connection) -> None:
        """Make what is lacking, and put the job's name down, or find another's."""
        expected = await threads.run(_expected_shapes)
        found = _by_name(await database.execute_fetchall(_SHAPES))
        for name, statement in SCHEMA.items():
            if name not in found:
                await database.execute(statement)
            elif found[name] != expected[name]:
                raise _Unfit(f"{name!r} in it is not of our making; choose another destination")
        await database.execute(
            "INSERT INTO abatch_jobs VALUES (?, ?, ?, NULL) ON CONFLICT DO NOTHING",
            (self._job.key, self._job.lineage, _now()),
        )
        lineage = await _one(database, "SELECT lineage FROM abatch_jobs WHERE job = ?", self._job.key)
        if lineage != self._job.lineage:
            raise _Unfit(
                f"it holds the results of another job {self._job.key!r}; give this one another key, "
                "or choose another destination"
            )

    async def unit(self, work: _Work[T], *, writes: bool = True) -> T:
        """Do one unit of work, in a transaction if it writes; what is refused becomes a BackendError."""
        if self._database is None:
            raise BackendError(self.url, CLOSED)
        try:
            return await self._databases.unit(self._database, work, writes=writes)
        except (sqlite3.Error, OSError, _Unfit) as refused:
            raise self._failed(refused) from refused

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        sealed = await self._ask(
            "SELECT lines FROM abatch_shards WHERE job = ? AND shard = ?", self._job.key, shard.shard
        )
        for (lines,) in sealed:
            return _sealed(shard, lines)
        # the rows of a run that died are visible already: they stay, and are not written twice
        return _Sink(self, shard)

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        last, given = -1, 0
        # a statement a page: an open one would keep the WAL from being emptied while the reader idles
        while page := await self._ask(
            "SELECT rowid, custom_id, CAST(result AS BLOB) FROM results"
            " WHERE job = ? AND shard = ? AND rowid > ? ORDER BY rowid LIMIT ?",
            self._job.key,
            sealed.detail["shard"],
            last,
            PAGE,
        ):
            for last, custom_id, result in page:  # noqa: B007 - the next page begins behind the last one
                yield b'{"custom_id":%b,"result":%b}' % (msgspec.json.encode(custom_id), result)
            given += len(page)
        if given != sealed.lines:
            shard = sealed.detail["shard"]
            raise BackendError(self.url, f"the rows of shard {shard} were changed or removed; restore them")

    async def _ask(self, query: str, *values: str | int) -> Sequence[tuple[Any, ...]]:
        async def ask(database: aiosqlite.Connection) -> Sequence[tuple[Any, ...]]:
            return [tuple(row) for row in await database.execute_fetchall(query, values)]

        return await self.unit(ask, writes=False)

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        async def mark(database: aiosqlite.Connection) -> None:
            stored = await database.execute_fetchall(STORED, (self._job.key,))
            known = {shard: (part, lines) for shard, part, lines in stored}
            for each in sealed:
                shard = int(each.detail["shard"])
                if known.get(shard) != (each.part, each.lines):
                    raise _Unfit(f"the rows of shard {shard} were changed or removed; restore them")
            if not job.finished:  # a shard that was read again lacks fewer requests than before
                await database.execute("DELETE FROM abatch_missing WHERE job = ?", (job.key,))
                await database.executemany(
                    "INSERT INTO abatch_missing VALUES (?, ?, ?) ON CONFLICT DO NOTHING", _missing(job)
                )
                await database.execute(
                    "UPDATE abatch_jobs SET finished_at = ? WHERE job = ? AND finished_at IS NULL",
                    (_now(), job.key),
                )

        await self.unit(mark)
        return str(self._path)

    async def aclose(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with anyio.CancelScope(shield=True):
                await self._databases.give_back(database)

    def _failed(self, refused: Exception) -> BackendError:
        match refused:
            case _Unfit():
                return BackendError(self.url, str(refused))
            case OSError() if refused.errno in OUT_OF_FILES:
                return TooManyOpenFiles(self.url)
            case OSError():
                why = f"{refused.strerror or refused} ({refused.filename})"
                return BackendError(self.url, why, passes=passes(refused))
            case sqlite3.OperationalError() if _code(refused) == sqlite3.SQLITE_CANTOPEN and not can_open_more():
                return TooManyOpenFiles(self.url)
            case sqlite3.Error() if _code(refused) in PASSING:
                return BackendError(self.url, f"SQLite says: {refused}", passes=True)
            case _:
                return BackendError(self.url, f"SQLite says: {refused}")


class _Sink:
    """Lines on their way into `results`, at most one transaction's worth."""

    def __init__(self, backend: _Sqlite, shard: ShardRef) -> None:
        self._backend, self._shard = backend, shard
        self._held: list[Sequence[Line]] = []
        self._rows = self._bytes = 0

    async def write(self, lines: Sequence[Line], /) -> None:
        self._held.append(lines)
        self._rows += len(lines)
        self._bytes += _weight(lines)
        if self._rows >= ROWS or self._bytes >= BYTES:
            await self._backend.unit(self._insert)
            self._let_go()

    async def seal(self) -> Sealed:
        shard, key = self._shard, self._shard.job.key

        async def insert_the_last(database: aiosqlite.Connection) -> int:
            await self._insert(database)
            lines: int = await _one(
                database, "SELECT count(*) FROM results WHERE job = ? AND shard = ?", key, shard.shard
            )
            await database.execute(
                "INSERT INTO abatch_shards VALUES (?, ?, ?, ?, ?, ?)",
                (key, shard.shard, shard.part, shard.batch_id, lines, _now()),
            )
            return lines

        lines = await self._backend.unit(insert_the_last)
        self._let_go()
        return _sealed(shard, lines)

    async def discard(self) -> None:
        self._let_go()

    async def _insert(self, database: aiosqlite.Connection) -> None:
        await database.executemany(INSERT, self._values())

    def _values(self) -> Iterator[tuple[str | _Text | int | None, ...]]:
        """Made one by one as SQLite takes them, in its thread, where a block's lines are made, too."""
        now, shard, key = _now(), self._shard, self._shard.job.key
        for line in chain.from_iterable(self._held):
            usage = line.usage
            yield (
                key,
                line.custom_id,
                _text(line.outcome),
                *_result(line.raw),
                shard.batch_id,
                line.model and _text(line.model),
                *(_UNKNOWN if usage is None else _tokens(usage)),
                now,
                shard.shard,
            )

    def _let_go(self) -> None:
        self._held.clear()
        self._rows = self._bytes = 0


def _weight(lines: Sequence[Line]) -> int:
    """Bytes of these lines, about, without a look at each `Line` of a block."""
    return lines.weight if isinstance(lines, Block) else sum(len(line.raw) for line in lines)


def _sealed(shard: ShardRef, lines: int) -> Sealed:
    return Sealed(part=shard.part, lines=lines, detail={"shard": shard.shard})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _missing(job: JobRef) -> Iterator[tuple[str, str, str]]:
    for path in job.missing:
        with path.open("rb") as pairs:
            for pair in map(json.loads, pairs):
                yield job.key, pair["custom_id"], pair["reason"]


# ---- a line as a row ---------------------------------------------------------------------------------------

_Text: TypeAlias = bytes | memoryview
_UNKNOWN: Final = (None, None, None, None)


class _Envelope(msgspec.Struct):
    result: msgspec.Raw


_decode = msgspec.json.Decoder(_Envelope).decode
# the API's own order of keys
_HEAD: Final = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*"[^"\\]*(?:\\.[^"\\]*)*"\s*,\s*"result"\s*:\s*', re.DOTALL)


def _result(line: bytes) -> tuple[_Text | None, _Text | None]:
    """A line's result as text, or what is no UTF-8 as a BLOB: as text no reader could fetch it."""
    result: _Text
    try:
        raw = _decode(line).result
        result = bytes(raw) if len(line) < LONG else memoryview(raw)
    except (msgspec.MsgspecError, RecursionError):  # a lone surrogate, deep nesting: refused, but an answer
        result = _cut(line)
    return (result, None) if _is_utf8(result) else (None, result)


def _is_utf8(text: _Text) -> bool:
    try:
        if isinstance(text, memoryview):  # a long one is looked at in pieces: as a str it may take four times its room
            pieces = (bytes(text[begin : begin + LONG]) for begin in range(0, len(text), LONG))
            for _ in iterdecode(pieces, "utf-8"):
                pass
        elif not text.isascii():
            text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(line: bytes) -> bytes:
    """What stands behind `"result":`, to the end; the whole line if it is of no form we know."""
    head, whole = _HEAD.match(line), line.rstrip()
    return whole[head.end() : -1].rstrip() if head and whole.endswith(b"}") else line


def _text(value: str) -> str:
    """Without lone surrogates, which SQLite cannot store."""
    return value.encode(errors="replace").decode()


def _tokens(usage: Usage) -> tuple[int, int, int, int]:
    return usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_creation_tokens


# ---- asking ------------------------------------------------------------------------------------------------


async def _one(database: aiosqlite.Connection, query: str, *values: str | int) -> Any:  # noqa: ANN401 - as stored
    return next((value for (value,) in await database.execute_fetchall(query, values)), None)


_Shapes = dict[str, list[tuple[str, str | None, int | None]]]
_SHAPES: Final = """
    SELECT object.name, object.type, field.name, field.pk
    FROM sqlite_master AS object LEFT JOIN pragma_table_info(object.name) AS field
    ORDER BY object.name, field.cid"""


@cache
def _expected_shapes() -> _Shapes:
    """What each name of ours is, with its columns and their place in the primary key."""
    with closing(sqlite3.connect(":memory:")) as model:
        for statement in SCHEMA.values():
            model.execute(statement)
        return _by_name(model.execute(_SHAPES))


def _by_name(rows: Iterable[Iterable[Any]]) -> _Shapes:
    shapes: _Shapes = {}
    for name, kind, column, key in rows:
        shapes.setdefault(name, []).append((kind, column, key))
    return shapes

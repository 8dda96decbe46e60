"""Results in a SQLite database: a row per request in `results`, there as soon as it came.

One connection writes, in short transactions, so that many drains, jobs and processes take turns. The primary
key `(job, custom_id)` with `ON CONFLICT DO NOTHING` makes every repetition harmless; the seal of a shard is a
row of `abatch_shards` in the transaction of its last lines. Several jobs may share a database, each under its
key.

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
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiosqlite
import anyio
import msgspec

from abatch import threads
from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.disk import make_folders, passes
from abatch.errors import BackendError, ConfigError
from abatch.result import LONG, Block

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence

    from abatch.result import Line, Usage

__all__ = ["open_"]

FORMS: Final = ("sqlite:///results.db", "sqlite:////absolute/results.db")
ROWS: Final = 1_000
BYTES: Final = 8 * 2**20
"""A transaction ends with the write that brings it to so many rows or bytes; a write is never divided."""
PAGE: Final = 16
"""Rows fetched at once by a reader; a row may be large."""
PATIENCE: Final = 60.0
"""Seconds to wait for another writer's transaction."""
LOOK_AGAIN: Final = 0.02
PRIMARY_CODE: Final = 0xFF
"""The part of SQLite's error code that names the kind."""
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
    try:
        await threads.run(_prepare, path)
    except OSError as refused:
        why = f"{refused.strerror or refused} ({refused.filename})"
        raise BackendError(url, why, passes=passes(refused)) from refused
    backend = _Sqlite(url, path, job)
    # under a shield, here and below: a cancelled await would leave its statement, or the connection, behind
    with anyio.CancelScope(shield=True):
        await backend.begin()
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
            raise OSError(0, "is not a regular file; choose another destination", str(path)) from None


class _Sqlite:
    def __init__(self, url: str, path: Path, job: JobRef) -> None:
        self.url, self._path, self._job = url, path, job
        self._turn = anyio.Lock()
        self._connection: aiosqlite.Connection | None = None

    async def begin(self) -> None:
        """Connect and claim; on failure nothing stays open."""
        try:
            self._connection = await aiosqlite.connect(self._path, timeout=PATIENCE, isolation_level=None)
            await self._configure(self._connection)
            async with self.transaction() as database:
                await self._claim(database)
        except sqlite3.Error as refused:
            await self.aclose()
            raise self._failed(refused) from refused
        except BaseException:
            await self.aclose()
            raise

    async def _configure(self, database: aiosqlite.Connection) -> None:
        if await _one(database, "PRAGMA encoding") != "UTF-8":
            raise BackendError(self.url, "the database is not in UTF-8; choose another destination")
        await self._use_write_ahead_log(database)
        await database.execute("PRAGMA synchronous = FULL")

    async def _use_write_ahead_log(self, database: aiosqlite.Connection) -> None:
        """Switch a new database over; SQLite refuses that at once, without patience, while another does the same."""
        until = anyio.current_time() + PATIENCE
        while True:
            try:
                # a file system without shared memory keeps its mode
                await _one(database, "PRAGMA journal_mode = WAL")  # to its end: an open statement keeps its lock
            except sqlite3.OperationalError as refused:
                if refused.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY or anyio.current_time() > until:
                    raise
                await anyio.sleep(LOOK_AGAIN)
            else:
                return

    async def _claim(self, database: aiosqlite.Connection) -> None:
        expected, found = await threads.run(_expected_shapes), await _shapes(database)
        for name, statement in SCHEMA.items():
            if name not in found:
                await database.execute(statement)
            elif found[name] != expected[name]:
                raise BackendError(self.url, f"{name!r} in it is not of our making; choose another destination")
        await database.execute(
            "INSERT INTO abatch_jobs VALUES (?, ?, ?, NULL) ON CONFLICT DO NOTHING",
            (self._job.key, self._job.lineage, _now()),
        )
        lineage = await _one(database, "SELECT lineage FROM abatch_jobs WHERE job = ?", self._job.key)
        if lineage != self._job.lineage:
            raise BackendError(
                self.url,
                f"it holds the results of another job {self._job.key!r}; give this one another key, "
                "or choose another destination",
            )

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[aiosqlite.Connection]:
        """One transaction, all or nothing; what SQLite refuses becomes a BackendError."""
        async with self._turn:
            with anyio.CancelScope(shield=True):
                database = self._open_connection()
                try:
                    await database.execute("BEGIN IMMEDIATE")
                    yield database
                    await database.execute("COMMIT")
                except BaseException as stopped:
                    with suppress(sqlite3.Error):  # what stopped us is what counts
                        await database.rollback()
                    if isinstance(stopped, sqlite3.Error):
                        raise self._failed(stopped) from stopped
                    raise

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
        rows: Sequence[tuple[Any, ...]] = ()
        with anyio.CancelScope(shield=True):
            try:
                rows = [tuple(row) for row in await self._open_connection().execute_fetchall(query, values)]
            except sqlite3.Error as refused:
                raise self._failed(refused) from refused
        return rows

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        async with self.transaction() as database:
            stored = await database.execute_fetchall(STORED, (self._job.key,))
            known = {shard: (part, lines) for shard, part, lines in stored}
            for each in sealed:
                shard = int(each.detail["shard"])
                if known.get(shard) != (each.part, each.lines):
                    raise BackendError(self.url, f"the rows of shard {shard} were changed or removed; restore them")
            if not job.finished:
                await database.executemany(
                    "INSERT INTO abatch_missing VALUES (?, ?, ?) ON CONFLICT DO NOTHING", _missing(job)
                )
                await database.execute(
                    "UPDATE abatch_jobs SET finished_at = ? WHERE job = ? AND finished_at IS NULL",
                    (_now(), job.key),
                )
        return str(self._path)

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.CancelScope(shield=True):
                await connection.close()

    def _open_connection(self) -> aiosqlite.Connection:
        if self._connection is None:
            raise BackendError(self.url, "the backend was closed")
        return self._connection

    def _failed(self, refused: sqlite3.Error) -> BackendError:
        return BackendError(self.url, f"SQLite says: {refused}", passes=_passes(refused))


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
            async with self._backend.transaction() as database:
                await self._insert(database)
            self._let_go()

    async def seal(self) -> Sealed:
        shard, key = self._shard, self._shard.job.key
        async with self._backend.transaction() as database:
            await self._insert(database)
            lines = await _one(database, "SELECT count(*) FROM results WHERE job = ? AND shard = ?", key, shard.shard)
            await database.execute(
                "INSERT INTO abatch_shards VALUES (?, ?, ?, ?, ?, ?)",
                (key, shard.shard, shard.part, shard.batch_id, lines, _now()),
            )
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


def _passes(refused: sqlite3.Error) -> bool:
    """Whether what SQLite refused may be granted later, without anybody's help."""
    code = getattr(refused, "sqlite_errorcode", None)  # an error of the module itself has none
    if code is None:
        return False
    match code & PRIMARY_CODE:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return True
        case sqlite3.SQLITE_CANTOPEN:  # the reason is not told; a process that is out of descriptors is one that passes
            return not _has_descriptor()
        case _:
            return False


def _has_descriptor() -> bool:
    """Whether this process may open one file more."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as refused:
        return not passes(refused)
    return True


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


async def _shapes(database: aiosqlite.Connection) -> _Shapes:
    """What each name in the database is, with its columns and their place in the primary key."""
    return _by_name(await database.execute_fetchall(_SHAPES))


def _expected_shapes() -> _Shapes:
    with closing(sqlite3.connect(":memory:")) as model:
        for statement in SCHEMA.values():
            model.execute(statement)
        return _by_name(model.execute(_SHAPES))


def _by_name(rows: Iterable[Iterable[Any]]) -> _Shapes:
    shapes: _Shapes = {}
    for name, kind, column, key in rows:
        shapes.setdefault(name, []).append((kind, column, key))
    return shapes

"""Claim a job's key in a database, and write, read and finish the rows of its shards."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import msgspec

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, ConfigError, TooManyOpenFiles
from abatch.storage import (
    can_open_more,
    is_out_of_files,
    make_private_folders,
    may_pass,
    run_blocking,
    weight_of,
)
from abatch_backends.sqlite.connections import (
    CLOSED,
    NOT_A_FILE,
    Database,
    Unfit,
    Work,
    code_of,
    databases_of_this_loop,
    one,
)
from abatch_backends.sqlite.rows import UNKNOWN, Text, result_of, text_of, tokens_of
from abatch_backends.sqlite.schema import SCHEMA, SHAPES, by_name, expected_shapes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    import aiosqlite

    from abatch import Line

__all__ = ["SqliteBackend", "open_"]

T = TypeVar("T")
FORMS: Final = ("sqlite:///results.db", "sqlite:////absolute/results.db")
ROWS: Final = 1_000
BYTES: Final = 8 * 2**20
"""A transaction ends with the write that reaches this many rows or bytes; a write is never divided."""
PAGE: Final = 16
"""Rows that a reader fetches at once; the number is small because a row may be large."""
PASSING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
"""Errors that may pass by themselves."""
OLDEST: Final = (3, 38, 0)
"""The oldest version of SQLite in which json_extract is always built in."""

# A result is bound as bytes, which SQLite stores as text. So no result is decoded to a str and encoded again.
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
    backend = SqliteBackend(url, path, job)
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
    """Make an empty private file if there is no file, because SQLite gives its other files the mode of this one."""
    make_private_folders(path.parent)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(0, NOT_A_FILE, str(path)) from None


class SqliteBackend:
    """The rows of one job."""

    def __init__(self, url: str, path: Path, job: JobRef) -> None:
        self.url = url
        self._path = path
        self._job = job
        self._databases = databases_of_this_loop()
        self._database: Database | None = self._databases.borrow(path)

    async def begin(self) -> None:
        """Make the file if it does not exist, and claim."""
        try:
            await run_blocking(_prepare, self._path)
        except OSError as refused:
            raise self._failed(refused) from refused
        await self.unit(self._claim)

    async def _claim(self, database: aiosqlite.Connection) -> None:
        """Make the missing tables and views, and claim the key; raise if it belongs to another job."""
        expected = await run_blocking(expected_shapes)
        found = by_name(await database.execute_fetchall(SHAPES))
        for name, statement in SCHEMA.items():
            if name not in found:
                await database.execute(statement)
            elif found[name] != expected[name]:
                raise Unfit(f"it has {name!r}, which abatch did not make; choose another destination")
        await database.execute(
            "INSERT INTO abatch_jobs VALUES (?, ?, ?, NULL) ON CONFLICT DO NOTHING",
            (self._job.key, self._job.lineage, _now()),
        )
        lineage = await one(database, "SELECT lineage FROM abatch_jobs WHERE job = ?", self._job.key)
        if lineage != self._job.lineage:
            raise Unfit(
                f"it holds the results of another job {self._job.key!r}; give this one another key, "
                "or choose another destination"
            )

    async def unit(self, work: Work[T], *, writes: bool = True) -> T:
        """Do one unit of work, in a transaction if it writes; failures become a BackendError."""
        if self._database is None:
            raise BackendError(self.url, CLOSED)
        try:
            return await self._databases.unit(self._database, work, writes=writes)
        except (sqlite3.Error, OSError, Unfit) as refused:
            raise self._failed(refused) from refused

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        """Begin a shard, or find that an earlier run sealed it."""
        sealed = await self._ask(
            "SELECT lines FROM abatch_shards WHERE job = ? AND shard = ?", self._job.key, shard.shard
        )
        for (lines,) in sealed:
            return _sealed(shard, lines)
        # The rows of a run that died are visible already. They stay, and are not written twice.
        return _Sink(self, shard)

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        """Read the lines of a shard, one page at a time."""
        last, given = -1, 0
        # Each page is one statement, because an open statement would keep the WAL from being emptied while the reader
        # is idle.
        while page := await self._ask(
            "SELECT rowid, custom_id, CAST(result AS BLOB) FROM results"
            " WHERE job = ? AND shard = ? AND rowid > ? ORDER BY rowid LIMIT ?",
            self._job.key,
            sealed.detail["shard"],
            last,
            PAGE,
        ):
            for last, custom_id, result in page:  # noqa: B007 - the next page begins after the last row
                yield b'{"custom_id":%b,"result":%b}' % (msgspec.json.encode(custom_id), result)
            given += len(page)
        if given != sealed.lines:
            shard = sealed.detail["shard"]
            raise BackendError(self.url, f"the rows of shard {shard} were changed or removed; restore them")

    async def find(self, custom_ids: Sequence[str], /) -> dict[str, bytes]:
        """Return the lines of these requests, by the primary key; rows of a shard that is not sealed may still go."""
        marks = ", ".join("?" * len(custom_ids))
        found = await self._ask(
            "SELECT custom_id, CAST(result AS BLOB) FROM results"  # noqa: S608 - only question marks are put in
            f" WHERE job = ? AND custom_id IN ({marks})"
            " AND EXISTS (SELECT 1 FROM abatch_shards AS sealed"
            " WHERE sealed.job = results.job AND sealed.shard = results.shard)",
            self._job.key,
            *custom_ids,
        )
        return {
            custom_id: b'{"custom_id":%b,"result":%b}' % (msgspec.json.encode(custom_id), result)
            for custom_id, result in found
        }

    async def _ask(self, query: str, *values: str | int) -> Sequence[tuple[Any, ...]]:
        async def ask(database: aiosqlite.Connection) -> Sequence[tuple[Any, ...]]:
            return [tuple(row) for row in await database.execute_fetchall(query, values)]

        return await self.unit(ask, writes=False)

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        """Check the rows of every shard, and record the missing requests and the end of the job."""

        async def mark(database: aiosqlite.Connection) -> None:
            stored = await database.execute_fetchall(STORED, (self._job.key,))
            known = {shard: (part, lines) for shard, part, lines in stored}
            for each in sealed:
                shard = int(each.detail["shard"])
                if known.get(shard) != (each.part, each.lines):
                    raise Unfit(f"the rows of shard {shard} were changed or removed; restore them")
            if not job.finished:  # after a redrain fewer requests may be missing than before
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
        """Give the connection back; the last job closes it."""
        database, self._database = self._database, None
        if database is not None:
            with anyio.CancelScope(shield=True):
                await self._databases.give_back(database)

    def _failed(self, refused: Exception) -> BackendError:
        match refused:
            case Unfit():
                return BackendError(self.url, str(refused))
            case OSError() if is_out_of_files(refused):
                return TooManyOpenFiles(self.url)
            case OSError():
                why = f"{refused.strerror or refused} ({refused.filename})"
                return BackendError(self.url, why, passes=may_pass(refused))
            case sqlite3.OperationalError() if code_of(refused) == sqlite3.SQLITE_CANTOPEN and not can_open_more():
                return TooManyOpenFiles(self.url)
            case sqlite3.Error() if code_of(refused) in PASSING:
                return BackendError(self.url, f"SQLite reports: {refused}", passes=True)
            case _:
                return BackendError(self.url, f"SQLite reports: {refused}")


class _Sink:
    """The sink of one shard: it holds the lines of at most one transaction in memory."""

    def __init__(self, backend: SqliteBackend, shard: ShardRef) -> None:
        self._backend = backend
        self._shard = shard
        self._held: list[Sequence[Line]] = []
        self._rows = 0
        self._bytes = 0

    async def write(self, lines: Sequence[Line], /) -> None:
        self._held.append(lines)
        self._rows += len(lines)
        self._bytes += weight_of(lines)
        if self._rows >= ROWS or self._bytes >= BYTES:
            await self._backend.unit(self._insert)
            self._let_go()

    async def seal(self) -> Sealed:
        shard, key = self._shard, self._shard.job.key

        async def insert_the_last(database: aiosqlite.Connection) -> int:
            await self._insert(database)
            lines: int = await one(
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

    def _values(self) -> Iterator[tuple[str | Text | int | None, ...]]:
        """Yield the rows one by one as SQLite takes them; its thread then also makes the lines of a block."""
        now, shard, key = _now(), self._shard, self._shard.job.key
        for line in chain.from_iterable(self._held):
            usage = line.usage
            yield (
                key,
                line.custom_id,
                text_of(line.outcome),
                *result_of(line.raw),
                shard.batch_id,
                line.model and text_of(line.model),
                *(UNKNOWN if usage is None else tokens_of(usage)),
                now,
                shard.shard,
            )

    def _let_go(self) -> None:
        self._held.clear()
        self._rows = 0
        self._bytes = 0


def _sealed(shard: ShardRef, lines: int) -> Sealed:
    return Sealed(part=shard.part, lines=lines, detail={"shard": shard.shard})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _missing(job: JobRef) -> Iterator[tuple[str, str, str]]:
    for path in job.missing:
        with path.open("rb") as pairs:
            for pair in map(json.loads, pairs):
                yield job.key, pair["custom_id"], pair["reason"]

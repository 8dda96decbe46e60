"""The inboxes of open jobs in SQL: functions that do their part of a unit of work of `SqliteLog`.

The tables exist from the journal's first open job on, and with them the journal has the format `WITH_INBOXES`.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.errors import InboxClosed, RequestConflict
from abatch.journal.inbox import InboxRequest, InboxState, Waiting

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

__all__ = ["WITH_INBOXES", "begin", "close", "digests", "empty", "exist", "make", "put", "release", "state", "waiting"]

WITH_INBOXES: Final = 4
"""The format of a journal that had an open job; the driver migrates to it when the first one begins."""
SCHEMA: Final = """
CREATE TABLE inboxes (
    job INTEGER PRIMARY KEY REFERENCES jobs,
    total INTEGER NOT NULL,     -- requests that were ever put
    released INTEGER NOT NULL,  -- the number of the last request whose params were dropped
    bytes INTEGER NOT NULL,     -- of params that were not dropped
    closed INTEGER NOT NULL
);
CREATE TABLE inbox (
    job INTEGER NOT NULL,
    n INTEGER NOT NULL,         -- from 1, without a gap
    at REAL NOT NULL,
    custom_id BLOB NOT NULL,    -- a JSON string
    digest BLOB NOT NULL,
    betas BLOB NOT NULL,        -- JSON
    params BLOB                 -- JSON; NULL once they were dropped
);
CREATE UNIQUE INDEX inbox_order ON inbox (job, n);
CREATE UNIQUE INDEX inbox_ids ON inbox (job, custom_id);
"""
IDS_AT_ONCE: Final = 500
"""custom_ids in one query; every build of SQLite allows more."""
NO_INBOX: Final = InboxState(total=0, released=0, unreleased=0, closed=True)

_betas = msgspec.json.Decoder(tuple[str, ...]).decode


def exist(db: sqlite3.Connection) -> bool:
    """Return whether the journal has the tables."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return bool(version == WITH_INBOXES)


def make(db: sqlite3.Connection) -> None:
    """Make the tables, and migrate the journal to their format."""
    for statement in SCHEMA.split(";\n"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {WITH_INBOXES}")


def begin(db: sqlite3.Connection, job: int) -> None:
    """Make the inbox of an open job."""
    db.execute("INSERT INTO inboxes VALUES (?, 0, 0, 0, FALSE)", (job,))


def close(db: sqlite3.Connection, job: int) -> None:
    """Take no further requests for a job, if it is an open one."""
    db.execute("UPDATE inboxes SET closed = TRUE WHERE job = ?", (job,))


def empty(db: sqlite3.Connection, job: int) -> None:
    """Drop the requests of a finished job."""
    db.execute("DELETE FROM inbox WHERE job = ?", (job,))
    db.execute("UPDATE inboxes SET released = total, bytes = 0 WHERE job = ?", (job,))


def put(db: sqlite3.Connection, job: int, calls: Sequence[Sequence[InboxRequest]]) -> list[int | Exception]:
    """Put the requests of several calls; return for each how many were new, or why none of it was put."""
    row = db.execute("SELECT total, closed FROM inboxes WHERE job = ?", (job,)).fetchone() if exist(db) else None
    if row is None or row[1]:
        return [InboxClosed(_key(db, job)) for _ in calls]
    known = digests(db, job, {request.custom_id for requests in calls for request in requests})
    new: dict[bytes, InboxRequest] = {}
    outcomes: list[int | Exception] = []
    for requests in calls:
        fresh: dict[bytes, InboxRequest] = {}
        outcome: int | Exception | None = None
        for request in requests:
            same = fresh.get(request.custom_id) or new.get(request.custom_id)
            digest = known.get(request.custom_id) if same is None else same.digest
            if digest is None:
                fresh[request.custom_id] = request
            elif digest != request.digest:
                outcome = RequestConflict(_key(db, job), msgspec.json.decode(request.custom_id, type=str))
                break
        if outcome is None:
            outcome = len(fresh)
            new |= fresh
        outcomes.append(outcome)
    first, at = int(row[0]) + 1, time.time()
    db.executemany(
        "INSERT INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (job, n, at, each.custom_id, each.digest, msgspec.json.encode(each.betas), each.params)
            for n, each in enumerate(new.values(), start=first)
        ),
    )
    db.execute(
        "UPDATE inboxes SET total = total + ?, bytes = bytes + ? WHERE job = ?",
        (len(new), sum(len(each.params) for each in new.values()), job),
    )
    return outcomes


def digests(db: sqlite3.Connection, job: int, custom_ids: Collection[bytes]) -> dict[bytes, bytes]:
    """Return the digests of those of these requests that the inbox holds."""
    found: dict[bytes, bytes] = {}
    wanted = list(custom_ids)
    for first in range(0, len(wanted), IDS_AT_ONCE):
        ids = wanted[first : first + IDS_AT_ONCE]
        marks = ", ".join("?" * len(ids))
        query = f"SELECT custom_id, digest FROM inbox WHERE job = ? AND custom_id IN ({marks})"  # noqa: S608
        found.update(db.execute(query, (job, *ids)))
    return found


def waiting(db: sqlite3.Connection, job: int, *, after: int, most: int) -> list[Waiting]:
    """Return requests whose params were not dropped, in order, until their params have `most` bytes."""
    found: list[Waiting] = []
    query = "SELECT n, at, custom_id, params, betas FROM inbox WHERE job = ? AND n > ? AND params NOT NULL ORDER BY n"
    with closing(db.execute(query, (job, after))) as cursor:
        for n, at, custom_id, params, betas in cursor:
            found.append(Waiting(n, at, custom_id, params, _betas(betas)))
            most -= len(params)
            if most <= 0:
                break
    return found


def state(db: sqlite3.Connection, job: int) -> InboxState:
    """Return the state of an inbox; that of a job without one is closed and empty."""
    row = db.execute("SELECT total, released, bytes, closed FROM inboxes WHERE job = ?", (job,)).fetchone()
    if row is None:
        return NO_INBOX
    total, released, unreleased, closed = row
    return InboxState(total, released, unreleased, bool(closed))


def release(db: sqlite3.Connection, job: int, *, through: int) -> None:
    """Drop the params of the requests up to this number."""
    (released,) = db.execute("SELECT released FROM inboxes WHERE job = ?", (job,)).fetchone()
    of_these = "job = ? AND n > ? AND n <= ?"
    values = (job, released, through)
    (freed,) = db.execute(f"SELECT total(length(params)) FROM inbox WHERE {of_these}", values).fetchone()  # noqa: S608
    db.execute(f"UPDATE inbox SET params = NULL WHERE {of_these}", values)  # noqa: S608
    db.execute(
        "UPDATE inboxes SET released = max(released, ?), bytes = bytes - ? WHERE job = ?", (through, int(freed), job)
    )


def _key(db: sqlite3.Connection, job: int) -> str:
    row = db.execute("SELECT key FROM jobs WHERE job = ?", (job,)).fetchone()
    return "" if row is None else str(row[0])

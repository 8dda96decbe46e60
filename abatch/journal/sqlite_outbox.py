"""The outbox in SQL: each method is one unit of work of `SqliteLog`.

The tables are made by the first `fill`. They change nothing for an abatch that does not know them, so the format of the
journal stays as it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from abatch.journal.outbox import Counted, Delivery, Message, Receiver

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

__all__ = ["SCHEMA", "SqliteOutbox", "Units"]

T = TypeVar("T")

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS receivers (
    name TEXT PRIMARY KEY,
    cursor INTEGER NOT NULL,    -- the number of a fact
    enabled INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    receiver TEXT NOT NULL REFERENCES receivers,
    seq INTEGER NOT NULL,       -- the number of the fact
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    job TEXT NOT NULL,          -- a key
    body BLOB NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,        -- waiting, delivered, failed
    attempts INTEGER NOT NULL,
    due REAL NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (receiver, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (receiver, state, due);
"""
COLUMNS: Final = "receiver, seq, id, kind, job, body, at, state, attempts, due, answer"


class Units(Protocol):
    """Units of work of the connection that has the outbox."""

    async def read(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """Do work that only reads."""
        ...

    async def write(self, work: Callable[[sqlite3.Connection], T], /) -> T:
        """Do work in one transaction, durable on return."""
        ...


class SqliteOutbox:
    """The outbox of one connection."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def receivers(self) -> list[Receiver]:
        """Return every receiver, in the order of their names."""
        return await self._units.read(
            lambda db: [
                Receiver(name, cursor, bool(enabled))
                for name, cursor, enabled in _rows(db, "SELECT name, cursor, enabled FROM receivers ORDER BY name")
            ]
        )

    async def fill(self, receiver: str, messages: Sequence[Message], /, *, since: int, through: int) -> bool:
        """Put messages and move the receiver's cursor, all or none; False if the cursor is not at `since`."""

        def put(db: sqlite3.Connection) -> bool:
            for statement in SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute("INSERT OR IGNORE INTO receivers VALUES (?, ?, TRUE)", (receiver, since))
            moved = db.execute(
                "UPDATE receivers SET cursor = ? WHERE name = ? AND cursor = ?", (through, receiver, since)
            ).rowcount
            if moved:
                now = time.time()
                db.executemany(
                    "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting', 0, ?, '')",
                    ((receiver, *message, now, now) for message in messages),
                )
            return bool(moved)

        return await self._units.write(put)

    async def due(self, receiver: str, /, *, now: float, most: int) -> list[Delivery]:
        """Return messages that wait and are due, the earliest first; none of a receiver that is disabled."""
        query = (
            f"SELECT {COLUMNS} FROM outbox WHERE receiver = ? AND state = 'waiting' AND due <= ? "  # noqa: S608
            "AND (SELECT enabled FROM receivers WHERE name = receiver) ORDER BY due, seq LIMIT ?"
        )
        return await self._units.read(lambda db: [_delivery(row) for row in _rows(db, query, receiver, now, most)])

    async def newest(self, *, most: int) -> list[Delivery]:
        """Return the messages that were put last, the newest first; undelivered ones before delivered ones."""
        order = "state = 'delivered', at DESC, seq DESC, receiver"
        query = f"SELECT {COLUMNS} FROM outbox ORDER BY {order} LIMIT ?"  # noqa: S608
        return await self._units.read(lambda db: [_delivery(row) for row in _rows(db, query, most)])

    async def counts(self) -> dict[Counted, int]:
        """Return how many messages each receiver has in each state; without the zeros."""
        query = "SELECT receiver, state, count(*) FROM outbox GROUP BY receiver, state"
        return await self._units.read(
            lambda db: {Counted(receiver, state): number for receiver, state, number in _rows(db, query)}
        )

    async def record(self, delivery: Delivery, /, *, disable: bool = False) -> None:
        """Replace state, attempts, due and answer of a message that waits; with `disable`, disable its receiver."""
        now = (delivery.state, delivery.attempts, delivery.due, delivery.answer)

        def update(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE outbox SET state = ?, attempts = ?, due = ?, answer = ? "
                "WHERE receiver = ? AND seq = ? AND state = 'waiting'",
                (*now, delivery.receiver, delivery.message.seq),
            )
            if disable:
                db.execute("UPDATE receivers SET enabled = FALSE WHERE name = ?", (delivery.receiver,))

        await self._units.write(update)

    async def send_again(self, message_id: str | None, /, *, now: float) -> int:
        """Let messages wait again, due at `now` and without attempts, and enable their receivers, or all for None."""
        which, values = ("state = 'failed'", ()) if message_id is None else ("id = ?", (message_id,))

        def update(db: sqlite3.Connection) -> int:
            if not _exists(db):
                return 0
            theirs = f"WHERE name IN (SELECT receiver FROM outbox WHERE {which})"  # noqa: S608
            db.execute(f"UPDATE receivers SET enabled = TRUE {'' if message_id is None else theirs}", values)  # noqa: S608
            waiting = "state = 'waiting', attempts = 0, due = ?"
            return db.execute(f"UPDATE outbox SET {waiting} WHERE {which}", (now, *values)).rowcount  # noqa: S608

        return await self._units.write(update)

    async def forget(self, *, before: float) -> None:
        """Drop the delivered and failed messages whose last attempt ended before this time."""

        def drop(db: sqlite3.Connection) -> None:
            if _exists(db):
                db.execute("DELETE FROM outbox WHERE state != 'waiting' AND due < ?", (before,))

        await self._units.write(drop)


def _exists(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outbox'").fetchone() is not None


def _rows(db: sqlite3.Connection, query: str, *values: object) -> list[Any]:
    """Return the rows of a query; none before the tables exist."""
    return db.execute(query, values).fetchall() if _exists(db) else []


def _delivery(row: tuple[Any, ...]) -> Delivery:
    receiver, seq, id_, kind, job, body, at, state, attempts, due, answer = row
    return Delivery(receiver, Message(seq, id_, kind, job, body), at, state, attempts, due, answer)

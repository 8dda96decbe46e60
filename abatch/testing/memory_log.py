"""The log of facts in memory: for tests of code that uses a log, and the smallest example of one.

`MemoryStore` represents the disk. It outlives its connections, each of which represents a process.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from abatch.errors import (
    ConfigError,
    IllegalTransition,
    JobConflict,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    Overtaken,
)
from abatch.journal.lineage import Lineage
from abatch.journal.log import Entry, Recorded
from abatch.protocol.facts import Committing
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from abatch.protocol.facts import Submitted

__all__ = ["MemoryLog", "MemoryStore"]

PLACE: Final = Path("memory")
"""The name of such a log in messages."""


class _Row(NamedTuple):
    """A fact, its position, and the connection that appended it."""

    writer: MemoryLog
    n: int | None
    recorded: Recorded


async def _at_once() -> None:
    """Do nothing, because memory needs no sync."""


class MemoryStore:
    """The facts of one journal, and the connection that drives it."""

    def __init__(self) -> None:
        self.lineage = Lineage(secrets.token_bytes(32))
        self.base_url: str | None = None
        self.jobs: dict[str, int] = {}
        """The number of each job, by its key."""
        self.rows: list[_Row] = []
        self.positions: set[tuple[str, int, int]] = set()
        """The positions of shards and of jobs that are taken."""
        self.unreadable: set[int] = set()
        """The numbers of facts that cannot be read, because a test damaged them."""
        self.exists = False
        """Whether a connection that drives has made the journal."""
        self.driver: MemoryLog | None = None
        self.sync: Callable[[], Awaitable[None]] = _at_once
        """A function that each write awaits in its middle; replace it to hold a write there, or to raise OSError."""
        self.turn = anyio.Lock()
        """The lock that each write holds."""

    def open(self, *, drive: bool) -> MemoryLog:
        """Open another connection.

        Raises:
            ConfigError: there is no log, and `drive` is False.
            JournalLocked: another connection drives.

        """
        if not drive and not self.exists:
            raise ConfigError(f"there is no journal in {PLACE}")
        if drive and self.driver is not None:
            raise JournalLocked(PLACE, 0)
        log = MemoryLog(self)
        if drive:
            self.driver = log
            self.exists = True
        return log


class MemoryLog:
    """One connection to a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._broken: JournalError | None = None

    @property
    def lineage(self) -> Lineage:
        """The identity of the journal."""
        return self._store.lineage

    @property
    def drives(self) -> bool:
        """Whether this connection has the right to drive."""
        return self._store.driver is self

    async def bind(self, base_url: str, /) -> None:
        """Bind the journal to one API once something may have been sent; until then the last call counts."""
        await threads.whole(self._bind(base_url))

    async def _bind(self, base_url: str) -> None:
        store = self._store
        async with store.turn:
            self._check()
            known = store.base_url or base_url
            if known != base_url and any(isinstance(row.recorded.fact, Committing) for row in store.rows):
                raise ConfigError(f"journal {PLACE} belongs to {known}, not to {base_url}")
            await self._sync()
            store.base_url = base_url

    async def base_url(self) -> str | None:
        """Return the API that the journal belongs to; None before its first use."""
        self._check()
        return self._store.base_url

    async def add_job(self, fact: Submitted, /) -> Recorded:
        """Append a job's first fact, and return it with the job's number."""
        return await threads.whole(self._add_job(fact))

    async def _add_job(self, fact: Submitted) -> Recorded:
        async with self._store.turn:
            self._check()
            jobs = self._store.jobs
            if fact.key in jobs:
                raise JobConflict(fact.key, "a start at the same moment elsewhere")
            (recorded,) = await self._write((Entry(len(jobs) + 1, fact),))
            jobs[fact.key] = recorded.job
            return recorded

    async def append(self, /, *entries: Entry) -> Sequence[Recorded]:
        """Append these facts, all or none."""
        return await threads.whole(self._append(entries))

    async def _append(self, entries: tuple[Entry, ...]) -> list[Recorded]:
        async with self._store.turn:
            self._check()
            wanted = [position for entry in entries if (position := _position(entry)) is not None]
            if len(set(wanted)) < len(wanted) or not self._store.positions.isdisjoint(wanted):
                raise Overtaken
            recorded = await self._write(entries)
            self._store.positions.update(wanted)
            return recorded

    async def _write(self, entries: tuple[Entry, ...]) -> list[Recorded]:
        await self._sync()
        rows, at = self._store.rows, time.time()
        first = len(rows) + 1
        recorded = [
            Recorded(seq, entry.job, entry.shard, at, entry.fact) for seq, entry in enumerate(entries, start=first)
        ]
        rows += [_Row(self, entry.n, each) for entry, each in zip(entries, recorded, strict=True)]
        return recorded

    async def _sync(self) -> None:
        try:
            await self._store.sync()
        except OSError as failure:
            self._broken = JournalError(f"journal {PLACE} cannot be used: {failure}; nothing more is sent")
            raise self._broken from failure

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
        """Call `visit` with every fact after `since`, in the order in which they were appended."""
        self._check()
        found = [
            row.recorded
            for row in self._store.rows[since:until]  # the row of fact n has index n - 1
            if (job is None or row.recorded.job == job) and not (others_only and row.writer is self)
        ]
        await threads.run(_show, found, visit, self._store.unreadable)
        return found[-1].seq if found else since

    async def job_of(self, shard: int, /) -> int | None:
        """Return the number of the job that has this shard."""
        self._check()
        return next((row.recorded.job for row in self._store.rows if row.recorded.shard == shard and row.n == 0), None)

    async def version(self) -> int:
        """Return how many facts other connections have appended."""
        self._check()
        return sum(row.writer is not self for row in self._store.rows)

    async def aclose(self) -> None:
        """Give up the right to drive."""
        if self._broken is None:
            self._broken = JournalError(f"the connection to journal {PLACE} is closed")
        if self._store.driver is self:
            self._store.driver = None

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken


def _position(entry: Entry) -> tuple[str, int, int] | None:
    """Return the position that an entry takes, of its shard or of its job; None if it takes none."""
    if entry.n is None:
        return None
    return ("job", entry.job, entry.n) if entry.shard is None else ("shard", entry.shard, entry.n)


def _show(found: list[Recorded], visit: Callable[[Recorded], object], unreadable: set[int]) -> None:
    for recorded in found:
        if recorded.seq in unreadable:
            raise JournalCorrupt(PLACE, f"fact {recorded.seq} cannot be read")
        try:
            visit(recorded)
        except (IllegalTransition, AssertionError) as failure:
            why = f"fact {recorded.seq} does not follow from those before it ({failure})"
            raise JournalCorrupt(PLACE, why) from failure

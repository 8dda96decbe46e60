"""The log of facts in memory: for tests of code that uses a log, and the smallest example of one.

`MemoryStore` represents the disk. It outlives its connections, each of which represents a process.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import anyio
import msgspec

from abatch.errors import (
    ConfigError,
    IllegalTransition,
    InboxClosed,
    JobConflict,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    Overtaken,
    RequestConflict,
)
from abatch.journal.inbox import InboxRequest, InboxState, Waiting
from abatch.journal.lineage import Lineage
from abatch.journal.log import Entry, Recorded
from abatch.protocol.facts import CancelWished, Closed, Committing, Finished, OpenSource
from abatch.system import threads
from abatch.testing.memory_outbox import MemoryOutbox, OutboxRows

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from abatch.protocol.facts import Submitted

__all__ = ["MemoryLog", "MemoryStore"]

T = TypeVar("T")

PLACE: Final = Path("memory")
"""The name of such a log in messages."""


class _Row(NamedTuple):
    """A fact, its position, and the connection that appended it."""

    writer: MemoryLog
    n: int | None
    recorded: Recorded


@dataclass(slots=True)
class _Inbox:
    """The inbox of one open job."""

    requests: list[tuple[float, InboxRequest]] = field(default_factory=list[tuple[float, InboxRequest]])
    """Every request that was ever put, with its time; a number is an index plus 1."""
    digests: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """The digest of each request, by its custom_id."""
    released: int = 0
    closed: bool = False


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
        self.inboxes: dict[int, _Inbox] = {}
        self.puts: list[MemoryLog] = []
        """The connection of each call that put something."""
        self.outbox = OutboxRows()
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
        self.outbox = MemoryOutbox(self)

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
            if isinstance(fact.source, OpenSource):
                self._store.inboxes[recorded.job] = _Inbox()
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
            for entry in entries:
                if isinstance(entry.fact, Closed | CancelWished | Finished) and entry.job in self._store.inboxes:
                    inbox = self._store.inboxes[entry.job]
                    inbox.closed = True
                    if isinstance(entry.fact, Finished):
                        inbox.released = len(inbox.requests)
                        inbox.digests.clear()
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
        """Return how often other connections have appended a fact or put requests."""
        self._check()
        writers = [*(row.writer for row in self._store.rows), *self._store.puts]
        return sum(writer is not self for writer in writers)

    async def put(self, job: int, requests: Sequence[InboxRequest], /) -> int:
        """Put these requests into the inbox of an open job, all or none; return how many were new."""
        return await threads.whole(self._put(job, requests))

    async def _put(self, job: int, requests: Sequence[InboxRequest]) -> int:
        async with self._store.turn:
            self._check()
            inbox = self._store.inboxes.get(job)
            key = next((key for key, number in self._store.jobs.items() if number == job), "")
            if inbox is None or inbox.closed:
                raise InboxClosed(key)
            fresh: dict[bytes, InboxRequest] = {}
            for request in requests:
                before = fresh.get(request.custom_id)
                digest = inbox.digests.get(request.custom_id) if before is None else before.digest
                if digest is None:
                    fresh[request.custom_id] = request
                elif digest != request.digest:
                    raise RequestConflict(key, msgspec.json.decode(request.custom_id, type=str))
            await self._sync()
            now = time.time()
            inbox.requests += [(now, request) for request in fresh.values()]
            inbox.digests |= {request.custom_id: request.digest for request in fresh.values()}
            self._store.puts.append(self)
            return len(fresh)

    async def waiting(self, job: int, /, *, after: int, most: int) -> Sequence[Waiting]:
        """Return requests of an inbox that are not released, in the order of their numbers: about `most` bytes."""
        self._check()
        inbox = self._store.inboxes.get(job, _Inbox())
        found: list[Waiting] = []
        first = max(after, inbox.released)
        for number, (at, request) in enumerate(inbox.requests[first:], start=first + 1):
            found.append(Waiting(number, at, request.custom_id, request.params, request.betas))
            most -= len(request.params)
            if most <= 0:
                break
        return found

    async def inbox(self, job: int, /) -> InboxState:
        """Return the state of an inbox; that of a job without one is closed and empty."""
        self._check()
        inbox = self._store.inboxes.get(job, _Inbox(closed=True))
        unreleased = sum(len(request.params) for _, request in inbox.requests[inbox.released :])
        return InboxState(len(inbox.requests), inbox.released, unreleased, inbox.closed)

    async def was_put(self, job: int, custom_id: bytes, /) -> bool:
        """Return whether the inbox of an unfinished job holds or held this custom_id."""
        self._check()
        return custom_id in self._store.inboxes.get(job, _Inbox()).digests

    async def release(self, job: int, /, *, through: int) -> None:
        """Drop the params of the requests up to this number, because they are durable elsewhere."""
        self._check()
        inbox = self._store.inboxes[job]
        inbox.released = max(inbox.released, through)

    async def read(self, work: Callable[[OutboxRows], T], /) -> T:
        """Do work of the outbox that only reads."""
        self._check()
        return work(self._store.outbox)

    async def write(self, work: Callable[[OutboxRows], T], /) -> T:
        """Do work of the outbox that is durable on return."""
        return await threads.whole(self._write_outbox(work))

    async def _write_outbox(self, work: Callable[[OutboxRows], T]) -> T:
        async with self._store.turn:
            self._check()
            await self._sync()
            return work(self._store.outbox)

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

"""The protocol of the log of facts: the small interface that a store implements.

`SqliteLog` is the implementation; `abatch.testing.FactLogContract` tests every promise of this protocol.

*Fence*: position n of a shard, and position n of a job, can be taken once. If two processes race, the loser gets
`Overtaken` and reads the facts again. Safety depends only on this. The right to drive just prevents two processes from
doing the same work. Processes that do not drive may read, and append wishes (cancel, resolve), which the driver sees
within a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from abatch.protocol.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from abatch.journal.inbox import InboxRequest, InboxState, Waiting
    from abatch.journal.lineage import Lineage
    from abatch.journal.outbox import OutboxLog
    from abatch.protocol.facts import Submitted

__all__ = ["Entry", "FactLog", "Recorded"]


class Entry(NamedTuple):
    """A fact to append. An entry with `n` takes a position, and one without takes none.

    With `shard`, it is position `n` of that shard. Shards are numbered per journal, so the position is the same
    whichever job the entry names. Without `shard`, it is position `n` of the job, whatever the kind of fact: `Cut`,
    `Moved`, `InputChanged` and `Finished` share these positions. Any free position can be taken; gaps are allowed.
    """

    job: int
    fact: Fact
    shard: int | None = None
    n: int | None = None


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A fact in the log."""

    seq: int
    """The number of the fact, above 0 and above the numbers of all earlier facts; gaps are allowed."""
    job: int
    shard: int | None
    at: float
    """The time of the append in seconds since the epoch, by the clock of the machine that appended the fact."""
    fact: Fact


class FactLog(Protocol):
    """One process's connection to an append-only, durable log of facts, to the inboxes of open jobs, and to the outbox.

    A call is one unit of work: a cancellation takes effect before it, or waits until it is done and is raised then.
    Several tasks may call one connection at the same time; each call takes effect before or after another, as a whole.
    After a failed write (`append`, `add_job`, `bind`) the connection is broken permanently, because it is not known
    whether the facts are durable. Every later call raises JournalError, and a new connection reads which facts were
    stored. After `aclose`, too, every call but `aclose` raises JournalError.

    How a store is opened is not part of the protocol, with one exception: only a connection that drives makes a store
    that does not exist. Without the right to drive, opening such a store fails and makes nothing.
    """

    @property
    def lineage(self) -> Lineage:
        """The identity of the journal, which is made once with the store and is the same for all connections.

        Its secret has 32 bytes from a cryptographic source of randomness, so no two stores have the same.
        """
        ...

    @property
    def drives(self) -> bool:
        """Whether this connection was opened to drive, and still may; False after `aclose`.

        A store gives this right to one connection at a time, and frees it when the connection is closed or its process
        dies. Until then it raises JournalLocked for any other connection that wants to drive. abatch does not read
        this; `FactLogContract` does.
        """
        ...

    @property
    def outbox(self) -> OutboxLog:
        """The outbox: messages about facts, durable until their receiver has them; any connection may use it."""
        ...

    async def bind(self, base_url: str, /) -> None:
        """Bind the journal to one API once something may have been sent; until then the last call counts.

        Something may have been sent once a `Committing` is in the log, whichever connection appended it. A store may
        assume so already when a shard has a second fact.

        Raises:
            ConfigError: the journal belongs to another base URL.

        """
        ...

    async def base_url(self) -> str | None:
        """Return the API that the journal belongs to; None before its first use.

        abatch does not read it, because `bind` compares; `FactLogContract` does.
        """
        ...

    async def add_job(self, fact: Submitted, /) -> Recorded:
        """Make a job's first fact durable, and return it with the number that the job gets, which no other job has.

        Keys are compared exactly: their whole text counts, and so does its case.

        Raises:
            JobConflict: another job has the key.

        """
        ...

    async def append(self, /, *entries: Entry) -> Sequence[Recorded]:
        """Make these facts durable, all or none, and return them as recorded, in their order.

        No fact is visible before all are durable. Without entries, this appends nothing and returns an empty sequence.

        Raises:
            Overtaken: one of the positions is taken; nothing was appended.
            JournalError: the write failed; the connection accepts nothing more.

        """
        ...

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

        A fact that is visible to one replay is visible to all later replays, and no fact appears before it later.

        Args:
            visit: the function that gets the facts, one after another. It raises IllegalTransition or AssertionError
                to report that a fact does not follow from the earlier ones; any other exception ends the replay and is
                raised as it is. The connection can be used after either.
            since: the number of a fact; the facts after it are read.
            until: the number of the last fact to read.
            others_only: leave out the facts that this connection appended.
            job: read only the facts of this job and of its shards.

        Returns:
            The number of the last fact that `visit` got, also with `others_only` and `job`; `since` if it got none.

        Raises:
            JournalCorrupt: a fact cannot be read, or `visit` reports that it does not follow from the earlier ones. A
                store may also raise this when it is opened.

        """
        ...

    async def job_of(self, shard: int, /) -> int | None:
        """Return the number of the job that the fact at position 0 of this shard names; None before that fact."""
        ...

    async def version(self) -> int:
        """Return a number that changes when another connection appends or puts; cheap enough to call every second.

        It changes with every job that another connection adds, too, and never returns to an earlier value. It does not
        change when this connection appends or puts.
        """
        ...

    # ---- the inbox of an open job, which exists from its first fact on ------------------------------------------

    async def put(self, job: int, requests: Sequence[InboxRequest], /) -> int:
        """Make these requests durable in the inbox of an open job, all or none; those that it holds are not put again.

        Calls at the same time may share one commit. A call that is cancelled puts all of its requests or none; put
        them again to make sure.

        Returns:
            the number of requests that were new.

        Raises:
            RequestConflict: the inbox holds one of these custom_ids with another digest; none was put.
            InboxClosed: the job takes no further requests, or is not an open job; none was put.
            JournalError: the write failed; the connection accepts nothing more.

        """
        ...

    async def waiting(self, job: int, /, *, after: int, most: int) -> Sequence[Waiting]:
        """Return requests of an inbox that are not released, in the order of their numbers.

        A request that is visible to one call is visible to all later calls, and none appears before it later.

        Args:
            job: the open job.
            after: the number of a request; the requests after it are read.
            most: bytes of params at which the result ends; it holds at least one request if there is one.

        """
        ...

    async def inbox(self, job: int, /) -> InboxState:
        """Return the state of an inbox; that of a job without one is closed and empty."""
        ...

    async def was_put(self, job: int, custom_id: bytes, /) -> bool:
        """Return whether the inbox of an unfinished job holds or held this custom_id."""
        ...

    async def release(self, job: int, /, *, through: int) -> None:
        """Drop the params of the requests up to this number, because they are durable elsewhere.

        Their custom_ids and digests stay until the job's `Finished` fact is appended, which empties its inbox.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection and give up the right to drive. Closing it again does nothing."""
        ...

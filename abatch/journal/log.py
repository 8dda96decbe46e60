"""The log of facts, as the rest of the package sees it: a small protocol that a store implements.

`SqliteLog` is the one that runs; `abatch.testing.FactLogContract` holds every promise made here as a test.

*Fence*: fact n of a shard, and cut n of a job, can be appended once. Of two processes that race, the loser gets
`Overtaken` and reads the facts again. Safety rests on this alone; the right to drive only keeps two processes from
doing the same work. Processes that do not drive may read, and append wishes (cancel, resolve), which the driver sees
within a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from abatch.protocol.facts import Fact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from abatch.journal.lineage import Lineage
    from abatch.protocol.facts import Submitted

__all__ = ["Entry", "FactLog", "Recorded"]


class Entry(NamedTuple):
    """A fact to append: to the job, or at position `n` of a shard; a `Cut` at position `n` of the job's cuts."""

    job: int
    fact: Fact
    shard: int | None = None
    n: int | None = None


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A fact as it stands in the log."""

    seq: int
    job: int
    shard: int | None
    at: float
    fact: Fact


class FactLog(Protocol):
    """One process's connection to an append-only, durable log of facts.

    A call is one unit of work: a cancellation comes before it, or waits until it is done and is raised then. After a
    write that failed the connection is broken for good: whether the facts are durable cannot be known, so every later
    call raises JournalError, and a new connection reads what became of them.
    """

    @property
    def lineage(self) -> Lineage:
        """The identity of the journal: the same for all who open it, made once with the store."""
        ...

    @property
    def drives(self) -> bool:
        """Whether this connection was opened to drive, and still may.

        A store gives that right to one connection at a time, frees it when the connection is closed or its process
        dies, and raises JournalLocked to another that asks for it meanwhile.
        """
        ...

    async def bind(self, base_url: str, /) -> None:
        """Tie the journal to one API once something may have been sent; until then the last one counts.

        Raises:
            ConfigError: it belongs to another base URL.

        """
        ...

    async def base_url(self) -> str | None:
        """The API that the journal belongs to; None before its first use."""
        ...

    async def add_job(self, fact: Submitted, /) -> Recorded:
        """Make a job's first fact durable, and give the job a number, which is in what is returned.

        Raises:
            JobConflict: another job has the key.

        """
        ...

    async def append(self, /, *entries: Entry) -> Sequence[Recorded]:
        """Make these facts durable, all or none, and return them as recorded, in their order.

        Raises:
            Overtaken: one of the positions is taken; nothing was appended.
            JournalError: the write failed; the connection takes nothing more.

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

        A fact that is visible to one replay is visible to all later ones, and no fact appears before it afterwards.

        Args:
            visit: is given the facts.
            since: the number of a fact; the facts after it are read.
            until: the number of the last fact to read.
            others_only: leave out the facts that this connection appended.
            job: read the facts of this job and of its shards alone.

        Returns:
            The number of the last of these facts; `since` if there was none.

        Raises:
            JournalCorrupt: a fact cannot be read, or `visit` found that it does not follow from those before it.

        """
        ...

    async def job_of(self, shard: int, /) -> int | None:
        """The number of the job that has this shard; None if no fact bears it."""
        ...

    async def version(self) -> int:
        """A number that changes once another connection has appended; cheap enough to ask every second."""
        ...

    async def aclose(self) -> None:
        """Close the connection and give up the right to drive. Closing it again does nothing."""
        ...

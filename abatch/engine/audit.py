"""Look in the lists of one scope for batches that no driver waits for: duplicates, and batches that were given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.proof import Examiner
from abatch.log import log
from abatch.protocol.durations import AUDITED_FOR, CLOCK_SLACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from random import Random

    from abatch.engine.client import Client
    from abatch.protocol.commits import CommitTimes
    from abatch.protocol.reconcile import BatchSeen, Known, Proof

__all__ = ["Audit"]

AUDITS: Final = 4
"""The maximum number of batches resembling ours whose first lines are requested after one list."""
AUDITED_WITHIN: Final = 30.0
"""Seconds for which the end of a job waits for looks at batches that may be duplicates."""


class Audit:
    """Reports duplicates of batches that count (B10), and batches that were given up but are listed after all.

    Args:
        client: the API.
        workspace_id: the scope's workspace.
        known: the journal's knowledge of the scope's batches.
        commits: the times and sizes of the attempts that the journal committed.
        prove: returns the shard and attempt whose tag a wire id carries, or None if the tag is not ours.
        duplicate: returns whether a batch that carries the tag of this shard and attempt is a duplicate.
        wake: called when a look at results may decide a doubt.
        chance: chooses which batches are looked at first.

    """

    def __init__(
        self,
        client: Client,
        workspace_id: str | None,
        known: Known,
        *,
        commits: CommitTimes,
        prove: Callable[[bytes], tuple[int, int] | None],
        duplicate: Callable[[int, int, str], Awaitable[bool]],
        wake: Callable[[], None],
        chance: Random,
    ) -> None:
        self.examiner = Examiner(client, workspace_id, known, prove=prove, proved=self._report, done=wake)
        self.lost: set[str] = set()
        """Batches of ours that were given up and whose rows are all missing; one that a list shows is reported."""
        self._known = known
        self._commits = commits
        self._duplicate = duplicate
        self._chance = chance
        self._reported: set[str] = set()

    def committed(self, rows: int, date: float) -> None:
        """Note that an attempt of this size passed its commit point, because similar batches may be duplicates."""
        self._commits.add(rows, date)

    async def look(self, batches: Collection[BatchSeen], date: float) -> None:
        """Search a list for duplicates and for batches that were given up.

        Args:
            batches: the batches that the list showed.
            date: the server's time.

        """
        await self._look_for_duplicates(batches, date)
        self._look_for_lost(batches)

    async def first_looks(self) -> None:
        """Wait for at most half a minute until each batch that resembles ours has had its first look."""
        with anyio.move_on_after(AUDITED_WITHIN):
            await self.examiner.first_looks()

    def resembles_ours(self, batch: BatchSeen) -> bool:
        """Return whether an attempt of the batch's size was committed around the time of its creation."""
        since, until = batch.created_at - AUDITED_FOR, batch.created_at + self._known.ahead + CLOCK_SLACK
        return self._commits.any_between(batch.total, since, until)

    async def _look_for_duplicates(self, batches: Collection[BatchSeen], date: float) -> None:
        """Report duplicates: a batch with a tag of ours, other than the one that counts, was paid for, too."""
        known, asked = self._known, 0
        every = list(batches)
        for batch in self._chance.sample(every, len(every)):  # The random order gives each batch a look in time.
            if not batch.ended or batch.batch_id in known.bound:
                continue
            if (proof := known.proven.get(batch.batch_id)) is not None:
                await self._report(batch.batch_id, proof)
            elif asked < AUDITS and not known.has_looked_at(batch.batch_id) and self.resembles_ours(batch):
                asked += self.examiner.ask(batch, date=date, urgent=False)

    def _look_for_lost(self, batches: Collection[BatchSeen]) -> None:
        """Report batches that were given up but are listed after all, because their results can be read."""
        for batch in batches:
            if batch.batch_id in self.lost and batch.ended and not batch.archived:
                self.lost.discard(batch.batch_id)  # It is reported only once.
                log.warning("lost_batch_seen", batch_id=batch.batch_id)

    async def _report(self, batch_id: str, proof: Proof) -> None:
        """Report a batch with a tag of ours if it is a duplicate."""
        if batch_id in self._reported:
            return
        if await self._duplicate(proof.shard, proof.attempt, batch_id):
            self._reported.add(batch_id)
            log.error("duplicate_seen", shard=proof.shard, attempt=proof.attempt, batch_id=batch_id)

"""Look in the lists of one scope for batches that no driver waits for: duplicates, and those given up."""

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
"""Batches that resemble ours whose first lines are asked for after one list, at most."""
AUDITED_WITHIN: Final = 30.0
"""Seconds for which the end of a job waits for looks at batches that may be duplicates."""


class Audit:
    """Reports batches of ours besides those that count (B10), and batches that were given up and are listed after all.

    Args:
        client: the API.
        workspace_id: the scope's workspace.
        known: what the journal knows of the scope's batches.
        commits: when it committed attempts of which size.
        prove: the shard and attempt whose tag a wire id carries, if it is ours.
        duplicate: asked whether a batch that carries the tag of this shard and attempt is one too many.
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
        """Batches of ours that were given up, all of whose rows are missing: a list that shows one is news."""
        self._known = known
        self._commits = commits
        self._duplicate = duplicate
        self._chance = chance
        self._reported: set[str] = set()

    def committed(self, rows: int, date: float) -> None:
        """Note that an attempt of this size passed its commit point: a batch like it may turn out to be a duplicate."""
        self._commits.add(rows, date)

    async def look(self, batches: Collection[BatchSeen], date: float) -> None:
        """Look through a list.

        Args:
            batches: the batches that it showed.
            date: the server's time.

        """
        await self._look_for_duplicates(batches, date)
        self._look_for_lost(batches)

    async def first_looks(self) -> None:
        """Wait until the batches that resemble ours were looked at once, for half a minute at most."""
        with anyio.move_on_after(AUDITED_WITHIN):
            await self.examiner.first_looks()

    def resembles_ours(self, batch: BatchSeen) -> bool:
        """Whether an attempt of its size was committed around the time of its creation."""
        since, until = batch.created_at - AUDITED_FOR, batch.created_at + self._known.ahead + CLOCK_SLACK
        return self._commits.any_between(batch.total, since, until)

    async def _look_for_duplicates(self, batches: Collection[BatchSeen], date: float) -> None:
        """Report duplicates: a batch with a tag of ours besides the one that counts was paid for, too."""
        known, asked = self._known, 0
        every = list(batches)
        for batch in self._chance.sample(every, len(every)):  # in random order: each is looked at in its turn
            if not batch.ended or batch.batch_id in known.bound:
                continue
            if (proof := known.proven.get(batch.batch_id)) is not None:
                await self._report(batch.batch_id, proof)
            elif asked < AUDITS and not known.has_looked_at(batch.batch_id) and self.resembles_ours(batch):
                asked += self.examiner.ask(batch, date=date, urgent=False)

    def _look_for_lost(self, batches: Collection[BatchSeen]) -> None:
        """Report batches that were given up and are listed after all: their results can be read."""
        for batch in batches:
            if batch.batch_id in self.lost and batch.ended and not batch.archived:
                self.lost.discard(batch.batch_id)  # it is reported once
                log.warning("lost_batch_seen", batch_id=batch.batch_id)

    async def _report(self, batch_id: str, proof: Proof) -> None:
        """Report a batch with a tag of ours if it is one too many."""
        if batch_id in self._reported:
            return
        if await self._duplicate(proof.shard, proof.attempt, batch_id):
            self._reported.add(batch_id)
            log.error("duplicate_seen", shard=proof.shard, attempt=proof.attempt, batch_id=batch_id)

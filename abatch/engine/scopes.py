"""The scopes of one manager, which are made when they are first needed and share the proof of tags."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from abatch.engine.scope import Scope
from abatch.journal.log import Entry
from abatch.journal.survey import Survey
from abatch.log import log
from abatch.protocol import wire
from abatch.protocol.facts import (
    DuplicateSeen,
)
from abatch.protocol.lifecycle import Done, Held, InDoubt, Lost, doubt_of
from abatch.protocol.terms import Terms, of_driver

if TYPE_CHECKING:
    from collections.abc import Callable

    from abatch.config import Config
    from abatch.engine.client import Client
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["Scopes"]


class Scopes:
    """All scopes of one journal.

    Args:
        client: the API.
        ledger: the journal's jobs.
        config: polling, policy and tier.
        fingerprint: the fingerprint of the key in use.
        grace: seconds for which an unanswered create may still appear in the list.
        surveys: the journal's knowledge of each scope.
        start: runs a new scope until the manager is left.
        look: makes the run of a job examine its open shards.

    """

    def __init__(
        self,
        client: Client,
        ledger: Ledger,
        config: Config,
        *,
        fingerprint: str | None,
        grace: float,
        surveys: dict[str | None, Survey],
        start: Callable[[Scope], None],
        look: Callable[[JobRecord], None],
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._config = config
        self._fingerprint = fingerprint
        self._grace = grace
        self.terms = Terms(settings=of_driver(config), base_url=client.base_url, fingerprint=fingerprint)
        """What holds for all jobs of this process, and what a submission may ask for."""
        self._surveys = surveys
        self._start = start
        self._look = look
        self.opened: dict[str | None, Scope] = {}
        """The scopes that were made, by workspace."""
        self._guarded: set[str | None] = set()
        """Workspaces in which no open attempt was committed under another key."""
        self._lost_seen: set[str] = set()
        """Batches that were given up but whose results were seen; each is reported only once."""

    def open_surveyed(self) -> None:
        """Make every scope in which the journal has batches or doubts."""
        for workspace_id in list(self._surveys):
            self.of(workspace_id)

    def of(self, workspace_id: str | None) -> Scope:
        """Return the scope of this workspace; the first call makes and starts it."""
        scope = self.opened.get(workspace_id)
        if scope is None:
            found = self._surveys.pop(workspace_id, None) or Survey()
            scope = self.opened[workspace_id] = Scope(
                self._client,
                workspace_id,
                self._config,
                grace=self._grace,
                fingerprint=self._fingerprint,
                known=found.known,
                commits=found.commits,
                prove=self._prove,
                duplicate=self._note_duplicate,
                durations=self._ledger.durations,
                troubled=partial(self._wake, workspace_id),
            )
            scope.audit.lost |= found.lost
            self._start(scope)
        return scope

    def _wake(self, workspace_id: str | None) -> None:
        """Wake every task that waits for a job of this scope."""
        for job in self._ledger.unfinished.values():
            if job.submitted.headers.workspace_id == workspace_id:
                job.wake()

    def _prove(self, wire_id: bytes) -> tuple[int, int] | None:
        named = wire.parse_id(wire_id)
        if named is None or not self._ledger.lineage.made(named):
            return None
        return named.shard, named.attempt

    async def _note_duplicate(self, shard: int, attempt: int, batch_id: str) -> bool:
        """Return whether a batch with the tag of this attempt is a duplicate; if it is, record it."""
        await self._ledger.refresh()  # Another process may have planned the shard or found the batch.
        record = await self._ledger.find_shard(shard)
        if record is None:
            return True
        job = self._ledger.jobs[record.job]
        match record.state:
            case InDoubt(attempt=open_) if open_ == attempt:
                return False  # Its answer may still arrive.
            case Held(doubt=InDoubt(attempt=open_)) if open_ == attempt:
                self._look(job)  # Its driver will now find the batch.
                return False
            case _ if record.batch_id == batch_id:
                return False
            case Lost(batch_id=None) | Done(batch_id=None) if record.state.doubt.attempt == attempt:
                # An operator gave the attempt up, so its rows are missing, and the batch is not a duplicate.
                if batch_id not in self._lost_seen:
                    self._lost_seen.add(batch_id)
                    log.warning("lost_batch_seen", shard=shard, batch_id=batch_id)
                return False
            case _:
                pass
        if batch_id not in job.duplicates:
            fact = DuplicateSeen(shard=shard, attempt=attempt, batch_id=batch_id)
            await self._ledger.record(Entry(record.job, fact))
        return True

    def guard_checked(self, workspace_id: str | None) -> bool:
        """Return whether no open attempt in a scope was committed under another key."""
        if workspace_id in self._guarded:
            return True
        for job in self._ledger.unfinished.values():
            if job.submitted.headers.workspace_id != workspace_id:
                continue
            for shard in job.open_shards.values():
                doubt = doubt_of(shard.state)
                if doubt is not None and not self.of(workspace_id).key.is_guarded(doubt.fingerprint):
                    return False
        self._guarded.add(workspace_id)
        return True

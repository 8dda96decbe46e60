"""The context that the jobs of one manager share, and the context that the drivers of one job share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import anyio

from abatch.engine.slots import PrioritySlots
from abatch.errors import JobStopped
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.facts import Stopped
from abatch.protocol.terms import obeyed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from abatch.backend import JobRef
    from abatch.config import Config
    from abatch.engine.client import Client
    from abatch.engine.drain import Drainer
    from abatch.engine.outage import Outage
    from abatch.engine.scope import Scope
    from abatch.engine.scopes import Scopes
    from abatch.engine.shutdown import Shutdown
    from abatch.input.located import Named
    from abatch.journal.folder import JournalFolder
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.journal.status import ResultsUnread
    from abatch.prices import PriceList

__all__ = ["JobContext", "ManagerContext", "backend_unknown"]

T = TypeVar("T")


class ManagerContext:
    """The objects that all jobs of a manager share."""

    def __init__(
        self,
        *,
        client: Client,
        ledger: Ledger,
        config: Config,
        prices: PriceList,
        fingerprint: str | None,
        scopes: Scopes,
        shutdown: Shutdown,
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.config = config
        self.prices = prices
        self.fingerprint = fingerprint
        self.scopes = scopes
        self.shutdown = shutdown
        self.uploads = anyio.Semaphore(config.uploads)
        self.drains = PrioritySlots(config.drains)
        self.one_block = anyio.Lock(fast_acquire=True)


@dataclass(slots=True, kw_only=True)
class JobContext:
    """The objects that the drivers of one job share."""

    manager: ManagerContext
    job: JobRecord
    ref: JobRef
    scope: Scope
    drainer: Drainer | None
    """Drains batches; None while this process does not have the job's backend."""
    outage: Outage
    unread: dict[int, ResultsUnread]
    """Per shard whose results could not be read completely: why, for the status."""
    may_submit: Callable[[], bool]
    """Return whether this process may plan and send requests of the job."""
    spawn: Callable[[int], None]
    """Start a driver for a new shard of this job."""
    look_up: Callable[[Named, Stopped], None]
    """Find the input lines of the requests for which this stop was recorded, without holding an upload slot."""

    @property
    def ledger(self) -> Ledger:
        """The journal's jobs."""
        return self.manager.ledger

    @property
    def folder(self) -> JournalFolder:
        """The folder of the journal."""
        return self.manager.ledger.folder

    @property
    def client(self) -> Client:
        """The API."""
        return self.manager.client

    @property
    def config(self) -> Config:
        """The settings for this job: the manager's, with those that a process which submitted it chose."""
        return obeyed(self.manager.config, self.job.terms)

    @property
    def submits(self) -> bool:
        """Whether shards of this job may be sent now."""
        return self.may_submit() and self.job.stopped is None and not self.manager.shutdown.wished

    @property
    def wants_more(self) -> bool:
        """Whether more requests of this job should be planned and sent."""
        return self.submits and not self.job.cancel_wished

    async def while_wanted(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Await `waiting`, which plans or sends; cancel it and return None once the job wants no more."""
        outcome: T | None = None
        failure: Exception | None = None

        async def leave_when_unwanted(scope: anyio.CancelScope) -> None:
            while self.wants_more:  # Both a fact of the job and the wish to stop can end this, and both wake the job.
                await self.job.change()
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(leave_when_unwanted, group.cancel_scope)
            try:
                outcome = await waiting
            except Exception as error:  # noqa: BLE001 - raised below, alone and not in a group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return outcome

    def guard_checked(self) -> bool:
        """Return whether no open attempt in the job's scope was committed under another key."""
        return self.manager.scopes.guard_checked(self.scope.workspace_id)

    async def stop(self, reason: str, remedy: str) -> NoReturn:
        """Record that the job stops, unless it has stopped already, and raise.

        Raises:
            JobStopped: always.

        """
        await self.record_stop(reason, remedy)
        raise JobStopped(self.job.key, reason, remedy)

    async def record_stop(self, reason: str, remedy: str) -> Stopped | None:
        """Record that the job stops: nothing more is sent, but shards in doubt or in a batch continue.

        Returns:
            the stop, or None if the job was stopped before.

        """
        if self.job.stopped is not None:
            return None
        stop = Stopped(reason=reason, remedy=remedy)
        await self.ledger.record(Entry(self.job.job, stop))
        log.error("job_stopped", job=self.job.key, reason=reason)
        return stop


def backend_unknown(key: str) -> JobStopped:
    """Return the error for a job whose backend is an object of the application that this process does not have."""
    return JobStopped(key, "its backend object is not known to this process", "Submit the job again with it.")

"""A job whose requests come one by one, from any task or process, and whose answers can be awaited singly.

`OpenJob` is its handle in the manager that drives it, `Inbox` in a process that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.destination import Destination
from abatch.engine.inbox import JobInbox
from abatch.engine.lookup import ResultLookup
from abatch.input.plain import text_of_id
from abatch.job import Job
from abatch.journal.log import Entry
from abatch.protocol.facts import Closed
from abatch.result import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from abatch.config import Config
    from abatch.input.request import Request
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["Inbox", "OpenJob"]

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the journal of another process."""


class _TakesRequests:
    """The calls that put requests and wait for single results."""

    _ledger: Ledger
    _record: JobRecord
    _inbox: JobInbox
    _lookup: ResultLookup

    async def put(self, request: Request | Mapping[str, Any] | bytes) -> bool:
        """Make a request durable; return whether it is new.

        The same custom_id with the same params and betas is the same request, which is not sent again. A call that is
        cancelled has put the request or not; put it again to make sure. It waits while the inbox holds
        `Config.inbox_bytes`.

        Args:
            request: a `Request`, a mapping with its fields, or the bytes of one JSON line.

        Raises:
            BadRequest: the request cannot be sent.
            RequestConflict: the job has another request with this custom_id.
            InboxClosed: the job takes no further requests.
            JournalError: the journal could not be written; put the request again after a restart.

        """
        return await self.put_many([request]) == 1

    async def put_many(self, requests: Iterable[Request | Mapping[str, Any] | bytes]) -> int:
        """Make requests durable, all or none; return how many are new.

        Args:
            requests: as for `put`; all of them are in memory at once.

        Raises:
            BadRequest: one of them cannot be sent; its `line` is the number of the request, from 1.
            RequestConflict: the job has another request with the custom_id of one of them.
            InboxClosed: the job takes no further requests.
            JournalError: the journal could not be written.

        """
        self._check()
        return await self._inbox.put(list(requests))

    async def result(self, custom_id: str) -> Result:
        """Wait for the result of one request, whichever task or process has put it, also after a restart.

        The destination must be able to find single results: SQLite and memory are.

        Raises:
            RequestNotFound: no request with this custom_id was put.
            NoResult: the request ended without a result.
            ConfigError: the destination cannot find single results.
            BackendError: the destination failed.
            JobStopped: the job cannot continue until you act.
            ManagerClosed: the manager is left meanwhile.

        """
        line = await self._lookup.line(text_of_id(custom_id) or custom_id, check=self._check_that_it_goes_on)
        return Result(line)

    async def close(self) -> None:
        """Take no further requests; durable at once, and the job is done once all that were put have their results."""
        if self._record.is_open and self._record.finished is None:
            await self._ledger.record(Entry(self._record.job, Closed()))

    @property
    def closed(self) -> bool:
        """Whether the job takes no further requests: it was closed or cancelled."""
        return not self._record.is_open

    def _check(self) -> None:
        """Raise if no call is possible any more."""

    def _check_that_it_goes_on(self) -> None:
        """Raise if no result can come any more."""


class OpenJob(_TakesRequests, Job):
    """A job that takes requests until it is closed; made by `BatchManager.open_job`.

        job = await manager.open_job("tickets", to="answers.db", linger=timedelta(minutes=1))
        await job.put({"custom_id": "ticket-17", "params": {...}})
        result = await job.result("ticket-17")
        await job.close()
        summary = await job.wait()

    A request is durable when `put` returns: from then on it has exactly one result, whatever dies, and no caller is
    needed for that. A batch is sent when it is full, or when its first request has waited `linger`.
    """

    @property
    def _record(self) -> JobRecord:  # type: ignore[override]  # an attribute that is only read
        return self._run.job

    @property
    def _inbox(self) -> JobInbox:  # type: ignore[override]
        return self._run.inbox

    @property
    def _lookup(self) -> ResultLookup:  # type: ignore[override]
        return self._run.lookup

    def _check(self) -> None:
        self._raise_if_left()

    def _check_that_it_goes_on(self) -> None:
        if self._run.is_over:
            self._raise_if_unfinished()
        self._raise_if_refused()
        self._raise_if_left()


class Inbox(_TakesRequests):
    """An open job as a process sees it that does not drive its journal; made by `JournalView.open_job`.

    It puts requests, waits for single results, and closes the job. Another process has to drive the journal.
    """

    def __init__(self, ledger: Ledger, job: JobRecord, config: Config, *, url: str | None) -> None:
        self._ledger = ledger
        self._record = job
        self._destination = Destination(ledger, job, url)
        self._inbox = JobInbox(ledger, job, config, changed=self._changed)
        self._lookup = ResultLookup(ledger, job, self._destination, changed=self._changed)
        self._turn = anyio.Lock()
        self._looks = 0

    def __repr__(self) -> str:
        """Show the job's key, and whether it takes requests."""
        return f"<Inbox of {self._record.key!r}, {'closed' if self.closed else 'open'}>"

    async def _changed(self) -> None:
        """Wait for the next look at the journal, which all callers share."""
        looks = self._looks
        async with self._turn:
            if self._looks == looks:
                await anyio.sleep(LOOK_EVERY)
                await self._ledger.refresh()
                self._looks += 1

    async def aclose(self) -> None:
        """Close the connection to the destination."""
        await self._destination.aclose()

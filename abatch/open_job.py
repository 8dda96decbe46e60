"""OpenJob: a job whose requests come one by one, from any task or process, and whose answers can be awaited singly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatch.input.plain import text_of_id
from abatch.job import Job
from abatch.journal.log import Entry
from abatch.protocol.facts import Closed
from abatch.result import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from abatch.input.request import Request

__all__ = ["OpenJob"]


class OpenJob(Job):
    """A job that takes requests until it is closed; made by `BatchManager.open_job`.

        job = await manager.open_job("tickets", to="answers.db", linger=timedelta(minutes=1))
        await job.put({"custom_id": "ticket-17", "params": {...}})
        result = await job.result("ticket-17")
        await job.close()
        summary = await job.wait()

    A request is durable when `put` returns: from then on it has exactly one result, whatever dies, and no caller is
    needed for that. A batch is sent when it is full, or when its first request has waited `linger`.
    """

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
        self._raise_if_left()
        return await self._run.inbox.put(list(requests))

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
        line = await self._run.lookup.line(text_of_id(custom_id) or custom_id, check=self._check_that_it_goes_on)
        return Result(line)

    def _check_that_it_goes_on(self) -> None:
        if self._run.is_over:
            self._raise_if_unfinished()
        self._raise_if_refused()
        self._raise_if_left()

    async def close(self) -> None:
        """Take no further requests; durable at once, and `wait` then ends once all that were put are done."""
        if self._job.is_open and not self.done:
            await self._ledger.record(Entry(self._job.job, Closed()))

    @property
    def closed(self) -> bool:
        """Whether the job takes no further requests: it was closed or cancelled."""
        return not self._job.is_open

"""Put requests into the inbox of one open job: check them first, and hold callers back while the inbox is full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from abatch.input.check import check_size
from abatch.input.iterables import read_row
from abatch.input.params import check_of
from abatch.input.planner import log_doubts
from abatch.journal.inbox import InboxRequest, digest_of
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from abatch.config import Config
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["JobInbox"]

FEW: Final = 16
"""Requests of one call that are checked in the event loop; more are checked in a worker thread."""


class JobInbox:
    """The inbox of one open job, for callers of one process.

    Args:
        ledger: the journal's jobs.
        job: the open job.
        config: the limits of a request and of the inbox.
        changed: waits for a change of the job; if not given, for its next fact.

    """

    def __init__(
        self,
        ledger: Ledger,
        job: JobRecord,
        config: Config,
        *,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._config = config
        self._changed = changed or job.change
        self._params = check_of(config.params, betas=bool(job.submitted.headers.betas))
        self._checks_quickly = False
        """Whether a request was checked: the first check reads the SDK's types, which takes a second or two."""
        self._bytes = config.inbox_bytes
        """At least as many bytes as the inbox holds: its size when it was last read, and what this process put since.
        It begins as full, so that the first call reads the size."""

    async def put(self, requests: Sequence[object]) -> int:
        """Make these requests durable, all or none; return how many were new.

        Raises:
            BadRequest: one of them cannot be sent; `line` is its number in this call, from 1.
            RequestConflict: one of them has the custom_id of another request of the job, and other params.
            InboxClosed: the job takes no further requests.

        """
        if self._checks_quickly and len(requests) <= FEW:
            checked = self._checked(requests)
        else:
            checked = await threads.run(self._checked, requests)
            self._checks_quickly = bool(requests)
        if self._params is not None:
            log_doubts(self._job.key, self._params.fresh_doubts())
        await self._room()
        self._bytes += sum(len(request.params) for request in checked)
        return await self._ledger.put(self._job, checked)

    def _checked(self, requests: Sequence[object]) -> list[InboxRequest]:
        checked: list[InboxRequest] = []
        for number, request in enumerate(requests, start=1):
            row = read_row(request, number)
            if (too_large := check_size(row, number, self._config.bytes_per_batch)) is not None:
                raise too_large
            if self._params is not None:
                for bad in self._params.row(row, number):
                    raise bad
            checked.append(InboxRequest(row.custom_id, row.params, row.betas, digest_of(row.params, row.betas)))
        return checked

    async def _room(self) -> None:
        """Wait until the inbox has room for another request."""
        while self._bytes >= self._config.inbox_bytes:
            inbox = await self._ledger.facts.inbox(self._job.job)
            self._bytes = inbox.unreleased
            if self._bytes >= self._config.inbox_bytes and not inbox.closed:
                await self._changed()
            else:
                return
